"""download: from a server on this machine that breaks off, lies, sends something else, or knows no parts of files."""

import hashlib
import multiprocessing
import os
import re
import resource
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from blip2.checkpoints import CheckpointError
from blip2.checkpoints import download as download_module
from blip2.checkpoints.download import DownloadError, download
from blip2.checkpoints.fetch import cached, fetch, mapped

CHUNK = download_module._CHUNK
CONTENT = bytes(range(256)) * 20_000  # 5 MB: several chunks
HASH = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content` for any path; tests change how."""

    daemon_threads = True

    def handle_error(self, *_):
        """A client that goes away is what some tests are about."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.etag = '"one"'
        self.ranges = True
        self.type = "application/octet-stream"
        self.breaks = []  # after so many bytes the next answers end
        self.claims = 0  # added to Content-Length
        self.statuses = []  # of the next answers
        self.asked = []  # the Range of each request
        self.entered, self.gate = threading.Event(), None
        self.url = f"http://127.0.0.1:{self.server_port}/weights.pth"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.asked.append(self.headers.get("Range"))
        server.entered.set()
        if server.gate:
            server.gate.wait(20)
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        content, start = server.content, 0
        if server.ranges and "Range" in self.headers:
            same = self.headers.get("If-Range", server.etag) == server.etag
            start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1]) if same else 0
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", server.type)
        self.send_header("Content-Length", str(len(content) - start + server.claims))
        if server.etag:
            self.send_header("ETag", server.etag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        end = start + server.breaks.pop(0) if server.breaks else None
        self.wfile.write(content[start:end])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download_module, "_WAIT", 0.0)
    running = Server()
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "weights.pth"


def kept(target):
    """What lies in the folder, besides the lock."""
    return sorted(path.name for path in target.parent.iterdir() if path.suffix != ".lock")


# ----- breaks -----


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(server, target):
    server.breaks = [23 * CHUNK, 30 * CHUNK + 5]
    download(server.url, target, HASH)
    assert target.read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={23 * CHUNK}-", f"bytes={53 * CHUNK}-"]
    assert kept(target) == ["weights.pth"]


def test_a_later_call_goes_on_with_what_an_earlier_one_left(server, target):
    server.breaks = [23 * CHUNK, 0, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match=r"1,507,328 bytes are kept: the next attempt goes on from there"):
        download(server.url, target, HASH)
    assert not target.exists()
    server.asked, server.breaks = [], []
    download(server.url, target, HASH)
    assert server.asked == [f"bytes={23 * CHUNK}-"] and target.read_bytes() == CONTENT


def test_a_server_without_parts_is_asked_for_the_whole_again(server, target):
    server.ranges, server.breaks = False, [1_500_000]
    download(server.url, target, HASH)
    assert target.read_bytes() == CONTENT and len(server.asked) == 2


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, target):
    server.breaks = [1_500_000, 0, 0, 0, 0, 0]
    with pytest.raises(DownloadError):
        download(server.url, target)
    server.breaks, server.content, server.etag = [], CONTENT[::-1] + b"more", '"two"'
    download(server.url, target)
    assert target.read_bytes() == server.content


def test_without_a_version_a_changed_length_or_hash_tells(server, target):
    server.etag = ""
    server.breaks = [1_500_000, 0, 0, 0, 0, 0]
    with pytest.raises(DownloadError):
        download(server.url, target)
    server.breaks, server.content = [], CONTENT[::-1]  # as long as before: only the hash can tell
    download(server.url, target, hashlib.sha256(server.content).hexdigest())
    assert target.read_bytes() == server.content


def test_a_busy_server_is_asked_again_and_a_refusal_is_final(server, target):
    server.statuses = [503, 429]
    download(server.url, target)
    assert len(server.asked) == 3
    server.statuses, server.asked = [403], []
    with pytest.raises(DownloadError, match="the server answers 403"):
        download(server.url, target.with_name("other.pth"))
    assert len(server.asked) == 1


def test_nobody_there_is_told_after_several_attempts(target, monkeypatch):
    monkeypatch.setattr(download_module, "_WAIT", 0.0)
    with pytest.raises(DownloadError, match="the connection failed"):
        download("http://127.0.0.1:9/weights.pth", target)
    assert kept(target) == []


# ----- lies -----


def test_more_announced_than_sent_is_no_whole_file(server, target):
    server.claims, server.ranges = 1000, False
    with pytest.raises(DownloadError, match=r"failed|ended after"):
        download(server.url, target)
    assert not target.exists()


def test_less_announced_than_there_is_fails_by_its_hash(server, target):
    server.claims = -1000
    with pytest.raises(DownloadError, match=rf"invalid hash: the 5,119,000 bytes .* and {HASH[:8]} was expected"):
        download(server.url, target, HASH[:8])
    assert kept(target) == []


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_an_html_page_is_told_by_its_type_or_its_beginning(server, target, kind):
    server.content, server.type = b"\n<!DOCTYPE html><html>not found</html>", kind
    with pytest.raises(DownloadError, match="HTML page"):
        download(server.url, target)
    assert kept(target) == []


def test_another_file_is_told_by_the_hash_and_leaves_nothing(server, target):
    server.content = CONTENT[::-1]
    with pytest.raises(DownloadError, match="damaged, or another one"):
        download(server.url, target, HASH)
    assert kept(target) == [] and len(server.asked) == 1


# ----- two processes -----


def in_a_process(call):
    """`call` in a process of its own; its exit code is 0 if it did not raise."""
    process = multiprocessing.get_context("fork").Process(target=call, daemon=True)
    process.start()
    return process


def test_two_processes_fetch_a_file_once(server, target, capfd):
    server.gate = threading.Event()
    first = in_a_process(lambda: download(server.url, target, HASH))
    assert server.entered.wait(20)
    second = in_a_process(lambda: download(server.url, target, HASH))
    told = ""
    for _ in range(1000):
        told += capfd.readouterr().err
        if "waiting for another process that fetches weights.pth" in told:
            break
        time.sleep(0.02)
    else:
        pytest.fail("the second process does not wait")
    server.gate.set()
    for process in (first, second):
        process.join(20)
        assert process.exitcode == 0
    assert len(server.asked) == 1 and target.read_bytes() == CONTENT


def test_a_process_that_dies_leaves_no_lock(server, target):
    server.gate = threading.Event()
    first = in_a_process(lambda: download(server.url, target, HASH))
    assert server.entered.wait(20)
    first.kill()
    first.join(20)
    server.gate.set()
    assert download(server.url, target, HASH).read_bytes() == CONTENT


# ----- the disk -----


def test_too_little_room_is_told_before_anything_is_written(server, target, monkeypatch):
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match=r"is full \(5,120,000 bytes are to come, 1,000,000 are free\).*BLIP2_HOME"):
        download(server.url, target)
    assert kept(target) == []


def test_a_disk_that_takes_no_more_gets_its_room_back(server, target):
    """A limit on the size of files stands for a full disk, which a test cannot make."""

    def with_a_limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
        with pytest.raises(DownloadError, match=r"cannot write to .*cache \(File too large\); set BLIP2_HOME"):
            download(server.url, target)

    process = in_a_process(with_a_limit)
    process.join(30)
    assert process.exitcode == 0
    assert kept(target) == []


def test_a_cache_that_cannot_be_made_names_the_variable(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match=r"cannot write to .*file/checkpoints.*BLIP2_HOME"):
        download(server.url, tmp_path / "file" / "checkpoints" / "weights.pth")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_cache_without_write_permission_names_the_variable(server, target):
    target.parent.mkdir(mode=0o500)
    with pytest.raises(DownloadError, match=r"cannot write to .*Permission denied.*BLIP2_HOME"):
        download(server.url, target)


# ----- mirrors, through fetch -----


@pytest.fixture
def online(tmp_path, monkeypatch):
    monkeypatch.setenv("BLIP2_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("BLIP2_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")


PUBLISHED = "https://weights.example.invalid/blip2/weights.pth"


def test_a_mirror_serves_a_published_address(server, online, monkeypatch):
    mirror = server.url.removesuffix("weights.pth")
    monkeypatch.setenv(
        "BLIP2_URL_MAPPING", f"https://other.example/=http://x/ https://weights.example.invalid/={mirror}"
    )
    assert mapped(PUBLISHED) == f"{mirror}blip2/weights.pth"
    path = fetch(PUBLISHED, HASH)
    assert path.read_bytes() == CONTENT
    monkeypatch.delenv("BLIP2_URL_MAPPING")
    assert fetch(PUBLISHED) == cached(PUBLISHED) == path, "it is the published file, wherever it came from"


def test_a_mirror_may_be_a_folder(online, tmp_path, monkeypatch):
    (tmp_path / "blip2").mkdir()
    (tmp_path / "blip2" / "weights.pth").write_bytes(CONTENT)
    monkeypatch.setenv("BLIP2_URL_MAPPING", f"https://weights.example.invalid/={tmp_path.as_uri()}/")
    assert fetch(PUBLISHED) == cached(PUBLISHED) == tmp_path / "blip2" / "weights.pth"


def test_a_mapping_that_is_none_is_named(monkeypatch):
    monkeypatch.setenv("BLIP2_URL_MAPPING", "https://mirror.example/")
    with pytest.raises(CheckpointError, match=r"'https://mirror\.example/', which is not old=new"):
        mapped(PUBLISHED)


def test_what_is_not_here_is_not_in_the_cache(online):
    assert cached(PUBLISHED) is None
    assert cached("hf://nobody/nothing") is None
    assert cached("gone.pth") is None

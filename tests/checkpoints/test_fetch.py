"""fetch: local files, resources and downloads from a server on this machine; never the network outside."""

import functools
import hashlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from blip2.checkpoints import CheckpointError, cache_dir, fetch, is_offline
from blip2.checkpoints.fetch import language_model_folder
from blip2.utils.resources import resources_root

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()[:8]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BLIP2_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("BLIP2_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    return tmp_path / "cache" / "checkpoints"


def kept(folder):
    """What lies in a cache folder, besides the locks."""
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    for name in (f"good-{DIGEST}.pth", "bad-00000000.pth", "plain.pth"):
        (folder / name).write_bytes(CONTENT)
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_path_and_a_file_address_are_the_file_itself(tmp_path):
    path = tmp_path / "with space.pth"
    path.write_bytes(CONTENT)
    assert fetch(path) == path
    assert fetch(path.as_uri()) == path


def test_a_relative_path_is_found_among_the_resources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fetch("configs/blip2/metafile.yml") == resources_root() / "configs/blip2/metafile.yml"


def test_a_missing_path_is_named():
    with pytest.raises(FileNotFoundError, match=r"gone\.pth"):
        fetch("gone.pth")


def test_an_unknown_kind_of_address_is_refused():
    with pytest.raises(CheckpointError, match=r"use a path, file://, http\(s\):// or hf://owner/name"):
        fetch("s3://bucket/w.pth")


def test_a_download_is_checked_and_kept(server, cache):
    path = fetch(f"{server}/good-{DIGEST}.pth")
    assert path == cache / f"good-{DIGEST}.pth"
    assert path.read_bytes() == CONTENT


def test_a_kept_download_needs_no_network(server, monkeypatch):
    path = fetch(f"{server}/good-{DIGEST}.pth")
    monkeypatch.setenv("BLIP2_OFFLINE", "1")
    assert fetch(f"{server}/good-{DIGEST}.pth") == path


def test_files_of_one_name_from_two_addresses_do_not_meet(server):
    assert fetch(f"{server}/plain.pth") != fetch(f"{server}/../plain.pth")


def test_a_wrong_hash_is_an_error_and_leaves_nothing(server, cache):
    with pytest.raises(CheckpointError, match="invalid hash"):
        fetch(f"{server}/bad-00000000.pth")
    assert kept(cache) == []


def test_a_file_that_the_server_lacks_is_an_error_with_the_address(server, cache):
    with pytest.raises(CheckpointError, match=r"fetching http://.*/gone\.pth failed: .*404.*curl -L"):
        fetch(f"{server}/gone.pth")
    assert kept(cache) == []


@pytest.mark.parametrize("switch", ["BLIP2_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_names_address_command_and_place(switch, monkeypatch, cache):
    monkeypatch.setenv(switch, "1")
    with pytest.raises(CheckpointError) as error:
        fetch("http://127.0.0.1:1/good-12345678.pth")
    for part in ("http://127.0.0.1:1/good-12345678.pth", "switched off", "curl -L", str(cache / "good-12345678.pth")):
        assert part in str(error.value)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("value", "expected"), [("1", True), ("true", True), ("0", False), ("", False), ("off", False)]
)
def test_the_offline_switch_reads_like_hugging_faces(value, expected, monkeypatch):
    monkeypatch.setenv("BLIP2_OFFLINE", value)
    assert is_offline() is expected


def test_the_cache_follows_its_variables(monkeypatch, tmp_path):
    monkeypatch.delenv("BLIP2_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "blip2"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "blip2"


def test_a_language_model_in_a_folder_is_that_folder(tmp_path):
    assert language_model_folder(tmp_path) == tmp_path


def test_a_language_model_that_is_not_here_names_the_command(monkeypatch):
    monkeypatch.setenv("BLIP2_OFFLINE", "1")
    with pytest.raises(CheckpointError, match=r"'nobody/no-such-opt'.*switched off.*hf download nobody/no-such-opt"):
        language_model_folder("nobody/no-such-opt")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Hugging Face's client with one model, which has a .bin file only; notes what it was asked for."""
    asked = []

    def snapshot_download(name, *, revision, allow_patterns, local_files_only):
        asked.append((allow_patterns[-1], local_files_only))
        folder = tmp_path / "snapshot"
        if local_files_only and not folder.is_dir():
            raise FileNotFoundError("not in the cache")
        if name != "org/opt":
            raise ConnectionError("no route to the hub\nand more")
        folder.mkdir(exist_ok=True)
        if allow_patterns[-1].startswith("pytorch_model") and not local_files_only:
            (folder / "pytorch_model.bin").touch()
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


def test_a_language_model_is_fetched_once_in_the_form_that_exists(hub, tmp_path):
    assert language_model_folder("org/opt") == tmp_path / "snapshot"
    assert [local for _, local in hub] == [True, True, False, False]
    hub.clear()
    assert language_model_folder("org/opt") == tmp_path / "snapshot"
    assert all(local for _, local in hub)


def test_offline_only_the_cache_is_asked(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="switched off"):
        language_model_folder("org/opt")
    assert all(local for _, local in hub)


def test_a_failed_fetch_of_a_language_model_gives_the_reason(hub):
    with pytest.raises(CheckpointError, match=r"ConnectionError: no route to the hub\. Where there is"):
        language_model_folder("org/other")


def test_a_language_model_that_is_neither_folder_nor_name_is_refused():
    with pytest.raises(CheckpointError, match="neither a folder nor a name"):
        language_model_folder("some/folder/that/is/gone")

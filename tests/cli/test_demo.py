import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from blip2.cli.demo import main


def run(*options):
    return main(list(options))


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_the_command_serves_the_page_until_it_is_told_to_end(sent, code, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "blip2.cli.main", "demo", "--model", "blip2-tiny_shapes-caption", "--port", port]
    env = {**os.environ, "BLIP2_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background job's is ignored
    )
    try:
        line = process.stdout.readline()
        assert re.fullmatch(rf"http://127\.0\.0\.1:{port}/ \(Ctrl-C ends it\)\n", line)
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20).read().decode()
        assert "BLIP-2" in page
        process.send_signal(sent)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == code, errors
    finally:
        process.kill()
    assert "Traceback" not in errors
    assert list(tmp_path.glob("blip2-demo-*")) == []  # uploads go with the server


def test_a_port_that_is_taken_is_told(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert run("--port", str(port)) == 2
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "blip2-tiny_shapes-captoin"], "blip2-tiny_shapes-caption"),
        (["--model", "blip2-tiny_shapes-caption", "--model", "blip2-tiny_shapes-caption"], "both for caption"),
        (["--folder", "no/such"], "--folder no/such is no folder"),
    ],
)
def test_wrong_options_are_told_without_a_page(options, said, capsys):
    assert run(*options) == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_pictures_is_told(tmp_path, capsys):
    assert run("--folder", str(tmp_path)) == 2
    assert "no picture in the folder" in capsys.readouterr().err


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert run() == 2
    assert "pip install 'blip2[demo]'" in capsys.readouterr().err

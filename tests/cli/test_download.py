"""`blip2 download` and `blip2 info`: what a model is made of, here or not; with Hugging Face's client replaced."""

import hashlib
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from blip2.apis import get_model, metafile
from blip2.apis.zoo import entry_named, needs_of, weights_source
from blip2.checkpoints import CheckpointError
from blip2.cli.main import main

MODEL = "blip2-flant5xl_lavis-zeroshot_vqa"
LAVIS = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """LAVIS's files (a few bytes each) on a server of this machine, and an empty cache."""
    served = tmp_path / "served"
    served.mkdir()
    for name in ("blip2_pretrained_flant5xl.pth", "eva_vit_g.pth"):
        (served / name).write_bytes(name.encode())
    monkeypatch.setenv("BLIP2_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("BLIP2_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served))) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        monkeypatch.setenv("BLIP2_URL_MAPPING", f"{LAVIS}=http://127.0.0.1:{server.server_port}/")
        yield served
        server.shutdown()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Hugging Face's client: every repository has safetensors and a tokenizer."""
    fetched = []

    def snapshot_download(name, *, revision, allow_patterns, local_files_only):
        folder = tmp_path / "hub" / name
        for pattern, file in {
            "tokenizer*": "tokenizer_config.json",
            "model*.safetensors*": "model.safetensors",
        }.items():
            if pattern in allow_patterns and not local_files_only:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / file).touch()
                fetched.append((name, file))
        if not folder.is_dir():
            raise FileNotFoundError("not in the cache")
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return fetched


def test_all_parts_of_a_model_are_fetched_once(mirror, hub, capsys):
    assert main(["download", MODEL]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == ["weights", "image", "language", "tokenizer"]
    assert set(hub) == {
        ("google/flan-t5-xl", "model.safetensors"),
        ("google/flan-t5-xl", "tokenizer_config.json"),
    }
    hub.clear()
    assert main(["download", MODEL]) == 0
    assert hub == [] and capsys.readouterr().out == out


def test_what_was_fetched_is_used_without_a_network(mirror, hub, monkeypatch, capsys):
    assert main(["download", MODEL]) == 0
    capsys.readouterr()
    monkeypatch.setenv("BLIP2_OFFLINE", "1")
    monkeypatch.delenv("BLIP2_URL_MAPPING")
    assert main(["info", MODEL]) == 0
    assert "not here" not in capsys.readouterr().out
    assert main(["list", MODEL, "--here", "--names"]) == 0
    assert main(["download", MODEL]) == 0
    with pytest.raises(CheckpointError, match=r"no checkpoint|damaged"):  # the bytes served are no weights
        get_model(MODEL, pretrained=True)


def test_the_hub_may_take_the_place_of_the_first_source(mirror, hub, capsys):
    assert main(["download", "--hub", MODEL]) == 0
    assert {name for name, _ in hub} == {"Salesforce/blip2-flan-t5-xl", "google/flan-t5-xl"}
    assert ("google/flan-t5-xl", "model.safetensors") not in hub, "the hub's weights hold the language model"
    assert weights_source(entry_named(MODEL)) == "hf://Salesforce/blip2-flan-t5-xl", "it is here, the other is not"


def test_patterns_and_addresses_are_taken(mirror, hub, capsys):
    assert main(["download", "blip2-tiny*", LAVIS + "eva_vit_g.pth"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith(f"weights {LAVIS}eva_vit_g.pth: ")
    assert sum("tiny_shapes" in line for line in lines) == 3 and hub == []


def test_without_a_network_everything_that_is_missing_is_named_with_its_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BLIP2_HOME", str(tmp_path))
    monkeypatch.setenv("BLIP2_OFFLINE", "1")
    assert main(["download", MODEL]) == 1
    err = capsys.readouterr().err
    for part in ("blip2_pretrained_flant5xl.pth", "eva_vit_g.pth", "'google/flan-t5-xl'", "blip2 download https://"):
        assert part in err
    assert "4 of 4 could not be fetched" in err
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CheckpointError, match=rf"switched off.*\n`blip2 download {MODEL}` fetches all that it needs"):
        get_model(MODEL, pretrained=True)


def test_one_failure_does_not_stop_the_rest(mirror, hub, capsys):
    (mirror / "eva_vit_g.pth").unlink()
    assert main(["download", MODEL]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 2 and "404" in captured.err and "tokenizer" in captured.out


@pytest.mark.parametrize("command", ["download", "info"])
def test_a_wrong_name_suggests_the_nearest(command, capsys):
    assert main([command, "blip2-flant5xl_zeroshot_vqa"]) == 2
    assert f"Did you mean '{MODEL}'" in capsys.readouterr().err


def test_info_tells_parts_scores_and_licences(capsys):
    assert main(["info", MODEL]) == 0
    out = capsys.readouterr().out
    command = f"`blip2 download {MODEL}`"
    for part in ("3.94 B", "not here", command, "hf://Salesforce/", "MIT", "protocol: LAVIS", "41.22"):
        assert part in out
    assert main(["info", "blip2-tiny_shapes-caption", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [part["kind"] for part in found["parts"]] == ["weights", "tokenizer"]
    assert all(part["path"] for part in found["parts"])


def test_a_known_hash_is_checked(mirror, hub, tmp_path, monkeypatch, capsys):
    right = hashlib.sha256(b"blip2_pretrained_flant5xl.pth").hexdigest()
    for digest, code in (("0" * 64, 1), (right, 0)):
        entries = metafile.model_entries()
        entry = metafile.ModelEntry(**{**vars(entries[MODEL]), "sha256": digest})
        monkeypatch.setattr("blip2.apis.zoo.model_entries", lambda entry=entry: {MODEL: entry})
        assert needs_of(entry)[0].sha256 == digest
        assert main(["download", MODEL]) == code
    assert "invalid hash" in capsys.readouterr().err

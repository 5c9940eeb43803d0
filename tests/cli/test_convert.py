"""``blip2 convert`` as it is called."""

import pytest
import torch
from safetensors import safe_open

from blip2.cli.main import main

BASE = {
    "query_tokens": torch.ones(1, 4, 8),
    "vision_backbone.cls_token": torch.ones(1, 1, 8),
    "vision_neck.fc.weight": torch.ones(8, 8),
}


@pytest.fixture
def source(tmp_path):
    torch.save({"state_dict": BASE | {"text_backbone.lm_head.weight": torch.ones(4, 8)}}, tmp_path / "mine.pth")
    return tmp_path / "mine.pth"


def test_losses_and_formats_are_told(source, tmp_path, capsys):
    assert main(["convert", str(source), str(tmp_path / "out.pth"), "--to", "openmmlab", "--dtype", "fp16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("lost: text_backbone.*: the language model")
    assert lines[1] == f"{source} (openmmlab) -> {tmp_path / 'out.pth'} (openmmlab)"
    state = torch.load(tmp_path / "out.pth", weights_only=True)["state_dict"]
    assert state.keys() == BASE.keys() and {tensor.dtype for tensor in state.values()} == {torch.float16}


def test_lavis_keys_and_back(source, tmp_path):
    assert main(["convert", str(source), str(tmp_path / "lavis.pth"), "--to", "lavis"]) == 0
    assert "visual_encoder.cls_token" in torch.load(tmp_path / "lavis.pth", weights_only=True)["model"]
    assert main(["convert", str(tmp_path / "lavis.pth"), str(tmp_path / "x.safetensors"), "--to", "blip2"]) == 0
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert "vision_backbone.cls_token" in file.keys()  # noqa: SIM118, no mapping


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><title>Not found</title>", "is a web page, not a checkpoint"),
        (b"", "is empty"),
        (b"\x80\x02half a file", "damaged or no checkpoint|was refused"),
    ],
)
def test_what_is_no_checkpoint_is_named(content, words, tmp_path, capsys):
    import re

    (tmp_path / "x.pth").write_bytes(content)
    assert main(["convert", str(tmp_path / "x.pth"), str(tmp_path / "y.pth"), "--to", "lavis"]) == 2
    assert re.search(words, capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_an_unknown_format_a_wrong_name_and_an_unknown_model_are_told(source, tmp_path, capsys):
    torch.save({"backbone.conv1.weight": torch.ones(1)}, tmp_path / "other.pth")
    for arguments, words in [
        ([tmp_path / "other.pth", tmp_path / "y.pth", "--to", "lavis"], "unknown format: its keys (backbone.conv1"),
        ([source, tmp_path / "y.pth", "--to", "blip2"], "must end in .safetensors"),
        ([source, tmp_path / "y", "--to", "hf"], "name its config (--config)"),
        ([source, tmp_path / "no" / "y.pth", "--to", "lavis"], "does not exist"),
        ([tmp_path / "gone.pth", tmp_path / "y.pth", "--to", "lavis"], "gone.pth"),
    ]:
        assert main(["convert", *map(str, arguments)]) == 2
        assert words in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.pth", "other.pth"]

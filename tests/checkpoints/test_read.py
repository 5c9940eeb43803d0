"""read_state_dict: what it takes out of a file, and that a damaged or hostile file is an error that says so."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from blip2.checkpoints import CheckpointError, read_state_dict

STATE = {"a.weight": torch.arange(300.0), "b": torch.ones(2, 3, dtype=torch.float16)}


class RunsCode:
    """Unpickled the ordinary way, it leaves a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def check(state):
    assert list(state) == list(STATE)
    for key, value in STATE.items():
        torch.testing.assert_close(state[key], value, rtol=0, atol=0)
        assert state[key].dtype == value.dtype


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "meta": {"epoch": 3}},
        lambda state: {"model": state, "optimizer": None},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    ],
)
def test_torch_files_of_every_wrapping_are_read(wrap, zipped, tmp_path):
    torch.save(wrap(STATE), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    check(read_state_dict(tmp_path / "w.pth"))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w"])
def test_safetensors_are_recognised_by_content(name, tmp_path):
    save_file(STATE, tmp_path / name)
    check(dict(sorted(read_state_dict(tmp_path / name).items())))


def test_a_torch_file_named_safetensors_is_still_read(tmp_path):
    torch.save(STATE, tmp_path / "w.safetensors")
    check(read_state_dict(tmp_path / "w.safetensors"))


def test_a_training_checkpoint_of_mmengine_gives_its_weights(tmp_path):
    from mmengine.logging import HistoryBuffer

    content = {
        "state_dict": STATE,
        "message_hub": {"log_scalars": {"loss": HistoryBuffer([1.0, 2.0], [1, 1]), "none": HistoryBuffer()}},
        "param_schedulers": [{"last_value": np.float64(0.5)}],
    }
    torch.save(content, tmp_path / "epoch_1.pth")
    check(read_state_dict(tmp_path / "epoch_1.pth"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(zipped, tmp_path):
    mark = tmp_path / "ran"
    torch.save({"state_dict": STATE, "x": RunsCode(mark)}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"w\.pth was refused: it asks for '\w+\.system'"):
        read_state_dict(tmp_path / "w.pth")
    assert not mark.exists()


@pytest.mark.parametrize("function", ["exec", "eval", "getattr", "__import__"])
def test_a_builtin_is_never_called(function, tmp_path):
    class Calls:
        def __reduce__(self):
            import builtins

            return getattr(builtins, function), ("1+1",)

    torch.save({"a": Calls()}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"refused|is no tensor"):
        read_state_dict(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_bare_pickle_is_refused(tmp_path):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(RunsCode(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match="refused"):
        read_state_dict(tmp_path / "w.pkl")
    assert not (tmp_path / "ran").exists()


def saved(path, kind):
    if kind == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "zip")
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["safetensors", "zip", "old"])
@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.97])
def test_a_file_that_is_cut_off_is_named_as_such(kind, fraction, tmp_path):
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    content = saved(path, kind)
    path.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(CheckpointError, match=r"w\.\w+ (is cut off, damaged|was refused)"):
        read_state_dict(path)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"<html>404 not found</html>", bytes(range(256)) * 4, b"PK\x03\x04 and no more"])
def test_a_file_that_is_no_checkpoint_is_named_as_such(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged or no checkpoint|was refused|is a web page"):
        read_state_dict(tmp_path / name)


def test_a_damaged_header_is_found(tmp_path):
    path = tmp_path / "w.safetensors"
    content = bytearray(saved(path, "safetensors"))
    content[20] = 0
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        read_state_dict(path)


def test_a_zip_of_something_else_is_no_checkpoint(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        read_state_dict(tmp_path / "w.pth")


def test_an_empty_file_is_named_as_empty(tmp_path):
    (tmp_path / "w.pth").touch()
    with pytest.raises(CheckpointError, match="0 bytes"):
        read_state_dict(tmp_path / "w.pth")


def test_a_missing_file_is_a_file_not_found_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.pth does not exist"):
        read_state_dict(tmp_path / "gone.pth")


def test_a_folder_is_refused_as_such(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([1, 2], "its content is of the type list"),
        ({}, "an empty dictionary"),
        ({"state_dict": {}}, "an empty dictionary"),
        ({"epoch": 3}, "the entry 'epoch' is no tensor, it is of the type int"),
        ({"a": torch.ones(1), "nested": {"b": torch.ones(1)}}, "the entry 'nested' is no tensor, it is a dictionary"),
    ],
)
def test_content_without_weights_is_described(content, complaint, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=complaint):
        read_state_dict(tmp_path / "w.pth")

"""Windows on files: nothing is read in vain, nothing is held twice."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from blip2.checkpoints import load_checkpoint, mapped, read_state_dict
from blip2.checkpoints.mapped import release, taken

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells what is mapped")


def file_bytes():
    """Bytes of files in this process's memory."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssFile:"))


@pytest.fixture(params=["w.safetensors", "w.pth"])
def file(request, tmp_path):
    tensors = {f"layer{index}": torch.randn(1000, 1000) for index in range(10)}
    path = tmp_path / request.param
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save({"state_dict": tensors}, path)
    return path, tensors


@linux
def test_reading_a_file_reads_no_tensor_and_releasing_gives_its_pages_back(file):
    path, tensors = file
    before = file_bytes()
    windows = read_state_dict(path)
    assert file_bytes() - before < 12e6  # other pages come and go, a few MB
    for key, window in windows.items():
        torch.testing.assert_close(window, tensors[key], rtol=0, atol=0)
    assert file_bytes() - before > 36e6
    for window in windows.values():
        release(window)
    assert file_bytes() - before < 12e6  # other pages come and go, a few MB
    for key, window in windows.items():  # and whoever looks again has them read again
        torch.testing.assert_close(window, tensors[key], rtol=0, atol=0)


@linux
def test_a_tensor_that_is_taken_is_a_copy_and_leaves_nothing_of_the_file_in_memory(file):
    path, tensors = file
    before = file_bytes()
    copies = {key: taken(window, torch.bfloat16) for key, window in read_state_dict(path).items()}
    assert file_bytes() - before < 12e6  # other pages come and go, a few MB
    path.write_bytes(b"")  # the copies do not lie in the file
    for key, copy in copies.items():
        torch.testing.assert_close(copy, tensors[key].bfloat16(), rtol=0, atol=0)


@linux
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_large_tensor_is_read_from_its_file_or_if_that_was_replaced_from_the_mapping(tmp_path, monkeypatch, dtype):
    tensors = {"small": torch.randn(3, 5), "large": torch.randn(1500, 2000), "odd": torch.randn(1237, 1789)}
    path = tmp_path / "w.safetensors"
    save_file(tensors, path)
    calls = []
    read = mapped._read
    monkeypatch.setattr(mapped, "_read", lambda *arguments: calls.append(read(*arguments)) or calls[-1])
    windows = read_state_dict(path)
    for turn, in_its_file in enumerate((True, False)):
        for key, window in windows.items():
            expected = tensors[key] if dtype is None else tensors[key].to(dtype)
            assert torch.equal(taken(window, dtype), expected)
        assert calls[2 * turn :] == [in_its_file] * 2
        other = tmp_path / "other"
        save_file({key: torch.zeros_like(value) for key, value in tensors.items()}, other)
        other.replace(path)  # the mapping is of the file that was there before


def test_releasing_a_tensor_of_ones_own_leaves_it_as_it_is():
    tensor = torch.ones(1000, 1000)
    release(tensor)
    assert tensor.sum() == 1e6


class Layers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for index in range(10):
            setattr(self, f"layer{index}", torch.nn.Parameter(torch.empty(1000, 1000)))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_model_is_filled_without_holding_the_file(device, file):
    path, tensors = file
    with torch.device(device):
        model = Layers()
    before = file_bytes() if sys.platform.startswith("linux") else 0
    load_checkpoint(model, path)
    if sys.platform.startswith("linux"):
        assert file_bytes() - before < 12e6
    torch.testing.assert_close(dict(model.state_dict()), tensors, rtol=0, atol=0)


MEASURED = """
import sys, torch
from torch import nn
from blip2.checkpoints import load_checkpoint

def high_water():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM:"))

with torch.device("meta"):
    model = nn.ModuleDict({f"layer{i}": nn.Linear(2000, 2000, bias=False) for i in range(12)})
torch.zeros(10).to(torch.bfloat16).float()
open("/proc/self/clear_refs", "w").write("5")
before = high_water()
load_checkpoint(model, sys.argv[1])
print((high_water() - before) / sum(p.nbytes for p in model.parameters()))
"""


@linux
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_half_precision_becomes_fp32_at_no_more_than_a_seventh_above_the_weights_own_size(name, tmp_path):
    """In a process of its own, 96 MB of bf16 to 192 MB of fp32; the target of the full size is 1.15."""
    tensors = {f"layer{index}.weight": torch.ones(2000, 2000, dtype=torch.bfloat16) for index in range(12)}
    save = save_file if name.endswith("s") else torch.save
    save(tensors, tmp_path / name)
    command = [sys.executable, "-c", MEASURED, str(tmp_path / name)]
    ratio = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 0.9 < ratio < 1.15

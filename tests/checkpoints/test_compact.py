"""Weights in eight bits, and parts that several files share."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from blip2.checkpoints import CheckpointError, load_checkpoint, read_state_dict, save_checkpoint
from blip2.checkpoints.compact import SCALE, from_int8, to_int8


class Model(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.frozen = nn.Linear(64, 48)
        self.embedding = nn.Embedding(40, 64)
        self.head = nn.Linear(64, 40, bias=False)
        self.head.weight = self.embedding.weight
        self.table = nn.Parameter(torch.randn(1, 20, 64))
        self.register_buffer("positions", torch.arange(5))


@pytest.mark.parametrize(("lowest", "kind"), [(-2, torch.float16), (-6, torch.float32)])
def test_a_weight_is_off_by_half_a_step_of_its_row_at_most(lowest, kind):
    rows = torch.randn(30, 50) * torch.logspace(lowest, 3, 30)[:, None]
    stored = to_int8({"w": rows})
    assert stored["w" + SCALE].dtype == kind
    back = from_int8(stored)["w"]
    assert ((back - rows).abs() <= rows.abs().amax(1, keepdim=True) / 254 * 1.001).all()


def test_rows_of_zeros_and_tables_with_a_leading_one_survive():
    table = torch.randn(1, 40, 30)
    table[0, 3] = 0
    stored = to_int8({"t": table})
    assert stored["t"].dtype == torch.int8 and len(stored["t" + SCALE]) == 40
    back = from_int8(stored)["t"]
    assert back.shape == table.shape
    assert not back[0, 3].any()
    assert (back - table).abs().max() < table.abs().max() / 200


def test_small_tensors_and_whole_numbers_are_kept(tmp_path):
    save_checkpoint(Model(), tmp_path / "a.safetensors", dtype=torch.int8)
    raw = load_file(tmp_path / "a.safetensors")
    assert raw["frozen.bias"].dtype == torch.float16
    assert raw["positions"].tolist() == [0, 1, 2, 3, 4]
    assert raw["frozen.weight"].dtype == torch.int8


def test_a_file_in_eight_bits_is_a_quarter_as_large_and_loads_like_any_other(tmp_path):
    model, other = Model(0), Model(1)
    save_checkpoint(model, tmp_path / "full.safetensors")
    save_checkpoint(model, tmp_path / "small.safetensors", dtype=torch.int8)
    load_checkpoint(other, tmp_path / "small.safetensors")
    for (name, mine), (_, theirs) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert (mine - theirs).abs().max() <= mine.abs().max() / 200, name
    assert other.head.weight is other.embedding.weight
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "small")]
    assert sizes[1] < 0.35 * sizes[0]


def test_shared_parts_come_from_the_file_beside(tmp_path):
    model = Model(0)
    for dtype in (None, torch.float16, torch.int8):
        save_checkpoint(model, tmp_path / "parts.safetensors", dtype=dtype, only=["frozen", "embedding"])
        path = save_checkpoint(model, tmp_path / "rest.safetensors", dtype=dtype, shared=tmp_path / "parts.safetensors")
        assert not any(key.startswith(("frozen", "embedding")) for key in load_file(path))
        whole = save_checkpoint(model, tmp_path / "whole.safetensors", dtype=dtype)
        got, expected = read_state_dict(path), read_state_dict(whole)
        expected.pop("head.weight", None), got.pop("head.weight", None)  # tied: one name is enough
        assert got.keys() == expected.keys()
        for key in expected:
            torch.testing.assert_close(got[key].float(), expected[key].float(), rtol=1e-6, atol=0)
        load_checkpoint(Model(1), path)


def test_weights_that_were_loaded_from_shared_parts_are_still_those_parts(tmp_path):
    save_checkpoint(Model(0), tmp_path / "parts.safetensors", dtype=torch.int8, only=["frozen"])
    first = save_checkpoint(
        Model(0), tmp_path / "a.safetensors", dtype=torch.int8, shared=tmp_path / "parts.safetensors"
    )
    loaded = Model(1)
    load_checkpoint(loaded, first)
    again = save_checkpoint(loaded, tmp_path / "b.safetensors", dtype=torch.int8, shared=tmp_path / "parts.safetensors")
    assert "frozen.weight" not in load_file(again)


def test_a_part_that_was_trained_on_is_not_taken_for_the_shared_one(tmp_path):
    save_checkpoint(Model(0), tmp_path / "parts.safetensors", only=["frozen"])
    changed = Model(0)
    with torch.no_grad():
        changed.frozen.weight[0, 0] += 0.1
    with pytest.raises(ValueError, match=r"frozen.weight of the model is not what .*parts.safetensors holds"):
        save_checkpoint(changed, tmp_path / "rest.safetensors", shared=tmp_path / "parts.safetensors")
    assert not (tmp_path / "rest.safetensors").exists()


def test_a_missing_file_of_shared_parts_is_named(tmp_path):
    save_checkpoint(Model(0), tmp_path / "parts.safetensors", only=["frozen"])
    path = save_checkpoint(Model(0), tmp_path / "rest.safetensors", shared=tmp_path / "parts.safetensors")
    (tmp_path / "parts.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"shares weights with parts.safetensors, which must lie beside it"):
        read_state_dict(path)


@pytest.mark.parametrize("name", ["../parts.safetensors", "/etc/passwd", "a/b"])
def test_a_reference_out_of_the_folder_is_refused(tmp_path, name):
    metadata = {"shared": json.dumps({name: ["frozen."]})}
    save_file({"a": torch.zeros(1)}, tmp_path / "odd.safetensors", metadata=metadata)
    with pytest.raises(CheckpointError, match="no file name"):
        read_state_dict(tmp_path / "odd.safetensors")


def test_eight_bits_are_for_safetensors_only(tmp_path):
    with pytest.raises(ValueError, match="eight bits and shared parts are for"):
        save_checkpoint(Model(), tmp_path / "a.pth", dtype=torch.int8)

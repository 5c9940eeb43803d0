"""save_checkpoint: which keys, which type, and never a half-written file."""

import csv
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from blip2.checkpoints import (
    drop_frozen_language_model,
    keys_to_save,
    load_checkpoint,
    read_state_dict,
    save_checkpoint,
    saves_language_model,
)
from blip2.registry import MODELS

KEYS = Path(__file__).parents[1] / "data" / "mmpretrain_blip2_caption_keys.tsv"


def rows():
    with KEYS.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture(scope="module")
def full_size():
    """The published caption model, without memory."""
    from blip2.apis.config import load_config

    with torch.device("meta"):
        return MODELS.build(load_config("blip2-opt2.7b_8xb32_caption").model)


def test_a_file_of_the_published_model_has_the_771_published_keys(full_size):
    published = {row["key"] for row in rows() if row["in_state_dict"] == "yes"}
    assert len(published) == 771
    assert set(keys_to_save(full_size)) == published
    assert set(drop_frozen_language_model(full_size.state_dict(), full_size)) == published


def test_the_published_model_saves_all_1288_keys_when_asked(full_size):
    assert set(keys_to_save(full_size, include_language_model=True)) == {row["key"] for row in rows()}
    assert len(rows()) == 1288


def test_a_model_without_weights_is_not_saved(full_size, tmp_path):
    with pytest.raises(ValueError, match="no weights yet"):
        save_checkpoint(full_size, tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []


def named(model, name):
    model.text_backbone.name_or_path = name
    return model


def test_a_nameless_language_model_is_saved(tiny):
    assert saves_language_model(tiny())


def test_a_language_model_in_a_local_folder_is_saved(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert saves_language_model(named(tiny(), "org/model"))


def test_a_frozen_language_model_with_a_published_name_is_left_out(tiny):
    assert not saves_language_model(named(tiny(), "facebook/opt-125m"))


def test_a_language_model_that_trains_is_saved(tiny):
    model = named(tiny(), "facebook/opt-125m")
    model.text_backbone.model.decoder.final_layer_norm.bias.requires_grad_(True)
    assert saves_language_model(model)


@pytest.mark.parametrize("word", [True, False])
def test_the_models_own_word_counts_most(word, tiny):
    model = named(tiny(), "facebook/opt-125m" if word else None)
    model.save_language_model = word
    assert saves_language_model(model) is word


def test_a_model_without_a_language_model_saves_everything():
    model = nn.Linear(2, 2)
    assert keys_to_save(model) == ["weight", "bias"]


def test_the_training_hooks_filter_looks_through_a_wrapper(tiny):
    model = named(tiny(), "facebook/opt-125m")
    kept = drop_frozen_language_model(model.state_dict(), nn.DataParallel(model))
    assert set(kept) == set(keys_to_save(model))
    assert not any(key.startswith("text_backbone.") for key in kept)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pt"])
@pytest.mark.parametrize("include", [True, False, None])
def test_files_hold_the_asked_keys(name, include, tiny, tmp_path):
    model = tiny()
    assert save_checkpoint(model, tmp_path / name, include_language_model=include) == tmp_path / name
    assert set(read_state_dict(tmp_path / name)) == set(keys_to_save(model, include_language_model=include))
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_floating_point_tensors_are_converted_and_others_are_not(name, tmp_path):
    model = nn.BatchNorm1d(3)
    save_checkpoint(model, tmp_path / name, dtype=torch.bfloat16)
    dtypes = {key: value.dtype for key, value in read_state_dict(tmp_path / name).items()}
    assert dtypes["weight"] == dtypes["running_mean"] == torch.bfloat16
    assert dtypes["num_batches_tracked"] == torch.int64


def test_tied_weights_are_written_under_each_name(tiny, tmp_path):
    model = tiny()
    save_checkpoint(model, tmp_path / "w.safetensors")
    state = read_state_dict(tmp_path / "w.safetensors")
    head, table = "text_backbone.lm_head.weight", "text_backbone.model.decoder.embed_tokens.weight"
    torch.testing.assert_close(state[head], state[table], rtol=0, atol=0)


def test_safetensors_are_marked_as_pytorchs(tiny, tmp_path):
    save_checkpoint(tiny(), tmp_path / "w.safetensors")
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(name, tiny, tmp_path, monkeypatch):
    path = save_checkpoint(tiny(seed=0), tmp_path / name)
    before = path.read_bytes()

    def write_half(*args, **_):
        Path(args[1]).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("blip2.checkpoints.save.save_file", write_half)
    monkeypatch.setattr("torch.save", write_half)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tiny(seed=1), path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == [name]


def test_a_new_file_has_the_usual_permissions(tmp_path):
    mask = os.umask(0o022)
    try:
        path = save_checkpoint(nn.Linear(2, 2), tmp_path / "w.pth")
        assert path.stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(mask)


def test_an_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'w\.bin' must end in one of \.safetensors"):
        save_checkpoint(nn.Linear(2, 2), tmp_path / "w.bin")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder .*gone does not exist"):
        save_checkpoint(nn.Linear(2, 2), tmp_path / "gone" / "w.pth")


def test_saving_does_not_touch_the_model(tiny, tmp_path):
    model = tiny()
    save_checkpoint(model, tmp_path / "w.safetensors", dtype=torch.float16)
    assert all(value.dtype == torch.float32 for value in model.state_dict().values() if value.is_floating_point())
    load_checkpoint(model, tmp_path / "w.safetensors")

"""load_checkpoint: strict keys and shapes, casts, tied weights, language models from elsewhere, models on 'meta'."""

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from torch import nn

from blip2.checkpoints import CheckpointError, load_checkpoint, read_state_dict, save_checkpoint


def assert_same_weights(left, right):
    torch.testing.assert_close(dict(left.state_dict()), dict(right.state_dict()), rtol=0, atol=0)


def snapshot(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def without_language_model(model):
    return {key: value.clone() for key, value in model.state_dict().items() if not key.startswith("text_backbone.")}


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_what_is_saved_is_loaded(name, tiny, tmp_path):
    source, target = tiny(seed=0), tiny(seed=1)
    save_checkpoint(source, tmp_path / name)
    result = load_checkpoint(target, tmp_path / name)
    assert_same_weights(target, source)
    assert (result.missing, result.unexpected, result.language_model) == ((), (), None)


def test_half_precision_files_are_cast_to_the_models_type(tiny, tmp_path):
    source, target = tiny(seed=0), tiny(seed=1)
    save_checkpoint(source, tmp_path / "w.safetensors", dtype=torch.float16)
    load_checkpoint(target, tmp_path / "w.safetensors")
    for key, value in target.state_dict().items():
        assert value.dtype == source.state_dict()[key].dtype
        torch.testing.assert_close(value, source.state_dict()[key].half().to(value.dtype), rtol=0, atol=0)


# ----- what does not fit -----


def test_missing_keys_are_counted_and_named_and_nothing_is_changed(tiny, tmp_path):
    model = tiny()
    state = snapshot(model)
    gone = [key for key in state if key.startswith("ln_vision_backbone.")]
    torch.save({key: value + 1 for key, value in state.items() if key not in gone}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=rf"does not fit Blip2Caption:\n  2 missing keys: {', '.join(gone)}"):
        load_checkpoint(model, tmp_path / "w.pth")
    torch.testing.assert_close(snapshot(model), state, rtol=0, atol=0)


def test_unknown_keys_are_named_with_the_nearest_missing_one(tiny, tmp_path):
    model = tiny()
    state = snapshot(model)
    state["ln_vision_backbones.weight"] = state.pop("ln_vision_backbone.weight")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(
        CheckpointError, match=r"1 unknown keys: ln_vision_backbones\.weight \(the model lacks ln_vision"
    ):
        load_checkpoint(model, tmp_path / "w.pth")


def test_only_the_first_of_many_keys_are_listed(tiny, tmp_path):
    torch.save({"query_tokens": torch.zeros(1, 4, 32)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="missing keys") as error:
        load_checkpoint(tiny(), tmp_path / "w.pth", allow_missing_language_model=False)
    assert len(str(error.value)) < 600
    assert "…" in str(error.value)


def test_wrong_shapes_are_named_with_both_shapes_even_when_not_strict(tiny, tmp_path):
    model = tiny()
    state = snapshot(model)
    state["query_tokens"] = torch.zeros(1, 7, 32)
    torch.save(state, tmp_path / "w.pth")
    before = snapshot(model)
    for strict in (True, False):
        with pytest.raises(CheckpointError, match="query_tokens is 1x7x32 in the file, 1x4x32 in the model"):
            load_checkpoint(model, tmp_path / "w.pth", strict=strict)
    torch.testing.assert_close(snapshot(model), before, rtol=0, atol=0)


def test_not_strict_loads_what_fits_and_reports_the_rest(tiny, tmp_path):
    model = tiny(seed=1)
    value = torch.full((1, 4, 32), 3.0)
    torch.save({"query_tokens": value, "extra": torch.ones(1)}, tmp_path / "w.pth")
    result = load_checkpoint(model, tmp_path / "w.pth", strict=False, allow_missing_language_model=False)
    torch.testing.assert_close(model.query_tokens.data, value, rtol=0, atol=0)
    assert result.unexpected == ("extra",)
    assert set(result.missing) == set(model.state_dict()) - {"query_tokens"}


# ----- position embeddings -----


def test_position_embeddings_of_another_grid_are_interpolated(tiny, tmp_path):
    small, large = tiny(seed=0), tiny(seed=1, vision_backbone={"img_size": 42})
    save_checkpoint(small, tmp_path / "w.pth")
    load_checkpoint(large, tmp_path / "w.pth")
    table = small.vision_backbone.pos_embed.data  # 1×(1 + 4·4)×32
    grid = table[:, 1:].reshape(4, 4, 32).permute(2, 0, 1)
    resized = F.interpolate(grid[None], size=(6, 6), mode="bicubic", align_corners=False)[0]
    expected = torch.cat([table[0, :1], resized.permute(1, 2, 0).reshape(36, 32)])
    torch.testing.assert_close(large.vision_backbone.pos_embed.data[0], expected)


def test_position_embeddings_that_cannot_be_resized_are_an_error(tiny, tmp_path):
    state = snapshot(tiny())
    state["vision_backbone.pos_embed"] = torch.zeros(1, 17, 31)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"vision_backbone\.pos_embed"):
        load_checkpoint(tiny(), tmp_path / "w.pth")


# ----- tied weights -----


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


@pytest.mark.parametrize("kept", ["embed.weight", "head.weight"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_tied_weight_that_the_file_holds_once_reaches_both_names(kept, device, tmp_path):
    value = torch.randn(5, 3)
    save_file({kept: value}, tmp_path / "w.safetensors")
    with torch.device(device):
        model = Tied()
    load_checkpoint(model, tmp_path / "w.safetensors")
    assert model.head.weight is model.embed.weight
    torch.testing.assert_close(model.head.weight.data, value, rtol=0, atol=0)


# ----- models on 'meta' -----


def build_on_meta(tiny, **changes):
    with torch.device("meta"):
        return tiny(data_preprocessor={}, **changes)


def test_a_model_on_meta_takes_the_tensors_over(tiny, tmp_path):
    source = tiny(seed=0)
    save_checkpoint(source, tmp_path / "w.safetensors", dtype=torch.float16)
    model = build_on_meta(tiny)
    trains = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    load_checkpoint(model, tmp_path / "w.safetensors")
    for key, value in model.state_dict().items():
        assert value.dtype == source.state_dict()[key].dtype
        torch.testing.assert_close(value, source.state_dict()[key].half().to(value.dtype), rtol=0, atol=0)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == trains
    assert model.text_backbone.lm_head.weight is model.text_backbone.get_input_embeddings().weight


def test_a_part_that_no_checkpoint_fills_is_not_left_on_meta_silently(tmp_path):
    with torch.device("meta"):
        model = nn.Linear(2, 2)
        model.register_buffer("table", torch.zeros(2), persistent=False)
    torch.save({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="table are in no checkpoint"):
        load_checkpoint(model, tmp_path / "w.pth")


# ----- the language model from elsewhere -----


@pytest.fixture(params=[True, False], ids=["safetensors", "bin"])
def opt_folder(request, tmp_path):
    """A language model as transformers saves it, of the size of `TINY`'s."""
    torch.manual_seed(5)
    config = transformers.OPTConfig(
        vocab_size=60, hidden_size=48, word_embed_proj_dim=48, num_hidden_layers=2, num_attention_heads=2, ffn_dim=64,
        max_position_embeddings=40,
    )  # fmt: skip
    peer = transformers.OPTForCausalLM(config).eval()
    folder = tmp_path / "opt"
    peer.save_pretrained(folder)
    if not request.param:
        torch.save(peer.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return folder, peer


@pytest.mark.parametrize("on_meta", [False, True])
def test_a_file_without_language_model_is_completed_from_its_folder(on_meta, opt_folder, tiny, tmp_path):
    folder, peer = opt_folder
    source = tiny(seed=0)
    torch.save({"state_dict": without_language_model(source)}, tmp_path / "w.pth")
    language_model = {"name_or_path": str(folder)}
    if on_meta:
        model = build_on_meta(tiny, text_backbone=language_model)
    else:
        model = tiny(seed=1, text_backbone=language_model)
    result = load_checkpoint(model, tmp_path / "w.pth")
    assert result.language_model == folder
    torch.testing.assert_close(without_language_model(model), without_language_model(source), rtol=0, atol=0)
    ids = torch.randint(3, 60, (2, 9))
    with torch.no_grad():
        ours = model.eval().text_backbone(ids)
        torch.testing.assert_close(ours, peer(ids).logits, rtol=1e-5, atol=1e-5)


def test_a_language_model_that_is_not_here_is_named_and_nothing_is_changed(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("BLIP2_OFFLINE", "1")
    model = tiny(seed=1)
    model.text_backbone.name_or_path = "nobody/no-such-opt"
    before = snapshot(model)
    torch.save(without_language_model(tiny(seed=0)), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="hf download nobody/no-such-opt"):
        load_checkpoint(model, tmp_path / "w.pth")
    torch.testing.assert_close(snapshot(model), before, rtol=0, atol=0)


def test_a_nameless_language_model_that_the_file_lacks_is_an_error(tiny, tmp_path):
    torch.save(without_language_model(tiny()), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"holds no language model.*name_or_path"):
        load_checkpoint(tiny(), tmp_path / "w.pth")


def test_a_file_with_half_a_language_model_is_not_completed(tiny, tmp_path):
    state = snapshot(tiny())
    del state["text_backbone.model.decoder.layers.1.fc1.weight"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"1 missing keys: text_backbone\.model\.decoder\.layers\.1\.fc1\.weight"):
        load_checkpoint(tiny(), tmp_path / "w.pth")


def test_the_language_model_can_be_left_as_it_is(tiny, tmp_path):
    model = tiny(seed=1)
    language_model = {key: value.clone() for key, value in model.text_backbone.state_dict().items()}
    torch.save(without_language_model(tiny(seed=0)), tmp_path / "w.pth")
    load_checkpoint(model, tmp_path / "w.pth", strict=False, allow_missing_language_model=False)
    torch.testing.assert_close(dict(model.text_backbone.state_dict()), language_model, rtol=0, atol=0)


def test_a_missing_file_is_named(tiny):
    with pytest.raises(FileNotFoundError, match=r"gone\.pth"):
        load_checkpoint(tiny(), "gone.pth")


def test_read_and_load_agree_on_a_wrapped_file(tiny, tmp_path):
    source, target = tiny(seed=0), tiny(seed=1)
    wrapped = {"state_dict": {f"module.{key}": value for key, value in source.state_dict().items()}}
    torch.save(wrapped, tmp_path / "w.pth")
    assert set(read_state_dict(tmp_path / "w.pth")) == set(source.state_dict())
    load_checkpoint(target, tmp_path / "w.pth")
    assert_same_weights(target, source)

"""Attention maps against transformers and brute force."""

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from blip2.models.attention_maps import (
    _on_grid,
    cross_attention_layers,
    explicit_attention,
    query_attention,
    word_attention,
)
from blip2.registry import MODELS

TEXT = "two birds sit on a wire"


@pytest.fixture
def model(retrieval_model, liven):
    model = retrieval_model().eval()
    liven(model, 0)
    return model.double()


def picture(rows: int = 1) -> torch.Tensor:
    return torch.randn(rows, 3, 28, 28, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_hand(layer, x, key, mask=None):
    """Probabilities R×H×S×N of rows of which each has a picture of its own, a number at a time."""
    query = layer.self.query(x)
    heads, width = key.shape[1], key.shape[3]
    result = torch.empty(len(x), heads, x.shape[1], key.shape[2], dtype=x.dtype)
    for row in range(len(x)):
        for head in range(heads):
            for place in range(x.shape[1]):
                own = query[row, place, head * width : (head + 1) * width]
                scores = torch.stack([own @ key[row, head, n] / width**0.5 for n in range(key.shape[2])])
                if mask is not None:
                    scores = scores + mask[row, 0, 0]
                result[row, head, place] = scores.exp() / scores.exp().sum()
    return result


def test_probabilities_are_those_of_brute_force_and_the_output_stays(model):
    layer = cross_attention_layers(model)[2]
    x, source = torch.randn(4, 3, 32).double(), torch.randn(4, 5, 24).double()
    mask = torch.tensor([[0, 0, 0, 0, -1e4], [0] * 5, [0, -1e4, 0, 0, 0], [0] * 5]).double()[:, None, None]
    with torch.no_grad():
        fused = layer(x, mask, layer.keys_values(source))
        with explicit_attention([layer]) as kept:
            assert_close(layer(x, mask, layer.keys_values(source)), fused)
        assert_close(kept[0][0], by_hand(layer, x, layer.keys_values(source)[0], mask))


def test_rows_that_share_a_picture_get_a_matrix_each(model):
    layer = cross_attention_layers(model)[0]
    x, source = torch.randn(6, 3, 32).double(), torch.randn(2, 5, 24).double()
    shared = layer.keys_values(source)
    with torch.no_grad(), explicit_attention([layer]) as kept:
        output = layer(x, None, shared)
    assert_close(output, layer(x, None, shared))
    repeated = shared[0].repeat_interleave(3, dim=0)
    assert_close(kept[0][0], by_hand(layer, x, repeated))


def test_queries_look_where_those_of_transformers_look(blip2_pair, caption_model):
    peer, ours = blip2_pair(caption_model(layer_norm_eps=1e-6))(3, torch.float64)
    peer.set_attn_implementation("eager")
    images = picture(2)
    with torch.no_grad():
        embeds = peer.vision_model(images).last_hidden_state
        queries = peer.query_tokens.expand(2, -1, -1)
        output = peer.qformer(query_embeds=queries, encoder_hidden_states=embeds, output_attentions=True)
    theirs = [attention for attention in output.cross_attentions if attention.shape[-1] == embeds.shape[1]]
    for layer, attention in zip((0, 2), theirs, strict=True):
        wanted = attention.mean(1)[:, :, 1:].unflatten(2, (2, 2))
        assert_close(query_attention(ours, images, layer), wanted, rtol=1e-6, atol=1e-8)
    assert_close(query_attention(ours, images), query_attention(ours, images, 2))


def score(model, ids, mask, change=None):
    """Match score of one text; `change` is added to layer 2's probabilities 1×H×Q×N, which are returned too."""
    layer, seen = cross_attention_layers(model)[2], []

    def hook(module, inputs, output):
        x, _, (key, value) = inputs
        seen.append(by_hand(module, x, key))
        attention = seen[0] if change is None else seen[0] + change
        return module.output((attention @ value).transpose(1, 2).reshape(x.shape), x)

    handle = layer.register_forward_hook(hook)
    pictures = model.multimodal_backbone.project_encoder(model.encode_image(picture()))
    no, yes = model.multimodal_head(model.query_with_text(pictures, ids, mask)).mean(1)[0]
    handle.remove()
    return (yes - no).item(), seen[0]


@torch.no_grad()
def test_word_maps_are_those_of_gradients_by_finite_differences(model):
    ids, mask, _ = model.tokenize(["two birds sit"])
    words, maps = word_attention(model, picture(), "two birds sit", layer=2)
    assert words == ["two", "birds", "sit"]
    whole, attention = score(model, ids, mask)
    gradient, step = torch.empty_like(attention), 1e-6
    for index in range(attention.numel()):
        change = torch.zeros_like(attention)
        change.view(-1)[index] = step
        gradient.view(-1)[index] = (score(model, ids, mask, change)[0] - whole) / step
    weights = gradient.std(dim=-1, keepdim=True)
    own = [len(model.tokenizer.encode([word])[0]) - 2 for word in words]
    first = 1
    for word, count in enumerate(own):
        without = mask.clone()
        without[0, first : first + count] = 0
        first += count
        difference = weights * (attention - score(model, ids, without)[1])
        wanted = difference.mean((0, 1, 2))[1:].relu().view(2, 2)
        assert_close(maps[word], wanted, rtol=1e-3, atol=1e-9)
    assert maps.max() > 0


def test_nothing_of_the_model_is_changed(model):
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    for error in (None, 1):
        try:
            word_attention(model, picture(), TEXT, error)
        except ValueError:
            assert error == 1
    query_attention(model, picture())
    assert [module.training for module in model.modules()] == modes and True in modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_frozen_model_and_inference_mode_make_no_difference(model):
    wanted = word_attention(model, picture(), TEXT)[1]
    model.requires_grad_(False)
    with torch.inference_mode():
        assert_close(word_attention(model, picture(), TEXT)[1], wanted)


def test_words_beyond_the_longest_text_are_left_out(retrieval_model):
    short = retrieval_model(max_txt_len=4).eval()
    words, maps = word_attention(short, picture().float(), TEXT)
    assert "two".startswith(words[0]) and len(words) == len(maps) < 6


def test_patches_are_found_behind_class_and_register_tokens(model):
    for extra, (height, width) in ((0, (28, 28)), (1, (28, 42)), (5, (42, 28))):
        model.vision_backbone.num_extra_tokens = extra
        values = torch.arange(extra + height * width // 196.0)
        grid = _on_grid(values, torch.empty(1, 3, height, width), model)
        assert grid.shape == (height // 14, width // 14) and grid[0, 0] == extra
    with pytest.raises(ValueError, match="25 patches of a picture of 42×28"):
        _on_grid(torch.zeros(30), torch.empty(1, 3, 28, 42), model)


def test_tokens_of_a_timm_encoder_are_counted_as_timm_counts_them():
    encoder = dict(type="TIMMBackbone", model_name="vit_tiny_patch16_224", img_size=32)
    assert _on_grid(
        torch.arange(5.0), torch.empty(1, 3, 32, 32), SimpleNamespace(vision_backbone=MODELS.build(encoder))
    ).tolist() == [[1, 2], [3, 4]]


def test_what_cannot_be_explained_is_refused(model, caption_config):
    with pytest.raises(ValueError, match=r"layer=1 .* these have: \[0, 2\]"):
        query_attention(model, picture(), 1)
    with pytest.raises(TypeError, match="Blip2Caption does not match texts"):
        word_attention(MODELS.build(caption_config()), picture(), TEXT)
    with pytest.raises(TypeError, match="Linear has no Q-Former"):
        query_attention(torch.nn.Linear(2, 2), picture())
    with pytest.raises(ValueError, match="2 pictures: wanted one"):
        word_attention(model, picture(2), TEXT)

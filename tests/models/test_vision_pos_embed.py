"""Position embeddings of another grid: the pure function against a brute-force twin, and the load hook."""

import math

import pytest
import torch
from torch.testing import assert_close

from blip2.models import BEiTViT
from blip2.models.vision import resize_pos_embed

ARCH = {"embed_dims": 16, "num_layers": 1, "num_heads": 2, "feedforward_channels": 16}


def model_of(img_size, **changes):
    options = {"use_abs_pos_emb": True, "use_rel_pos_bias": False, "out_type": "raw", **changes}
    return BEiTViT(ARCH, img_size=img_size, patch_size=8, **options)


def cubic(distance, a=-0.75):
    """Keys' cubic convolution kernel with the constant that image libraries without antialiasing use."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def brute_force_bicubic(grid, height, width):
    """Bicubic interpolation of h×w×D by its definition: pixel centres aligned, edges repeated."""
    old_height, old_width, depth = grid.shape
    result = torch.zeros(height, width, depth)
    for i in range(height):
        y = (i + 0.5) * old_height / height - 0.5
        for j in range(width):
            x = (j + 0.5) * old_width / width - 0.5
            for m in range(math.floor(y) - 1, math.floor(y) + 3):
                for n in range(math.floor(x) - 1, math.floor(x) + 3):
                    value = grid[min(max(m, 0), old_height - 1), min(max(n, 0), old_width - 1)]
                    result[i, j] += cubic(y - m) * cubic(x - n) * value
    return result


@pytest.mark.parametrize(("source", "target"), [((4, 4), (6, 6)), ((4, 4), (3, 2)), ((2, 5), (4, 3))])
def test_resizing_is_bicubic_and_leaves_the_class_token(source, target):
    pos_embed = torch.randn(1, 1 + source[0] * source[1], 3)
    resized = resize_pos_embed(pos_embed, source, target)
    expected = brute_force_bicubic(pos_embed[0, 1:].view(*source, 3), *target)
    assert torch.equal(resized[:, :1], pos_embed[:, :1])
    assert_close(resized[0, 1:].view(*target, 3), expected, atol=1e-5, rtol=1e-5)


def test_resizing_keeps_dtype_and_returns_the_tensor_itself_when_nothing_changes():
    pos_embed = torch.randn(1, 5, 3, dtype=torch.bfloat16)
    assert resize_pos_embed(pos_embed, (2, 2), (2, 2)) is pos_embed
    assert resize_pos_embed(pos_embed, (2, 2), (3, 3)).dtype == torch.bfloat16
    assert resize_pos_embed(pos_embed[:, 1:], (2, 2), (3, 3), num_extra_tokens=0).shape == (1, 9, 3)


def test_resizing_refuses_a_wrong_length():
    with pytest.raises(ValueError, match=r"4×4 grid.*1×17×D.*\(1, 10, 3\)"):
        resize_pos_embed(torch.zeros(1, 10, 3), (4, 4), (2, 2))


@pytest.mark.parametrize("img_size", [48, (24, 40)])
def test_loading_another_grid_resizes_the_embeddings(img_size):
    source, target = model_of(32), model_of(img_size)
    weights = source.state_dict()
    target.load_state_dict(weights)
    expected = resize_pos_embed(source.pos_embed, (4, 4), target.patch_resolution)
    assert_close(target.pos_embed, expected)
    assert weights["pos_embed"].shape == (1, 17, 16), "the caller's dict is left alone"
    images = torch.randn(1, 3, *target.img_size)
    assert_close(target.eval()(images), source.eval()(images))


def test_the_log_line_names_key_and_grids(monkeypatch):
    lines = []
    monkeypatch.setattr("blip2.models.vision.beit_vit.print_log", lambda message, **_: lines.append(message))
    wrapped = torch.nn.ModuleDict({"vision_backbone": model_of(48)})
    wrapped.load_state_dict({f"vision_backbone.{key}": value for key, value in model_of(32).state_dict().items()})
    assert lines == ["vision_backbone.pos_embed: position embeddings resized from 4×4 to 6×6 patches (bicubic)."]
    wrapped.load_state_dict(wrapped.state_dict())
    assert len(lines) == 1


def test_a_grid_that_is_not_square_is_an_error_that_names_the_shapes():
    weights = model_of((24, 40)).state_dict()
    with pytest.raises(RuntimeError, match=r"pos_embed.*\[1, 16, 16\].*\[1, 17, 16\]"):
        model_of(32).load_state_dict(weights)


def test_a_missing_or_other_width_embedding_is_an_error():
    weights = model_of(32).state_dict()
    del weights["pos_embed"]
    with pytest.raises(RuntimeError, match="pos_embed"):
        model_of(48).load_state_dict(weights)
    weights["pos_embed"] = torch.zeros(1, 17, 8)
    with pytest.raises(RuntimeError, match=r"pos_embed.*\[1, 17, 8\]"):
        model_of(48).load_state_dict(weights)

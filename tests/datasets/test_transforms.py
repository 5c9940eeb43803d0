"""Transforms against torchvision on Pillow pictures, and the way of a sample through mmpretrain's pipelines."""

import string

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms import functional

from blip2.datasets.transforms import CleanCaption, PackInputs, RandomResizedCrop, ResizeEdge
from blip2.registry import TRANSFORMS
from blip2.structures import DataSample

BICUBIC = functional.InterpolationMode.BICUBIC


@pytest.mark.parametrize("shape", [(40, 60), (61, 33), (16, 16)])
def test_random_resized_crop_pixels_equal_torchvision_for_the_same_box(smooth_rgb, shape):
    rgb = smooth_rgb(*shape)
    np.random.seed(0)
    crop = RandomResizedCrop(scale=(24, 32), interpolation="bicubic", backend="pillow")
    for _ in range(5):
        state = np.random.get_state()
        result = crop({"img": rgb[..., ::-1].copy()})
        np.random.set_state(state)
        top, left, height, width = crop.rand_crop_params(rgb)
        expected = functional.resized_crop(Image.fromarray(rgb), top, left, height, width, [24, 32], BICUBIC)
        np.testing.assert_array_equal(result["img"][..., ::-1], np.asarray(expected))
        assert result["img_shape"] == (24, 32)


def test_random_resized_crop_boxes_are_distributed_as_torchvisions():
    img = np.zeros((90, 120, 3), np.uint8)
    crop = RandomResizedCrop(scale=8, crop_ratio_range=(0.2, 0.9))
    np.random.seed(1)
    torch.manual_seed(1)
    ours = np.array([crop.rand_crop_params(img) for _ in range(3000)], dtype=float)
    get_params = torchvision.transforms.RandomResizedCrop.get_params
    pillow = Image.new("RGB", (120, 90))
    theirs = np.array([get_params(pillow, [0.2, 0.9], [3 / 4, 4 / 3]) for _ in range(3000)], dtype=float)
    # Top, left, height, width: means within four standard errors, spreads within a tenth.
    error = np.sqrt((ours.var(0) + theirs.var(0)) / 3000)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4 * error).all()
    np.testing.assert_allclose(ours.std(0), theirs.std(0), rtol=0.1)
    assert (ours[:, 0] + ours[:, 2] <= 90).all() and (ours[:, 1] + ours[:, 3] <= 120).all()


@pytest.mark.parametrize("size", [(10, 100), (100, 10), (50, 50), (1, 200), (200, 1)])
def test_random_resized_crop_falls_back_to_the_same_centred_box_as_torchvision(size):
    width, height = size
    crop = RandomResizedCrop(scale=8, max_attempts=0)
    # An impossible area makes torchvision give up its ten draws as well.
    get_params = torchvision.transforms.RandomResizedCrop.get_params
    expected = get_params(Image.new("RGB", size), [50.0, 60.0], [3 / 4, 4 / 3])
    assert crop.rand_crop_params(np.zeros((height, width, 3), np.uint8)) == tuple(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 0}, "scale=0"),
        ({"scale": 8, "crop_ratio_range": (1.0, 0.5)}, "crop_ratio_range"),
        ({"scale": 8, "aspect_ratio_range": (0, 1)}, "aspect_ratio_range"),
        ({"scale": 8, "interpolation": "area", "backend": "pillow"}, "'area'.*'pillow'.*bicubic"),
        ({"scale": 8, "backend": "gpu"}, "'gpu'.*cv2"),
        ({"scale": 8, "max_attempts": -1}, "max_attempts=-1"),
    ],
)
def test_random_resized_crop_refuses_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomResizedCrop(**arguments)


@pytest.mark.parametrize("shape", [(40, 61), (61, 40)])
def test_resize_edge_equals_torchvisions_resize_with_one_number(smooth_rgb, shape):
    rgb = smooth_rgb(*shape)
    result = ResizeEdge(scale=24, backend="pillow", interpolation="bicubic")({"img": rgb})
    expected = functional.resize(Image.fromarray(rgb), 24, BICUBIC)
    np.testing.assert_array_equal(result["img"], np.asarray(expected))


@pytest.mark.parametrize(
    ("edge", "expected"), [("short", (20, 30)), ("long", (13, 20)), ("width", (13, 20)), ("height", (20, 30))]
)
def test_resize_edge_sets_the_edge_that_is_named(edge, expected):
    result = ResizeEdge(scale=20, edge=edge)({"img": np.zeros((40, 60, 3), np.uint8)})
    assert result["img"].shape[:2] == result["img_shape"] == expected
    with pytest.raises(ValueError, match=r"edge='depth'.*short"):
        ResizeEdge(scale=20, edge="depth")


def test_resize_of_mmcv_is_found_and_equals_torchvision_on_pillow(smooth_rgb):
    rgb = smooth_rgb(50, 71)
    resize = TRANSFORMS.build({"type": "Resize", "scale": (36, 36), "interpolation": "bicubic", "backend": "pillow"})
    expected = functional.resize(Image.fromarray(rgb), [36, 36], BICUBIC)
    np.testing.assert_array_equal(resize({"img": rgb})["img"], np.asarray(expected))


def test_random_flip_of_mmcv_flips_about_half(smooth_rgb):
    flip = TRANSFORMS.build({"type": "RandomFlip", "prob": 0.5, "direction": "horizontal"})
    rgb = smooth_rgb(4, 6)
    np.random.seed(0)
    results = [flip({"img": rgb}) for _ in range(200)]
    assert 70 < sum(result["flip"] for result in results) < 130
    for result in results:
        np.testing.assert_array_equal(result["img"], rgb[:, ::-1] if result["flip"] else rgb)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("A man, riding a Horse.", "a man riding a horse"),
        ("What color is it?", "what color is it"),
        ("  a cat .  ", "a cat "),
        ("a dog - and a cat", "a dog and a cat"),
        ("t-shirt (red)", "tshirt red"),
        ("one\ttwo\n\nthree", "one\ttwo three"),
        ("“Café” – ok", "“café” – ok"),
        (string.punctuation, ""),
        ("", ""),
    ],
)
def test_clean_caption_keeps_upstreams_quirks(text, cleaned):
    assert CleanCaption()({"gt_caption": text})["gt_caption"] == cleaned
    assert CleanCaption(keys=["a"])({"a": [text, "X."]})["a"] == [cleaned, "x"]


def test_clean_caption_steps_can_be_switched_off():
    plain = CleanCaption(remove_chars="", lowercase=False, remove_dup_space=False, strip=False)
    assert plain({"gt_caption": "  Is  it? "})["gt_caption"] == "  Is  it? "
    assert CleanCaption(remove_chars="i")({"gt_caption": "Ii?"})["gt_caption"] == "i?"


def test_clean_caption_names_a_missing_key_and_a_wrong_type():
    with pytest.raises(KeyError, match="no 'question', only"):
        CleanCaption(keys="question")({"gt_caption": "a"})
    with pytest.raises(TypeError, match="a text or a list of texts"):
        CleanCaption()({"gt_caption": 3})


def test_pack_inputs_gives_channels_first_and_a_data_sample(smooth_rgb):
    img = smooth_rgb(5, 7)
    sample = {"img": img, "gt_caption": ["a", "b"], "image_id": 42, "img_path": "x.jpg", "dropped": 1}
    packed = PackInputs(algorithm_keys=["gt_caption", "question"], meta_keys=["image_id", "flip"])(sample)
    assert set(packed) == {"inputs", "data_samples"}
    assert packed["inputs"].dtype == torch.uint8 and packed["inputs"].is_contiguous()
    np.testing.assert_array_equal(packed["inputs"].permute(1, 2, 0).numpy(), img)
    data_sample = packed["data_samples"]
    assert isinstance(data_sample, DataSample)
    assert data_sample.gt_caption == ["a", "b"] and data_sample.image_id == 42
    assert list(data_sample.keys()) == ["gt_caption"] and data_sample.metainfo_keys() == ["image_id"]


def test_pack_inputs_does_not_share_memory_with_the_picture():
    img = np.zeros((1, 1, 3), np.uint8)[:, ::-1]
    packed = PackInputs()({"img": img})
    img[:] = 9
    assert packed["inputs"].sum() == 0


def test_pack_inputs_takes_grey_arrays_pillow_pictures_tensors_and_lists():
    assert PackInputs.format_input(np.zeros((2, 3), np.float32)).shape == (1, 2, 3)
    assert PackInputs.format_input(Image.new("RGB", (3, 2))).shape == (3, 2, 3)
    tensor = torch.zeros(4, 5)
    assert PackInputs.format_input([tensor])[0] is tensor
    with pytest.raises(TypeError, match="not str"):
        PackInputs.format_input("x.jpg")
    with pytest.raises(TypeError, match=r"shape \(1, 2, 3, 4\)"):
        PackInputs.format_input(np.zeros((1, 2, 3, 4)))


def test_pack_inputs_refuses_a_text_for_a_list_of_keys():
    with pytest.raises(TypeError, match="meta_keys='image_id' must be a list"):
        PackInputs(meta_keys="image_id")


def test_every_transform_has_a_readable_repr():
    for transform in (
        RandomResizedCrop(8),
        ResizeEdge(8),
        CleanCaption(),
        PackInputs(),
        TRANSFORMS.get("LoadImageFromFile")(),
    ):
        assert repr(transform).startswith(f"{type(transform).__name__}(")

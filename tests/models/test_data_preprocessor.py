"""`MultiModalDataPreprocessor` against the formula written out, and mmengine's own preprocessor."""

import warnings

import pytest
import torch
from mmengine.model import ImgDataPreprocessor
from torch.testing import assert_close

from blip2.models import MultiModalDataPreprocessor
from blip2.registry import MODELS
from blip2.structures import DataSample

MEAN = [122.770938, 116.7460125, 104.09373615]
STD = [68.5005327, 66.6321579, 70.32316305]


def preprocessor(**changes):
    return MultiModalDataPreprocessor(**{"mean": MEAN, "std": STD, "to_rgb": True, **changes})


def picture(height=4, width=6):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


def test_a_list_of_pictures_is_converted_normalised_and_stacked():
    pictures = [picture() for _ in range(3)]
    images = preprocessor()({"inputs": pictures})["images"]
    assert images.shape == (3, 3, 4, 6)
    assert images.dtype == torch.float32
    for image, original in zip(images, pictures, strict=True):
        for channel in range(3):
            expected = (original[2 - channel].double() - MEAN[channel]) / STD[channel]
            assert_close(image[channel].double(), expected, atol=1e-6, rtol=1e-6)


def test_agrees_bit_for_bit_with_mmengines_preprocessor():
    pictures = [picture() for _ in range(2)]
    peer = ImgDataPreprocessor(MEAN, STD, pad_size_divisor=5, pad_value=7, bgr_to_rgb=True)
    theirs = peer({"inputs": [p.clone() for p in pictures]})["inputs"]
    ours = preprocessor(pad_size_divisor=5, pad_value=7)
    assert torch.equal(ours({"inputs": pictures})["images"], theirs)
    assert torch.equal(ours({"inputs": torch.stack(pictures)})["images"], theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64])
def test_the_dtype_of_the_pixels_makes_no_difference_and_they_are_left_alone(dtype):
    pictures = torch.stack([picture(), picture()])
    given = pictures.to(dtype)
    kept = given.clone()
    assert torch.equal(preprocessor()({"inputs": given})["images"], preprocessor()({"inputs": pictures})["images"])
    plain = preprocessor(mean=None, std=None, to_rgb=False)
    assert torch.equal(plain({"inputs": given})["images"], pictures.float())
    assert torch.equal(given, kept)


def test_pixels_on_the_wrong_scale_are_warned_about():
    with pytest.warns(UserWarning, match="multiply the pixels by 255"):
        preprocessor()({"inputs": torch.rand(1, 3, 4, 4)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preprocessor(mean=[0.5] * 3, std=[0.5] * 3)({"inputs": torch.rand(1, 3, 4, 4)})
        preprocessor()({"inputs": torch.zeros(1, 3, 4, 4)})


def test_without_mean_only_the_channels_are_swapped():
    images = MultiModalDataPreprocessor(to_rgb=True)({"inputs": [(p := picture())]})["images"]
    assert torch.equal(images[0], p.flip(0).float())
    assert torch.equal(MultiModalDataPreprocessor()({"inputs": [p]})["images"][0], p.float())


def test_different_sizes_are_an_error_that_names_them():
    with pytest.raises(ValueError, match=r"4×6, 5×3.*pad_size_divisor"):
        preprocessor()({"inputs": [picture(4, 6), picture(5, 3)]})


def test_different_sizes_are_padded_with_a_divisor():
    small, large = picture(4, 6), picture(5, 3)
    images = preprocessor(pad_size_divisor=4, pad_value=-9)({"inputs": [small, large]})["images"]
    assert images.shape == (2, 3, 8, 8)
    assert torch.equal(images[0, :, :4, :6], preprocessor()({"inputs": [small]})["images"][0])
    assert torch.equal(images[1, :, :5, :3], preprocessor()({"inputs": [large]})["images"][0])
    assert (images[0, :, 4:] == -9).all() and (images[1, :, :, 3:] == -9).all()


def test_pictures_of_different_dtypes_may_share_a_batch():
    first, second = picture(), picture()
    images = preprocessor()({"inputs": [first, second.float()]})["images"]
    assert torch.equal(images, preprocessor()({"inputs": [first, second]})["images"])


def test_data_samples_come_through_and_text_alone_is_allowed():
    samples = [DataSample(gt_caption="a cat", metainfo={"image_id": 3})]
    output = preprocessor()({"data_samples": samples})
    assert output["images"] is None
    assert output["data_samples"][0].gt_caption == "a cat"
    assert output["data_samples"][0].image_id == 3
    assert preprocessor()({"inputs": [picture()]})["data_samples"] is None


def test_half_precision_of_the_model_leaves_the_statistics_exact():
    module = preprocessor()
    inputs = {"inputs": [picture()]}
    expected = module(inputs)["images"]
    assert torch.equal(module.half()(inputs)["images"], expected)
    with torch.device("meta"):
        built = preprocessor()
    assert torch.equal(built(inputs)["images"], expected)
    assert torch.equal(built.to_empty(device="cpu")(inputs)["images"], expected)
    assert module.state_dict() == {}


def test_moves_to_its_device():
    module = preprocessor().to("meta")
    assert module({"inputs": [picture()]})["images"].is_meta
    module = preprocessor()
    torch.nn.Sequential(module).to("meta")
    assert module({"inputs": [picture()]})["images"].is_meta


def test_is_registered():
    assert isinstance(MODELS.build({"type": "MultiModalDataPreprocessor"}), MultiModalDataPreprocessor)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"std": None}, "both mean and std"),
        ({"std": [1, 2]}, "1 or 3 values"),
        ({"std": [1, 0, 1]}, "above 0"),
        ({"pad_size_divisor": 0}, "pad_size_divisor"),
    ],
)
def test_wrong_arguments_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        preprocessor(**changes)


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ([1], TypeError, "must be a dict"),
        ({"inputs": []}, ValueError, "empty list"),
        ({"inputs": torch.zeros(3, 4, 4)}, ValueError, r"\(3, 4, 4\)"),
        ({"inputs": ["a.jpg"]}, ValueError, "one of them is str"),
        ({"inputs": [torch.zeros(4, 4)]}, ValueError, r"one of them is \(4, 4\)"),
        ({"inputs": torch.zeros(1, 1, 4, 4)}, ValueError, "1 channels"),
    ],
)
def test_wrong_batches_are_named(batch, error, message):
    with pytest.raises(error, match=message):
        preprocessor()(batch)

"""RandAugment and its operations: pixels against Pillow and hand-made cases, draws against mmpretrain's order."""

import numpy as np
import pytest
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from mmengine.registry import DefaultScope
from PIL import Image, ImageEnhance, ImageOps

from blip2.datasets.transforms import (
    RANDAUG_POLICIES,
    Augmentation,
    AutoContrast,
    Brightness,
    ColorTransform,
    Contrast,
    Equalize,
    Invert,
    MagnitudeAugmentation,
    Posterize,
    RandAugment,
    Rotate,
    Sharpness,
    Shear,
    Solarize,
    SolarizeAdd,
    Translate,
)
from blip2.registry import TRANSFORMS

# As the retrieval config of mmpretrain has them.
CONFIG_POLICIES = [
    dict(type="AutoContrast"),
    dict(type="Equalize"),
    dict(type="Rotate", magnitude_key="angle", magnitude_range=(0, 30)),
    dict(type="Brightness", magnitude_key="magnitude", magnitude_range=(0, 0.0)),
    dict(type="Sharpness", magnitude_key="magnitude", magnitude_range=(0, 0)),
    dict(type="Shear", magnitude_key="magnitude", magnitude_range=(0, 0.3), direction="horizontal"),
    dict(type="Shear", magnitude_key="magnitude", magnitude_range=(0, 0.3), direction="vertical"),
]


def applied(transform, rgb):
    """What a transform that always acts makes of an RGB picture; it goes in as BGR and comes out as RGB."""
    result = transform({"img": rgb[..., ::-1].copy()})["img"]
    assert result.dtype == np.uint8 and result.shape == rgb.shape
    return result[..., ::-1]


def always(kind, **arguments):
    return kind(prob=1.0, **arguments)


def signless(kind, magnitude):
    return kind(magnitude=magnitude, prob=1.0, random_negative_prob=0.0)


# ----- pixels -----


@pytest.mark.parametrize(
    ("transform", "pillow"),
    [
        (always(Equalize), ImageOps.equalize),
        (always(Invert), ImageOps.invert),
        (always(Solarize, thr=100), lambda image: ImageOps.solarize(image, 100)),
        (always(Posterize, bits=3), lambda image: ImageOps.posterize(image, 3)),
        (always(Posterize, magnitude_range=(4, 0), magnitude_level=3), lambda image: ImageOps.posterize(image, 3)),
    ],
)
def test_an_operation_on_whole_numbers_equals_pillows(smooth_rgb, transform, pillow):
    rgb = smooth_rgb(33, 47)
    np.testing.assert_array_equal(applied(transform, rgb), np.asarray(pillow(Image.fromarray(rgb))))


@pytest.mark.parametrize(
    ("transform", "pillow"),
    [
        (always(AutoContrast), ImageOps.autocontrast),
        (signless(ColorTransform, 0.6), lambda image: ImageEnhance.Color(image).enhance(1.6)),
        (signless(ColorTransform, -0.7), lambda image: ImageEnhance.Color(image).enhance(0.3)),
        (signless(Contrast, 0.5), lambda image: ImageEnhance.Contrast(image).enhance(1.5)),
        (signless(Contrast, -0.5), lambda image: ImageEnhance.Contrast(image).enhance(0.5)),
        (signless(Brightness, 0.4), lambda image: ImageEnhance.Brightness(image).enhance(1.4)),
        (signless(Brightness, -0.4), lambda image: ImageEnhance.Brightness(image).enhance(0.6)),
        (signless(Sharpness, 0.9), lambda image: ImageEnhance.Sharpness(image).enhance(1.9)),
        (signless(Sharpness, -0.9), lambda image: ImageEnhance.Sharpness(image).enhance(0.1)),
    ],
)
def test_an_operation_with_fractions_equals_pillows_but_for_rounding(smooth_rgb, transform, pillow):
    rgb = smooth_rgb(132, 188)[::4, ::4] // 2 + 40  # with edges to sharpen, and room to stretch
    ours, theirs = applied(transform, rgb).astype(int), np.asarray(pillow(Image.fromarray(rgb))).astype(int)
    inside = (slice(1, -1), slice(1, -1))  # at the border Pillow does not smooth
    assert np.abs(ours - theirs)[inside].max() <= 2
    assert np.abs(ours - rgb)[inside].max() > 5  # and something happened


def test_values_below_a_threshold_are_raised_and_do_not_wrap_around():
    rgb = np.array([[[0, 20, 127], [128, 200, 255]]], np.uint8)
    expected = np.array([[[100, 120, 227], [128, 200, 255]]])
    np.testing.assert_array_equal(applied(always(SolarizeAdd, magnitude=100), rgb), expected)
    expected = np.array([[[200, 220, 255], [255, 200, 255]]])
    np.testing.assert_array_equal(applied(always(SolarizeAdd, magnitude=200, thr=150), rgb), expected)


def test_a_quarter_turn_is_clockwise(smooth_rgb):
    rgb = smooth_rgb(15, 15)
    turn = Rotate(angle=90, prob=1.0, random_negative_prob=0.0)
    np.testing.assert_array_equal(applied(turn, rgb), np.rot90(rgb, -1))
    back = Rotate(angle=90, prob=1.0, random_negative_prob=1.0)
    np.testing.assert_array_equal(applied(back, rgb), np.rot90(rgb, 1))


@pytest.mark.parametrize(("direction", "axis"), [("horizontal", 1), ("vertical", 0)])
def test_a_translation_moves_by_a_share_of_the_length(smooth_rgb, direction, axis):
    rgb = smooth_rgb(20, 40)
    move = Translate(magnitude=0.25, direction=direction, prob=1.0, random_negative_prob=0.0, pad_val=9)
    steps = rgb.shape[axis] // 4
    expected = np.roll(rgb, steps, axis)
    expected[(slice(None), slice(steps)) if axis else (slice(steps),)] = 9
    np.testing.assert_array_equal(applied(move, rgb), expected)


@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_a_shear_moves_each_line_by_its_number(smooth_rgb, direction):
    rgb = smooth_rgb(12, 12)
    shear = Shear(magnitude=1, direction=direction, prob=1.0, random_negative_prob=0.0, interpolation="nearest")
    expected = np.full_like(rgb, 128)
    for line in range(12):
        if direction == "horizontal":
            expected[line, line:] = rgb[line, : 12 - line]
        else:
            expected[line:, line] = rgb[: 12 - line, line]
    np.testing.assert_array_equal(applied(shear, rgb), expected)


@pytest.mark.parametrize("kind", [Rotate, Shear, Translate])
@pytest.mark.parametrize(("pad_val", "bgr"), [(128, (128, 128, 128)), ([1, 2, 3], (1, 2, 3))])
def test_what_is_laid_open_is_filled_in_all_channels(kind, pad_val, bgr):
    strength = {"angle": 45} if kind is Rotate else {"magnitude": 0.5}
    transform = kind(**strength, pad_val=pad_val, prob=1.0, random_negative_prob=0.0, interpolation="nearest")
    result = transform({"img": np.full((20, 20, 3), 255, np.uint8)})["img"]
    opened = result[(result != 255).any(-1)]
    assert len(opened) > 20 and (opened == bgr).all()


# ----- draws -----


class Recorder(MagnitudeAugmentation):
    """Leaves the picture and notes the magnitude."""

    def __init__(self, magnitude=None, prob=0.5, random_negative_prob=0.5, name="", **levels):
        super().__init__(magnitude, prob, random_negative_prob, **levels)
        self.name, self.seen = name, []

    def apply_magnitude(self, img, magnitude):
        self.seen.append(magnitude)
        return img


def recorded(transform, times):
    return [magnitude for _ in range(times) for magnitude in _magnitudes(transform)]


def _magnitudes(transform):
    transform.seen.clear()
    transform({"img": np.zeros((2, 2, 3), np.uint8)})
    return list(transform.seen)


@pytest.mark.parametrize(
    ("bounds", "level", "expected"), [((0, 30), 5, 15), ((4, 0), 3, 2.8), ((256, 0), 10, 0), ((0, 0.45), 0, 0)]
)
def test_a_level_lies_between_the_bounds(bounds, level, expected):
    seen = recorded(Recorder(magnitude_range=bounds, magnitude_level=level, prob=1.0, random_negative_prob=0.0), 5)
    assert seen == pytest.approx([expected] * 5)


def test_half_of_the_draws_act_and_half_of_those_turn_the_sign():
    seen = recorded(Recorder(magnitude=2), 1000)
    assert 440 < len(seen) < 560 and set(seen) == {2, -2} and 0.42 < seen.count(2) / len(seen) < 0.58


def test_levels_with_noise_are_normal_or_even():
    arguments = dict(magnitude_range=(0, 100), magnitude_level=6, prob=1.0, random_negative_prob=0.0)
    normal = np.array(recorded(Recorder(magnitude_std=1.5, **arguments), 2000))
    assert abs(normal.mean() - 60) < 2 and abs(normal.std() - 15) < 1.5 and normal.max() <= 100
    even = np.array(recorded(Recorder(magnitude_std="inf", **arguments), 2000))
    assert even.min() < 1 and 59 < even.max() <= 60 and abs(even.mean() - 30) < 1.5
    wide = np.array(recorded(Recorder(magnitude_std=50, **arguments), 500))
    assert wide.min() == 0 and wide.max() == 100


@pytest.mark.parametrize("std", [0.0, 1.0, "inf"])
def test_numbers_are_drawn_in_mmpretrains_order(std):
    """A seed gives what it gives there: the choice, then for each whether to act, its level, its sign if it has one."""
    policies = [
        dict(type=Recorder, name="a", magnitude_range=(0, 1)),
        dict(type=Recorder, name="b", magnitude_range=(0, 1), prob=0.8),
        dict(type=Recorder, name="c", magnitude_range=(2, 0), random_negative_prob=None),
        dict(type=Recorder, name="d", magnitude=7),
    ]
    augment = RandAugment(policies, num_policies=3, magnitude_level=4, magnitude_std=std)
    for seed in range(40):
        np.random.seed(seed)
        expected = {name: [] for name in "abcd"}
        for index in np.random.choice(np.arange(4), size=3):
            if np.random.rand() > (0.8 if index == 1 else 0.5):
                continue
            magnitude = 7
            if index != 3:
                level = 4
                if std == "inf":
                    level = np.random.uniform(0, 4)
                elif std:
                    level = min(max(np.random.normal(4, std), 0), 10)
                magnitude = {0: level / 10, 1: level / 10, 2: 2 - 2 * level / 10}[index]
            if index != 2:
                magnitude = -magnitude if np.random.rand() < 0.5 else magnitude
            expected["abcd"[index]].append(pytest.approx(magnitude))
        after = np.random.rand()
        for recorder in augment:
            recorder.seen.clear()
        np.random.seed(seed)
        augment({"img": np.zeros((2, 2, 3), np.uint8)})
        assert {recorder.name: recorder.seen for recorder in augment} == expected
        assert np.random.rand() == after


@pytest.mark.parametrize("kind", [Solarize, SolarizeAdd, Posterize])
def test_a_magnitude_without_sign_costs_no_draw(kind):
    transform = kind(magnitude_range=(1, 2), prob=1.0)
    np.random.seed(3)
    np.random.rand()  # whether to act
    after = np.random.rand()
    np.random.seed(3)
    transform({"img": np.zeros((2, 2, 3), np.uint8)})
    assert np.random.rand() == after


# ----- RandAugment -----


@pytest.mark.parametrize("policies", [*RANDAUG_POLICIES, CONFIG_POLICIES], ids=[*RANDAUG_POLICIES, "retrieval"])
def test_policies_of_mmpretrain_build_and_keep_size_and_type(smooth_rgb, policies):
    config = {"type": "RandAugment", "policies": policies, "num_policies": 2, "magnitude_level": 5}
    with DefaultScope.overwrite_default_scope("blip2"):
        augment = ROOT_TRANSFORMS.build(config)
    assert isinstance(augment, RandAugment)
    img = smooth_rgb(20, 30)
    results = [augment({"img": img.copy()})["img"] for _ in range(60)]
    assert all(result.shape == img.shape and result.dtype == np.uint8 for result in results)
    changed = sum(not np.array_equal(result, img) for result in results)
    assert 15 < changed < 60


def test_presets_are_those_that_mmpretrain_names():
    assert [policy["type"] for policy in RANDAUG_POLICIES["timm_increasing"]] == [
        *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "ColorTransform"),
        *("Contrast", "Brightness", "Sharpness", "Shear", "Shear", "Translate", "Translate"),
    ]
    assert [policy["type"] for policy in RANDAUG_POLICIES["simple_increasing"]] == [
        *("AutoContrast", "Equalize", "Rotate", "Shear", "Shear"),
    ]


def test_strength_and_fill_reach_the_operations_that_know_them():
    augment = RandAugment(
        [*CONFIG_POLICIES, dict(type="Rotate", angle=3, pad_val=7)],
        num_policies=1,
        magnitude_level=5,
        magnitude_std=0.5,
        total_level=20,
        hparams=dict(pad_val=99, interpolation="bilinear"),
    )
    contrast, _, rotate, brightness, _, shear, _, fixed = augment
    assert (rotate.magnitude_level, rotate.magnitude_std, rotate.total_level) == (5, 0.5, 20)
    assert (rotate.pad_val, rotate.interpolation, shear.interpolation) == (99, "bilinear", "bilinear")
    assert (fixed.pad_val, fixed.angle, fixed.magnitude_range) == (7, 3, None)
    assert brightness.magnitude_range == (0, 0.0) and contrast.prob == 0.5
    _, _, *moving = RandAugment("simple_increasing", num_policies=1, magnitude_level=5)
    assert [transform.pad_val for transform in moving] == [128] * 3


def test_the_config_given_is_not_changed():
    policies = [dict(type="Rotate", magnitude_key="angle", magnitude_range=(0, 30))]
    RandAugment(policies, num_policies=1, magnitude_level=5)
    assert policies == [dict(type="Rotate", magnitude_key="angle", magnitude_range=(0, 30))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policies": "timm_increasng"}, r"policies='timm_increasng' is unknown.*Did you mean 'timm_increasing'"),
        ({"policies": []}, "must be a list of configs"),
        ({"policies": [{"magnitude_range": (0, 1)}]}, "each a dict with a 'type'"),
        ({"policies": [{"type": "Shear", "magnitude_range": (0, "x")}]}, "magnitude_range=.* of the policy 'Shear'"),
        ({"policies": [{"type": "Sheer"}]}, "'Sheer' is no registered transform. Did you mean 'Shear'"),
        ({"num_policies": 0}, "num_policies=0 must be 1 or more"),
        ({"magnitude_level": -1}, "magnitude_level=-1 must not be negative"),
        ({"total_level": 0}, "total_level=0 must be above 0"),
        ({"magnitude_std": "nan"}, "magnitude_std='nan' must be a number or 'inf'"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandAugment(**{"policies": "simple_increasing", "num_policies": 2, "magnitude_level": 5, **arguments})


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (Shear, {}, "Shear takes either magnitude or magnitude_range, not neither"),
        (Rotate, {"angle": 3, "magnitude_range": (0, 30)}, "Rotate takes either angle or magnitude_range, not both"),
        (Solarize, {}, "Solarize takes either thr or"),
        (Shear, {"magnitude": 0.1, "direction": "diagonal"}, r"direction='diagonal' is unknown; choose one of \['hor"),
        (Translate, {"magnitude": 0.1, "interpolation": "hamming"}, "interpolation='hamming' is unknown; choose one"),
        (Posterize, {"bits": 9}, "bits=9 must lie between 0 and 8"),
        (Contrast, {"magnitude": 1, "prob": 2}, "prob=2 must lie between 0 and 1"),
        (Contrast, {"magnitude": 1, "random_negative_prob": -1}, "random_negative_prob=-1 must lie"),
        (Contrast, {"magnitude_range": (0, 1, 2)}, "must be two numbers"),
    ],
)
def test_an_operation_refuses_impossible_arguments(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


def test_an_argument_that_nobody_knows_is_refused():
    with pytest.raises(TypeError, match="magnitud"):
        Shear(magnitud=0.3)
    with pytest.raises(TypeError, match="magnitude_range"):
        TRANSFORMS.build(dict(type="Invert", magnitude_range=(0, 1)))


def test_every_operation_has_a_readable_repr():
    assert repr(RandAugment("timm_increasing", 2, 5)).startswith("RandAugment(num_policies=2, magnitude_level=5")
    assert repr(Rotate(angle=3)).startswith("Rotate(prob=0.5, angle=3")
    assert isinstance(Invert(), Augmentation) and repr(Invert()) == "Invert(prob=0.5)"

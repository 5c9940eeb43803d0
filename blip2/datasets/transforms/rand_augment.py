"""Random augmentation by a few operations of equal strength."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from numbers import Number
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from blip2.datasets.transforms import augmentations
from blip2.datasets.transforms.augmentations import check_levels
from blip2.registry import TRANSFORMS
from blip2.utils.suggest import did_you_mean

_SHEARED = [
    dict(type="Shear", magnitude_range=(0, 0.3), direction="horizontal"),
    dict(type="Shear", magnitude_range=(0, 0.3), direction="vertical"),
]
# mmpretrain's. The first is timm's list of operations that grow with the level.
RANDAUG_POLICIES: dict[str, list[dict[str, Any]]] = {
    "timm_increasing": [
        dict(type="AutoContrast"),
        dict(type="Equalize"),
        dict(type="Invert"),
        dict(type="Rotate", magnitude_range=(0, 30)),
        dict(type="Posterize", magnitude_range=(4, 0)),
        dict(type="Solarize", magnitude_range=(256, 0)),
        dict(type="SolarizeAdd", magnitude_range=(0, 110)),
        dict(type="ColorTransform", magnitude_range=(0, 0.9)),
        dict(type="Contrast", magnitude_range=(0, 0.9)),
        dict(type="Brightness", magnitude_range=(0, 0.9)),
        dict(type="Sharpness", magnitude_range=(0, 0.9)),
        *_SHEARED,
        dict(type="Translate", magnitude_range=(0, 0.45), direction="horizontal"),
        dict(type="Translate", magnitude_range=(0, 0.45), direction="vertical"),
    ],
    "simple_increasing": [
        dict(type="AutoContrast"),
        dict(type="Equalize"),
        dict(type="Rotate", magnitude_range=(0, 30)),
        *_SHEARED,
    ],
}


@TRANSFORMS.register_module()
class RandAugment(BaseTransform):
    """Applies a few operations, drawn at random with repetition (arXiv 1909.13719); mmpretrain's arguments.

    Each operation drawn still acts only with its own ``prob``, which is 0.5 unless its policy says otherwise.

    Args:
        policies: 'timm_increasing', 'simple_increasing', or a list of configs of transforms. In one of an operation
            with a magnitude ``magnitude_range`` stands for the magnitude and gives its values at the levels 0 and
            `total_level`. (``magnitude_key`` is understood and unused.)
        num_policies: operations a picture.
        magnitude_level, magnitude_std, total_level: the strength of all that have a ``magnitude_range``, see
            `MagnitudeAugmentation`.
        hparams: arguments for those operations that know them and whose policy does not set them; default
            ``dict(pad_val=128)``.

    Raises:
        ValueError: policies or numbers that make no sense.
    """

    def __init__(
        self,
        policies: str | Sequence[Mapping[str, Any]],
        num_policies: int,
        magnitude_level: float,
        magnitude_std: float | str = 0.0,
        total_level: float = 10,
        hparams: Mapping[str, Any] | None = None,
    ) -> None:
        if num_policies < 1:
            raise ValueError(f"num_policies={num_policies} must be 1 or more")
        check_levels(magnitude_level, total_level, magnitude_std)
        self.num_policies = num_policies
        self.magnitude_level = magnitude_level
        self.magnitude_std = magnitude_std
        self.total_level = total_level
        self.hparams = {"pad_val": 128} if hparams is None else dict(hparams)
        levels = {"magnitude_level": magnitude_level, "magnitude_std": magnitude_std, "total_level": total_level}
        self.policies = [_complete(policy, self.hparams, levels) for policy in _policies(policies)]
        self.transforms = [TRANSFORMS.build(policy) for policy in self.policies]

    def __iter__(self) -> Iterator[BaseTransform]:
        return iter(self.transforms)

    @cache_randomness
    def random_policy_indices(self) -> list[int]:
        return np.random.choice(len(self.policies), size=self.num_policies).tolist()

    def transform(self, results: dict) -> dict | None:
        for index in self.random_policy_indices():
            results = self.transforms[index](results)
            if results is None:
                return None
        return results

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(num_policies={self.num_policies}, magnitude_level={self.magnitude_level}, "
            f"magnitude_std={self.magnitude_std!r}, total_level={self.total_level}, policies={self.policies})"
        )


def _policies(policies: str | Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    if isinstance(policies, str):
        if policies not in RANDAUG_POLICIES:
            raise ValueError(
                f"policies={policies!r} is unknown; choose one of {list(RANDAUG_POLICIES)}, or give a list of configs."
                f"{did_you_mean(policies, RANDAUG_POLICIES)}"
            )
        return list(RANDAUG_POLICIES[policies])
    if not policies or not all(isinstance(policy, Mapping) and "type" in policy for policy in policies):
        raise ValueError(f"policies={policies!r} must be a list of configs, each a dict with a 'type'")
    return list(policies)


def _complete(policy: Mapping[str, Any], hparams: Mapping[str, Any], levels: Mapping[str, Any]) -> dict[str, Any]:
    """The config of one transform: `policy` with the levels and with those of `hparams` that it takes."""
    complete = {key: value for key, value in policy.items() if key != "magnitude_key"}
    if "magnitude_range" in complete:
        bounds = complete["magnitude_range"]
        if not isinstance(bounds, Sequence) or len(bounds) != 2 or not all(isinstance(v, Number) for v in bounds):
            raise ValueError(f"magnitude_range={bounds!r} of the policy {complete['type']!r} must be two numbers")
        complete.update(levels)
    kind = TRANSFORMS.get(complete["type"]) if isinstance(complete["type"], str) else complete["type"]
    if kind is None:
        raise ValueError(
            f"the policy {complete['type']!r} is no registered transform."
            f"{did_you_mean(complete['type'], _operations())}"
        )
    known = inspect.signature(kind).parameters
    return {**{key: value for key, value in hparams.items() if key in known}, **complete}


def _operations() -> list[str]:
    return [name for name, value in vars(augmentations).items() if inspect.isclass(value) and name[0] != "_"]

"""What happens to a batch between the data loader and the model: device, channel order, normalisation, stacking."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from blip2.registry import MODELS


@MODELS.register_module()
class MultiModalDataPreprocessor(BaseDataPreprocessor):
    """Turns ``dict(inputs, data_samples)`` of a data loader into ``dict(images, data_samples)`` for a model.

    ``inputs`` is a list of C×H×W tensors (mmengine's ``pseudo_collate``), one B×C×H×W tensor (``default_collate``), or
    absent (text only: ``images`` is None). Pixels are on the scale of 0 to 255 whatever their dtype, in BGR order as
    `PackInputs` hands them over. ``images`` is always float32, on this module's device; the model casts to its own
    precision.

    Args:
        mean: per-channel mean in the order *after* the channel conversion, on the scale of 0 to 255. None: no
            normalisation.
        std: per-channel standard deviation, given together with `mean`.
        pad_size_divisor: pad height and width up to a multiple of this, at the bottom and on the right. Pictures of
            different sizes are padded to the largest of the batch when it is above 1; with 1 they are an error, because
            a model that cannot see where the padding begins gets worse by it without a word.
        pad_value: value of the padding, after normalisation.
        to_rgb: swap BGR to RGB (pictures of three channels only).
        non_blocking: copy to the device without waiting (helps with pinned memory).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        pad_size_divisor: int = 1,
        pad_value: float = 0,
        to_rgb: bool = False,
        non_blocking: bool = True,
    ) -> None:
        super().__init__(non_blocking)
        if (mean is None) != (std is None):
            raise ValueError(f"Give both mean and std, or neither; got mean={mean}, std={std}.")
        if pad_size_divisor < 1:
            raise ValueError(f"pad_size_divisor must be 1 or more, not {pad_size_divisor}.")
        self.pad_size_divisor = pad_size_divisor
        self.pad_value = pad_value
        self.to_rgb = to_rgb
        self._statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
        if mean is not None and std is not None:
            if len(mean) != len(std) or len(mean) not in (1, 3) or min(std) <= 0:
                raise ValueError(f"mean and std must have 1 or 3 values each, std above 0; got mean={mean}, std={std}.")
            self._statistics = tuple(map(float, mean)), tuple(map(float, std))
            # On the CPU even when a model is built on the meta device: no checkpoint would fill them in.
            self._set_statistics(torch.device("cpu"))

    def _set_statistics(self, device: torch.device) -> None:
        assert self._statistics is not None
        for name, values in zip(("mean", "std"), self._statistics, strict=True):
            self.register_buffer(name, torch.tensor(values, device=device).view(-1, 1, 1), persistent=False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "MultiModalDataPreprocessor":
        # `model.half()` would round mean and std, `model.to_empty()` leave them undefined: only the device may change.
        super()._apply(fn, recurse)
        if self._statistics is not None:
            self._device = self.mean.device  # also when a module around this one is moved
            self._set_statistics(self._device)
        return self

    def forward(self, data: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        """See the class; nothing depends on `training`. Leaves `data` as it was."""
        if not isinstance(data, Mapping):
            raise TypeError(f"A batch must be a dict with 'inputs' and 'data_samples', not {type(data).__name__}.")
        inputs = data.get("inputs")
        return {
            "images": None if inputs is None else self._images(inputs),
            "data_samples": self.cast_data(data.get("data_samples")),
        }

    def _images(self, inputs: Tensor | Sequence[Tensor]) -> Tensor:
        if isinstance(inputs, Tensor):
            if inputs.dim() != 4:
                raise ValueError(f"'inputs' must be B×C×H×W, or a list of C×H×W; got the shape {tuple(inputs.shape)}.")
            return self._pad(self._normalize(inputs), tuple(inputs.shape[-2:]))

        pictures = list(inputs)
        if not pictures:
            raise ValueError("'inputs' is an empty list: there is no picture to process.")
        for picture in pictures:
            if not isinstance(picture, Tensor) or picture.dim() != 3:
                found = tuple(picture.shape) if isinstance(picture, Tensor) else type(picture).__name__
                raise ValueError(f"'inputs' must be a list of C×H×W tensors; one of them is {found}.")
        sizes = {tuple(picture.shape[-2:]) for picture in pictures}
        if len(sizes) == 1 and len({(picture.shape, picture.dtype) for picture in pictures}) == 1:
            return self._pad(self._normalize(torch.stack(pictures)), sizes.pop())
        if len(sizes) > 1 and self.pad_size_divisor == 1:
            names = ", ".join(f"{height}×{width}" for height, width in sorted(sizes))
            raise ValueError(
                f"The pictures of a batch have different sizes (height×width): {names}. Resize them in the pipeline, "
                "or set pad_size_divisor above 1 in the data preprocessor to have them padded."
            )
        largest = max(height for height, _ in sizes), max(width for _, width in sizes)
        return torch.cat([self._pad(self._normalize(picture[None]), largest) for picture in pictures])

    def _normalize(self, pictures: Tensor) -> Tensor:
        """B×C×H×W of any dtype to a new float32 tensor on the device, in the right channel order, normalised."""
        if self._statistics is not None and max(self._statistics[0]) > 1:
            _warn_if_unit_scale(pictures)
        # Still uint8, as a rule, on its way to the device: a quarter of the bytes.
        images = self.cast_data(pictures)
        if self.to_rgb and images.shape[1] == 3:
            images = images.flip(1)
        if self._statistics is None:
            return images.float()
        if len(self.mean) == 3 and images.shape[1] != 3:
            raise ValueError(f"mean has 3 values, the pictures have {images.shape[1]} channels.")
        # The first operation makes a new tensor; the second may work in place.
        return images.float().sub(self.mean).div_(self.std)

    def _pad(self, images: Tensor, size: tuple[int, ...]) -> Tensor:
        divisor = self.pad_size_divisor
        height, width = (math.ceil(length / divisor) * divisor for length in size)
        bottom, right = height - images.shape[-2], width - images.shape[-1]
        return F.pad(images, (0, right, 0, bottom), value=self.pad_value) if bottom or right else images


def _warn_if_unit_scale(pictures: Tensor) -> None:
    # Pixels in 0..1 would all become black without an error. A nearly black picture looks the same, so this only warns.
    if pictures.is_floating_point() and pictures.device.type == "cpu" and 0 < pictures.amax() <= 1:
        warnings.warn(
            "The pictures are float with no value above 1, but mean and std are on the scale of 0 to 255: multiply the "
            "pixels by 255, or give mean and std on their scale.",
            stacklevel=4,
        )

"""Bad pictures in a benchmark: recorded one by one, kept out of the batch, reported by the loop at the end.

The way of a bad picture, once `set_skip_bad_images` (or the dataset's argument ``skip_bad_images=True``) asked for it:
`BaseImageDataset.__getitem__` returns a `BadImage` in its place, `pseudo_collate_skipping_bad` lists it under
``bad_images`` of the batch, and the loop counts and names it. Without that, `ImageError` is raised.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.dataset.utils import pseudo_collate

from blip2.registry import FUNCTIONS


@dataclass(frozen=True)
class BadImage:
    """A picture that could not be read, in the place of its sample."""

    img_path: str
    image_id: int | str | None
    sample_idx: int
    reason: str

    def __str__(self) -> str:
        return f"{self.img_path} (image_id {self.image_id}): {self.reason}"


@FUNCTIONS.register_module()
def pseudo_collate_skipping_bad(data_batch: Sequence[Any]) -> dict[str, Any]:
    """mmengine's ``pseudo_collate`` over the readable samples of `data_batch`.

    The records of the others are listed under ``bad_images``, a key that is there only if there is one. A batch without
    a single readable sample has empty ``inputs`` and ``data_samples``. In a config:
    ``collate_fn=dict(type='blip2.pseudo_collate_skipping_bad')``.
    """
    samples = [sample for sample in data_batch if not isinstance(sample, BadImage)]
    bad_images = [sample for sample in data_batch if isinstance(sample, BadImage)]
    batch: dict[str, Any] = pseudo_collate(samples) if samples else {"inputs": [], "data_samples": []}
    if bad_images:
        batch["bad_images"] = bad_images
    return batch


def set_skip_bad_images(dataset: Any, skip: bool = True) -> None:
    """Set ``skip_bad_images`` of `dataset`, or of each dataset that a wrapper (concatenation, repetition) holds.

    To be called before the data loader starts its workers.

    Raises:
        TypeError: a dataset does not know how to skip.
    """
    inner = getattr(dataset, "datasets", None) or [d for d in [getattr(dataset, "dataset", None)] if d is not None]
    for child in inner:
        set_skip_bad_images(child, skip)
    if not inner:
        if not hasattr(dataset, "skip_bad_images"):
            raise TypeError(
                f"{type(dataset).__name__} cannot skip bad pictures: it has no attribute `skip_bad_images`; "
                "inherit from blip2.datasets.BaseImageDataset"
            )
        dataset.skip_bad_images = skip

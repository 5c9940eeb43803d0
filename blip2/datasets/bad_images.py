"""Bad pictures in a benchmark: recorded one by one, kept out of the batch, reported by the loop at the end.

The way of a bad picture, once `set_skip_bad_images` (or the dataset's argument ``skip_bad_images=True``) asked for it:
`BaseImageDataset.__getitem__` returns a `BadImage` in its place, the engine's collate function lists it apart from the
samples of the batch, and the loop counts and names it. Without that, `ImageError` is raised.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any


@dataclass(frozen=True)
class BadImage:
    """A picture that could not be read, in the place of its sample."""

    img_path: str
    image_id: int | str | None
    sample_idx: int
    reason: str

    def __str__(self) -> str:
        return f"{self.img_path} (image_id {self.image_id}): {self.reason}"


def set_skip_bad_images(dataset: Any, skip: bool = True) -> None:
    """Set ``skip_bad_images`` of a dataset or of its config, or of each one that a wrapper (concatenation …) holds.

    In the config it also keeps the dataset from refusing missing pictures when it is built. On a built dataset it is to
    be called before the data loader starts its workers.

    Raises:
        TypeError: a dataset does not know how to skip.
    """
    is_config = isinstance(dataset, dict)
    get = dataset.get if is_config else partial(getattr, dataset)
    inner = [child for child in (*(get("datasets", None) or ()), get("dataset", None)) if child is not None]
    for child in inner:
        set_skip_bad_images(child, skip)
    if inner:
        return
    if is_config:
        dataset["skip_bad_images"] = skip
    elif hasattr(dataset, "skip_bad_images"):
        dataset.skip_bad_images = skip
    else:
        raise TypeError(
            f"{type(dataset).__name__} cannot skip bad pictures: it has no attribute `skip_bad_images`; "
            "inherit from blip2.datasets.BaseImageDataset"
        )

"""What all datasets of pictures share."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset

from blip2.datasets.bad_images import BadImage
from blip2.registry import TRANSFORMS
from blip2.utils.errors import AnnotationError, ImageError, MissingImageError


class BaseImageDataset(BaseDataset):
    """mmengine's ``BaseDataset`` with mmpretrain's conveniences and a plain word about bad data.

    A child implements ``load_data_list() -> list[dict]``; each entry has ``img_path`` and, for a benchmark,
    ``image_id``.

    Args:
        ann_file: annotation file, relative to `data_root` unless absolute.
        data_root: folder that holds the annotations and the pictures.
        data_prefix: folder of the pictures below `data_root`; a dict ``{'img_path': folder}`` means the same.
        pipeline: transforms, as config dictionaries or as callables.
        test_mode, metainfo, filter_cfg, indices, serialize_data, lazy_init, max_refetch: as in mmengine's
            ``BaseDataset``.
        check_images: look before the first batch whether the annotated pictures are there (one listing per folder).
        skip_bad_images: give a `BadImage` record for a picture that is missing or cannot be read, instead of an error;
            our loops count and name them.

    Raises:
        AnnotationError: the annotation file is missing or unusable, or names no sample.
        MissingImageError: annotated pictures are not there (up front, unless `check_images` is off or `skip_bad_images`
            on).
        ImageError: at access, a picture that cannot be read (unless `skip_bad_images` is on).
    """

    def __init__(
        self,
        ann_file: str = "",
        metainfo: dict | None = None,
        data_root: str = "",
        data_prefix: str | dict = "",
        filter_cfg: dict | None = None,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        pipeline: Sequence[dict | Callable] = (),
        test_mode: bool = False,
        lazy_init: bool = False,
        max_refetch: int = 1000,
        check_images: bool = True,
        skip_bad_images: bool = False,
    ) -> None:
        self.check_images = check_images
        self.skip_bad_images = skip_bad_images
        prefix = {"img_path": data_prefix} if isinstance(data_prefix, str) else dict(data_prefix)
        super().__init__(
            ann_file=os.path.expanduser(ann_file),
            metainfo=metainfo,
            data_root=os.path.expanduser(data_root or ""),
            data_prefix={key: os.path.expanduser(folder) for key, folder in prefix.items()},
            filter_cfg=filter_cfg,
            indices=indices,
            serialize_data=serialize_data,
            # Built here, not by mmengine's Compose, so that our transforms win over mmcv's of the same name in any
            # scope.
            pipeline=[TRANSFORMS.build(t) if isinstance(t, dict) else t for t in pipeline],
            test_mode=test_mode,
            lazy_init=lazy_init,
            max_refetch=max_refetch,
        )

    def filter_data(self) -> list[dict]:
        """All entries of ``load_data_list``; refuses an empty list and pictures that are not there."""
        if not self.data_list:
            raise AnnotationError(f"{self.describe_source()} holds no samples: check the file or folder that is meant")
        if self.check_images and not self.skip_bad_images:
            self._raise_on_missing_pictures()
        return self.data_list

    def describe_source(self) -> str:
        """The annotation file or the picture folder, for error messages."""
        return f"annotation file {self.ann_file!r}" if self.ann_file else f"folder {self.data_prefix['img_path']!r}"

    def _raise_on_missing_pictures(self) -> None:
        missing = missing_pictures([entry["img_path"] for entry in self.data_list])
        if missing:
            shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
            raise MissingImageError(
                f"{len(missing)} picture(s) named by {self.describe_source()} are not there: {shown}. "
                "Check data_root and data_prefix, or leave them out with skip_bad_images=True (`--skip-bad-images`)"
            )

    def __getitem__(self, idx: int) -> Any:
        if not self.skip_bad_images:
            return super().__getitem__(idx)
        try:
            return super().__getitem__(idx)
        except ImageError as error:
            return self.bad_image(idx, error)

    def bad_image(self, idx: int, error: ImageError) -> BadImage:
        """The record of the unreadable picture of sample `idx`."""
        info = self.get_data_info(idx)
        return BadImage(str(info["img_path"]), info.get("image_id"), info["sample_idx"], error.reason)


def missing_pictures(paths: Sequence[str]) -> list[str]:
    """The local files among `paths` that do not exist, each once, in order; addresses (``scheme://``) are not looked
    at.

    One listing of each folder instead of one question per file: a hundred thousand pictures take a fraction of a
    second.
    """
    listings: dict[str, set[str]] = {}
    missing = []
    for path in dict.fromkeys(paths):
        if "://" in path:
            continue
        folder, name = os.path.split(path)
        if folder not in listings:
            listings[folder] = set(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else set()
        # A listing is exact about upper and lower case; some file systems are not: those get a second look.
        if name not in listings[folder] and not Path(path).is_file():
            missing.append(path)
    return missing

"""Pictures with captions: COCO's and those in its formats."""

from collections.abc import Iterable
from typing import Any

from mmengine.fileio import join_path

from blip2.datasets.base import BaseImageDataset
from blip2.registry import DATASETS
from blip2.utils.annotations import CaptionEntry, group_by_image, read_captions
from blip2.utils.errors import AnnotationError

_SAMPLE_PER = ("entry", "image", "caption")


class CaptionDataset(BaseImageDataset):
    """What datasets of captions share: a child reads the entries, this class arranges them to samples.

    A sample has ``image_id``, ``img_path`` and, if there are captions, ``gt_caption`` (str or list of str).

    Args:
        sample_per: 'entry' gives a sample for each entry, as the file has it; 'image' one for each picture, with its
            captions in a list (a benchmark); 'caption' one for each caption, as a text (training).
        Others as in `BaseImageDataset`.
    """

    def __init__(self, ann_file: str = "", *, sample_per: str = "entry", **base_arguments: Any) -> None:
        if sample_per not in _SAMPLE_PER:
            raise ValueError(f"sample_per={sample_per!r} is unknown; choose one of {list(_SAMPLE_PER)}")
        self.sample_per = sample_per
        super().__init__(ann_file, **base_arguments)

    def read_entries(self) -> list[CaptionEntry]:
        """The entries of the annotation file, or of what else the samples come from."""
        raise NotImplementedError

    def load_data_list(self) -> list[dict]:
        prefix = self.data_prefix.get("img_path", "")
        samples = []
        for entry in self._arrange(self.read_entries()):
            if not entry.image:
                raise AnnotationError(
                    f"{self.describe_source()} names no file for the picture {entry.image_id}: it is made for scoring "
                    "(the metric's ann_file), not for loading pictures"
                )
            sample = {"image_id": entry.image_id, "img_path": join_path(prefix, entry.image)}
            if entry.caption is not None:
                sample["gt_caption"] = entry.caption
            samples.append(sample)
        return samples

    def _arrange(self, entries: list[CaptionEntry]) -> Iterable[CaptionEntry]:
        if self.sample_per == "image":
            return group_by_image(entries)
        if self.sample_per == "caption":
            without = [entry.image for entry in entries if not entry.captions]
            if without:
                raise AnnotationError(
                    f"{self.describe_source()} has no caption for {len(without)} picture(s), "
                    f"the first is {without[0]}; sample_per='caption' needs at least one for each"
                )
            return (CaptionEntry(entry.image, entry.image_id, text) for entry in entries for text in entry.captions)
        return entries


@DATASETS.register_module()
class COCOCaption(CaptionDataset):
    """Captions in Karpathy's splits as LAVIS and mmpretrain use them, or in COCO's own form (see `read_captions`).

    Args:
        ann_file: the JSON file.
        Others as in `CaptionDataset` and `BaseImageDataset`.
    """

    def __init__(self, ann_file: str, **arguments: Any) -> None:
        super().__init__(ann_file, **arguments)

    def read_entries(self) -> list[CaptionEntry]:
        return read_captions(self.ann_file)

"""Pictures with texts that are to be found by one another."""

from collections.abc import Sequence
from typing import Any

from mmengine.fileio import join_path

from blip2.datasets.base import BaseImageDataset
from blip2.registry import DATASETS
from blip2.utils.annotations import group_by_image, read_captions
from blip2.utils.errors import AnnotationError


@DATASETS.register_module()
class COCORetrieval(BaseImageDataset):
    """Karpathy's splits of COCO for retrieval, in mmpretrain's files, LAVIS's or his own (see `read_captions`).

    Pictures are numbered from 0 in the file's order, and texts from 0 in the order of their pictures: the order
    in which a test meets both. With `indices` the numbers count what is taken.

    A sample for training is a picture and one text: ``text``, ``text_id``, ``image_id``, ``image_ori_id``,
    ``img_path``, ``is_matched`` (True). One of a test (``test_mode=True``) is a picture with all its texts: ``text``
    and ``gt_text_id`` (as many numbers), ``gt_image_id`` (the picture's number as often as it has texts), ``image_id``
    (its number), ``ori_id`` (its id in the file), ``img_path``.

    Args:
        ann_file: the JSON file. In COCO's form a picture lies in the folder that its ``coco_url`` names, below
            `data_prefix`.
        test_mode: whether the samples are for a test, see above.
        split: 'train', 'val' or 'test' of Karpathy's own file, which holds them all (``dataset_coco.json``; with
            ``dataset_flickr30k.json`` this is Flickr30k's retrieval).
        Others as in `BaseImageDataset`.

    Attributes:
        img_size, text_size: how many pictures and texts there are (mmpretrain's names).

    Raises:
        AnnotationError: as `read_captions`; an empty text; in a test a picture without any.
    """

    def __init__(self, ann_file: str, test_mode: bool = False, split: str = "", **base_arguments: Any) -> None:
        self.split = split
        self.img_size = self.text_size = 0
        super().__init__(ann_file, test_mode=test_mode, **base_arguments)

    def load_data_list(self) -> list[dict]:
        prefix = self.data_prefix.get("img_path", "")
        pictures = []
        for entry in group_by_image(read_captions(self.ann_file, folder_from_url=True, split=self.split)):
            if not entry.image:
                raise AnnotationError(f"{self.describe_source()} names no file for the picture {entry.image_id}")
            if any(not text.strip() for text in entry.captions) or (self.test_mode and not entry.captions):
                what = "an empty text" if entry.captions else "no text, so that no rank of one can be told"
                raise AnnotationError(
                    f"{self.describe_source()}: the picture {entry.image_id} ({entry.image}) has {what}; take it out "
                    "of the file, or give it one"
                )
            path = join_path(prefix, entry.image)
            pictures.append({"ori_id": entry.image_id, "img_path": path, "text": entry.captions})
        pictures = _numbered(pictures)
        self._count(pictures)
        return pictures if self.test_mode else [sample for picture in pictures for sample in _pairs(picture)]

    def _get_unserialized_subset(self, indices: int | Sequence[int]) -> list[dict]:
        chosen = super()._get_unserialized_subset(indices)
        if self.test_mode:
            chosen = _numbered(chosen)
            self._count(chosen)
        return chosen

    def _count(self, pictures: list[dict]) -> None:
        self.img_size = len(pictures)
        self.text_size = sum(len(picture["text"]) for picture in pictures)


def _numbered(pictures: list[dict]) -> list[dict]:
    """The pictures and their texts, numbered from 0."""
    numbered, first_text = [], 0
    for number, picture in enumerate(pictures):
        count = len(picture["text"])
        ids = {"image_id": number, "gt_text_id": [*range(first_text, first_text + count)]}
        numbered.append({**picture, **ids, "gt_image_id": [number] * count})
        first_text += count
    return numbered


def _pairs(picture: dict) -> list[dict]:
    """A training sample for each text of a picture."""
    shared = {key: picture[key] for key in ("image_id", "img_path")}
    return [
        {**shared, "image_ori_id": picture["ori_id"], "text": text, "text_id": text_id, "is_matched": True}
        for text, text_id in zip(picture["text"], picture["gt_text_id"], strict=True)
    ]

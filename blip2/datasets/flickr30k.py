"""Flickr30k in Karpathy's splits, for captions and for retrieval."""

from typing import Any

from blip2.datasets.caption import CaptionDataset
from blip2.datasets.retrieval import COCORetrieval
from blip2.registry import DATASETS
from blip2.utils.annotations import CaptionEntry, read_captions


@DATASETS.register_module()
class Flickr30kCaption(CaptionDataset):
    """Flickr30k's captions, from Karpathy's ``dataset_flickr30k.json`` or LAVIS's files, one a split.

    Args:
        data_root, data_prefix: the folder of the pictures, `data_prefix` below `data_root`.
        ann_file: the JSON file.
        split: 'train', 'val' or 'test' of Karpathy's file, which holds them all; empty with a file that holds one.
        sample_per: as in `CaptionDataset`; the default, a sample for each caption, is mmpretrain's. In a test that asks
            the model as often for one picture; 'image' asks once.
        Others as in `CaptionDataset` and `BaseImageDataset`.
    """

    def __init__(
        self,
        data_root: str = "",
        data_prefix: str | dict = "",
        ann_file: str = "",
        split: str = "",
        *,
        sample_per: str = "caption",
        **arguments: Any,
    ) -> None:
        self.split = split
        super().__init__(ann_file, data_root=data_root, data_prefix=data_prefix, sample_per=sample_per, **arguments)

    def read_entries(self) -> list[CaptionEntry]:
        return read_captions(self.ann_file, split=self.split)


@DATASETS.register_module()
class Flickr30kRetrieval(COCORetrieval):
    """Flickr30k for retrieval: `COCORetrieval` with mmpretrain's name and order of arguments.

    Args:
        data_root, data_prefix: the folder of the pictures, `data_prefix` below `data_root`.
        ann_file: the JSON file.
        split: 'train', 'val' or 'test' of Karpathy's file, which holds them all; empty with a file that holds one.
        Others as in `COCORetrieval`.
    """

    def __init__(
        self,
        data_root: str = "",
        data_prefix: str | dict = "",
        ann_file: str = "",
        split: str = "",
        **arguments: Any,
    ) -> None:
        super().__init__(ann_file, data_root=data_root, data_prefix=data_prefix, split=split, **arguments)

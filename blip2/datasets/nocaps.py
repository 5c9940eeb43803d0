"""NoCaps: pictures of Open Images, half of them of things that COCO's captions never name."""

from typing import Any

from blip2.datasets.caption import CaptionDataset
from blip2.registry import DATASETS
from blip2.utils.annotations import CaptionEntry, read_captions


@DATASETS.register_module()
class NoCaps(CaptionDataset):
    """NoCaps, a sample a picture.

    The file is in COCO's form, with captions (``nocaps_val_4500_captions.json``) or without
    (``nocaps_val_image_info.json``, ``nocaps_test_image_info.json``), or LAVIS's ``nocaps_val.json``. mmpretrain gives
    a sample for each caption and keeps one result a picture; the results are the same.

    Args:
        data_root, data_prefix: the folder of the pictures, `data_prefix` below `data_root`.
        ann_file: the file.
        Others as in `CaptionDataset` and `BaseImageDataset`.
    """

    def __init__(self, data_root: str = "", data_prefix: str | dict = "", ann_file: str = "", **arguments: Any) -> None:
        super().__init__(ann_file, data_root=data_root, data_prefix=data_prefix, **arguments)

    def read_entries(self) -> list[CaptionEntry]:
        return read_captions(self.ann_file, captions_optional=True)

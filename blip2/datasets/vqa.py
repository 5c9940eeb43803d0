"""VQAv2 and GQA as they are published."""

import os
from typing import Any

from mmengine.fileio import join_path
from mmengine.utils import is_abs

from blip2.datasets.questions import NumberedPictures, QuestionDataset
from blip2.registry import DATASETS
from blip2.utils.errors import AnnotationError
from blip2.utils.question_annotations import QuestionEntry, read_gqa, read_vqa


@DATASETS.register_module()
class COCOVQA(NumberedPictures):
    """VQAv2, or what is published in its form (OK-VQA); see `read_vqa`.

    The annotations give a picture's number, not its file; see `NumberedPictures` for how it is found.

    Args:
        data_root, data_prefix: the folder of the pictures, `data_prefix` below `data_root`; it is not searched deeper.
        question_file: the questions, below `data_root` unless absolute.
        ann_file: the annotations, likewise; empty for questions without answers (the test split).
        Others as in `QuestionDataset` and `BaseImageDataset`.

    Raises:
        AnnotationError, MissingImageError: as `read_vqa` and `NumberedPictures`.
    """

    def __init__(
        self,
        data_root: str = "",
        data_prefix: str | dict = "",
        question_file: str = "",
        ann_file: str = "",
        **arguments: Any,
    ) -> None:
        if not question_file:
            raise AnnotationError("COCOVQA needs a question_file: VQAv2's v2_OpenEnded_mscoco_…_questions.json")
        self.question_file = os.path.expanduser(question_file)
        super().__init__(ann_file, data_root=data_root, data_prefix=data_prefix, **arguments)

    def _join_prefix(self) -> None:
        super()._join_prefix()
        if self.data_root and not is_abs(self.question_file):
            self.question_file = join_path(self.data_root, self.question_file)

    def read_entries(self) -> list[QuestionEntry]:
        return read_vqa(self.question_file, self.ann_file)

    def describe_source(self) -> str:
        return f"question file {self.question_file!r}"


@DATASETS.register_module()
class GQA(QuestionDataset):
    """GQA, in LAVIS's form or its own (see `read_gqa`); ``gt_answer`` is one text.

    Args:
        data_root, data_prefix: the folder of the pictures, `data_prefix` below `data_root`.
        ann_file: the questions, below `data_root` unless absolute.
        Others as in `QuestionDataset` and `BaseImageDataset`.
    """

    def __init__(self, data_root: str = "", data_prefix: str | dict = "", ann_file: str = "", **arguments: Any) -> None:
        if not ann_file:
            raise AnnotationError("GQA needs an ann_file, such as testdev_balanced_questions.json")
        super().__init__(ann_file, data_root=data_root, data_prefix=data_prefix, **arguments)

    def read_entries(self) -> list[QuestionEntry]:
        return read_gqa(self.ann_file)

    def load_data_list(self) -> list[dict]:
        samples = super().load_data_list()
        if self.sample_per == "question":
            for sample in samples:
                if "gt_answer" in sample:
                    sample["gt_answer"] = sample["gt_answer"][0]
                    del sample["gt_answer_weight"]
        return samples

"""Visual Genome's questions."""

from pathlib import Path
from typing import Any

from blip2.datasets.questions import NumberedPictures
from blip2.registry import DATASETS
from blip2.utils.annotations import read_json
from blip2.utils.errors import AnnotationError
from blip2.utils.question_annotations import QuestionEntry, field_of, filled, id_of, question_of


@DATASETS.register_module()
class VisualGenomeQA(NumberedPictures):
    """Visual Genome's questions as published: ``[{id, qas: [{qa_id, image_id, question, answer}]}]``.

    A picture is found by its number (``VG_100K/2.jpg``), in `data_prefix` or a folder below it, so that both folders of
    the published pictures can stay as they are unpacked. Each question has one answer. (LAVIS's ``vg_qa.json`` is in
    the form that `GQA` reads.)

    Args:
        data_root, data_prefix: the folder of the pictures, `data_prefix` below `data_root`.
        ann_file: the questions, below `data_root` unless absolute.
        Others as in `QuestionDataset` and `BaseImageDataset`.

    Raises:
        AnnotationError, MissingImageError: as `read_visual_genome` and `NumberedPictures`.
    """

    search_below = True

    def __init__(
        self,
        data_root: str = "",
        data_prefix: str | dict = "image",
        ann_file: str = "question_answers.json",
        **arguments: Any,
    ) -> None:
        super().__init__(ann_file, data_root=data_root, data_prefix=data_prefix, **arguments)

    def read_entries(self) -> list[QuestionEntry]:
        return read_visual_genome(self.ann_file)


def read_visual_genome(path: str | Path) -> list[QuestionEntry]:
    """Visual Genome's questions, each with its answer, in the file's order.

    Raises:
        MissingAnnotationError: there is no such file; where to get it.
        AnnotationError: another form, a missing key, an empty question: with the file, the item and the next step.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise AnnotationError(f"annotation file {path} isn't Visual Genome's list of {{id, qas}}; fetch it again")
    entries = []
    for number, picture in enumerate(content):
        where = f"annotation file {path}, picture {number}"
        rows = field_of(picture, "qas", where)
        if not isinstance(rows, list):
            raise AnnotationError(f"{where}: 'qas' is {rows!r}; it should be a list of questions")
        entries += [_entry(row, f"{where}, question {k}") for k, row in enumerate(rows)]
    return filled(entries, path)


def _entry(row: Any, where: str) -> QuestionEntry:
    answer = field_of(row, "answer", where)
    if not isinstance(answer, str):
        raise AnnotationError(f"{where}: 'answer' is {answer!r}; it should be a text")
    return QuestionEntry(
        question_id=id_of(row, "qa_id", where),
        image_id=id_of(row, "image_id", where),
        question=question_of(row, where),
        answers=(answer,),
    )

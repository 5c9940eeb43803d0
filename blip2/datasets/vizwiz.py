"""VizWiz-VQA: questions that blind people asked about pictures they took."""

from pathlib import Path, PurePosixPath
from typing import Any

from blip2.datasets.questions import QuestionDataset
from blip2.registry import DATASETS
from blip2.utils.annotations import normalise_image_id, read_json
from blip2.utils.errors import AnnotationError
from blip2.utils.question_annotations import QuestionEntry, answers_of, field_of, filled, question_of

UNANSWERABLE = "unanswerable"


@DATASETS.register_module()
class VizWiz(QuestionDataset):
    """VizWiz-VQA as it is published: ``[{image, question, answers: [{answer, answer_confidence}], answer_type}]``.

    There is one question a picture, so the stem of the picture's file (``VizWiz_val_00000001``) is both its
    ``image_id`` and its ``question_id``. The test file has no answers.

    Args:
        data_root, data_prefix: the folder of the pictures, `data_prefix` below `data_root`.
        ann_file: the questions, below `data_root` unless absolute.
        answerable_only: leave out the questions that people found unanswerable, and of the others' answers those that
            were not given with confidence or say 'unanswerable': mmpretrain's choice, good for training. The published
            accuracy counts all questions and answers.
        Others as in `QuestionDataset` and `BaseImageDataset`.
    """

    def __init__(
        self,
        data_root: str = "",
        data_prefix: str | dict = "",
        ann_file: str = "",
        *,
        answerable_only: bool = False,
        **arguments: Any,
    ) -> None:
        if not ann_file:
            raise AnnotationError("VizWiz needs an ann_file, such as Annotations/val.json")
        self.answerable_only = answerable_only
        super().__init__(ann_file, data_root=data_root, data_prefix=data_prefix, **arguments)

    def read_entries(self) -> list[QuestionEntry]:
        return read_vizwiz(self.ann_file, answerable_only=self.answerable_only)


def read_vizwiz(path: str | Path, *, answerable_only: bool = False) -> list[QuestionEntry]:
    """VizWiz's questions with their answers, if the file has any; `answerable_only` as in `VizWiz`.

    Raises:
        MissingAnnotationError: there is no such file; where to get it.
        AnnotationError: another form, a missing key, an empty question, a picture named twice: with the file, the item
            and the next step.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise AnnotationError(f"annotation file {path} isn't VizWiz's list of {{image, question}}; fetch it again")
    entries: dict[int | str, QuestionEntry] = {}
    for number, row in enumerate(content):
        where = f"annotation file {path}, item {number}"
        entry = _entry(row, where, answerable_only)
        if entry.question_id in entries:
            raise AnnotationError(f"{where}: the picture {entry.image} was asked about before; each has one question")
        entries[entry.question_id] = entry
    if answerable_only:
        return filled([entry for entry in entries.values() if entry.answers != ()], path)
    return filled(list(entries.values()), path)


def _entry(row: Any, where: str, confident: bool) -> QuestionEntry:
    image = str(field_of(row, "image", where))
    name = normalise_image_id(PurePosixPath(image).stem)
    answers = answers_of(row, where) if "answers" in row else None
    if confident and answers is not None:
        answers = _confident(row) if row.get("answerable", 1) else ()
    labels = {"answer_type": str(row["answer_type"])} if "answer_type" in row else None
    return QuestionEntry(name, name, question_of(row, where), image, answers, labels)


def _confident(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(
        item["answer"]
        for item in row["answers"]
        if item.get("answer_confidence") == "yes" and item["answer"] != UNANSWERABLE
    )

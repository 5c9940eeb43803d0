"""TextVQA: questions about the text in pictures of Open Images."""

from pathlib import Path
from typing import Any

from blip2.datasets.questions import QuestionDataset
from blip2.registry import DATASETS
from blip2.utils.annotations import read_json
from blip2.utils.errors import AnnotationError
from blip2.utils.question_annotations import QuestionEntry, field_of, filled, id_of, question_of


@DATASETS.register_module()
class TextVQA(QuestionDataset):
    """TextVQA 0.5.1 as it is published: ``{data: [{question_id, image_id, question, answers: [text]}]}``.

    A picture is the file ``<image_id>.jpg``. The test file has no answers.

    Args:
        data_root, data_prefix: the folder of the pictures, `data_prefix` below `data_root` (``train_images`` for train
            and val, ``test_images`` for test).
        ann_file: the questions, below `data_root` unless absolute.
        Others as in `QuestionDataset` and `BaseImageDataset`.
    """

    def __init__(self, data_root: str = "", data_prefix: str | dict = "", ann_file: str = "", **arguments: Any) -> None:
        if not ann_file:
            raise AnnotationError("TextVQA needs an ann_file, such as TextVQA_0.5.1_val.json")
        super().__init__(ann_file, data_root=data_root, data_prefix=data_prefix, **arguments)

    def read_entries(self) -> list[QuestionEntry]:
        return read_textvqa(self.ann_file)


def read_textvqa(path: str | Path) -> list[QuestionEntry]:
    """TextVQA's questions with their answers, if the file has any.

    Raises:
        MissingAnnotationError: there is no such file; where to get it.
        AnnotationError: another form, a missing key, an empty question: with the file, the item and the next step.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise AnnotationError(f"annotation file {path} isn't TextVQA's object with a list 'data'; fetch it again")
    return filled([_entry(row, f"annotation file {path}, item {n}") for n, row in enumerate(content["data"])], path)


def _entry(row: Any, where: str) -> QuestionEntry:
    answers = row.get("answers") if isinstance(row, dict) else None
    if answers is not None and not (isinstance(answers, list) and answers and all(isinstance(a, str) for a in answers)):
        raise AnnotationError(f"{where}: 'answers' is {answers!r}; it should be a list of texts")
    return QuestionEntry(
        question_id=id_of(row, "question_id", where),
        image_id=id_of(row, "image_id", where),
        question=question_of(row, where),
        # From the id as the file has it: one that is all digits may begin with zeros.
        image=f"{field_of(row, 'image_id', where)}.jpg",
        answers=None if answers is None else tuple(answers),
    )

"""Files of questions about pictures, as they are published: VQAv2's pair of files and GQA's one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from blip2.utils.annotations import normalise_image_id, read_json
from blip2.utils.errors import AnnotationError


@dataclass(frozen=True)
class QuestionEntry:
    """One question.

    Attributes:
        question_id: a number where there is one, else a text.
        image_id: likewise; the picture's.
        question: as the file has it, with its '?'.
        image: the picture's file as the annotations have it; empty where they only give its id.
        answers: as many as people were asked, equal ones as often as they were given; None where the file has none.
        labels: what else the file says: ``question_type``, ``answer_type``, ``multiple_choice_answer``.
    """

    question_id: int | str
    image_id: int | str
    question: str
    image: str = ""
    answers: tuple[str, ...] | None = None
    labels: Mapping[str, str] | None = None


_LABELS = ("question_type", "answer_type", "multiple_choice_answer")


def read_vqa(question_file: str | Path, ann_file: str | Path = "") -> list[QuestionEntry]:
    """VQAv2's questions, in their file's order, joined by ``question_id`` with its annotations, if there are any.

    Forms: ``{questions: [{question_id, image_id, question}]}`` and
    ``{annotations: [{question_id, image_id, question_type, answer_type, answers: [{answer}]}]}``.
    OK-VQA is published in the same.

    Raises:
        MissingAnnotationError: a file is not there; where to get it.
        AnnotationError: another form, a missing key, an empty question, a ``question_id`` given twice, a question
            without answers, or answers to no question: with the file, the item and the next step.
    """
    questions = rows_of(read_json(question_file, "question_file"), "questions", question_file)
    answers = _answers(ann_file) if ann_file else {}
    entries: dict[int | str, QuestionEntry] = {}
    for number, row in enumerate(questions):
        where = f"question file {question_file}, question {number}"
        question_id, image_id = id_of(row, "question_id", where), id_of(row, "image_id", where)
        if question_id in entries:
            raise AnnotationError(f"{where}: the question_id {question_id} was given before; each needs one of its own")
        entry = QuestionEntry(question_id, image_id, question_of(row, where))
        entries[question_id] = _answered(entry, answers, where, ann_file) if ann_file else entry
    unknown = [question_id for question_id in answers if question_id not in entries]
    if unknown:
        raise AnnotationError(
            f"annotation file {ann_file} answers {len(unknown)} question(s) that are not in {question_file}, the first "
            f"is question_id {unknown[0]}; check that both files belong to one split"
        )
    return filled(list(entries.values()), question_file)


def read_gqa(path: str | Path) -> list[QuestionEntry]:
    """GQA's questions with their answer, if the file has any.

    Forms: LAVIS's list ``[{question_id, image, question, answer}]``, in which ``image`` is a file, and GQA's own
    ``{<question_id>: {imageId, question, answer}}``, whose pictures are called ``<imageId>.jpg``.

    Raises:
        MissingAnnotationError, AnnotationError: as `read_vqa`.
    """
    content = read_json(path)
    rows: Iterable[tuple[str, Any]]
    if isinstance(content, dict):
        rows = ((f"annotation file {path}, question {key!r}", _own_form(key, row)) for key, row in content.items())
    elif isinstance(content, list):
        rows = ((f"annotation file {path}, question {number}", row) for number, row in enumerate(content))
    else:
        raise AnnotationError(
            f"annotation file {path} holds {type(content).__name__}; it should be GQA's object by question_id, or a "
            "list of {question_id, image, question, answer}"
        )
    return filled([_gqa_entry(row, where, number) for number, (where, row) in enumerate(rows)], path)


def _own_form(question_id: str, row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    named = {"image": f"{row['imageId']}.jpg"} if "imageId" in row else {}
    return {"question_id": question_id, **row, **named}


def _gqa_entry(row: Any, where: str, number: int) -> QuestionEntry:
    image = str(field_of(row, "image", where))
    answer = row.get("answer")
    if answer is not None and not isinstance(answer, str):
        raise AnnotationError(f"{where}: 'answer' is {answer!r}; it should be a text")
    return QuestionEntry(
        question_id=id_of(row, "question_id", where) if "question_id" in row else number,
        image_id=normalise_image_id(PurePosixPath(image).stem),
        question=question_of(row, where),
        image=image,
        answers=None if answer is None else (answer,),
    )


# ----- answers -----


def _answers(path: str | Path) -> dict[int | str, tuple[tuple[str, ...], dict[str, Any]]]:
    """The answers of VQAv2's annotations by question_id, each with the row that they stand in."""
    answers: dict[int | str, tuple[tuple[str, ...], dict[str, Any]]] = {}
    for number, row in enumerate(rows_of(read_json(path), "annotations", path)):
        where = f"annotation file {path}, annotation {number}"
        question_id = id_of(row, "question_id", where)
        if question_id in answers:
            raise AnnotationError(f"{where}: question_id {question_id} was answered before; each is answered once")
        answers[question_id] = answers_of(row, where), row
    return answers


def _answered(
    entry: QuestionEntry,
    answers: dict[int | str, tuple[tuple[str, ...], dict[str, Any]]],
    where: str,
    ann_file: str | Path,
) -> QuestionEntry:
    if entry.question_id not in answers:
        raise AnnotationError(
            f"{where}: question_id {entry.question_id} has no answers in {ann_file}; check that both files belong to "
            "one split, or give no ann_file to load the questions alone"
        )
    texts, row = answers[entry.question_id]
    if "image_id" in row and id_of(row, "image_id", str(ann_file)) != entry.image_id:
        raise AnnotationError(
            f"{where}: question_id {entry.question_id} is about picture {entry.image_id}, but about {row['image_id']} "
            f"in {ann_file}; check that both files belong to one split"
        )
    labels = {key: str(row[key]) for key in _LABELS if key in row}
    return QuestionEntry(entry.question_id, entry.image_id, entry.question, entry.image, texts, labels)


# ----- rows and fields, for the readers of other forms as well; each error names the place by `where` -----


def rows_of(content: Any, key: str, path: str | Path) -> list[Any]:
    if isinstance(content, dict) and isinstance(content.get(key), list):
        return content[key]
    found = f"an object with the keys {sorted(content)}" if isinstance(content, dict) else type(content).__name__
    raise AnnotationError(
        f"{path} holds {found}; it should be VQAv2's object with a list of {key!r}: check that question_file and "
        "ann_file are not exchanged"
    )


def filled(entries: list[QuestionEntry], path: str | Path) -> list[QuestionEntry]:
    """`entries`, if there are any; raises `AnnotationError` otherwise."""
    if not entries:
        raise AnnotationError(f"{path} is empty: it holds no questions; fetch or write it again")
    return entries


def field_of(row: Any, key: str, where: str) -> Any:
    """A field that a row must have."""
    if not isinstance(row, dict):
        raise AnnotationError(f"{where} is {row!r}; it should be an object")
    if key not in row:
        raise AnnotationError(f"{where} lacks {key!r}, it has {sorted(row)}; check that the file is of the right form")
    return row[key]


def answers_of(row: Any, where: str) -> tuple[str, ...]:
    """The texts of ``answers: [{answer: text}]``."""
    given = field_of(row, "answers", where)
    try:
        texts = tuple([item["answer"] for item in given])
    except (TypeError, KeyError):
        texts = ()
    if set(map(type, texts)) != {str}:
        raise AnnotationError(f"{where}: 'answers' is {given!r}; it should be a list of {{answer: text}}")
    return texts


def id_of(row: Any, key: str, where: str) -> int | str:
    """A field that is a number or a text, numbers written as texts made numbers."""
    try:
        return normalise_image_id(field_of(row, key, where))
    except TypeError:
        raise AnnotationError(f"{where}: {key!r} is {row[key]!r}; it should be a number or a text") from None


def question_of(row: dict[str, Any], where: str) -> str:
    """The field ``question``, which must not be blank."""
    question = field_of(row, "question", where)
    if not isinstance(question, str) or not question.strip():
        raise AnnotationError(f"{where}: the question is {question!r}; write one, or take the entry out of the file")
    return question

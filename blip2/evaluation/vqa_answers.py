"""What the question-answering metrics share: the form in which answers are compared, one record a question, means."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

# Fields of a data sample that say of what kind a question is.
TYPES = ("answer_type", "question_type")

NUMBER_WORDS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(number) for number, word in enumerate(NUMBER_WORDS)} | {"zero": "0"}
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'  # neither apostrophe (possessives) nor colon (times of day)
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")  # all but the decimal point

# The words whose apostrophe is put back. In those with two, one is missing.
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
_WITH_APOSTROPHE = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTIONS.split()
    for place, char in enumerate(word)
    if char == "'"
} | {"somebody'd": "somebodyd"}  # so in the published table


@lru_cache(2**16)
def normalise_answer(answer: str) -> str:
    """`answer` in the form in which the VQA evaluation compares answers (https://visualqa.org/evaluation.html).

    Lower case; number words up to ten as digits ('none' is 0); no articles; no periods but decimal points; apostrophes
    of contractions put back ('dont' is "don't"); other punctuation but apostrophe and colon becomes a space, or
    nothing where the same mark stands beside a space anywhere in the answer or a comma between digits ('1,000').
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    comma_in_number = _COMMA_IN_NUMBER.search(text) is not None
    marks = {
        ord(mark): "" if comma_in_number or f"{mark} " in text or f" {mark}" in text else " " for mark in _PUNCTUATION
    }
    words = [_DIGITS.get(word, word) for word in _PERIOD.sub("", text.translate(marks)).lower().split()]
    return " ".join(_WITH_APOSTROPHE.get(word, word) for word in words if word not in _ARTICLES)


def questions_of(sample: Mapping[str, Any], fields: Sequence[str], *, shared: Sequence[str] = ()) -> Iterator[dict]:
    """The `fields` of a data sample for each of its questions; one that the sample lacks is None.

    A sample with several questions of one picture has a list of answers in ``pred_answer`` and, in the same order,
    lists in `fields`. A field in `shared` may also hold one text for all.

    Raises:
        KeyError: the sample has no ``pred_answer``.
        ValueError: the lists differ in length.
    """
    answers = sample.get("pred_answer")
    if answers is None:
        raise KeyError(
            f"a data sample{_named(sample)} has no 'pred_answer', which the metric needs: the model's predict mode "
            "sets it"
        )
    if isinstance(answers, str):
        question = sample.get("question")
        if isinstance(question, list | tuple):
            raise ValueError(
                f"a data sample{_named(sample)} has {len(question)} questions, but one text as pred_answer"
            )
        yield {"pred_answer": answers, **{field: sample.get(field) for field in fields}}
        return
    columns = {"pred_answer": list(answers)}
    for field in fields:
        value = sample.get(field)
        if value is None or (isinstance(value, str) and field in shared):
            columns[field] = [value] * len(answers)
        elif isinstance(value, str | int) or len(value) != len(answers):
            raise ValueError(
                f"a data sample{_named(sample)} has {len(answers)} answers, but {field}={value!r}: with several "
                "questions of a picture it must be a list with an entry for each"
            )
        else:
            columns[field] = list(value)
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))


def _named(sample: Mapping[str, Any]) -> str:
    """`` (question_id 7)``, as far as the sample says who it is."""
    for field in ("question_id", "image_id", "img_path"):
        if sample.get(field) is not None:
            return f" ({field} {sample[field]})"
    return ""


def mean_scores(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The means of ``scores`` (name to number) over records of questions, and of those of each type, by name.

    A ``question_id`` that comes again counts once; records whose id is None all count. Types are the fields in `TYPES`
    that are not None. Raises `ValueError` when there are no records.
    """
    if not results:
        raise ValueError("no question was answered, so there is nothing to score")
    overall: dict[str, list[float]] = defaultdict(list)
    by_type: dict[str, list[float]] = defaultdict(list)
    seen = set()
    for result in results:
        if result["question_id"] in seen:
            continue
        if result["question_id"] is not None:
            seen.add(result["question_id"])
        for name, score in result["scores"].items():
            overall[name].append(score)
            for kind in TYPES:
                if result[kind] is not None:
                    by_type[f"{name}/{kind}/{clean_name(result[kind])}"].append(score)
    groups = [*overall.items(), *sorted(by_type.items())]
    return {name: sum(scores) / len(scores) for name, scores in groups}


def clean_name(text: str) -> str:
    """A type as part of a score's name: 'yes/no' is 'yes_no', 'What color is the' 'what_color_is_the'."""
    return re.sub(r"\W+", "_", text.lower()).strip("_") or "unnamed"

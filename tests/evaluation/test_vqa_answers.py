"""The form in which answers are compared, against a reading of the published rules letter by letter."""

import random

import pytest

from blip2.evaluation.vqa_answers import normalise_answer, questions_of

PUNCTUATION = [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!"]
NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
NUMBERS |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
# Rows of the published table of contractions, and words that it does not have.
CONTRACTIONS = {
    **{"aint": "ain't", "couldnt've": "couldn't've", "couldn'tve": "couldn't've", "dont": "don't", "hes": "he's"},
    **{"oclock": "o'clock", "twas": "'twas", "'ows'at": "'ow's'at", "ow's'at": "'ow's'at", "maam": "ma'am"},
    **{"y'allll": "y'all'll", "yall'd've": "y'all'd've", "somebody'd": "somebodyd", "somebodyd've": "somebody'd've"},
    **{"lets": "lets", "shes": "shes", "wed": "wed", "ill": "ill", "its": "its", "im": "im", "couldntve": "couldntve"},
}


def twin(answer: str) -> str:
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    padded = f"x{text}x"
    comma = any(a.isdigit() and b == "," and c.isdigit() for a, b, c in zip(text, text[1:], text[2:], strict=False))
    plain = ""
    for char in text:
        if char in PUNCTUATION:
            beside_space = any(
                padded[i] == char and " " in (padded[i - 1], padded[i + 1]) for i in range(1, len(padded) - 1)
            )
            plain += "" if comma or beside_space else " "
        else:
            plain += char
    without_periods = "".join(
        char for char, after in zip(plain, plain[1:] + "x", strict=False) if char != "." or after.isdigit()
    )
    words = [NUMBERS.get(word, word) for word in without_periods.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ("a", "an", "the"))


def test_normal_form_is_that_of_the_published_rules():
    rng = random.Random(0)
    words = [*NUMBERS, *CONTRACTIONS, "the", "An", "A", "1,000", "3.5", "U.S.A.", "yes/no", "12:30", "-", "x -", "it's"]
    alphabet = "ab1. ,-/'?!;:\n\t[]\"{}()=+\\_><@`Té"
    for _ in range(3000):
        text = " ".join(rng.choices(words, k=rng.randint(1, 4)))
        assert normalise_answer(text) == twin(text), repr(text)
        text = "".join(rng.choices(alphabet, k=rng.randint(0, 12)))
        assert normalise_answer(text) == twin(text), repr(text)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes.", "yes"),
        ("The two dogs", "2 dogs"),
        ("none", "0"),
        ("1,000", "1000"),
        ("3.5 m.", "3.5 m"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("a, b-c", "b c"),  # a dash that stands beside no space
        ("1,000 b-c", "1000 bc"),  # all punctuation goes where a number has a comma
        ("10:30", "10:30"),
        ("dog's", "dog's"),
        ("dont", "don't"),
        ("the", ""),
        (" red\n", "red"),
    ],
)
def test_normal_form_of_common_answers(answer, expected):
    assert normalise_answer(answer) == expected


def test_every_question_of_a_picture_comes_with_its_own_fields():
    sample = {
        "pred_answer": ["a", "b"],
        "question_id": [1, 2],
        "gt_answer": [["x", "y"], ["z"]],
        "answer_type": "other",
    }
    assert list(
        questions_of(sample, ("question_id", "gt_answer", "answer_type", "image_id"), shared=["answer_type"])
    ) == [
        {"pred_answer": "a", "question_id": 1, "gt_answer": ["x", "y"], "answer_type": "other", "image_id": None},
        {"pred_answer": "b", "question_id": 2, "gt_answer": ["z"], "answer_type": "other", "image_id": None},
    ]


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"pred_answer": ["a", "b"], "question_id": [1]}, r"question_id \[1\]\) has 2 answers, but question_id=\[1\]"),
        ({"pred_answer": ["a", "b"], "question_id": 7}, "has 2 answers, but question_id=7"),
        ({"pred_answer": ["a", "b"], "gt_answer": "yes"}, "gt_answer='yes': with several questions"),
        ({"pred_answer": "a", "question": ["x", "y"], "image_id": 3}, r"image_id 3\) has 2 questions.*one text"),
    ],
)
def test_lists_that_do_not_go_together_are_refused_by_name(sample, message):
    with pytest.raises(ValueError, match=message):
        list(questions_of(sample, ("question_id", "gt_answer")))


def test_sample_without_an_answer_is_named():
    with pytest.raises(KeyError, match=r"question_id 7\) has no 'pred_answer'"):
        list(questions_of({"question_id": 7}, ()))

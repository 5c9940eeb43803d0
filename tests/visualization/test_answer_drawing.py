"""Questions and answers below pictures."""

import numpy as np
import pytest
from PIL import Image

from blip2.structures import DataSample
from blip2.visualization import UniversalVisualizer, draw_answers
from blip2.visualization.caption import Paragraph, draw_paragraphs

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8))
PIXELS = np.asarray(PICTURE)
QUESTION, ANSWER = "what is left of the large blue square?", "a small red circle"


def strip(drawn: Image.Image | np.ndarray) -> np.ndarray:
    pixels = np.asarray(drawn)
    assert np.array_equal(pixels[:480], PIXELS), "the picture stays untouched"
    return pixels[480:]


def lines(drawn: Image.Image | np.ndarray) -> int:
    rows = (strip(drawn).min(axis=2) < 128).any(axis=1)
    return int((rows[1:] & ~rows[:-1]).sum())


def test_question_and_answer_have_a_labelled_line_each() -> None:
    drawn = draw_answers(PICTURE, [QUESTION], [ANSWER])
    labelled = [Paragraph(QUESTION, label="Q: "), Paragraph(ANSWER, label="A: ")]
    assert np.array_equal(np.asarray(drawn), np.asarray(draw_paragraphs(PICTURE, labelled)))
    ink = (strip(drawn).min(axis=2) < 128).any(axis=0)
    assert np.flatnonzero(ink)[0] < 40, "at the left"
    assert not np.array_equal(strip(drawn), strip(draw_answers(PICTURE, [QUESTION], ["a small red square"])))


def test_strip_grows_with_the_questions_and_an_answer_alone_takes_one_line() -> None:
    heights = [draw_answers(PICTURE, [QUESTION] * n, [ANSWER] * n).height for n in (1, 2, 5)]
    assert heights == sorted(set(heights))
    assert draw_answers(PICTURE, [None], [ANSWER]).height < heights[0]


def test_score_stands_behind_its_answer_in_grey() -> None:
    def grey(drawn: Image.Image) -> np.ndarray:
        """Pixels of the scores' colour in each row; a few edges of black letters have it by chance."""
        return (strip(drawn) == (110, 110, 110)).all(axis=2).sum(axis=1)

    plain, scored = (
        grey(draw_answers(PICTURE, [QUESTION, QUESTION], [ANSWER, ANSWER], scores=scores))
        for scores in (None, [-0.5, -1.5])
    )
    half = len(plain) // 2
    assert (scored - plain)[:half].sum() > 10 and (scored - plain)[half:].sum() > 10


def test_questions_without_answers_are_an_error() -> None:
    with pytest.raises(ValueError, match="questions is empty"):
        draw_answers(PICTURE, [], [])
    with pytest.raises(ValueError):
        draw_answers(PICTURE, [QUESTION], [])


@pytest.mark.parametrize(
    ("fields", "questions", "answers", "scores"),
    [
        (dict(question="a", pred_answer="b", pred_score=-0.5), ["a"], ["b"], [-0.5]),
        (dict(question="a", pred_answer=["b", "c"], pred_score=[-0.5, -2]), ["a"], ["b"], [-0.5]),
        (dict(question=["a", "b"], pred_answer=["c", "d"], pred_score=[-1, -2]), ["a", "b"], ["c", "d"], [-1, -2]),
        (dict(pred_answer="b"), [None], ["b"], None),
    ],
)
def test_visualizer_reads_questions_answers_and_scores_from_the_sample(fields, questions, answers, scores) -> None:
    sample = DataSample(**fields)
    drawn = UniversalVisualizer().visualize_vqa(PIXELS, sample, draw_score=True)
    assert np.array_equal(drawn, np.asarray(draw_answers(PICTURE, questions, answers, scores=scores)))
    drawn = UniversalVisualizer().visualize_vqa(PIXELS, sample)
    assert np.array_equal(drawn, np.asarray(draw_answers(PICTURE, questions, answers)))


def test_prediction_decides_what_validation_draws(tmp_path) -> None:
    visualizer = UniversalVisualizer()
    for name, sample in {
        "answer": DataSample(question="a?", pred_answer="b"),
        "caption": DataSample(pred_caption="b"),
    }.items():
        visualizer.add_datasample(name, PIXELS, sample, out_file=str(tmp_path / f"{name}.png"))
    drawn = {path.stem: Image.open(path) for path in tmp_path.iterdir()}
    assert np.array_equal(np.asarray(drawn["answer"]), np.asarray(draw_answers(PICTURE, ["a?"], ["b"])))
    assert lines(drawn["answer"]) == 2 and lines(drawn["caption"]) == 1


def test_sample_without_an_answer_is_named() -> None:
    with pytest.raises(ValueError, match=r"no pred_answer.*\['question'\]"):
        UniversalVisualizer().visualize_vqa(PIXELS, DataSample(question="a?"))

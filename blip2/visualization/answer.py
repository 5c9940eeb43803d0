"""Draws questions and answers on a strip below a picture."""

from collections.abc import Sequence

from PIL import Image

from .caption import CaptionStyle, Paragraph, draw_paragraphs


def draw_answers(
    picture: Image.Image,
    questions: Sequence[str | None],
    answers: Sequence[str],
    *,
    scores: Sequence[float] | None = None,
    style: CaptionStyle | None = None,
) -> Image.Image:
    """A new RGB picture: `picture`, and below it a strip with each question and its answer, 'Q: …' and 'A: …'.

    Args:
        picture: an RGB picture of any size; see `draw_caption` for small ones.
        questions: at least one; None for an answer without question.
        answers: one a question.
        scores: one an answer, written behind it in grey.
        style: the type and the colours.
    """
    if not questions:
        raise ValueError("questions is empty: nothing to write below the picture")
    paragraphs: list[Paragraph] = []
    for index, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        if question is not None:
            paragraphs.append(Paragraph(question, label="Q: "))
        paragraphs.append(Paragraph(answer, label="A: ", score=None if scores is None else scores[index]))
    return draw_paragraphs(picture, paragraphs, style=style)

"""Draws text, captions above all, on a strip below a picture, never over it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from .fonts import FontStack, font_stack

# Below this a caption needs too many lines or too small a type; smaller pictures are enlarged to it.
MIN_LONG_EDGE = 384
_MIN_FONT_SIZE = 16
_SCORE_COLOR = (110, 110, 110)

Color = str | tuple[int, int, int]


@dataclass(frozen=True)
class CaptionStyle:
    """How the strip looks.

    Attributes:
        font_size: pixels; by default one twenty-eighth of the width (less for a panorama), at least 16.
        font: a font file that is tried before the ones that come with the installation.
        color: of the text; a name or (red, green, blue).
        background: of the strip, and of the margins beside a narrow picture.
    """

    font_size: int | None = None
    font: str | Path | None = None
    color: Color = "black"
    background: Color = "white"

    def __post_init__(self) -> None:
        if self.font_size is not None and self.font_size < 1:
            raise ValueError(f"font_size={self.font_size}: wanted a number of pixels, 1 or more")


def draw_caption(
    picture: Image.Image, captions: list[str], *, scores: list[float] | None = None, style: CaptionStyle | None = None
) -> Image.Image:
    """A new RGB picture: `picture`, and below it a strip with the captions.

    Several captions are numbered. The strip grows with the text; a picture whose longer edge has fewer than
    `MIN_LONG_EDGE` pixels is enlarged to it, and a narrower one gets margins of that width.

    Args:
        picture: an RGB picture of any size.
        captions: at least one; line breaks inside a caption count as spaces.
        scores: one a caption, written behind it in grey.
        style: the type and the colours.
    """
    if not captions:
        raise ValueError("captions is empty: nothing to write below the picture")
    paragraphs = [
        Paragraph(
            caption,
            label=f"{number}. " if len(captions) > 1 else "",
            score=None if scores is None else scores[number - 1],
        )
        for number, caption in enumerate(captions, start=1)
    ]
    return draw_paragraphs(picture, paragraphs, style=style)


@dataclass(frozen=True)
class Paragraph:
    """A text of the strip, which hangs behind its label if it has one, and its score."""

    text: str
    label: str = ""
    score: float | None = None


def draw_paragraphs(
    picture: Image.Image, paragraphs: Sequence[Paragraph], *, style: CaptionStyle | None = None
) -> Image.Image:
    """A new RGB picture: `picture`, and below it a strip with the paragraphs; see `draw_caption`.

    A paragraph without label stands in the middle, one with label at the left.
    """
    style = style or CaptionStyle()
    picture = _enlarged(picture)
    width = max(picture.width, MIN_LONG_EDGE)
    fonts = font_stack(style.font_size or _font_size(width, picture.height), style.font)
    padding = round(fonts.line_height * 0.6)

    lines = [line for paragraph in paragraphs for line in _layout(paragraph, fonts, width - 2 * padding)]
    strip = 2 * padding + fonts.line_height * len(lines)
    canvas = Image.new("RGB", (width, picture.height + strip), style.background)
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    y = picture.height + padding
    for line in lines:
        indent = (width - 2 * padding - line.width(fonts)) / 2 if line.centred else line.indent
        x = write_line(draw, (padding + indent, y), line.text, fonts, style.color)
        write_line(draw, (x, y), line.score, fonts, _SCORE_COLOR)
        y += fonts.line_height
    return canvas


@dataclass(frozen=True)
class _Line:
    text: str
    score: str = ""
    indent: float = 0
    centred: bool = False

    def width(self, fonts: FontStack) -> float:
        return fonts.width(self.text + self.score)


def _enlarged(picture: Image.Image) -> Image.Image:
    picture = picture.convert("RGB")
    long_edge = max(picture.size)
    if long_edge >= MIN_LONG_EDGE:
        return picture
    scale = MIN_LONG_EDGE / long_edge
    size = [max(1, round(edge * scale)) for edge in picture.size]
    return picture.resize((size[0], size[1]), Image.Resampling.BICUBIC)


def _font_size(width: int, height: int) -> int:
    # A panorama's strip should not dwarf it, so its height counts too.
    return max(_MIN_FONT_SIZE, round(min(width / 28, max(width / 60, height / 8))))


def _layout(paragraph: Paragraph, fonts: FontStack, width: float) -> list[_Line]:
    """A paragraph wrapped to `width` pixels, with a hanging indent behind its label."""
    label = paragraph.label
    indent = fonts.width(label)
    score = "" if paragraph.score is None else f" ({paragraph.score:.2f})"
    wrapped = wrap(paragraph.text, fonts, width - indent)
    if score and fonts.width(wrapped[-1] + score) > width - indent:
        wrapped.append("")
        score = score.lstrip()
    return [
        _Line(
            text=label + text if row == 0 else text,
            score=score if row == len(wrapped) - 1 else "",
            indent=0 if row == 0 else indent,
            centred=not label,
        )
        for row, text in enumerate(wrapped)
    ]


def wrap(text: str, fonts: FontStack, width: float) -> list[str]:
    """`text` in lines of at most `width` pixels, cut at spaces, and inside a word only if it is longer than a line.

    At least one line (perhaps empty); a line holds at least one character, however narrow `width` is.
    """
    lines = [""]
    for word in text.split():
        candidate = f"{lines[-1]} {word}".lstrip()
        if fonts.width(candidate) <= width:
            lines[-1] = candidate
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and fonts.width(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines


def write_line(
    draw: ImageDraw.ImageDraw, position: tuple[float, float], text: str, fonts: FontStack, color: Color
) -> float:
    """Writes one line with its top left at `position`; returns where it ends."""
    x, y = position
    for run, font in fonts.runs(text):
        # Anchored at the baseline: fonts of one line stand on it together, whatever their heights.
        draw.text((x, y + fonts.ascent), run, font=font, fill=color, anchor="ls")
        x += font.getlength(run)
    return x

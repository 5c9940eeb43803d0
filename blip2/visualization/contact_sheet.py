"""Draws pictures side by side below a heading, each with a line of its own."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from .caption import CaptionStyle, wrap, write_line
from .fonts import FontStack, font_stack

_FONT_SIZE = 18
_GAP = 12  # pixels between two pictures, and around all


def draw_contact_sheet(
    heading: str,
    pictures: Sequence[Image.Image],
    labels: Sequence[str],
    *,
    height: int = 224,
    width: int = 1600,
    style: CaptionStyle | None = None,
) -> Image.Image:
    """A new RGB picture: the heading, and below it the pictures in rows, in their order.

    Args:
        heading: what stands above; wrapped to the sheet.
        pictures: RGB pictures of any size, at least one.
        labels: a line below each picture; what is wider than the picture goes on in the next line.
        height: of each picture, in pixels; a panorama gets less, so that it fits a row.
        width: of the sheet, in pixels; one row that needs less makes the sheet narrower.
        style: the type and the colours.
    """
    if not pictures or len(pictures) != len(labels):
        raise ValueError(f"{len(pictures)} pictures and {len(labels)} labels: wanted one label a picture, at least one")
    style = style or CaptionStyle()
    fonts = font_stack(style.font_size or _FONT_SIZE, style.font)
    scaled = [_scaled(picture, height, width - 2 * _GAP) for picture in pictures]
    written = [wrap(label, fonts, picture.width) for label, picture in zip(labels, scaled, strict=True)]
    rows = _rows([picture.width for picture in scaled], width - 2 * _GAP)
    used = max(sum(scaled[index].width + _GAP for index in row) for row in rows) + _GAP
    width = min(width, max(used, 2 * height))

    title = wrap(heading, fonts, width - 2 * _GAP)
    heights = [
        max(scaled[index].height for index in row) + fonts.line_height * max(len(written[index]) for index in row)
        for row in rows
    ]
    total = _GAP + fonts.line_height * len(title) + _GAP + sum(heights) + _GAP * len(rows)
    sheet = Image.new("RGB", (width, total), style.background)
    draw = ImageDraw.Draw(sheet)
    y = _write(draw, (_GAP, _GAP), title, fonts, style) + _GAP
    for row, row_height in zip(rows, heights, strict=True):
        x = _GAP
        for index in row:
            sheet.paste(scaled[index], (x, y))
            _write(draw, (x, y + scaled[index].height), written[index], fonts, style)
            x += scaled[index].width + _GAP
        y += row_height + _GAP
    return sheet


def _scaled(picture: Image.Image, height: int, width: int) -> Image.Image:
    scale = min(height / picture.height, width / picture.width)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def _rows(widths: Sequence[int], width: int) -> list[list[int]]:
    """Numbers of the pictures of each row."""
    rows: list[list[int]] = [[]]
    x = 0
    for index, own in enumerate(widths):
        if rows[-1] and x + own > width:
            rows.append([])
            x = 0
        rows[-1].append(index)
        x += own + _GAP
    return rows


def _write(
    draw: ImageDraw.ImageDraw, position: tuple[int, int], lines: Sequence[str], fonts: FontStack, style: CaptionStyle
) -> int:
    """Writes lines from the top left at `position` on; returns where the next would begin."""
    left, y = position
    for line in lines:
        write_line(draw, (left, y), line, fonts, style.color)
        y += fonts.line_height
    return y

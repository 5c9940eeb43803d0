"""Pictures side by side below a heading."""

import numpy as np
import pytest
from PIL import Image

from blip2.visualization import CaptionStyle, UniversalVisualizer, draw_contact_sheet

COLOURS = ((200, 0, 0), (0, 200, 0), (0, 0, 200))


def boxes(sheet: Image.Image) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of each colour."""
    pixels = np.asarray(sheet)
    found = []
    for colour in COLOURS:
        rows, columns = np.nonzero((pixels == colour).all(-1))
        found.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    return found


def pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    return [Image.new("RGB", size, colour) for size, colour in zip(sizes, COLOURS, strict=False)]


def test_pictures_stand_in_rows_in_order_none_cut_or_over_another() -> None:
    sheet = draw_contact_sheet(
        "a text", pictures((50, 50), (100, 50), (50, 100)), ["1", "2", "3"], height=60, width=230
    )
    (first, second, third) = boxes(sheet)
    assert [(right - left, bottom - top) for left, top, right, bottom in (first, second, third)] == [
        (60, 60),
        (120, 60),
        (30, 60),
    ]
    assert first[1] == second[1] and first[2] < second[0], "side by side"
    assert third[1] > first[3] and third[0] == first[0], "in the next row"
    assert sheet.width <= 230 and third[3] < sheet.height


def test_panorama_fits_the_sheet() -> None:
    sheet = draw_contact_sheet("a text", pictures((2000, 20), (10, 10), (10, 10)), ["", "", ""], height=100, width=300)
    left, _, right, _ = boxes(sheet)[0]
    assert sheet.width <= 300 and 0 < left < right < 300


def test_long_headings_and_labels_go_on_in_further_lines() -> None:
    sizes = ((40, 40), (40, 40), (40, 40))
    short = draw_contact_sheet("a", pictures(*sizes), ["1"] * 3, height=40, width=200)
    heading = draw_contact_sheet("a long heading " * 10, pictures(*sizes), ["1"] * 3, height=40, width=200)
    label = draw_contact_sheet("a", pictures(*sizes), ["1", "a longer label", "1"], height=40, width=200)
    assert heading.height > short.height + 100 and label.height > short.height + 20
    assert boxes(heading)[0][1] > boxes(short)[0][1] and boxes(label)[0][1] == boxes(short)[0][1]


def test_as_many_labels_as_pictures_are_wanted() -> None:
    with pytest.raises(ValueError, match="0 pictures"):
        draw_contact_sheet("a", [], [])
    with pytest.raises(ValueError, match="1 pictures and 2 labels"):
        draw_contact_sheet("a", pictures((5, 5)), ["1", "2"])


def test_visualizer_writes_the_sheet_with_scores(tmp_path) -> None:
    images = [np.full((8, 8, 3), colour, np.uint8) for colour in COLOURS]
    visualizer = UniversalVisualizer()
    drawn = visualizer.visualize_t2i_retrieval("a text", images, [0.5, 0.4, 0.3], out_file=tmp_path / "new" / "x.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "x.png")), drawn)
    plain = visualizer.visualize_t2i_retrieval("a text", images, out_file=tmp_path / "y.png")
    top, bottom = boxes(Image.fromarray(drawn))[0][1::2]
    np.testing.assert_array_equal(plain[:bottom], drawn[:bottom])
    assert (drawn[bottom:] != plain[bottom:]).any() and top > 0
    styled = visualizer.visualize_t2i_retrieval(
        "a", images, text_cfg=CaptionStyle(background="black"), out_file=tmp_path / "z.png"
    )
    assert (styled[0, 0] == 0).all()

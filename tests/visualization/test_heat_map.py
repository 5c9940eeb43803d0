"""Heat maps over pictures."""

import numpy as np
import pytest
from PIL import Image

from blip2.visualization import draw_heat_map, draw_heat_maps


def test_heat_lies_where_the_map_says_and_elsewhere_the_picture_is_grey():
    heat = np.zeros((4, 8))
    heat[1, 6] = 2.0
    drawn = np.asarray(draw_heat_map(Image.new("RGB", (80, 40), (10, 200, 30)), heat)).astype(int)
    coloured = drawn.max(-1) - drawn.min(-1) > 20
    rows, columns = np.nonzero(coloured)
    assert drawn.shape == (40, 80, 3)
    assert rows.min() >= 5 and rows.max() < 25 and columns.min() >= 55 and columns.max() < 75
    red, green, blue = drawn[15, 65]
    assert red > green > blue, "the hottest is red"
    assert len(np.unique(drawn[30, 10])) == 1, "grey"


def test_a_weak_map_is_pale_beside_a_strong_one():
    picture = Image.new("RGB", (20, 20), (90, 90, 90))

    def colour(**options):
        pixel = np.asarray(draw_heat_map(picture, np.full((2, 2), 0.1), **options))[10, 10].astype(int)
        return pixel.max() - pixel.min()

    assert colour(peak=10.0) < colour(peak=1.0) < colour()
    assert colour(peak=10.0) > 0, "but is seen"


def test_a_map_of_nothing_changes_nothing_but_the_colours():
    picture = Image.new("RGB", (9, 7), (250, 0, 0))
    assert draw_heat_map(picture, np.zeros((3, 3))).tobytes() == picture.convert("L").convert("RGB").tobytes()


def test_a_sheet_shows_the_picture_first_and_all_maps_on_one_scale():
    weak, strong = np.full((2, 2), 0.01), np.full((2, 2), 1.0)
    sheet = np.asarray(draw_heat_maps("a text", Image.new("RGB", (30, 30), (0, 0, 250)), [("a", weak), ("b", strong)]))
    sheet = sheet.astype(int)
    assert (sheet == (0, 0, 250)).all(-1).sum() == 224 * 224, "enlarged and unchanged"
    red = (sheet[..., 0] - sheet[..., 2] > 100).any(0).nonzero()[0]
    assert red.max() - red.min() == 223 and red.min() > 2 * 224, "only the third is hot"


@pytest.mark.parametrize("heat", [np.zeros(3), np.array([[np.nan, 1]]), np.zeros((0, 2)), np.zeros((2, 2, 2))])
def test_what_is_no_map_is_refused(heat):
    with pytest.raises(ValueError, match="wanted h×w finite numbers"):
        draw_heat_map(Image.new("RGB", (4, 4)), heat)
    with pytest.raises(ValueError, match="no map to draw"):
        draw_heat_maps("", Image.new("RGB", (4, 4)), [])

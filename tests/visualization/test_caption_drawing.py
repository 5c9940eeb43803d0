"""Captions below pictures."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from blip2.structures import DataSample
from blip2.visualization import CaptionStyle, UniversalVisualizer, draw_caption
from blip2.visualization.caption import MIN_LONG_EDGE, wrap
from blip2.visualization.fonts import font_stack

LONG = "a small red circle is above and to the left of a large blue square with a dotted texture"


def picture(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def dark_rows(drawn: Image.Image, top: int) -> np.ndarray:
    """Whether each row below `top` holds ink."""
    return (np.asarray(drawn.convert("L"))[top:] < 128).any(axis=1)


@pytest.mark.parametrize("size", [(640, 480), (1600, 1200), (400, 2000), (3000, 200), (384, 384)])
def test_picture_stays_untouched_above_the_strip(size: tuple[int, int]) -> None:
    original = picture(*size)
    drawn = draw_caption(original, [LONG])
    assert drawn.width == original.width
    assert np.array_equal(np.asarray(drawn)[: original.height], np.asarray(original))
    strip = np.asarray(drawn)[original.height :]
    assert (strip[0] == 255).all() and (strip[-1] == 255).all(), "text touches the edge of its strip"
    assert (strip[:, 0] == 255).all() and (strip[:, -1] == 255).all()
    assert dark_rows(drawn, original.height).any()


@pytest.mark.parametrize("size", [(96, 96), (1, 1), (200, 10), (10, 200)])
def test_small_picture_is_enlarged_with_its_proportions(size: tuple[int, int]) -> None:
    drawn = draw_caption(Image.new("RGB", size, "red"), [LONG])
    assert drawn.width == MIN_LONG_EDGE
    red = (np.asarray(drawn) == (255, 0, 0)).all(axis=2)
    height, width = red.any(axis=1).sum(), red.any(axis=0).sum()
    assert max(height, width) == MIN_LONG_EDGE
    assert width / height == pytest.approx(size[0] / size[1], rel=0.06)


def test_narrow_picture_stands_in_the_middle_of_margins() -> None:
    red = (np.asarray(draw_caption(Image.new("RGB", (100, 500), "red"), ["x"])) == (255, 0, 0)).all(axis=2)
    columns = np.flatnonzero(red.any(axis=0))
    assert (columns[0], columns[-1]) == (142, 241)


def test_strip_grows_with_the_text_and_lines_do_not_overlap() -> None:
    base = picture(640, 480)
    heights = [draw_caption(base, [" ".join([LONG] * times)]).height for times in (1, 3, 9)]
    assert heights == sorted(set(heights))
    drawn = draw_caption(base, [" ".join([LONG] * 3)], style=CaptionStyle(font_size=20))
    rows = dark_rows(drawn, 480)
    lines = int((rows[1:] & ~rows[:-1]).sum())
    assert lines == len(wrap(" ".join([LONG] * 3), font_stack(20), 640 - 2 * round(font_stack(20).line_height * 0.6)))


def test_several_captions_have_a_line_each_with_number_and_score() -> None:
    base = picture(640, 480)
    single = draw_caption(base, ["one"])
    several = draw_caption(base, ["one", "two", "three"], scores=[-0.1, -0.25, -3.0])
    assert several.height > single.height
    grey = (np.asarray(several)[480:] == (110, 110, 110)).all(axis=2)
    assert grey.any(), "scores are written in grey"


@pytest.mark.parametrize(
    "text",
    [LONG, "", "word", "x" * 400, "一只红色的圆形在蓝色方块上方" * 9, "a\nb\tc  d", "Größe " * 40],
)
@pytest.mark.parametrize("width", [30.0, 200.0, 640.0])
def test_wrapped_lines_fit_and_lose_no_character(text: str, width: float) -> None:
    fonts = font_stack(16)
    lines = wrap(text, fonts, width)
    assert all(fonts.width(line) <= width or len(line) == 1 for line in lines)
    assert "".join(lines).replace(" ", "") == "".join(text.split())
    assert lines and (lines == [""] or all(lines))


def test_words_are_kept_whole_where_they_fit() -> None:
    lines = wrap(LONG, font_stack(16), 200)
    assert " ".join(lines) == LONG


def test_text_of_many_scripts_is_drawn_without_error() -> None:
    text = "кошка ελλάδα שלום नमस्ते 一只 ☀ 😀 \u0301 \U0010ffff"
    drawn = draw_caption(picture(400, 300), [text])
    assert dark_rows(drawn, 300).any()


def test_character_that_the_first_font_lacks_is_taken_from_another(tmp_path) -> None:
    stack = font_stack(16)
    assert len({id(font) for _, font in stack.runs("plain English")}) == 1
    if len(stack.fonts) < 2:
        pytest.skip("this machine has one font")
    for character in "一नไ":
        ((_, font),) = stack.runs(character)
        holders = [f for f in stack.fonts if bytes(f.getmask(character)) != bytes(f.getmask("\U0010ffff"))]
        assert font is (holders[0] if holders else stack.fonts[0])


def test_missing_font_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"no font in 'nowhere\.ttf'"):
        draw_caption(picture(64, 64), ["x"], style=CaptionStyle(font="nowhere.ttf"))


def test_no_caption_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="captions is empty"):
        draw_caption(picture(64, 64), [])


def visualize(**kwargs) -> np.ndarray:
    sample = kwargs.pop("sample", None) or DataSample(pred_caption="a red circle", pred_score=-0.5)
    image = kwargs.pop("image", np.asarray(picture(640, 480)))
    return UniversalVisualizer().visualize_image_caption(image, sample, **kwargs)


def test_visualizer_writes_the_file_and_returns_its_pixels(tmp_path) -> None:
    out = tmp_path / "deep" / "folder" / "picture.png"
    pixels = visualize(out_file=out, draw_score=True)
    assert np.array_equal(np.asarray(Image.open(out)), pixels)
    assert np.array_equal(pixels[:480], np.asarray(picture(640, 480))), "RGB stays RGB"


def test_visualizer_resizes_by_short_edge_size_or_factor() -> None:
    assert visualize(resize=960).shape[1] == 1280
    assert visualize(resize=(500, 400)).shape[1] == 500
    assert visualize(rescale_factor=2.5).shape[1] == 1600
    with pytest.raises(ValueError, match="exclude each other"):
        visualize(resize=100, rescale_factor=2.0)
    with pytest.raises(ValueError, match="nothing would be left"):
        visualize(rescale_factor=0.0001)


def test_visualizer_takes_style_by_name_and_suggests_the_nearest() -> None:
    pixels = visualize(text_cfg={"background": "black", "color": (255, 255, 0), "font_size": 30})
    assert (pixels[-1] == 0).all()
    with pytest.raises(TypeError, match=r"no 'fontsize'\. Did you mean .*'font_size'"):
        visualize(text_cfg={"fontsize": 3})


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), "picture.png"])
def test_visualizer_refuses_what_is_no_rgb_array(image) -> None:
    with pytest.raises(TypeError, match="uint8 array of H×W×3"):
        visualize(image=image)


def test_visualizer_names_what_a_sample_holds_instead_of_a_caption() -> None:
    with pytest.raises(ValueError, match=r"no pred_caption.*\['pred_answer'\]"):
        visualize(sample=DataSample(pred_answer="red"))


def test_pictures_go_to_the_backends_of_a_config(tmp_path) -> None:
    from blip2.registry import VISUALIZERS

    cfg = {"type": "UniversalVisualizer", "name": "of_this_test", "vis_backends": [{"type": "LocalVisBackend"}]}
    visualizer = VISUALIZERS.build({**cfg, "save_dir": str(tmp_path)})
    sample = DataSample(pred_caption=["a circle", "a square"])
    visualizer.add_datasample("val/1", np.asarray(picture(96, 96)), sample, step=3)
    (written,) = tmp_path.rglob("*.png")
    assert Image.open(written).width == MIN_LONG_EDGE


def test_window_without_a_display_names_the_way_out() -> None:
    script = """
import matplotlib; matplotlib.use("agg")
import numpy as np
from blip2.structures import DataSample
from blip2.visualization import UniversalVisualizer
picture, sample = np.zeros((9, 9, 3), np.uint8), DataSample(pred_caption="x")
UniversalVisualizer().visualize_image_caption(picture, sample, show=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "needs a display" in done.stderr and "show_dir" in done.stderr

import numpy as np
import pytest
from PIL import Image

from blip2.webdemo.limits import Limits, RefusedError


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (30, 20), "red").save(path)
    return path


def test_a_picture_is_read_as_opencv_has_it(picture):
    pixels = Limits().picture(picture)
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.uint8([0, 0, 255]), (20, 30, 3)))


@pytest.mark.parametrize("missing", [None, ""])
def test_no_picture_asks_for_one(missing):
    with pytest.raises(RefusedError, match="Give a picture first"):
        Limits().picture(missing)


def test_what_is_no_picture_is_named_without_its_folder(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(RefusedError, match=r"^text\.png cannot be read: ") as refused:
        Limits().picture(tmp_path / "text.png")
    assert str(tmp_path) not in str(refused.value)


def test_a_picture_that_has_gone_is_asked_for_again(tmp_path):
    with pytest.raises(RefusedError, match=r"gone\.png is no longer here"):
        Limits().picture(tmp_path / "gone.png")


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path):
    # A file that lies about its size: decoding it would fail with another message.
    path = tmp_path / "large.png"
    Image.new("1", (2000, 1000)).save(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(RefusedError, match="2000×1000 pixels"):
        Limits(megapixels=1).picture(path)


def test_a_large_file_is_refused(tmp_path):
    path = tmp_path / "large.bmp"
    Image.new("RGB", (1000, 400)).save(path)
    with pytest.raises(RefusedError, match=r"large\.bmp has 1\.2 MB; at most 1 are taken"):
        Limits(upload_mb=1).picture(path)


def test_a_collection_may_hold_files_that_are_no_pictures_but_not_huge_ones(picture, tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    paths = [str(picture), str(tmp_path / "text.png")]
    assert Limits().pictures(paths) == paths
    with pytest.raises(RefusedError, match="2 pictures are too many: at most 1"):
        Limits(gallery=1).pictures(paths)
    with pytest.raises(RefusedError, match="Upload the pictures"):
        Limits().pictures([])
    Image.new("1", (2000, 1000)).save(tmp_path / "large.png")
    with pytest.raises(RefusedError, match=r"large\.png has more than 1 million pixels"):
        Limits(megapixels=1).pictures([*paths, str(tmp_path / "large.png")])


def test_lines_are_counted_and_measured():
    limits = Limits(texts=2, characters=5)
    assert limits.lines(" a \n\n b\n") == ["a", "b"]
    for text, said in [
        (" \n", "Write a text first"),
        ("a\nb\nc", "3 lines are too many"),
        ("a\nbcdefg", "Line 2 has 6"),
    ]:
        with pytest.raises(RefusedError, match=said):
            limits.lines(text)


def test_a_line_is_one_whatever_breaks_it():
    assert Limits().line(" what\n is  it? ", "question") == "what is it?"
    with pytest.raises(RefusedError, match="Write a question first"):
        Limits().line(None, "question")
    with pytest.raises(RefusedError, match="The question has 6 characters"):
        Limits(characters=5).line("abcdef", "question")

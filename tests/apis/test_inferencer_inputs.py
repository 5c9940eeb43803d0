"""Whatever holds a picture is read as a person sees it, or refused by name."""

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from blip2.apis.inferencers.download import read_url
from blip2.apis.inferencers.inputs import describe, inputs_to_list, read_input, stem_of
from blip2.utils.pictures import PICTURE_SUFFIXES, find_pictures, is_url

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
BGR = np.ascontiguousarray(RGB[:, :, ::-1])
GREY = RGB[:, :, 0]


def png(array: np.ndarray = RGB) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def picture_file(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(png())
    return path


def test_every_kind_of_input_gives_the_same_pixels(picture_file: Path) -> None:
    kinds = {
        "str": str(picture_file),
        "Path": picture_file,
        "bytes": png(),
        "bytearray": bytearray(png()),
        "memoryview": memoryview(png()),
        "PIL": Image.fromarray(RGB),
        "file opened by PIL": Image.open(picture_file),
        "what OpenCV reads": cv2.imread(str(picture_file)),
        "uint8 tensor": torch.from_numpy(RGB.copy()).permute(2, 0, 1),
        "float tensor": torch.from_numpy(RGB / 255.0).permute(2, 0, 1),
        "float32 array": (BGR / 255).astype(np.float32),
        "strided array": np.repeat(BGR, 2, axis=1)[:, ::2],
    }
    for kind, item in kinds.items():
        assert np.array_equal(read_input(item), BGR), kind


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tensor_is_within_its_rounding(dtype: torch.dtype) -> None:
    pixels = read_input((torch.from_numpy(RGB.copy()).permute(2, 0, 1) / 255).to(dtype))
    assert np.abs(pixels.astype(int) - BGR.astype(int)).max() <= 1


@pytest.mark.parametrize(
    "item",
    [GREY, GREY[:, :, None], torch.from_numpy(GREY.copy())[None], GREY / 255.0, GREY.astype(np.uint16) * 257],
    ids=["HxW", "HxWx1", "1xHxW", "float", "uint16"],
)
def test_grey_picture_gets_three_equal_channels(item) -> None:
    assert np.array_equal(read_input(item), np.repeat(GREY[:, :, None], 3, axis=2))


def test_transparency_of_an_array_is_laid_on_white_as_that_of_a_file() -> None:
    alpha = np.tile(np.linspace(0, 255, 9, dtype=np.uint8), (6, 1))
    rgba = np.dstack([RGB, alpha])
    stream = io.BytesIO()
    Image.fromarray(rgba).save(stream, "PNG")
    from_array = read_input(np.dstack([BGR, alpha]))
    assert np.array_equal(from_array, read_input(stream.getvalue()))
    assert (from_array[:, 0] == 255).all() and np.array_equal(from_array[:, -1], BGR[:, -1])


def test_pil_picture_with_exif_orientation_is_turned_upright() -> None:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(stream, "PNG", exif=exif)
    opened = Image.open(io.BytesIO(stream.getvalue()))
    assert np.array_equal(read_input(opened), np.rot90(BGR, k=-1))
    assert np.array_equal(read_input(opened, ignore_orientation=True), BGR)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr", "HSV", "LAB", "I;16", "F"])
def test_pil_picture_of_any_mode_is_read(mode: str) -> None:
    if mode == "I;16":
        item = Image.fromarray(GREY.astype(np.uint16) * 257)
    elif mode == "F":
        item = Image.fromarray((GREY / 255.0).astype(np.float32))
    elif mode == "LAB":
        item = Image.merge("LAB", [Image.fromarray(RGB[:, :, i].copy()) for i in range(3)])
    else:
        item = Image.fromarray(RGB).convert(mode)
    pixels = read_input(item)
    assert pixels.shape == (6, 9, 3) and pixels.dtype == np.uint8


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (np.zeros((2, 3, 4, 3), np.uint8), r"\(2, 3, 4, 3\)"),
        (np.zeros((3, 8, 8), np.uint8), r"wanted H×W"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.full((4, 4, 3), 200.0), "0 to 1"),
        (np.full((4, 4, 3), np.nan), "nan"),
        (np.zeros((4, 4, 3), complex), "complex"),
        (torch.zeros(2, 3, 4, 4), r"list\(tensor\)"),
        (torch.zeros(4, 4, 3), "wanted 3×H×W"),
        (torch.full((3, 4, 4), -1.0), "from -1 to -1"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), "int32"),
        (b"", "empty"),
        (b"GIF89a", "corrupt|not a picture"),
    ],
)
def test_unusable_picture_is_refused_with_what_was_wanted(item, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_input(item)


@pytest.mark.parametrize("item", [3, None, 1.5, {"img": 1}, io.BytesIO(png()), object()])
def test_wrong_type_is_named_with_its_index(item) -> None:
    with pytest.raises(TypeError, match=rf"images is a {type(item).__name__}; wanted a path"):
        inputs_to_list(item)
    with pytest.raises(TypeError, match=rf"images\[1\] is a {type(item).__name__}; wanted a path"):
        inputs_to_list([RGB, item])


def test_generator_is_refused_rather_than_consumed() -> None:
    with pytest.raises(TypeError, match="images is a generator"):
        inputs_to_list(RGB for _ in range(2))


def test_empty_list_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty list"):
        inputs_to_list([])


def test_folder_stands_for_its_pictures_in_natural_order(tmp_path: Path) -> None:
    for name in ("10.png", "2.PNG", "1.jpeg", "b2.webp", "b10.webp", "notes.txt", ".hidden.png", "B1.tif"):
        (tmp_path / name).touch()
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "3.png").touch()
    (tmp_path / "folder.png").mkdir()
    names = [path.name for path in inputs_to_list(tmp_path)]
    assert names == ["1.jpeg", "2.PNG", "10.png", "B1.tif", "b2.webp", "b10.webp"]
    assert [p.name for p in find_pictures(tmp_path, recursive=True)][-1] == "3.png"


def test_folder_without_pictures_names_the_known_suffixes(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"\.jpg .*subfolders"):
        inputs_to_list(str(tmp_path))


def test_every_listed_suffix_is_one_that_pillow_writes_or_reads() -> None:
    Image.init()
    assert set(PICTURE_SUFFIXES) <= set(Image.EXTENSION) | {".avif"}


def test_inputs_are_described_in_words() -> None:
    assert describe("a.png") == "a.png"
    assert describe(RGB) == "array 6×9×3 uint8"
    assert describe(torch.zeros(3, 2, 2)) == "tensor 3×2×2 float32"
    assert describe(Image.fromarray(RGB)) == "PIL picture 9×6"
    assert describe(b"1234") == "4 bytes"


@pytest.mark.parametrize(
    ("item", "stem"),
    [
        ("a/b/c.d.png", "c.d"),
        (Path("x.jpg"), "x"),
        ("https://example.org/dir/my%20cat.jpg?size=3", "my cat"),
        ("https://example.org/", "picture_0007"),
        (b"", "picture_0007"),
        ('a/what?"*.png', "what___"),
    ],
)
def test_output_names_follow_the_inputs(item, stem: str) -> None:
    assert stem_of(item, 7) == stem


@pytest.mark.parametrize(
    ("text", "url"), [("http://x/y", True), ("s3://b/k", True), (r"C:\a.png", False), ("c", False)]
)
def test_addresses_are_told_from_paths(text: str, url: bool) -> None:
    assert is_url(text) is url


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        bodies = {"/picture.png": png(), "/page.html": b"<html>no picture</html>", "/long": b"x" * 5000}
        if self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x")
                if self.server.stop.wait(0.05):
                    break
            return
        if self.path not in bodies and self.path != "/broken":
            self.send_error(404)
            return
        body = bodies.get(self.path, b"only a part")
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + (99 if self.path == "/broken" else 0)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def site(monkeypatch) -> Iterator[str]:
    for name in ("HF_HUB_OFFLINE", "BLIP2_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    server.stop = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.stop.set()
    server.shutdown()
    server.server_close()


def test_picture_is_fetched_from_its_address(site: str) -> None:
    assert np.array_equal(read_input(f"{site}/picture.png"), BGR)


def test_page_that_is_no_picture_is_named_by_its_address(site: str) -> None:
    with pytest.raises(ValueError, match=rf"{site}/page.html.*not a picture"):
        read_input(f"{site}/page.html")


def test_missing_page_names_the_servers_answer(site: str) -> None:
    with pytest.raises(OSError, match=r"/nothing: the server answered 404"):
        read_input(f"{site}/nothing")


def test_too_long_an_answer_is_refused(site: str) -> None:
    with pytest.raises(ValueError, match="too long"):
        read_url(f"{site}/long", max_bytes=1000)


def test_answer_that_breaks_off_is_noticed(site: str) -> None:
    with pytest.raises(OSError, match="broke off after 11 of 110 bytes"):
        read_url(f"{site}/broken")


def test_slow_answer_runs_into_the_time_limit(site: str) -> None:
    with pytest.raises(OSError, match=r"within 0\.3 s"):
        read_url(f"{site}/slow", timeout=0.3)


def test_unreachable_host_is_named(site: str) -> None:
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1:9/x: not reachable"):
        read_url("http://127.0.0.1:9/x", timeout=2)


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "BLIP2_OFFLINE"])
def test_offline_switch_keeps_from_fetching(site: str, monkeypatch, switch: str) -> None:
    monkeypatch.setenv(switch, "1")
    with pytest.raises(OSError, match="OFFLINE is set"):
        read_input(f"{site}/picture.png")


@pytest.mark.parametrize("address", ["ftp://example.org/a.png", "file:///etc/passwd", "s3://bucket/a.png"])
def test_other_schemes_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match="begin with http"):
        read_input(address)

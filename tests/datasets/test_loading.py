"""Reading pictures: bit for bit as OpenCV where that is right, else as a person sees them, or a clear error."""

import io
import struct
import zlib

import cv2
import mmcv
import numpy as np
import pytest
from PIL import Image

from blip2.datasets.transforms import LoadImageFromFile, loading, pil_to_bgr, read_image
from blip2.registry import TRANSFORMS
from blip2.utils.errors import ImageError, MissingImageError

RED, GREEN, WHITE = [0, 0, 255], [0, 255, 0], [255, 255, 255]  # B, G, R


@pytest.mark.parametrize("size", [(37, 53), (64, 64), (1, 1), (7, 120)])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_plain_jpeg_equals_opencv_bit_for_bit(smooth_rgb, encode, size, subsampling, progressive):
    data = encode(smooth_rgb(*size), "JPEG", quality=85, subsampling=subsampling, progressive=progressive)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(read_image(data), expected)


@pytest.mark.parametrize("format", ["PNG", "BMP", "WEBP", "TIFF", "PPM"])
def test_plain_lossless_picture_equals_opencv_bit_for_bit(smooth_rgb, encode, format):
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(smooth_rgb(19, 23), format, **options)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(read_image(data), expected)


def test_path_string_bytes_and_file_object_give_the_same(smooth_rgb, tmp_path):
    path = tmp_path / "picture with ümlaut.png"
    Image.fromarray(smooth_rgb(9, 11)).save(path)
    expected = read_image(path)
    with path.open("rb") as file:
        for source in (str(path), path.read_bytes(), bytearray(path.read_bytes()), io.BytesIO(path.read_bytes()), file):
            np.testing.assert_array_equal(read_image(source), expected)


@pytest.mark.parametrize("subsampling", [0, 2])
def test_cmyk_jpeg_keeps_its_colours(smooth_rgb, encode, subsampling):
    rgb = smooth_rgb(32, 48)
    data = encode(Image.fromarray(rgb).convert("CMYK"), "JPEG", quality=95, subsampling=subsampling)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    difference = np.abs(read_image(data)[..., ::-1].astype(int) - rgb)
    assert difference.mean() < 4


def test_palette_picture_shows_its_colours(encode):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putdata([0, 1])
    for format in ("PNG", "GIF"):
        np.testing.assert_array_equal(read_image(encode(image, format)), [[RED, GREEN]])


def test_transparent_palette_entry_is_white(encode):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putdata([0, 1])
    for format in ("PNG", "GIF"):
        np.testing.assert_array_equal(read_image(encode(image, format, transparency=1)), [[RED, WHITE]])


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_uses_the_whole_range(encode, format):
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    data = encode(Image.fromarray(values), format)
    np.testing.assert_array_equal(read_image(data)[0, :, 0], [0, 0, 1, 128, 255])
    np.testing.assert_array_equal(read_image(data), cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


def test_16_bit_colour_uses_the_whole_range():
    bgr = np.random.default_rng(0).integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    ok, data = cv2.imencode(".png", bgr)
    assert ok
    np.testing.assert_array_equal(read_image(data.tobytes()), bgr >> 8)


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_and_bilevel_pictures_get_three_equal_channels(encode, mode):
    image = Image.new(mode, (2, 1))
    image.putpixel((1, 0), 255)
    np.testing.assert_array_equal(read_image(encode(image, "PNG")), [[[0, 0, 0], WHITE]])


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_on_white(encode, format):
    rgba = np.array([[[255, 0, 0, 255], [0, 0, 0, 0], [0, 0, 0, 128]]], dtype=np.uint8)
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    np.testing.assert_array_equal(read_image(encode(rgba, format, **options)), [[RED, WHITE, [127, 127, 127]]])


def test_grey_with_alpha_is_laid_on_white(encode):
    image = Image.merge("LA", [Image.new("L", (1, 1), 0), Image.new("L", (1, 1), 0)])
    np.testing.assert_array_equal(read_image(encode(image, "PNG")), [[WHITE]])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_applied(smooth_rgb, encode, orientation, format):
    upright = smooth_rgb(24, 40)
    # How a camera stores the upright picture, by the eight definitions of EXIF 2.3 (what row 0 and column 0 show).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if format == "JPEG" else {}
    data = encode(np.ascontiguousarray(stored), format, exif=exif, **options)
    image = read_image(data)[..., ::-1]
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).max() <= (4 if format == "JPEG" else 0)
    if format == "JPEG":  # OpenCV knows EXIF too
        np.testing.assert_array_equal(image[..., ::-1], cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
    assert read_image(data, ignore_orientation=True).shape[:2] == (stored.shape[:2] if format != "TIFF" else (24, 40))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_spoil_the_picture(smooth_rgb, encode):
    plain = encode(smooth_rgb(8, 8), "JPEG")
    broken = encode(smooth_rgb(8, 8), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff\x00\x01garbage")
    np.testing.assert_array_equal(read_image(broken), read_image(plain))


def test_first_frame_of_an_animation_is_taken(encode):
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(data)[0, 0], RED)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_picture_is_an_error_that_names_it(smooth_rgb, encode, tmp_path, format, share):
    data = encode(smooth_rgb(64, 64), format)
    path = tmp_path / f"cut.{format.lower()}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(
        ImageError, match=rf"cannot read the picture .*cut\.{format.lower()}: .*Fetch or export it again"
    ):
        read_image(path)


def test_corrupt_picture_is_an_error_that_names_it(smooth_rgb, encode, tmp_path):
    data = bytearray(encode(smooth_rgb(64, 64), "PNG"))
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    path = tmp_path / "flipped bits.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"flipped bits\.png: it is corrupt"):
        read_image(path)


def test_zero_byte_picture_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "empty.jpg"
    path.touch()
    with pytest.raises(ImageError, match=r"empty\.jpg: the file is empty \(0 bytes\)"):
        read_image(path)


def test_file_that_is_no_picture_shows_how_it_begins(tmp_path):
    path = tmp_path / "page.jpg"
    path.write_text("<!DOCTYPE html><title>404</title>")
    with pytest.raises(ImageError, match=r"page\.jpg: it is not a picture.*begins with b'<!DOCTYPE html>.*JPEG or PNG"):
        read_image(path)


def test_postscript_is_not_run(tmp_path):
    path = tmp_path / "drawing.eps"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(ImageError, match="not a picture of a known format"):
        read_image(path)


def test_missing_picture_and_folder_are_told_apart(tmp_path):
    with pytest.raises(MissingImageError, match=r"gone\.jpg: there is no such file") as caught:
        read_image(tmp_path / "gone.jpg")
    assert isinstance(caught.value, FileNotFoundError)
    with pytest.raises(ImageError, match="it is a folder"):
        read_image(tmp_path)


def test_other_types_are_refused(tmp_path):
    with pytest.raises(TypeError, match="path, bytes or a file object, not int"):
        read_image(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="opened as text"):
        read_image(io.StringIO("text"))  # type: ignore[arg-type]


def _png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("pillow_limit", [Image.MAX_IMAGE_PIXELS, None])
def test_decompression_bomb_is_refused_before_decoding(monkeypatch, pillow_limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow_limit)
    with pytest.raises(ImageError, match="decompression bomb"):
        read_image(_png_that_claims(60_000, 60_000))


def test_own_limit_of_pixels_is_kept(smooth_rgb, encode):
    data = encode(smooth_rgb(20, 20), "PNG")
    assert read_image(data, max_pixels=400).shape == (20, 20, 3)
    with pytest.raises(ImageError, match="20×20 pixels, more than 399"):
        read_image(data, max_pixels=399)


def test_floating_point_picture_needs_a_known_range(encode):
    image = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    np.testing.assert_array_equal(read_image(encode(image, "TIFF"))[0, :, 0], [0, 128, 255])
    wide = Image.fromarray(np.array([[0.0, 1000.0]], dtype=np.float32))
    with pytest.raises(ImageError, match=r"values run from 0\.0 to 1000\.0"):
        read_image(encode(wide, "TIFF"))


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_pillow_pictures_of_every_mode_are_taken(mode):
    grey = Image.new("L", (3, 2), 200)
    if mode == "I;16":
        image = Image.new("I;16", (3, 2), 200 << 8)
    else:
        image = grey.convert("RGB").convert(mode, palette=Image.Palette.ADAPTIVE)
    array = pil_to_bgr(image)
    assert (array.shape, array.dtype) == ((2, 3, 3), np.uint8)
    if mode != "1":
        assert np.abs(array.astype(int) - 200).max() <= 2


def test_pillow_picture_equals_the_file_that_it_was_opened_from(smooth_rgb, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    Image.fromarray(smooth_rgb(10, 20)).save(path, exif=exif)
    np.testing.assert_array_equal(pil_to_bgr(Image.open(path)), read_image(path))
    assert read_image(path).shape == (20, 10, 3)


def test_truncated_pillow_picture_is_an_error(smooth_rgb, tmp_path):
    path = tmp_path / "cut.jpg"
    Image.fromarray(smooth_rgb(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ImageError, match=r"cut\.jpg: it is corrupt or truncated"):
        pil_to_bgr(Image.open(path))


def test_transform_adds_what_mmcvs_adds(smooth_rgb, tmp_path):
    path = str(tmp_path / "a.jpg")
    Image.fromarray(smooth_rgb(12, 34)).save(path)
    ours = TRANSFORMS.build({"type": "LoadImageFromFile"})
    assert isinstance(ours, LoadImageFromFile)
    theirs = mmcv.transforms.LoadImageFromFile()
    ours_result, their_result = ours({"img_path": path}), theirs({"img_path": path})
    assert ours_result.keys() == their_result.keys()
    np.testing.assert_array_equal(ours_result["img"], their_result["img"])
    assert ours_result["img_shape"] == ours_result["ori_shape"] == their_result["ori_shape"] == (12, 34)
    assert LoadImageFromFile(to_float32=True)({"img_path": path})["img"].dtype == np.float32
    assert LoadImageFromFile(backend_args={"backend": "local"})({"img_path": path})["img"].shape == (12, 34, 3)


def test_transform_gives_none_for_a_bad_picture_only_when_asked(tmp_path):
    sample = {"img_path": str(tmp_path / "gone.jpg")}
    assert LoadImageFromFile(ignore_empty=True)(dict(sample)) is None
    with pytest.raises(MissingImageError):
        LoadImageFromFile()(dict(sample))
    with pytest.raises(ImageError, match=r"gone\.jpg: it could not be fetched"):
        LoadImageFromFile(backend_args={"backend": "local"})(dict(sample))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"color_type": "grayscale"}, "color_type='grayscale'.*choose 'color'"),
        ({"imdecode_backend": "turbojpeg"}, "imdecode_backend='turbojpeg'.*choose 'cv2'"),
        ({"file_client_args": {}, "backend_args": {}}, "old name of backend_args"),
    ],
)
def test_transform_refuses_what_it_does_not_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        LoadImageFromFile(**arguments)


def test_formats_that_run_other_programs_are_not_opened():
    known = loading._known_formats()
    assert {"JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"} <= set(known)
    assert not {"EPS", "WMF", "PSD", "HDF5", "GRIB", "BUFR"} & set(known)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "JPEG2000"])
def test_random_damage_gives_a_picture_or_an_image_error_and_nothing_else(smooth_rgb, encode, format):
    generator = np.random.default_rng(0)
    sound = np.frombuffer(encode(smooth_rgb(16, 16), format), np.uint8)
    for _ in range(60):
        data = sound.copy()
        data[generator.integers(0, len(data), 4)] = generator.integers(0, 256, 4)
        damaged = data[: generator.integers(1, len(data) + 1)].tobytes()
        try:
            image = read_image(damaged, max_pixels=10_000)
        except ImageError:
            continue
        assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8

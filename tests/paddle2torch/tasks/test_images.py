"""Every kind of image file that people have becomes the BGR pixels that PaddleOCR would see."""

from __future__ import annotations

import io
import os
import re
import struct
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from material import SHARED
from PIL import Image, TiffImagePlugin

from paddle2torch.tasks import images, picture_budget, pixels, png_rows
from paddle2torch.tasks.images import ImageError, load_image
from paddle2torch.tasks.jpeg_markers import read_markers
from paddle2torch.tasks.picture_headers import open_picture
from paddle2torch.tasks.tiff_pieces import can_be_cut

IMAGES = SHARED / "images"
ORIENTATION = 0x0112

# Pillow warns of what it skips in broken files, a TIFF tag for example.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

RGB = np.stack(np.meshgrid(np.arange(0, 240, 2), np.arange(0, 200, 5)), -1).astype(np.uint8)  # (40, 120, 2)
RGB = np.concatenate([RGB, 255 - RGB[..., :1]], axis=2)
BGR = np.ascontiguousarray(RGB[..., ::-1])
PIL_RGB = Image.fromarray(RGB)
GREY = np.asarray(PIL_RGB.convert("L"))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opencv(data: bytes, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def with_alpha(levels: int = 256) -> Image.Image:
    image = PIL_RGB.copy()
    image.putalpha(Image.fromarray((np.add.outer(np.arange(40), np.arange(120)) * 3 % levels).astype(np.uint8)))
    return image


def blurred() -> Image.Image:
    return Image.fromarray(cv2.GaussianBlur(RGB, (5, 5), 1))


def on_white(bgra: np.ndarray) -> np.ndarray:
    expected = np.empty((*bgra.shape[:2], 3), np.uint8)
    for channel in range(3):
        alpha = bgra[..., 3] / 255
        expected[..., channel] = (255 * (1 - alpha) + bgra[..., channel] * alpha).astype(np.uint8)
    return expected


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 40, "subsampling": 2}),
        ("JPEG", {"quality": 90, "subsampling": 1}),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}),
        ("PNG", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"quality": 60}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_ordinary_files_are_opencv_bit_for_bit(kind: str, options: dict[str, object], mode: str) -> None:
    data = encode(blurred().convert(mode), kind, **options)
    image = load_image(data)
    assert image.dtype == np.uint8
    assert image.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(image, opencv(data))


@pytest.mark.skipif(not IMAGES.is_dir(), reason="the shared images are not here")
def test_real_images_are_opencv_bit_for_bit() -> None:
    paths = sorted(IMAGES.glob("*/*.*"))
    assert len(paths) >= 12
    for path in paths:
        np.testing.assert_array_equal(load_image(path), opencv(path.read_bytes()), err_msg=path.name)


def test_path_text_path_object_and_bytes_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "línea 1.png"
    path.write_bytes(encode(PIL_RGB, "PNG"))
    for source in (path, str(path), path.read_bytes(), bytearray(path.read_bytes()), memoryview(path.read_bytes())):
        np.testing.assert_array_equal(load_image(source), BGR)


@pytest.mark.parametrize("mode", ["1", "P", "L"])
@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_palette_grey_and_one_bit(mode: str, kind: str) -> None:
    image = PIL_RGB.quantize(9) if mode == "P" else PIL_RGB.convert(mode)
    np.testing.assert_array_equal(load_image(encode(image, kind)), np.asarray(image.convert("RGB"))[..., ::-1])


def test_fax_tiff_of_which_white_is_zero() -> None:
    image = PIL_RGB.convert("1")
    data = encode(image, "TIFF", compression="group4", tiffinfo={262: 0})
    np.testing.assert_array_equal(load_image(data)[..., 0], np.asarray(image).astype(np.uint8) * 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_png_is_composed_as_paddleocr_does(mode: str) -> None:
    image = with_alpha().quantize() if mode == "P" else with_alpha().convert(mode)
    data = encode(image, "PNG")
    bgra = opencv(data, cv2.IMREAD_UNCHANGED)
    assert bgra.shape == (40, 120, 4)
    np.testing.assert_array_equal(load_image(data), on_white(bgra))


def test_alpha_of_more_rows_than_are_composed_at_once() -> None:
    bgra = np.random.default_rng(0).integers(0, 256, (600, 7, 4)).astype(np.uint8)
    np.testing.assert_array_equal(load_image(bgra), on_white(bgra))


def test_fully_transparent_is_white_whatever_lies_under_it() -> None:
    image = PIL_RGB.copy()
    image.putalpha(0)
    for kind in ("PNG", "WEBP", "TIFF"):
        assert (load_image(encode(image, kind)) == 255).all(), kind


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_png_with_one_transparent_colour(mode: str) -> None:
    image = Image.new(mode, (6, 4), 1 if mode == "P" else 0)
    if mode == "P":
        image.putpalette([9, 9, 9, 0, 0, 0])
    image.paste(0 if mode == "P" else (255, 255, 255) if mode == "RGB" else 255, (0, 0, 3, 4))
    black = {"RGB": (0, 0, 0), "P": 1}.get(mode, 0)
    result = load_image(encode(image, "PNG", transparency=black))
    # White on nothing would be lost on white.
    assert (result[:, 3:] == (255 if mode == "P" else 0)).all()
    assert (result[:, :3] == (9 if mode == "P" else 255)).all()


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm"])
def test_sixteen_bit_grey_keeps_its_upper_bits(suffix: str) -> None:
    values = (np.arange(40 * 120).reshape(40, 120) * 13).astype(np.uint16)
    data = cv2.imencode(suffix, values)[1].tobytes()
    assert opencv(data, cv2.IMREAD_UNCHANGED).dtype == np.uint16
    np.testing.assert_array_equal(load_image(data), np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bit_colour_keeps_its_upper_bits(suffix: str) -> None:
    values = (np.arange(40 * 120 * 3).reshape(40, 120, 3) * 13 % 65536).astype(np.uint16)
    data = cv2.imencode(suffix, values)[1].tobytes()
    assert opencv(data, cv2.IMREAD_UNCHANGED).dtype == np.uint16
    np.testing.assert_array_equal(load_image(data), (values >> 8).astype(np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_the_colour_that_was_meant(kind: str) -> None:
    data = encode(blurred().convert("CMYK"), kind, quality=100)
    difference = np.abs(load_image(data).astype(int) - np.asarray(blurred())[..., ::-1])
    assert difference.max() <= 6  # inverted inks would be off by up to 255
    np.testing.assert_array_equal(load_image(data), opencv(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(kind: str, orientation: int) -> None:
    upright = blurred()
    # How a camera held so would store the picture: the inverse of what a reader has to do.
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    image = load_image(encode(stored, kind, exif=exif(orientation), **options))
    assert image.shape == (40, 120, 3)
    assert np.abs(image.astype(int) - np.asarray(upright)[..., ::-1]).max() <= (6 if kind == "JPEG" else 0)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_or_page(kind: str) -> None:
    first, second = Image.new("RGB", (30, 20), (200, 40, 10)), Image.new("RGB", (30, 20), (0, 0, 255))
    data = encode(first, kind, save_all=True, append_images=[second], **({"lossless": True} if kind == "WEBP" else {}))
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert (load_image(data) == (10, 40, 200)).all()


def test_transparent_gif_is_on_white() -> None:
    image = Image.new("P", (30, 20), 1)
    image.putpalette([10, 20, 30, 0, 0, 0])
    image.paste(0, (0, 0, 15, 20))
    result = load_image(encode(image, "GIF", transparency=1))
    assert (result[:, :15] == (30, 20, 10)).all()
    assert (result[:, 15:] == 255).all()


def test_jpeg_with_pictures_behind_it_gives_the_first() -> None:
    second = Image.new("RGB", (50, 50), (0, 0, 255))
    data = encode(blurred(), "MPO", save_all=True, append_images=[second], quality=90)
    assert load_image(data).shape == (40, 120, 3)
    assert np.abs(load_image(data).astype(int) - np.asarray(blurred())[..., ::-1]).mean() < 4


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "YCbCr", "HSV"])
def test_pil_images_of_every_mode(mode: str) -> None:
    image = PIL_RGB.quantize(16) if mode == "P" else PIL_RGB.convert(mode)
    np.testing.assert_array_equal(load_image(image), np.asarray(image.convert("RGB"))[..., ::-1])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_pil_images_with_alpha(mode: str) -> None:
    image = with_alpha().convert(mode)
    bgra = np.asarray(image.convert("RGBA"))[..., [2, 1, 0, 3]]
    np.testing.assert_array_equal(load_image(image), on_white(bgra))


def test_opened_pil_image_is_turned_and_a_processed_one_is_not() -> None:
    data = encode(PIL_RGB, "PNG", exif=exif(6))
    assert load_image(Image.open(io.BytesIO(data))).shape == (120, 40, 3)
    # It keeps its EXIF block, so that turning by it would turn it a second time.
    by_hand = Image.open(io.BytesIO(data)).rotate(-90, expand=True)
    assert by_hand.getexif().get(ORIENTATION) == 6
    np.testing.assert_array_equal(load_image(by_hand), load_image(data))


def test_pil_image_from_a_truncated_file() -> None:
    data = encode(PIL_RGB, "PNG")
    with pytest.raises(ImageError, match="truncated"):
        load_image(Image.open(io.BytesIO(data[: len(data) // 2])))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_known_white_are_refused(mode: str, tmp_path: Path) -> None:
    scan = tmp_path / "scan.tif"
    scan.write_bytes(encode(PIL_RGB.convert("L").convert(mode), "TIFF"))
    with pytest.raises(ImageError, match="convert it to 8 bits"):
        load_image(PIL_RGB.convert("L").convert(mode))
    with pytest.raises(ImageError, match=r"scan\.tif.*convert it to 8 bits"):
        load_image(scan)


def test_arrays_are_bgr() -> None:
    assert load_image(BGR) is not None
    np.testing.assert_array_equal(load_image(BGR), BGR)
    np.testing.assert_array_equal(load_image(BGR[:, ::-1]), BGR[:, ::-1])  # a view with strides of its own
    assert load_image(BGR[:, ::-1]).flags["C_CONTIGUOUS"]
    for grey in (GREY, GREY[..., None]):
        np.testing.assert_array_equal(load_image(grey), np.repeat(GREY[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (BGR.astype(np.float32) / 255, r"uint8 \(0 to 255\), not float32"),
        (BGR.astype(np.uint16), "not uint16"),
        (GREY > 100, "not bool"),
        (BGR.transpose(2, 0, 1), "3 x 40 x 120; move its channels to the end"),
        (BGR[None], r"\(H, W\) grey.*not 1 x 40 x 120 x 3"),
        (BGR[..., :2], "not 40 x 120 x 2"),
        (BGR[:0], "no pixels: 120 x 0"),
        (BGR[:, :0], "no pixels: 0 x 40"),
    ],
)
def test_arrays_that_are_no_images(array: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(array)


def test_other_things_are_no_images() -> None:
    with pytest.raises(ImageError, match="not list"):
        load_image([1, 2])  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="no pixels: 0 x 3"):
        load_image(Image.new("RGB", (0, 3)))


def test_path_errors_name_the_path(tmp_path: Path) -> None:
    missing, empty, text, pdf = (tmp_path / name for name in ("missing.png", "empty.png", "text.png", "scan.jpg"))
    empty.touch()
    text.write_text("P, and no image")
    pdf.write_bytes(b"%PDF-1.7\n")
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (missing, "missing.png: there is no such file"),
        (tmp_path, "is a directory"),
        (empty, r"empty.png is empty \(0 bytes\)"),
        (text, "text.png is not an image; images are read in PNG, JPEG"),
        (pdf, "scan.jpg is a PDF"),
        (tmp_path / "pipe", "not a regular file"),
        (Path("a\0b"), "cannot be read"),
    ):
        with pytest.raises(ImageError, match=message):
            load_image(path)


@pytest.mark.parametrize(
    "data", [b"", b"P", b"\xff", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"GIF89a", b"BM"]
)
def test_a_few_bytes_are_no_image(data: bytes) -> None:
    with pytest.raises(ImageError):
        load_image(data)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"exif": "thumbnail"}),
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("WEBP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
        ("JPEG2000", {}),
    ],
)
def test_truncated_files_give_an_error_and_never_half_an_image(kind: str, options: dict[str, object]) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 30, 3)).astype(np.uint8))
    if options.get("exif") == "thumbnail":  # its own end marker is not the image's
        tags = Image.Exif()
        tags[0x927C] = encode(image.resize((8, 8)), "JPEG")
        options = {"exif": tags}
    data = encode(image, kind, **options)
    whole = load_image(data)
    messages = set()
    for length in range(0, len(data), max(1, len(data) // 200)):
        try:
            # Check sums and closing marks can miss while all pixels are there.
            np.testing.assert_array_equal(load_image(data[:length]), whole)
            assert length > 0.9 * len(data)
        except ImageError as error:
            messages.add(str(error))
    if kind in ("JPEG", "PNG", "BMP", "GIF"):
        assert any("truncated" in message for message in messages)


def test_truncated_jpeg_says_truncated(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    data = encode(PIL_RGB, "JPEG")
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ImageError, match=r"photo\.jpg is truncated"):
        load_image(path)


def png_of(width: int, height: int) -> bytes:
    """A header that claims a size, and no pixels worth the name."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (2**32, 1)])
def test_absurd_sizes_are_refused_from_the_header(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=r"MB of work to unpack|broken"):
        load_image(png_of(size[0] & 0xFFFFFFFF, size[1]))


def test_long_and_thin_images_are_read() -> None:
    for size in ((20_000, 50), (1, 3_000), (1, 1)):
        assert load_image(encode(Image.new("L", size, 7), "PNG")).shape == (size[1], size[0], 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_broken_files_raise_image_errors_only(kind: str) -> None:
    data = encode(blurred(), kind)
    rng = np.random.default_rng(7)
    refused = 0
    for _ in range(150):
        broken = bytearray(data)
        for position in rng.integers(0, min(len(data), 400), 4):
            broken[position] = rng.integers(256)
        try:
            image = load_image(bytes(broken), max_bytes=2**25)
        except ImageError:
            refused += 1
        else:
            assert image.dtype == np.uint8
            assert image.ndim == 3
            assert image.shape[2] == 3
    assert refused > 0


def png_with_filters(pixels: np.ndarray, colour: int, depth: int, filters: list[int], extra: bytes = b"") -> bytes:
    """A PNG whose rows, (h, bytes), are written with the filters in turn."""
    pixel = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] * depth
    step = max(1, pixel // 8)
    before = np.zeros(pixels.shape[1], int)
    data = b""
    for index, row in enumerate(pixels.astype(int)):
        left = np.concatenate([np.zeros(step, int), row[:-step]])
        above_left = np.concatenate([np.zeros(step, int), before[:-step]])
        guess = left + before - above_left
        distances = np.abs(np.stack([guess - left, guess - before, guess - above_left]))
        paeth = np.where(
            (distances[0] <= distances[1]) & (distances[0] <= distances[2]),
            left,
            np.where(distances[1] <= distances[2], before, above_left),
        )
        kind = filters[index % len(filters)]
        data += bytes([kind]) + bytes(((row - [0, left, before, (left + before) // 2, paeth][kind]) % 256).tolist())
        before = row
    header = struct.pack(">IIBBBBB", pixels.shape[1] * 8 // pixel, len(pixels), depth, colour, 0, 0, 0)
    packed = zlib.compress(data)
    half = len(packed) // 2  # in two chunks
    parts = [(b"IHDR", header), (b"IDAT", packed[:half]), (b"IDAT", packed[half:]), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts]
    return b"\x89PNG\r\n\x1a\n" + chunks[0] + extra + b"".join(chunks[1:])


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every picture needed more than there is, to be decoded whole."""
    monkeypatch.setattr(images, "bytes_needed", lambda image, factor: 1e12)
    monkeypatch.setattr(png_rows, "STRIP_BYTES", 4096)
    monkeypatch.setattr(pixels, "STRIP_PIXELS", 1024)


@pytest.mark.parametrize(("colour", "depth"), [(c, d) for c, ds in png_rows._DEPTHS.items() for d in ds])
def test_a_png_in_rows_is_the_png_whole(colour: int, depth: int, request: pytest.FixtureRequest) -> None:
    rng = np.random.default_rng(colour * 16 + depth)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    rows = rng.integers(0, 256, (61, 24 * channels * depth // 8)).astype(np.uint8)
    extra = b""
    if colour == 3:
        for kind, body in ((b"PLTE", rng.bytes(768)), (b"tRNS", rng.bytes(200))):
            extra += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    data = png_with_filters(rows, colour, depth, [0, 1, 2, 3, 4, 4, 3], extra)
    whole = load_image(data)
    request.getfixturevalue("in_pieces")
    np.testing.assert_array_equal(load_image(data), whole)
    for length in range(60, len(data) - 40, len(data) // 5):
        with pytest.raises(ImageError):
            load_image(data[:length])


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "CMYK", "I;16", "YCbCr"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "jpeg", "packbits", "group4"])
def test_a_tiff_in_pieces_is_the_tiff_whole(mode: str, compression: str, request: pytest.FixtureRequest) -> None:
    if (compression == "group4" and mode != "1") or (
        compression == "jpeg" and mode not in ("RGB", "L", "YCbCr", "CMYK")
    ):
        pytest.skip("there is no such TIFF")
    image = with_alpha() if mode == "RGBA" else blurred().convert("L" if mode == "I;16" else mode).resize((120, 333))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 251)
    options = {} if compression == "raw" else {"compression": compression}
    tags = {278: 32} if compression != "raw" else {}
    data = encode(image, "TIFF", tiffinfo=tags, exif=exif(1), **options)
    whole = load_image(data)
    request.getfixturevalue("in_pieces")
    cut = Image.open(io.BytesIO(data))
    assert isinstance(cut, TiffImagePlugin.TiffImageFile)
    assert can_be_cut(cut, 2**23)
    np.testing.assert_array_equal(load_image(data), whole)
    with pytest.raises(ImageError):
        load_image(data[: len(data) // 2])


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_what_opencv_reads_into_an_array_is_turned_too(orientation: int, tmp_path: Path) -> None:
    for kind, options in (("JPEG", {}), ("WEBP", {"quality": 70})):
        path = tmp_path / kind
        path.write_bytes(encode(blurred(), kind, exif=exif(orientation), **options))
        # More than reading into an array takes, less than the ordinary way does.
        ordinary = {"JPEG": 6.1, "WEBP": 16.1}[kind]
        limit = int(120 * 40 * ordinary) - 1
        if kind == "JPEG" and (orientation > 1 or not images._READS_INTO):
            limit += 1000
        np.testing.assert_array_equal(load_image(path, max_bytes=limit), load_image(path))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF"])
def test_what_needs_more_than_it_is_given_is_read_smaller_and_that_is_said(kind: str, tmp_path: Path) -> None:
    image = Image.new("L", (8000, 6000), 255)
    image.paste(0, (0, 0, 4000, 3000))
    path = tmp_path / f"scan.{kind.lower()}"
    image.save(path, **({"compression": "tiff_lzw"} if kind == "TIFF" else {}))
    with pytest.warns(UserWarning, match=r"scan\.\w+ is read \d times smaller, .* of 8,000 x 6,000 pixels"):
        small = load_image(path, max_bytes=130_000_000)
    assert small.shape[0] < 6000
    assert abs(small.shape[1] / small.shape[0] - 4 / 3) < 0.001
    assert small.nbytes <= 97_500_000
    middle = small.shape[0] // 2, small.shape[1] // 2
    assert small[: middle[0] - 2, : middle[1] - 2].max() < 10
    assert small[middle[0] + 2 :].min() > 245
    with pytest.raises(ImageError, match=r"need about .* MB to be decoded"):
        load_image(path, max_bytes=130_000_000, reduce=False)


def test_what_cannot_be_read_in_parts_is_refused_for_its_memory() -> None:
    with pytest.raises(
        ImageError, match=r"30 x 20 pixels need about .* MB to be decoded.*--max-picture-mb.* allows more"
    ):
        load_image(encode(Image.new("RGBA", (30, 20), (1, 2, 3, 4)), "WEBP"), max_bytes=1000)


# Colour type and depth, and the largest side of a square that a small file may unpack to.
LARGEST = [(0, 8, 14_142), (0, 1, 14_142), (3, 4, 14_142), (2, 8, 8_164), (2, 16, 5_773), (6, 8, 5_773), (6, 16, 4_082)]


@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize(("colour", "depth", "side"), LARGEST)
def test_what_unpacks_to_more_than_its_file_may_is_refused_by_its_header(
    colour: int, depth: int, side: int, interlaced: int
) -> None:
    def header(side: int) -> bytes:
        chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, interlaced))]
        chunks += [(b"PLTE", bytes(48))] if colour == 3 else []
        chunks += [(b"IDAT", zlib.compress(bytes(100)))]
        return png_rows.SIGNATURE + b"".join(png_rows._written(kind, body) for kind, body in chunks)

    started = time.process_time()
    with pytest.raises(ImageError, match=r"MB of work to unpack, .* is given 200; --max-picture-mb"):
        load_image(header(side + 1))
    assert time.process_time() - started < 0.5
    limits = picture_budget.Limits(None, True).of(1000)
    image = open_picture(io.BytesIO(header(side)), header(side))
    assert image is not None
    limits.check_work("the image", image)


@pytest.mark.parametrize(("mode", "side"), [("RGB", 8_164), ("L", 14_142), ("1", 14_142), ("CMYK", 7_071)])
def test_other_formats_have_the_same_bound(mode: str, side: int) -> None:
    # The tags of the size alone say more than there is.
    data = bytearray(encode(Image.new(mode, (16, 16)), "TIFF"))
    for tag in (b"\0\1", b"\1\1"):
        (place,) = re.finditer(re.escape(tag) + rb"[\x03\x04]\x00\x01\x00\x00\x00\x10\x00\x00\x00", data)
        data[place.start() + 2 : place.end()] = struct.pack("<HLL", 4, 1, side + 1)
    with pytest.raises(ImageError, match=r"MB of work to unpack, .* is given 200; --max-picture-mb"):
        load_image(bytes(data))


@pytest.mark.slow
def test_a_gif_is_refused_before_it_is_decoded() -> None:
    buffer = io.BytesIO()
    Image.new("P", (15_000, 14_000)).save(buffer, "GIF")
    started = time.process_time()
    with pytest.raises(ImageError, match="15,000 x 14,000 pixels are 210 MB of work"):
        load_image(buffer.getvalue())
    assert time.process_time() - started < 1


def test_whoever_allows_a_picture_more_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_budget, "WORK_AT_MOST", 1000)
    monkeypatch.setattr(picture_budget, "WORK_PER_BYTE", 0)
    data = encode(PIL_RGB, "PNG")
    with pytest.raises(ImageError, match="max_bytes of load_image, reads it all the same"):
        load_image(data)
    assert load_image(data, max_bytes=picture_budget.BUDGET).shape == (40, 120, 3)


def test_a_file_of_holes_is_refused_by_its_first_bytes(tmp_path: Path) -> None:
    for name, start in (
        ("zeros.png", b""),
        ("header.png", encode(PIL_RGB, "PNG")[:40]),
        ("a.jpg", b"\xff\xd8\xff\xe0"),
    ):
        path = tmp_path / name
        with open(path, "wb") as file:
            file.write(start)
            file.truncate(1 << 40)
        with pytest.raises(ImageError, match=name):
            load_image(path)


@pytest.mark.parametrize("start", [b"\xff\xd8\xff\xe0\0\4ab", b"GIF89a" + bytes(7)])
def test_a_header_that_does_not_end_is_not_searched_for_ever(start: bytes) -> None:
    with pytest.raises(ImageError, match=r"its header does not end|truncated"):
        load_image(start + bytes(2**25))


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    data = encode(PIL_RGB, "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    many = data[:-2] + data[start:-2] * 2 + data[-2:]
    assert load_image(many).shape == (40, 120, 3)
    found = read_markers(data)
    assert found.whole
    assert 5 < found.scans < 15
    assert found.coefficients == pytest.approx(3)
    huge = bytearray(data[:-2] + data[start:-2] * 300 + data[-2:])
    frame = huge.index(b"\xff\xc2")
    huge[frame + 5 : frame + 9] = struct.pack(">HH", 8000, 8000)
    with pytest.raises(ImageError, match=r"8,000 x 8,000 pixels in 3.. scans"):
        load_image(bytes(huge))


# Letters on nothing


def letters_on_nothing(*colours: tuple[int, ...], width: int = 60) -> Image.Image:
    image = Image.new("RGBA", (width, 30), (9, 9, 9, 0))
    for place, colour in enumerate(colours):
        image.paste(colour, (6 + 10 * place, 8, 10 + 10 * place, 22))
    return image


@pytest.mark.parametrize(
    ("colours", "ground"),
    [
        ([(0, 0, 0, 255)], 255),
        ([(255, 0, 0, 255), (255, 255, 0, 255)], 255),
        ([(128, 128, 128, 255)], 255),
        ([(0, 0, 0, 100)], 255),
        ([(255, 255, 255, 255)], 0),
        ([(235, 240, 250, 255)], 0),
        ([(255, 255, 255, 128)], 0),
        ([(255, 255, 255, 255), (255, 255, 0, 255), (0, 255, 0, 255)], 0),
        ([(255, 255, 255, 255), (0, 0, 0, 255)], 128),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "palette", "PIL", "array"])
def test_letters_of_any_colour_on_nothing_are_laid_on_what_shows_them(
    colours: list[tuple[int, ...]], ground: int, kind: str
) -> None:
    image = letters_on_nothing(*colours)
    source: Any = image
    if kind == "array":
        source = np.asarray(image)[:, :, [2, 1, 0, 3]]
    elif kind == "palette":
        if any(0 < colour[3] < 255 for colour in colours):
            pytest.skip("a palette is transparent or not")
        source = encode(image.quantize(8), "PNG")
    elif kind != "PIL":
        source = encode(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = load_image(source)
    assert (result[0, 0] == ground).all()
    found = [str(warning.message) for warning in said if "laid on" in str(warning.message)]
    assert len(found) == (ground != 255)
    for place in range(len(colours)):
        assert np.abs(result[15, 8 + 10 * place].astype(int) - ground).max() > 40


def test_grey_and_deep_letters_on_nothing() -> None:
    white = letters_on_nothing((255, 255, 255, 255))
    assert (load_image(encode(white.convert("LA"), "PNG"))[0, 0] == 0).all()
    deep = np.where(np.asarray(white)[:, :, 3] > 0, 65535, 1799).astype(np.uint16)
    assert (load_image(encode(Image.fromarray(deep), "PNG", transparency=1799))[0, 0] == 0).all()
    first, second = white, letters_on_nothing((0, 0, 0, 255))
    for kind in ("PNG", "WEBP", "GIF"):
        assert (load_image(encode(first, kind, save_all=True, append_images=[second]))[0, 0] == 0).all()


def test_a_card_with_transparent_corners_stays_on_white() -> None:
    card = Image.new("RGBA", (120, 60), (0, 0, 0, 0))
    card.paste((255, 255, 255, 255), (10, 10, 110, 50))
    card.paste((0, 0, 0, 255), (40, 25, 43, 35))
    assert (load_image(encode(card, "PNG"))[0, 0] == 255).all()
    assert (load_image(Image.new("RGBA", (20, 20), (0, 0, 0, 0))) == 255).all()

"""Pages to read, one at a time: images, folders, globs, PDFs, multi-page TIFFs, standard input.

Nothing here stops for a broken file: what cannot be read comes as a `Failure` in its place, so that a run over a
folder goes on and tells in the end.
"""

from __future__ import annotations

import glob
import io
import math
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pypdfium2
from PIL import TiffImagePlugin

from paddle2torch.tasks.images import BROKEN, MAX_PIXELS, BGRImage, ImageError, load_image

STDIN = "-"

_JPEG_LIKE = {".jpg", ".jpeg", ".jpe", ".jp2", ".j2k", ".webp", ".avif"}
_LOSSLESS = {".png", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
SUFFIXES = frozenset({".pdf"} | _JPEG_LIKE | _LOSSLESS)
"""What is read of a folder, by the end of the name. A file that is named itself may be called anything."""

PDF_SCALE = 2.0
PDF_LARGE = 2000
"""PDFs are rendered at 144 dpi, and at 72 dpi where a side would have more than 2000 pixels: PaddleOCR's choice."""

PDF_MAX_PIXELS = 2**26
"""Of one rendered page (0.2 GB). A PDF of a kilobyte can ask for a page of any size; it is rendered smaller."""

PDF_MAX_SIDE = 2**15

_HEAD = 1024  # bytes that tell what a file is
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# PDFium may be called from one thread at a time.
_PDFIUM = threading.Lock()


@dataclass(frozen=True, eq=False)
class Page:
    """A page: uint8 (height, width, 3), BGR, from page `number` of `count` (both from 1) of `source`, a path or `-`."""

    source: str
    number: int
    count: int
    image: BGRImage


@dataclass(frozen=True)
class Failure:
    """What could not be read. `number` is the page, None where the whole file is meant; `message` names both."""

    source: str
    number: int | None
    message: str


def find_sources(inputs: Iterable[str | Path]) -> list[str]:
    """The files behind what a user names: files, folders, globs (`**` for folders in folders), `-` for standard input.

    A folder stands for the images and PDFs directly in it, sorted by name; hidden ones are left out. A
    file named twice is read once. What does not exist or matches nothing stays as it is: reading it gives the `Failure`
    that says so.
    """
    sources: list[str] = []
    for name in map(str, inputs):
        path = Path(name)
        if path.is_dir():
            inside = (entry for entry in path.iterdir() if entry.suffix.lower() in SUFFIXES)
            found = sorted(str(entry) for entry in inside if not entry.name.startswith(".") and entry.is_file())
        elif name != STDIN and not path.exists() and glob.has_magic(name):
            found = sorted(match for match in glob.glob(name, recursive=True) if Path(match).is_file())
        else:
            found = [name]
        sources += found or [name]
    return list(dict.fromkeys(sources))


def _never(source: str, number: int) -> bool:
    return False


def read_pages(sources: Iterable[str], done: Callable[[str, int], bool] = _never) -> Iterator[Page | Failure]:
    """The pages of all sources in order, each loaded when it is asked for.

    `done` is asked with a source and the number of a page; a page that is done is neither given nor loaded.
    """
    for source in sources:
        try:
            yield from _read(source, done)
        except ImageError as error:
            yield Failure(source, None, f"standard input: {error}" if source == STDIN else str(error))


def _read(source: str, done: Callable[[str, int], bool]) -> Iterator[Page | Failure]:
    data: bytes | Path
    if source == STDIN:
        data = sys.stdin.buffer.read()
        start = data[:_HEAD]
    else:
        data = Path(source)
        start = _start(data)
    # Readers of PDF accept some bytes before the header.
    if b"%PDF-" in start:
        yield from _read_pdf(source, data, done)
    elif start.startswith(_TIFF):
        yield from _read_tiff(source, data, done)
    elif not done(source, 1):
        yield Page(source, 1, 1, load_image(data))


def _start(path: Path) -> bytes:
    if path.is_dir():
        raise ImageError(f"{path} holds no images or PDFs; for those in its folders name '{path}/**/*.png' or the like")
    if not path.is_file():
        if not path.exists() and glob.has_magic(str(path)):
            raise ImageError(f"no file matches {path}")
        return b""  # load_image says what is wrong with it
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error}") from None


def _read_pdf(source: str, data: bytes | Path, done: Callable[[str, int], bool]) -> Iterator[Page | Failure]:
    with _PDFIUM:
        try:
            document = pypdfium2.PdfDocument(data)
            # Before anything else is asked of it, or what is filled in is not drawn.
            document.init_forms()
            count = len(document)
        except pypdfium2.PdfiumError as error:
            if error.err_code == pypdfium2.raw.FPDF_ERR_PASSWORD:
                raise ImageError(
                    f"{source} is protected by a password; save a copy without one and read that "
                    "(qpdf --decrypt --password=SECRET IN.pdf OUT.pdf)"
                ) from None
            raise ImageError(f"{source} is broken: {error}") from None
    try:
        for number in range(1, count + 1):
            if done(source, number):
                continue
            try:
                image = _render(document, number - 1)
            except pypdfium2.PdfiumError as error:
                yield Failure(source, number, f"{source}, page {number} is broken: {error}")
            else:
                yield Page(source, number, count, image)
    finally:
        with _PDFIUM:
            document.close()


def _render(document: pypdfium2.PdfDocument, index: int) -> BGRImage:
    with _PDFIUM, closing(document[index]) as page:
        width, height = page.get_size()  # in points
        scale = PDF_SCALE if max(width, height) * PDF_SCALE <= PDF_LARGE else 1.0
        scale = min(scale, math.sqrt(PDF_MAX_PIXELS / (width * height)), PDF_MAX_SIDE / max(width, height))
        with closing(page.render(scale=scale)) as bitmap:
            return np.array(bitmap.to_numpy(), dtype=np.uint8)


def _read_tiff(source: str, data: bytes | Path, done: Callable[[str, int], bool]) -> Iterator[Page | Failure]:
    # The class itself, because Image.open has a limit of its own for the size of a page.
    try:
        image = TiffImagePlugin.TiffImageFile(io.BytesIO(data) if isinstance(data, bytes) else data)
        count = image.n_frames
    except BROKEN as error:
        raise ImageError(f"{source} is broken: {error}") from None
    with image:
        for number in range(1, count + 1):
            if done(source, number):
                continue
            try:
                yield Page(source, number, count, _frame(image, number - 1))
            except ImageError as error:
                yield Failure(source, number, f"{source}, page {number}: {error}")


def _frame(image: TiffImagePlugin.TiffImageFile, index: int) -> BGRImage:
    try:
        image.seek(index)
    except BROKEN as error:
        raise ImageError(f"the page is broken: {error}") from None
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{image.width} x {image.height} pixels are more than the {MAX_PIXELS:,} that are read")
    return load_image(image)

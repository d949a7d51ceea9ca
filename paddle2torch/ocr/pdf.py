"""PDFs, in a process of its own with limits, which lives from one page to the next.

Pages are rendered as pixels; pictures become pages, and text is put on pages invisibly.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.ocr import _pdf_process
from paddle2torch.tasks.images import BGRImage, ImageError
from paddle2torch.tasks.picture_budget import BUDGET, BUDGET_PER_BYTE

SCALE = 2.0
LARGE = 2000
"""PDFs are rendered at 144 dpi, and at 72 dpi where a side would have more than 2000 pixels: PaddleOCR's choice."""

MAX_PIXELS = 40_000_000
"""Pixels of one rendered page (120 MB). A PDF of a kilobyte can ask for a page of any size; it is rendered smaller."""

MAX_SIDE = 2**15

MAX_DPI = 2400
POINTS = 72  # to the inch
MOST_POINTS = 14_400
"""Points of a page's side: programs show no larger ones."""

SECONDS = 1.5
SECONDS_PER_BYTE = 2e-6
SECONDS_AT_MOST = 60.0
"""Seconds of the processor for opening a file and for each page. Larger files, which draw more, get more."""

_WAITED = 10  # seconds of the clock for one of the processor, where others keep the processor busy
_PAGES = 1000
_BYTES_PER_PAGE = 16


@dataclass(frozen=True)
class Picture:
    """A picture that becomes a page. size: width and height as it is seen, in pixels.

    content: uint8 (height, width, 3), BGR; or the bytes of a JPEG, which is kept, with its EXIF orientation, 1 to 8.
    """

    size: tuple[int, int]
    dpi: float
    content: BGRImage | bytes
    orientation: int = 1


@dataclass
class PlacedText:
    """A word or space in a parallelogram on a page: where it begins and ends below, and its upper corner above `start`.

    text: as it is seen, in the direction from `start` to `end`. Points are (x, y) in pixels, y down.
    """

    text: str
    start: NDArray[np.floating[Any]]
    end: NDArray[np.floating[Any]]
    above: NDArray[np.floating[Any]]


class TooMuchError(ImageError):
    """A page was ended at a limit."""


class PdfProcess:
    """Opens a PDF and renders its pages; a context that ends the process.

    dpi: of the pages; without it `SCALE` and `LARGE` hold. More than `MAX_PIXELS` are never rendered.
    """

    def __init__(self, dpi: float | None = None) -> None:
        if dpi is not None and not 1 <= dpi <= MAX_DPI:
            raise ConfigError(f"dpi is from 1 to {MAX_DPI:,}, not {dpi}")
        self._dpi = dpi
        self._process: subprocess.Popen[bytes] | None = None
        self._source: bytes | Path = b""
        self._size = 0

    def __enter__(self) -> PdfProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def open(self, source: bytes | Path, name: str) -> int:
        """The number of pages. Raises `ImageError` for what cannot be opened, or opened within the limits."""
        self._source = source
        self._size = len(source) if isinstance(source, bytes) else _stored(source)
        count = self._open(name)
        most = max(_PAGES, self._size // _BYTES_PER_PAGE)
        if count > most:
            raise ImageError(f"{name} says that it has {count:,} pages, more than its {self._size:,} bytes can hold")
        return count

    def render(self, index: int, name: str) -> BGRImage:
        """Page `index`, from 0: uint8 (height, width, 3), BGR. Raises `ImageError`, at a limit `TooMuchError`."""
        if self._process is None:
            self._open(name)
        request: dict[str, Any] = {"render": index, "scale": SCALE, "large": LARGE}
        if self._dpi is not None:
            request |= {"scale": self._dpi / POINTS, "large": MAX_SIDE}
        request |= {"pixels": MAX_PIXELS, "side": MAX_SIDE}
        image: BGRImage = self._ask(request, name, _pixels)
        return image

    def create(self) -> None:
        """Begin a document without pages."""
        self._source, self._size = b"", 0
        self._ask({"create": True}, "a new PDF", _nothing)

    def add_page(self, picture: Picture) -> None:
        """Add a page of the picture's size, at most 200 inches a side, which shows it."""
        width, height = (POINTS * side / picture.dpi for side in picture.size)
        smaller = min(1.0, MOST_POINTS / max(width, height))
        request: dict[str, Any] = {"page": [width * smaller, height * smaller]}
        if isinstance(picture.content, bytes):
            data = picture.content
            request |= {"orientation": picture.orientation}
        else:
            pixels = picture.content
            if np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 1], pixels[..., 2]):
                pixels = pixels[..., :1]  # grey: a third of the size
            data = np.ascontiguousarray(pixels).tobytes()
            request |= {"pixels": pixels.shape}
        # All pages stay in memory until the document is written.
        self._size += len(data)
        self._ask({**request, "length": len(data)}, "a page of the new PDF", _nothing, data)

    def add_text(self, index: int | None, size: tuple[int, int], text: Sequence[PlacedText]) -> None:
        """Put text on page `index`, from 0, or on the last one.

        size: width and height, in pixels, of the picture in which the text has its points.
        """
        pieces = [
            (piece.text, *(round(float(x), 2) for point in (piece.start, piece.end, piece.above) for x in point))
            for piece in text
        ]
        data = json.dumps(pieces).encode()
        self._ask({"text": index, "size": size, "length": len(data)}, "a page of text", _nothing, data)

    def save(self, name: str) -> bytes:
        """The document with all that was added."""
        data: bytes = self._ask({"save": True}, name, _content, seconds=SECONDS_AT_MOST)
        return data

    def _open(self, name: str) -> int:
        def count(answer: dict[str, int], stream: IO[bytes]) -> int:
            return answer["count"]

        if isinstance(self._source, bytes):
            return int(self._ask({"open": None, "length": len(self._source)}, name, count, self._source))
        return int(self._ask({"open": os.path.abspath(self._source)}, name, count))

    def _ask(
        self, request: dict[str, Any], name: str, take: Any, data: bytes = b"", seconds: float | None = None
    ) -> Any:
        if seconds is None:
            seconds = min(SECONDS + SECONDS_PER_BYTE * self._size, SECONDS_AT_MOST)
        limits = {"seconds": seconds, "memory": max(BUDGET, BUDGET_PER_BYTE * self._size)}
        process = self._process = self._process or _start()
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(_WAITED * (seconds + 1), process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps({**request, **limits}).encode() + b"\n" + data)
            process.stdin.flush()
            line = process.stdout.readline()
            answer = json.loads(line) if line.endswith(b"\n") else None
            result = None if answer is None or "error" in answer else take(answer, process.stdout)
        except (OSError, EOFError):
            answer = None
        finally:
            timer.cancel()
        if answer is None:
            raise self._ended(name)
        if "error" in answer:
            if answer["password"]:
                raise ImageError(
                    f"{name} is protected by a password; save a copy without one and read that "
                    "(qpdf --decrypt --password=SECRET IN.pdf OUT.pdf)"
                )
            raise ImageError(f"{name} is broken: {answer['error']}")
        return result

    def _ended(self, name: str) -> ImageError:
        """Why the process is no more."""
        process = self._process
        assert process is not None
        self._process = None
        status = _close(process)
        if status == _pdf_process.TOO_LONG or (sys.platform != "win32" and status == -9):
            return TooMuchError(f"{name} takes too long")
        if status == _pdf_process.TOO_MUCH:
            return TooMuchError(f"{name} takes too much memory")
        return TooMuchError(f"{name} cannot be rendered: PDFium ended with status {status}, or ran out of memory")

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            _close(self._process)
            self._process = None


def _start() -> subprocess.Popen[bytes]:
    command = [sys.executable, os.path.abspath(_pdf_process.__file__)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _close(process: subprocess.Popen[bytes]) -> int:
    for stream in (process.stdin, process.stdout):
        try:
            if stream is not None:
                stream.close()
        except OSError:  # what was not yet written to a process that has ended
            pass
    return process.wait()


def _pixels(answer: dict[str, int], stream: IO[bytes]) -> BGRImage:
    image = np.empty((answer["height"], answer["width"], 3), np.uint8)
    view: memoryview = image.data.cast("B")
    done = 0
    while done < len(view):
        count = stream.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        done += count
    return image


def _nothing(answer: dict[str, int], stream: IO[bytes]) -> None:
    """For requests that are only done."""


def _content(answer: dict[str, int], stream: IO[bytes]) -> bytes:
    data = stream.read(answer["length"])
    if len(data) < answer["length"]:
        raise EOFError
    return data


def _stored(path: Path) -> int:
    """The size of a file without its holes, where the system tells of them."""
    status = path.stat()
    blocks = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else min(status.st_size, max(512 * blocks, 2**16))

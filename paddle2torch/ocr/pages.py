"""Pages to read, one at a time: images, folders, globs, PDFs, multi-page TIFFs, standard input.

Nothing here stops for a broken file: what cannot be read comes as a `Failure` in its place, so that a run over a
folder goes on and tells in the end.
"""

from __future__ import annotations

import glob
import io
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import TiffImagePlugin

from paddle2torch.ocr.pdf import PdfProcess, TooMuchError
from paddle2torch.tasks.failures import what_went_wrong
from paddle2torch.tasks.file_patterns import matching_paths
from paddle2torch.tasks.images import BGRImage, ImageError, load_image
from paddle2torch.tasks.picture_headers import BROKEN

STDIN = "-"

_JPEG_LIKE = {".jpg", ".jpeg", ".jpe", ".jp2", ".j2k", ".webp", ".avif"}
_LOSSLESS = {".png", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
SUFFIXES = frozenset({".pdf"} | _JPEG_LIKE | _LOSSLESS)
"""What is read of a folder, by the end of the name. A file that is named itself may be called anything."""

STDIN_AT_MOST = 2**30
"""Bytes of standard input, which has no size that could be looked at."""

HEAD = 1024
"""Bytes that tell what a file is."""

_LEFT_AFTER = 3  # pages of a PDF that were ended at a limit, after which its others are left

_PDF = b"%PDF-"  # anywhere in the head: readers of PDF accept some bytes before it
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True, eq=False)
class Page:
    """A page: uint8 (height, width, 3), BGR, from page `number` of `count` (both from 1) of `source`, a path or `-`."""

    source: str
    number: int
    count: int
    image: BGRImage


@dataclass(frozen=True)
class PageRange:
    """Pages `first` to `last` of `source`, from 1, both of them too: what a process or machine is given at once."""

    source: str
    first: int
    last: int

    @property
    def numbers(self) -> range:
        """The numbers of the pages."""
        return range(self.first, self.last + 1)

    def leaves_out(self, source: str, number: int) -> bool:
        """Whether a page of the source is outside of the range: what `done` of `read_pages` and `find_ranges` asks."""
        return number not in self.numbers


@dataclass(frozen=True)
class Failure:
    """What could not be read.

    Attributes:
        source: the path, or `-`.
        number: of the page, from 1; None where the whole file is meant.
        message: names both, and says why.
    """

    source: str
    number: int | None
    message: str


def find_sources(inputs: Iterable[str | Path]) -> list[str]:
    """The files behind what a user names: files, folders, globs (`**` for folders in folders), `-` for standard input.

    A folder means the images and PDFs directly in it, sorted by name; hidden ones are left out. A
    file named twice is read once. A folder that `**` meets again, behind links, is looked into once, and after
    `FOLDERS_AT_MOST` a warning says that the others are left. What does not exist or matches nothing stays as it is:
    reading it yields the `Failure` that says so.
    """
    sources: list[str] = []
    for name in map(str, inputs):
        try:
            found = _find(name)
        except OSError:  # a name that is too long, a folder that may not be looked into: reading it says so
            found = []
        sources += found or [name]
    return list(dict.fromkeys(sources))


def _find(name: str) -> list[str]:
    path = Path(name)
    if path.is_dir():
        inside = (entry for entry in path.iterdir() if entry.suffix.lower() in SUFFIXES)
        return sorted(str(entry) for entry in inside if not entry.name.startswith(".") and entry.is_file())
    if name != STDIN and not path.exists() and glob.has_magic(name):
        return sorted(match for match in matching_paths(name) if Path(match).is_file())
    return [name]


def _never(source: str, number: int) -> bool:
    return False


def read_pages(
    sources: Iterable[str],
    done: Callable[[str, int], bool] = _never,
    *,
    dpi: float | None = None,
    max_bytes: int | None = None,
) -> Iterator[Page | Failure]:
    """The pages of all sources in order, each loaded when it is asked for.

    dpi: pixels to the inch of the rendered pages of PDFs; without it PaddleOCR's choice, 144, and 72 for large pages.

    max_bytes: memory for decoding one picture, see `load_image`.

    `done` is asked with a source and the number of a page; a page that is done is neither given nor loaded.
    """
    with PdfProcess(dpi) as pdfs:
        for source in sources:
            yield from _read_or_fail(source, done, pdfs, max_bytes)


def read_range(pages: PageRange, pdfs: PdfProcess, *, max_bytes: int | None = None) -> Iterator[Page | Failure]:
    """The pages of a range, as `read_pages` gives them; fewer where the file has fewer by now."""
    return _read_or_fail(pages.source, pages.leaves_out, pdfs, max_bytes)


def find_ranges(
    sources: Iterable[str], done: Callable[[str, int], bool] = _never, *, most: int
) -> Iterator[PageRange | Failure]:
    """The pages of all sources that are not done, in order, up to `most` together; no page is loaded for that.

    A file whose pages cannot be counted is the `Failure` that reading it would be.
    """
    with PdfProcess() as pdfs:
        for source in sources:
            try:
                count = _count_pages(source, pdfs)
            except Exception as error:  # one file never ends the run
                yield _failure_of_source(source, error)
                continue
            todo = (PageRange(source, number, number) for number in range(1, count + 1) if not done(source, number))
            yield from join_ranges(todo, most=most)


def join_ranges(found: Iterable[PageRange | Failure], *, most: int) -> Iterator[PageRange | Failure]:
    """What was found, in its order, where pages of one source that follow one another are joined, up to `most`."""
    before: PageRange | Failure | None = None
    for pages in found:
        if isinstance(before, PageRange) and isinstance(pages, PageRange):
            joined = replace(before, last=pages.last)
            follows = (pages.source, pages.first) == (before.source, before.last + 1)
            if follows and len(joined.numbers) <= most:
                before = joined
                continue
        if before is not None:
            yield before
        before = pages
    if before is not None:
        yield before


def _count_pages(source: str, pdfs: PdfProcess) -> int:
    """Of a picture 1, whatever is wrong with it: reading it says so."""
    path = Path(source)
    start = _start(path)
    if _PDF in start:
        return pdfs.open(path, source)
    if start.startswith(_TIFF):
        with _open_tiff(source, path) as image:
            return image.n_frames
    return 1


def _failure_of_source(source: str, error: Exception) -> Failure:
    if isinstance(error, ImageError):
        return Failure(source, None, f"standard input: {error}" if source == STDIN else str(error))
    return failure_of(source, None, error)


def failure_of(source: str, page: int | None, error: Exception) -> Failure:
    """The `Failure` of a source, or of one of its pages, that ran into `error`."""
    name = "standard input" if source == STDIN else source
    place = name if page is None else f"{name}, page {page}"
    return Failure(source, page, f"{place} cannot be read: {what_went_wrong(error)}")


def _read_or_fail(
    source: str, done: Callable[[str, int], bool], pdfs: PdfProcess, max_bytes: int | None
) -> Iterator[Page | Failure]:
    try:
        yield from _read(source, done, pdfs, max_bytes)
    except Exception as error:  # one file never ends the run
        yield _failure_of_source(source, error)


def _read(
    source: str, done: Callable[[str, int], bool], pdfs: PdfProcess, max_bytes: int | None
) -> Iterator[Page | Failure]:
    data: bytes | Path
    if source == STDIN:
        data = sys.stdin.buffer.read(STDIN_AT_MOST + 1)
        if len(data) > STDIN_AT_MOST:
            raise ImageError(f"there are more than {STDIN_AT_MOST:,} bytes; save them to a file and name that")
        start = data[:HEAD]
    else:
        data = Path(source)
        start = _start(data)
    if _PDF in start:
        yield from _pdf_pages(source, pdfs.open(data, source), done, pdfs)
    elif start.startswith(_TIFF):
        with _open_tiff(source, data) as image:
            yield from _tiff_pages(source, image, done, max_bytes)
    elif not done(source, 1):
        yield Page(source, 1, 1, load_image(data, max_bytes=max_bytes))


class OpenDocument:
    """A file in memory: the number of its pages, and each when it is asked for; a context that ends what renders them.

    name: what its pages and errors call it. Several threads may take pages. Raises `ImageError` for what cannot be
    opened; what the pages cannot give comes as a `Failure`.
    """

    def __init__(self, data: bytes, name: str, *, dpi: float | None = None) -> None:
        self._lock = threading.Lock()
        self._pdfs = PdfProcess(dpi)
        self._pages: Iterator[Page | Failure]
        start = data[:HEAD]
        if is_pdf_data(data):
            try:
                self.count = self._pdfs.open(data, name)
            except BaseException:
                self.close()
                raise
            self._pages = _pdf_pages(name, self.count, _never, self._pdfs)
        elif start.startswith(_TIFF):
            image = _open_tiff(name, data)
            self.count = image.n_frames
            self._pages = _tiff_pages(name, image, _never, None)
        else:
            self.count = 1
            self._pages = _picture(name, data)

    def __enter__(self) -> OpenDocument:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def take(self) -> Page | Failure | None:
        """The next page; None where there is none."""
        with self._lock:
            return next(self._pages, None)

    def close(self) -> None:
        """End what renders the pages."""
        with self._lock:
            self._pdfs.__exit__()


def _picture(source: str, data: bytes) -> Iterator[Page | Failure]:
    try:
        yield Page(source, 1, 1, load_image(data))
    except ImageError as error:
        yield Failure(source, 1, f"{source}: {error}")


def may_have_pages(head: bytes) -> bool:
    """Whether a file whose first `HEAD` bytes these are is a PDF or a TIFF: anything else is one page."""
    return _PDF in head or head.startswith(_TIFF)


def is_pdf_data(data: bytes) -> bool:
    """Whether the bytes of a file are those of a PDF."""
    return _PDF in data[:HEAD]


def is_pdf(path: str) -> bool:
    """Whether a file is a PDF. What cannot be read is none."""
    try:
        return _PDF in _start(Path(path))
    except ImageError:
        return False


def is_document(path: str) -> bool:
    """Whether a file is a PDF, or a TIFF of several pages. What cannot be read is neither."""
    try:
        start = _start(Path(path))
        if _PDF in start:
            return True
        if not start.startswith(_TIFF):
            return False
        with TiffImagePlugin.TiffImageFile(Path(path)) as image:
            return image.n_frames > 1
    except (ImageError, *BROKEN):
        return False


def _start(path: Path) -> bytes:
    if path.is_dir():
        raise ImageError(f"{path} holds no images or PDFs; for those in its folders name '{path}/**/*.png' or the like")
    if not path.is_file():
        if not path.exists() and glob.has_magic(str(path)):
            raise ImageError(f"no file matches {path}")
        return b""  # load_image says what is wrong with it
    try:
        with open(path, "rb") as file:
            return file.read(HEAD)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error}") from None


def _pdf_pages(source: str, count: int, done: Callable[[str, int], bool], pdfs: PdfProcess) -> Iterator[Page | Failure]:
    ended = 0
    for number in range(1, count + 1):
        if done(source, number):
            continue
        try:
            image = pdfs.render(number - 1, f"{source}, page {number}")
        except ImageError as error:
            yield Failure(source, number, str(error))
            ended += isinstance(error, TooMuchError)
            if ended == _LEFT_AFTER and number < count:
                yield Failure(
                    source, None, f"{source}: after {ended} such pages the others are left, from page {number + 1}"
                )
                return
        except Exception as error:  # one page never ends the run
            yield failure_of(source, number, error)
        else:
            yield Page(source, number, count, image)


def _tiff_pages(
    source: str, image: TiffImagePlugin.TiffImageFile, done: Callable[[str, int], bool], max_bytes: int | None
) -> Iterator[Page | Failure]:
    count = image.n_frames
    for number in range(1, count + 1):
        if done(source, number):
            continue
        try:
            frame = _frame(image, number - 1, max_bytes)
        except ImageError as error:
            yield Failure(source, number, f"{source}, page {number}: {error}")
        except Exception as error:  # one page never ends the run
            yield failure_of(source, number, error)
        else:
            yield Page(source, number, count, frame)


def _open_tiff(source: str, data: bytes | Path) -> TiffImagePlugin.TiffImageFile:
    """A TIFF whose pages were counted. Raises `ImageError`."""
    # The class itself, because Image.open has a limit of its own for the size of a page.
    try:
        image = TiffImagePlugin.TiffImageFile(io.BytesIO(data) if isinstance(data, bytes) else data)
        image.n_frames  # noqa: B018 - counts them
    except BROKEN as error:
        raise ImageError(f"{source} is broken: {error}") from None
    return image


def _frame(image: TiffImagePlugin.TiffImageFile, index: int, max_bytes: int | None) -> BGRImage:
    try:
        image.seek(index)
    except BROKEN as error:
        raise ImageError(f"the page is broken: {error}") from None
    return load_image(image, max_bytes=max_bytes)

"""Reading files of one line each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from paddle2torch.ocr.pages import Failure, failure_of
from paddle2torch.tasks.images import BGRImage, ImageError, load_image
from paddle2torch.tasks.recognition import WINDOW, Line, Recognizer

HELD_AT_MOST = 2**28
"""Bytes of pictures after which they are read, however few they are: a file may hold a page."""


def read_lines(
    recognizer: Recognizer, files: Iterable[str | Path], *, max_bytes: int | None = None
) -> Iterator[Line | Failure]:
    """Read a line of each file, in order; what cannot be loaded or read yields a `Failure` and stops nothing.

    max_bytes: see `load_image`. With the recogniser's padding "line" a text does not depend on the other files.
    """
    window: list[tuple[str, BGRImage | Failure]] = []
    held = 0
    for file in map(str, files):
        try:
            image = load_image(file, max_bytes=max_bytes)
        except ImageError as error:
            window.append((file, Failure(file, None, str(error))))
        except Exception as error:  # one file never ends the run
            window.append((file, failure_of(file, None, error)))
        else:
            window.append((file, image))
            held += image.nbytes
        if len(window) == WINDOW * recognizer.batch_size or held > HELD_AT_MOST:
            yield from _read(recognizer, window)
            window, held = [], 0
    yield from _read(recognizer, window)


def _read(recognizer: Recognizer, window: list[tuple[str, BGRImage | Failure]]) -> Iterator[Line | Failure]:
    lines: Iterator[Line | Failure]
    images = [(file, image) for file, image in window if not isinstance(image, Failure)]
    try:
        lines = iter(recognizer([image for _, image in images]))
    except Exception:  # of one of them: each by itself tells which
        lines = (_read_alone(recognizer, file, image) for file, image in images)
    for _, image in window:
        yield image if isinstance(image, Failure) else next(lines)


def _read_alone(recognizer: Recognizer, file: str, image: BGRImage) -> Line | Failure:
    try:
        return recognizer([image])[0]
    except Exception as error:
        return failure_of(file, None, error)

"""PaddleOCR's label files: one sample a line, the image's path, a tab, and its text or the JSON list of its boxes.

Facts: `ppocr/data/simple_dataset.py`, `ppocr/data/imaug/label_ops.py` (DetLabelEncode).
"""

from __future__ import annotations

import codecs
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from paddle2torch.model_zoo.errors import ConfigError, FileFormatError, Paddle2TorchError
from paddle2torch.model_zoo.files import read_bounded
from paddle2torch.model_zoo.strict_json import decode_json
from paddle2torch.tasks.images import BGRImage, ImageError, load_image
from paddle2torch.training.data.drops import DataError

IGNORED = ("*", "###")
"""Transcriptions of boxes that could not be read: the detector is neither rewarded nor punished there."""

COORDINATE_LIMIT = 1e6
"""Pixels. No page is larger; polygons beyond would only cost memory and time."""

MOST_BYTES = 1 << 30
"""Bytes of a label file: ten million lines of text."""

SHOWN = 60


@dataclass(frozen=True)
class Group:
    """So many samples in a row of which each epoch takes a share."""

    count: int
    ratio: float


def check_ratio(ratio: float, where: str) -> None:
    """Raise `ConfigError` for a share that an epoch cannot take."""
    if not 0 < ratio <= 1:
        raise ConfigError(f"{where}: ratio is a share above 0 and at most 1, found {ratio:g}")


def digest_of_lines(lines: Iterable[object]) -> str:
    """Of what tells samples from others, each on a line of its own: sha256."""
    found = hashlib.sha256()
    for line in lines:
        found.update(f"{line}\n".encode("utf-8", "surrogatepass"))
    return found.hexdigest()


class Samples(Protocol):
    """Images and their labels by index."""

    @property
    def groups(self) -> Sequence[Group]:
        """The samples in order, with the share of them that an epoch takes."""

    def __len__(self) -> int: ...

    def label(self, index: int) -> str:
        """The text, or JSON, of a sample."""

    def where(self, index: int) -> str:
        """Where a sample is, for messages."""

    def source(self, index: int) -> str:
        """Which label file, database or archive a sample is of."""

    def image(self, index: int, rng: np.random.Generator) -> BGRImage:
        """The image of a sample; raises `ImageError`."""

    def missing(self, index: int) -> str | None:
        """Why the image of a sample cannot be read, as far as that is seen without reading it."""

    def digest(self) -> str:
        """Tells these samples and labels from others."""


class LabelFiles:
    """The samples of label files; raises `DataError` or `FileFormatError` for what is missing or malformed.

    A line's path is relative to `data_dir`. It may be a JSON list of paths, of which each request draws one. What
    follows a second delimiter is not read, and neither are blank lines. `ratios`: the share of each file that an epoch
    takes, or one for all. `malformed`: gets what is wrong with lines that cannot be read, in place of an error.
    """

    def __init__(
        self,
        files: Sequence[str],
        data_dir: str,
        ratios: Sequence[float] = (1.0,),
        delimiter: str = "\t",
        malformed: list[str] | None = None,
    ) -> None:
        ratios = list(ratios) * len(files) if len(ratios) == 1 else list(ratios)
        if len(ratios) != len(files) or not all(0 < ratio <= 1 for ratio in ratios):
            raise ConfigError(
                f"ratio_list: one share above 0 and at most 1 for each of {len(files)} label files, not {ratios}"
            )
        self._folder = Path(data_dir)
        self._files = list(files)
        self._malformed = malformed
        self._paths: list[str] = []
        self._labels: list[str] = []
        self._places: list[tuple[int, int]] = []
        self.groups: list[Group] = []
        for number, ratio in enumerate(ratios):
            before = len(self._paths)
            self._read(number, delimiter)
            if len(self._paths) == before:
                raise DataError(f"the label file {self._files[number]} has no samples")
            self.groups.append(Group(len(self._paths) - before, ratio))

    def _read(self, number: int, delimiter: str) -> None:
        file = self._files[number]
        try:
            data = read_bounded(file, MOST_BYTES, "label file")
        except FileFormatError:
            raise
        except Paddle2TorchError as error:
            raise DataError(f"the label file {error}. Relative paths start at {Path.cwd()}") from None
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise FileFormatError(
                f'{file} is UTF-16, as Windows calls "Unicode": save the label file as UTF-8 (of Excel: "CSV UTF-8", '
                f"then put tabs for its separators)"
            )
        # Not `splitlines`, which also splits at characters that a text may hold.
        for place, raw in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
            try:
                line = raw.decode("utf-8").rstrip("\r")
            except UnicodeDecodeError:
                self._refuse(f"{file}, line {place} is not UTF-8: save the label file as UTF-8")
                continue
            if not line.strip():
                continue
            path, found, rest = line.partition(delimiter)
            if not found:
                self._refuse(f"{file}, line {place}: {_no_delimiter(line, delimiter)}")
                continue
            self._paths.append(path)
            self._labels.append(rest.partition(delimiter)[0])
            self._places.append((number, place))

    def _refuse(self, message: str) -> None:
        """Raise, or note, what is wrong with a line."""
        if self._malformed is None:
            raise FileFormatError(message)
        self._malformed.append(message)

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, index: int) -> str:
        """The path of the image, as the file has it."""
        return self._paths[index]

    def label(self, index: int) -> str:
        """The text, or JSON, behind the path."""
        return self._labels[index]

    def where(self, index: int) -> str:
        """File, line, and path of the image."""
        number, line = self._places[index]
        return f"{self._files[number]}, line {line} ({_short(self._paths[index])})"

    def source(self, index: int) -> str:
        """The label file."""
        return self._files[self._places[index][0]]

    def image(self, index: int, rng: np.random.Generator) -> BGRImage:
        """The image as uint8 (H, W, 3), BGR."""
        path = self._choose(self._paths[index], rng)
        forward = path.replace("\\", "/")
        if path != forward and not (self._folder / path).exists() and (self._folder / forward).is_file():
            raise ImageError(f"{path}: there is no such file, but there is {forward}: write / between folders, not \\")
        # The boxes of a label are places in the image as it is.
        return load_image(self._folder / path, reduce=False)

    def missing(self, index: int) -> str | None:
        """Where the line names one file, and there is none."""
        path = self._paths[index]
        if path.startswith("[") or (self._folder / path).exists():
            return None
        try:
            self.image(index, np.random.default_rng(0))
        except ImageError as error:
            return str(error)
        return None

    def digest(self) -> str:
        """Of paths and labels, in their order."""
        return digest_of_lines(f"{path}\t{label}" for path, label in zip(self._paths, self._labels, strict=True))

    @staticmethod
    def _choose(path: str, rng: np.random.Generator) -> str:
        """One of several images of the same text, where the path is a list of them."""
        if path.startswith("["):
            try:
                choices = decode_json(path)
            except (ValueError, RecursionError):
                return path  # a file name may begin with a bracket
            if isinstance(choices, list) and choices and all(isinstance(choice, str) for choice in choices):
                return choices[int(rng.integers(len(choices)))]
        return path


def _no_delimiter(line: str, delimiter: str) -> str:
    if delimiter != "\t":
        return f"there is no {delimiter!r} between the image's path and its label: {_short(line)!r}"
    spaces = "; this line has spaces" if " " in line else ""
    return f"there is no tab between the image's path and its label{spaces}: {_short(line)!r}. Separate them by one tab"


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


@dataclass(frozen=True, eq=False)
class TextBoxes:
    """The boxes of a page.

    polygons: float64 (N, K, 2), pixels; those with fewer points repeat their last one. ignore: bool (N,), for text that
    cannot be read.
    """

    polygons: NDArray[np.float64]
    ignore: NDArray[np.bool_]


def parse_boxes(label: str, where: str) -> TextBoxes:
    """The boxes of the detector's label, see `decode_boxes`; N is 0 for an empty list."""
    boxes = decode_boxes(label, where)
    ignore = np.array([box["transcription"] in IGNORED for box in boxes], dtype=np.bool_)
    return TextBoxes(stack_polygons([box["points"] for box in boxes]), ignore)


def decode_boxes(label: str, where: str) -> list[dict[str, Any]]:
    """The list that the detector's label is, `[{"transcription": "text", "points": [[x, y], …]}, …]`.

    Raises `FileFormatError` that starts with `where` for anything else.
    """
    try:
        data = decode_json(label)
    except (ValueError, RecursionError) as error:
        excel = " (Excel put it into quotation marks and doubled those inside)" if label.startswith('"[{""') else ""
        raise FileFormatError(f"{where}: the label is not JSON ({error}): {_short(label)!r}{excel}") from None
    if not isinstance(data, list):
        raise FileFormatError(f"{where}: the label is not a JSON list of boxes: {_short(label)!r}")
    for number, box in enumerate(data, 1):
        if not isinstance(box, dict) or not isinstance(box.get("transcription"), str):
            raise FileFormatError(f'{where}: box {number} is not an object with a "transcription" and "points"')
        points = box.get("points")
        if not isinstance(points, list) or len(points) < 3 or not all(is_point(point) for point in points):
            raise FileFormatError(
                f'{where}: the "points" of box {number} are not three or more [x, y], numbers of at most '
                f"{COORDINATE_LIMIT:,.0f}"
            )
    return data


def stack_polygons(polygons: Sequence[Any]) -> NDArray[np.float64]:
    """Polygons as one array, float64 (N, K, 2): those with fewer points repeat their last one."""
    most = max((len(polygon) for polygon in polygons), default=4)
    padded = [list(polygon) + [polygon[-1]] * (most - len(polygon)) for polygon in polygons]
    return np.array(padded, dtype=np.float64).reshape(-1, most, 2)


def is_point(value: Any) -> bool:
    """Whether a value from a file is a point: [x, y]."""
    return isinstance(value, list) and len(value) == 2 and all(is_coordinate(number) for number in value)


def is_coordinate(value: Any) -> bool:
    """Whether a value from a file is a number of at most `COORDINATE_LIMIT`."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and abs(value) <= COORDINATE_LIMIT
    )

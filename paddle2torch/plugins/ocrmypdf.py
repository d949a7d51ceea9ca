"""An engine for OCRmyPDF 17: `ocrmypdf --plugin paddle2torch.plugins.ocrmypdf scan.pdf out.pdf`.

`-l` takes the languages as ever (eng, deu, chi_sim, or BCP 47: de, zh-Hant), one at a time; `--paddle2torch-version`,
`-det`, `-rec`, `-cls` and `-no-cls` choose the models as `paddle2torch ocr` does. OCRmyPDF reads several pages at once,
in threads or processes: models are loaded once in each process, and a page is read on one thread. OCRmyPDF itself
asks for Tesseract to be installed, whichever engine reads.
"""

from __future__ import annotations

import functools
import threading
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import torch
from ocrmypdf import BoundingBox, OcrClass, OcrElement, OcrEngine, OrientationConfidence, hookimpl
from ocrmypdf.exceptions import BadArgsError
from PIL import Image
from pydantic import BaseModel

from paddle2torch._version import __version__
from paddle2torch.model_zoo.errors import Paddle2TorchError
from paddle2torch.model_zoo.languages import language_of_tag
from paddle2torch.ocr.formats import write_document
from paddle2torch.ocr.pages import Page
from paddle2torch.ocr.pipeline import AUTO, OCR
from paddle2torch.ocr.results import PageText, TextLine
from paddle2torch.ocr.writers.pdf import turns_of
from paddle2torch.ocr.writers.shared import extent_of
from paddle2torch.tasks.images import load_image
from paddle2torch.tasks.right_to_left import is_right_to_left
from paddle2torch.tasks.skew import skew_of

CERTAIN = 15.0
"""OCRmyPDF's measure of confidence in a page's orientation: from 14 on it turns the page by default."""

COLUMNS = frozenset({"ch", "chinese_cht", "japan", "korean"})
"""Languages whose lines may run downwards on an upright page."""


class Paddle2TorchOptions(BaseModel):
    """Which models read; see `paddle2torch.OCR`."""

    version: str | None = None
    det: str | None = None
    rec: str | None = None
    cls: str | None = None
    no_cls: bool = False


@hookimpl
def register_options() -> dict[str, type[BaseModel]]:
    """Our options, under their prefix."""
    return {"paddle2torch": Paddle2TorchOptions}


@hookimpl
def add_options(parser: ArgumentParser) -> None:
    """Our options on OCRmyPDF's command line."""
    group = parser.add_argument_group("paddle2torch", "PP-OCR models in PyTorch")
    group.add_argument("--paddle2torch-version", metavar="V", help="of the models: v3 to v6")
    group.add_argument("--paddle2torch-det", metavar="MODEL", help="another detector: name or folder")
    group.add_argument("--paddle2torch-rec", metavar="MODEL", help="another recogniser: name or folder")
    group.add_argument("--paddle2torch-cls", metavar="MODEL", help="another classifier of lines: name or folder")
    group.add_argument("--paddle2torch-no-cls", action="store_true", help="do not turn lines that stand on their heads")


@hookimpl
def check_options(options: Any) -> None:
    """One language, which PP-OCR reads; models that can be had. The first run downloads them, before pages wait."""
    if len(options.languages) > 1:
        raise BadArgsError(
            f"paddle2torch reads one language at a time, and its models for most read Latin letters as well: choose "
            f"one of {', '.join(options.languages)}"
        )
    try:
        _pipeline(options)
    except Paddle2TorchError as error:
        raise BadArgsError(str(error)) from error


@hookimpl
def get_ocr_engine(options: Any) -> Engine | None:
    """Ours, unless another one is asked for (`--ocr-engine`)."""
    if options is not None and getattr(options, "ocr_engine", "auto") != "auto":
        return None
    return Engine()


class Engine(OcrEngine):
    """PP-OCR for OCRmyPDF."""

    @staticmethod
    def version() -> str:
        """The version of this package."""
        return __version__

    @staticmethod
    def creator_tag(options: Any) -> str:
        """What a PDF says it was made by."""
        return f"paddle2torch {__version__}"

    def __str__(self) -> str:
        return f"paddle2torch {__version__}"

    @staticmethod
    def languages(options: Any) -> set[str]:
        """What was asked for: `check_options` refuses what cannot be read, with the reason."""
        return set(options.languages)

    @staticmethod
    def get_orientation(input_file: Path, options: Any) -> OrientationConfidence:
        """How the page has to be turned clockwise, as most of its lines tell.

        In languages that are also written in columns, a page on its side looks like columns, and is left.
        """
        turns = _pipeline(options).quarter_turns(_image(input_file))
        if turns is None or (turns % 2 and _language(options) in COLUMNS):
            return OrientationConfidence(0, 0.0)
        return OrientationConfidence(-90 * turns % 360, CERTAIN)

    @staticmethod
    def get_deskew(input_file: Path, options: Any) -> float:
        """Degrees by which the page has to be turned counter-clockwise for its lines to be level, as the pipeline
        finds them; 0 where they do not agree."""
        return skew_of(_pipeline(options).find(_image(input_file)))

    @staticmethod
    def supports_generate_ocr() -> bool:
        """Words with their boxes, without a file in between."""
        return True

    @staticmethod
    def generate_ocr(input_file: Path, options: Any, page_number: int = 0) -> tuple[OcrElement, str]:
        """The words of a page, and its text in reading order."""
        page = _read(input_file, options)
        with Image.open(input_file) as image:
            dpi = float(image.info.get("dpi", (72, 72))[0])
        return _page_element(page, dpi, page_number), page.text

    @staticmethod
    def generate_hocr(input_file: Path, output_hocr: Path, output_text: Path, options: Any) -> None:
        """The page as hOCR and as text."""
        page = _read(input_file, options)
        write_document([page], output_hocr, "hocr")
        output_text.write_text(page.text, encoding="utf-8")

    @staticmethod
    def generate_pdf(input_file: Path, output_pdf: Path, output_text: Path, options: Any) -> None:
        """Not offered: OCRmyPDF's own renderer writes the text layer."""
        raise NotImplementedError("paddle2torch has no PDF renderer for OCRmyPDF: leave --pdf-renderer sandwich out")


def _image(path: Path) -> Any:
    # OCRmyPDF has looked at the size of its pictures (--max-image-mpixels).
    return load_image(path, max_bytes=2**33)


def _read(path: Path, options: Any) -> PageText:
    ocr = _pipeline(options)
    (page,) = ocr.read_pages([Page(str(path), 1, 1, _image(path))])
    if not isinstance(page, PageText):
        raise Paddle2TorchError(page.message)
    return page


def _language(options: Any) -> str:
    return language_of_tag(options.languages[0])


_loading = threading.Lock()


def _pipeline(options: Any) -> OCR:
    own = options.paddle2torch
    with _loading:
        return _load(_language(options), own.version, own.det, own.rec, None if own.no_cls else own.cls or AUTO)


@functools.lru_cache(maxsize=1)
def _load(lang: str, version: str | None, det: str | None, rec: str | None, cls: str | None) -> OCR:
    # Pages are read side by side: threads of one page would take those of the others.
    torch.set_num_threads(1)
    return OCR(lang, version=version, det=det, rec=rec, cls=cls, turn_pages=False)


def _page_element(page: PageText, dpi: float, number: int) -> OcrElement:
    blocks = []
    for block in page.blocks:
        lines = [_line_element(line, page) for row in block for line in row if line.words]
        blocks.append(_element(OcrClass.PARAGRAPH, [line for row in block for line in row], page, children=lines))
    everything = BoundingBox(0, 0, page.width, page.height)
    return OcrElement(OcrClass.PAGE, everything, dpi=dpi, page_number=number, children=blocks)


def _line_element(line: TextLine, page: PageText) -> OcrElement:
    children = [_element(OcrClass.WORD, [word], page, text=word.text, confidence=word.score) for word in line.words]
    direction = "rtl" if is_right_to_left(line.text) else "ltr"
    # Counter-clockwise; a line that has to be turned so to be read runs the other way.
    angle = -90.0 * turns_of(line)
    return _element(OcrClass.LINE, [line], page, children=children, direction=direction, textangle=angle)


def _element(kind: str, parts: Any, page: PageText, **fields: Any) -> OcrElement:
    left, top, width, height = extent_of([part.box for part in parts], page)
    return OcrElement(kind, BoundingBox(left, top, left + width, top + height), **fields)

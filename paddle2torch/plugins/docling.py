"""An OCR engine for docling, which finds it by itself once it is allowed to.

>>> options = PdfPipelineOptions(allow_external_plugins=True, ocr_options=Paddle2TorchOcrOptions(lang=["iso:de"]))
>>> DocumentConverter(format_options={InputFormat.PDF: PdfFormatOption(pipeline_options=options)}).convert("scan.pdf")
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from docling.datamodel.accelerator_options import AcceleratorDevice, AcceleratorOptions
from docling.datamodel.base_models import Page
from docling.datamodel.document import ConversionResult
from docling.datamodel.pipeline_options import OcrOptions
from docling.exceptions import OcrLanguageNotSupportedError
from docling.models.base_ocr_model import BaseOcrModel
from docling.utils.ocr_language import OcrLanguage, OcrLanguageSupport
from docling.utils.profiling import TimeRecorder
from docling_core.types.doc import BoundingBox, CoordOrigin
from docling_core.types.doc.page import BoundingRectangle, TextCell
from pydantic import Field

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.languages import LANGUAGES, SCRIPTS, find_language, language_of_tag
from paddle2torch.ocr.pages import Page as Picture
from paddle2torch.ocr.pipeline import AUTO, OCR
from paddle2torch.ocr.results import PageText, TextLine
from paddle2torch.tasks.images import ImageError

SCALE = 3
"""Pixels of a picture to a point of the page: 216 to the inch, as docling's other engines are given."""


class Paddle2TorchOcrOptions(OcrOptions):
    """Options of the engine; see `paddle2torch.OCR`.

    lang: PaddleOCR's name of a language ("en", "ch", "latin"), or a tag of BCP 47 behind `iso:`. det, rec, cls: models
    by name, folder or Hub repository; without `use_cls` no line is turned that stands on its head.
    """

    kind: ClassVar[str] = "paddle2torch"

    lang: list[str] = Field(default_factory=lambda: ["en"])
    version: str | None = None
    det: str | None = None
    rec: str | None = None
    cls: str | None = None
    use_cls: bool = True
    compiled: bool = False


class Paddle2TorchOcrModel(BaseOcrModel):
    """PP-OCR for docling: the regions that docling asks for, a cell for each line."""

    def __init__(
        self,
        *,
        enabled: bool,
        artifacts_path: Path | None,
        options: Paddle2TorchOcrOptions,
        accelerator_options: AcceleratorOptions,
    ) -> None:
        super().__init__(
            enabled=enabled, artifacts_path=artifacts_path, options=options, accelerator_options=accelerator_options
        )
        if not enabled:
            return
        torch.set_num_threads(accelerator_options.num_threads)
        languages = self.resolve_ocr_languages()
        self.reader = OCR(
            languages[0] if languages else "en",
            version=options.version,
            det=options.det,
            rec=options.rec,
            cls=(options.cls or AUTO) if options.use_cls else None,
            device=_device(accelerator_options),
            compiled=options.compiled,
        )

    def supported_ocr_languages(self) -> OcrLanguageSupport:
        """PaddleOCR's names of languages and scripts, and the tags that name one."""
        return OcrLanguageSupport(bcp47=list(_tags()), native=[*LANGUAGES, *SCRIPTS])

    def map_ocr_language(self, language: OcrLanguage) -> str:
        """PaddleOCR's name of a language."""
        try:
            if language.native is not None:
                return find_language(language.native)
            return language_of_tag(language.bcp47())
        except ConfigError as error:
            raise OcrLanguageNotSupportedError(
                self._engine_name, language.tag(), supported=self.supported_ocr_languages()
            ) from error

    def __call__(self, conv_res: ConversionResult, page_batch: Iterable[Page]) -> Iterable[Page]:
        """Add what is read to each page, merged with the text that a PDF has, as docling's options say."""
        for page in page_batch:
            if self.enabled and page._backend is not None and page._backend.is_valid():
                with TimeRecorder(conv_res, "ocr"):
                    cells = [cell for region in self.get_ocr_rects(page) for cell in self._read(page, region)]
                    for index, cell in enumerate(cells):
                        cell.index = index
                    self.post_process_cells(cells, page, conv_res)
            yield page

    def _read(self, page: Page, region: BoundingBox) -> list[TextCell]:
        if region.area() == 0:
            return []
        assert page._backend is not None
        picture = page._backend.get_page_image(scale=SCALE, cropbox=region).convert("RGB")
        pixels = np.ascontiguousarray(np.asarray(picture)[:, :, ::-1])
        (read,) = self.reader.read_pages([Picture(f"page {page.page_no}", 1, 1, pixels)])
        if not isinstance(read, PageText):
            raise ImageError(read.message)
        return [_cell(line, region) for line in read]

    @classmethod
    def get_options_type(cls) -> type[OcrOptions]:
        """The options that choose this engine."""
        return Paddle2TorchOcrOptions


def _cell(line: TextLine, region: BoundingBox) -> TextCell:
    left, top = (line.box.min(axis=0) / SCALE).tolist()
    right, bottom = (line.box.max(axis=0) / SCALE).tolist()
    box = BoundingBox(
        l=left + region.l, t=top + region.t, r=right + region.l, b=bottom + region.t, coord_origin=CoordOrigin.TOPLEFT
    )
    rectangle = BoundingRectangle.from_bounding_box(box)
    return TextCell(index=0, text=line.text, orig=line.text, confidence=line.score, from_ocr=True, rect=rectangle)


def _device(options: AcceleratorOptions) -> str:
    """docling's choice in PyTorch's words; "auto" is ours."""
    chosen = options.device
    return chosen.value if isinstance(chosen, AcceleratorDevice) else str(chosen)


@functools.cache
def _tags() -> tuple[str, ...]:
    """Tags of BCP 47 that name a language which is read."""
    found = {"zh-Hans", "zh-Hant", "ja", "ko", "kn", "sr", "sr-Latn", "mag", "nb", "fil"}
    for code in LANGUAGES:
        try:
            if language_of_tag(code) == code:
                found.add(code)
        except ConfigError:  # PaddleOCR's own name
            continue
    return tuple(sorted(found))


def ocr_engines() -> dict[str, Any]:
    """What docling asks its plugins for."""
    return {"ocr_engines": [Paddle2TorchOcrModel]}

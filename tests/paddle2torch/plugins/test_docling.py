"""docling itself with our engine: its own pipeline, with a layout model that takes a page for one text."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from coloured_bars import bar, blank, pipeline, put
from PIL import Image

if importlib.util.find_spec("docling") is None:
    pytest.skip("needs docling", allow_module_level=True)

from docling.datamodel.base_models import Cluster, InputFormat, LayoutPrediction
from docling.datamodel.pipeline_options import BaseLayoutOptions, PdfPipelineOptions
from docling.document_converter import DocumentConverter, PdfFormatOption
from docling.exceptions import OcrLanguageNotSupportedError
from docling.models.base_layout_model import BaseLayoutModel
from docling.models.factories import get_layout_factory, get_ocr_factory
from docling_core.types.doc import BoundingBox, DocItemLabel

from paddle2torch.plugins import docling as plugin


class OneTextOptions(BaseLayoutOptions):
    kind = "one_text"


class OneText(BaseLayoutModel):
    """Layout models come from the Hub, which tests do without."""

    def __init__(self, **options: Any) -> None:
        pass

    @classmethod
    def get_options_type(cls) -> type[BaseLayoutOptions]:
        return OneTextOptions

    def predict_layout(self, conv_res: Any, pages: Sequence[Any]) -> Sequence[LayoutPrediction]:
        extents = [BoundingBox(l=0, t=0, r=page.size.width, b=page.size.height) for page in pages]
        return [LayoutPrediction(clusters=[Cluster(id=0, label=DocItemLabel.TEXT, bbox=box)]) for box in extents]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any]]]:
    """What pipelines were asked for; each reads coloured bars."""
    asked: list[tuple[Any, dict[str, Any]]] = []

    def make(lang: str, **options: Any) -> Any:
        asked.append((lang, options))
        return pipeline()

    monkeypatch.setattr(plugin, "OCR", make)
    return asked


def engine(**options: Any) -> Any:
    chosen = PdfPipelineOptions().accelerator_options
    return plugin.Paddle2TorchOcrModel(
        enabled=True,
        artifacts_path=None,
        options=plugin.Paddle2TorchOcrOptions(**options),
        accelerator_options=chosen,
    )


def test_docling_finds_the_engine() -> None:
    factory = get_ocr_factory(allow_external_plugins=True)
    if "paddle2torch" not in factory.registered_kind:
        pytest.skip("needs paddle2torch to be installed, for its entry point")
    assert isinstance(factory.create_options("paddle2torch"), plugin.Paddle2TorchOcrOptions)


def test_a_scanned_pdf_becomes_markdown(made: list[Any], tmp_path: Path) -> None:
    page = blank(600, 500)
    put(page, bar("ABC AA"), 40, 60)
    put(page, bar("CAB"), 40, 100)
    Image.fromarray(page[:, :, ::-1]).save(tmp_path / "scan.pdf", resolution=216)
    for factory, model in (
        (get_ocr_factory(allow_external_plugins=True), plugin.Paddle2TorchOcrModel),
        (get_layout_factory(allow_external_plugins=True), OneText),
    ):
        if model.get_options_type() not in factory.classes:
            factory.register(model, "tests", __name__)
    options = PdfPipelineOptions(
        do_table_structure=False,
        allow_external_plugins=True,
        ocr_options=plugin.Paddle2TorchOcrOptions(lang=["iso:de"]),
        layout_options=OneTextOptions(),
    )
    converter = DocumentConverter(format_options={InputFormat.PDF: PdfFormatOption(pipeline_options=options)})
    document = converter.convert(tmp_path / "scan.pdf").document
    assert document.export_to_markdown().split() == ["ABC", "AA", "CAB"]
    assert made[0][0] == "de"
    (text,) = document.texts
    assert abs(text.prov[0].bbox.l - 0) < 500 / 3


def test_languages_are_ours_or_tags(made: list[Any]) -> None:
    for given, name in (("japan", "japan"), ("french", "fr"), ("iso:zh-TW", "chinese_cht"), ("iso:kn", "ka")):
        engine(lang=[given])
        assert made[-1][0] == name
    for unknown in ("iso:ka", "klingon"):
        with pytest.raises(OcrLanguageNotSupportedError):
            engine(lang=[unknown])
    supported = engine().supported_ocr_languages()
    assert "de" in supported.bcp47
    assert "ka" not in supported.bcp47
    assert "latin" in supported.native


def test_models_and_device_are_handed_on(made: list[Any]) -> None:
    engine(det="somewhere", use_cls=False, version="v5")
    assert made[-1][1] == {
        **{"version": "v5", "det": "somewhere", "rec": None, "cls": None, "device": "auto", "compiled": False}
    }

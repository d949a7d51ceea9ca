"""PaddleOCR's PP-OCR models in PyTorch: convert any checkpoint, prove it equal, read, fine-tune.

>>> from paddle2torch import load_pretrained
>>> model = load_pretrained("en_PP-OCRv4_rec", fused=True)
"""

from typing import TYPE_CHECKING, Any

from paddle2torch._version import __version__

if TYPE_CHECKING:
    from paddle2torch.api import load_pretrained
    from paddle2torch.exporting.export import export
    from paddle2torch.model_zoo.errors import Paddle2TorchError
    from paddle2torch.ocr.document import Document
    from paddle2torch.ocr.pages import Failure
    from paddle2torch.ocr.pipeline import OCR
    from paddle2torch.ocr.results import PageText, TextLine, TextWord
    from paddle2torch.parity.verification import verify
    from paddle2torch.quantization import quantize
    from paddle2torch.zoo.conversion import convert
    from paddle2torch.zoo.models import list_models

__all__ = [
    "OCR",
    "Document",
    "Failure",
    "Paddle2TorchError",
    "PageText",
    "TextLine",
    "TextWord",
    "__version__",
    "convert",
    "export",
    "list_models",
    "load_pretrained",
    "quantize",
    "verify",
]

# Loaded when first used: `import paddle2torch` and `paddle2torch --help` need not wait for torch.
_HOMES = {
    "convert": "paddle2torch.zoo.conversion",
    "export": "paddle2torch.exporting.export",
    "list_models": "paddle2torch.zoo.models",
    "load_pretrained": "paddle2torch.api",
    "Document": "paddle2torch.ocr.document",
    "Failure": "paddle2torch.ocr.pages",
    "OCR": "paddle2torch.ocr.pipeline",
    "PageText": "paddle2torch.ocr.results",
    "TextLine": "paddle2torch.ocr.results",
    "TextWord": "paddle2torch.ocr.results",
    "Paddle2TorchError": "paddle2torch.model_zoo.errors",
    "quantize": "paddle2torch.quantization",
    "verify": "paddle2torch.parity.verification",
}


if not TYPE_CHECKING:  # or every misspelt name would be taken for one of them

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Pages read on many machines, by Ray Data (`pip install 'paddle2torch[ray]'`).

>>> import ray
>>> import paddle2torch.ray
>>> pages = ray.data.from_items([{"source": "s3://scans/a.pdf", "first": 1, "last": 20}])
>>> paddle2torch.ray.ocr(pages, actors=8, lang="en").write_parquet("s3://texts/")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paddle2torch.ray.datasets import connect, ocr, read_pages, run_job

__all__ = ["connect", "ocr", "read_pages", "run_job"]


def __getattr__(name: str) -> Any:
    # Loaded when first used: what runs inside an actor is tested without Ray.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from paddle2torch.ray import datasets

    return getattr(datasets, name)


def __dir__() -> list[str]:
    return sorted(__all__)

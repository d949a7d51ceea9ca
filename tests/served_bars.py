"""A server that reads coloured bars, and takes its time for a C: `python served_bars.py serve … [WORKERS]`."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from coloured_bars import Colours, pipeline
from torch import Tensor

from paddle2torch.ocr.pipeline import OCR
from paddle2torch.serving import protocol
from paddle2torch.serving.limits import Limits
from paddle2torch.serving.server import Settings, serve

DAWDLES = 1.0
"""Seconds."""


class Dawdling(Colours):
    def forward(self, x: Tensor) -> Tensor:
        if bool(((x[:, 0] > 0.9) & (x[:, 1] < -0.9)).any()):  # blue
            time.sleep(DAWDLES)
        return super().forward(x)


@dataclass(frozen=True)
class Bars(Settings):
    def load(self) -> dict[str, OCR]:
        # In every process: patience that a test has.
        protocol.HEAD_SECONDS = protocol.STALLED_SECONDS = 1.0
        return {"en": pipeline(rec=Dawdling().eval())}


if __name__ == "__main__":
    limits = Limits(body_bytes=1_000_000, body_seconds=1.0)
    workers = int(sys.argv[-1]) or 1  # the last of `--port 0` is 1
    settings = Bars(port=0, workers=workers, threads=1, together=1, limits=limits)
    serve(settings, started=lambda address: print(f"listening at {address}", file=sys.stderr, flush=True))

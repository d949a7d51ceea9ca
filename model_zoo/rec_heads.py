"""Heads of the recognisers: CTC, and CTC with the NRTR head that guides its training.

Source: PaddleOCR `ppocr/modeling/heads/rec_multi_head.py`, `rec_ctc_head.py` (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from paddle2torch.model_zoo.nrtr import Transformer
from paddle2torch.model_zoo.svtr import EncoderWithSVTR, SequenceEncoder

Targets = Mapping[str, Tensor]

# NRTR has padding, unknown, start and end where CTC has the blank, and one symbol that no label uses.
NRTR_EXTRA_SYMBOLS = 4


class CTCHead(nn.Module):
    """A linear layer to the classes; class 0 is the blank."""

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, T, in_channels); returns (N, T, classes): logits in training, else probabilities."""
        logits = self.fc(x)
        return logits if self.training else logits.softmax(-1)


class FCTranspose(nn.Module):
    """(N, C, T) to (N, T, out_channels), linear without bias."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_channels, out_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, T); returns (N, T, out_channels)."""
        return self.fc(x.transpose(1, 2))


class MultiHead(nn.Module):
    """CTC for reading, NRTR beside it in training.

    Args:
        in_channels: channels of the backbone.
        classes: CTC classes, blank included.
        ctc: keywords of `EncoderWithSVTR`.
        nrtr: keywords of `Transformer` (without `vocabulary`), or None for a checkpoint without that head.
        fused: only what reading needs; `nrtr` is left out.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        classes: int,
        ctc: Mapping[str, Any],
        nrtr: Mapping[str, Any] | None = None,
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.ctc_encoder = SequenceEncoder(EncoderWithSVTR(in_channels, **ctc))
        self.ctc_head = CTCHead(self.ctc_encoder.out_channels, classes)
        self.before_gtc: nn.Sequential | None = None
        self.gtc_head: Transformer | None = None
        if nrtr is not None and not fused:
            self.gtc_head = Transformer(vocabulary=classes + NRTR_EXTRA_SYMBOLS, **nrtr)
            width = self.gtc_head.tgt_word_prj.in_features
            self.before_gtc = nn.Sequential(nn.Flatten(2), FCTranspose(in_channels, width))

    def forward(self, x: Tensor, targets: Targets | None = None) -> Tensor | dict[str, Tensor]:
        """x: float (N, in_channels, 1, T).

        Evaluation: probabilities (N, T, classes). Training: `{"ctc": logits (N, T, classes)}` and, with the NRTR
        head, `"gtc": logits (N, L, classes + 4)` for `targets`: `label_gtc` int64 (N, max_text_length), start symbol
        first, padded with 0, and `length` int64 (N,), characters in each; L is the longest length plus one.
        """
        ctc = self.ctc_head(self.ctc_encoder(x))
        if not self.training:
            return ctc
        out = {"ctc": ctc}
        if self.gtc_head is not None and self.before_gtc is not None:
            if targets is None:
                raise ValueError(
                    "the NRTR head trains on targets: call model(x, targets) with label_gtc and length, "
                    "or build the model without it (head.nrtr = null in model_config.json)"
                )
            longest = int(targets["length"].max())
            out["gtc"] = self.gtc_head(self.before_gtc(x), targets["label_gtc"][:, : 2 + longest][:, :-1])
        return out

    def decode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Read with the NRTR head: x float (N, in_channels, 1, T); see `Transformer.decode`."""
        if self.gtc_head is None or self.before_gtc is None:
            raise ValueError("this model has no NRTR head: convert the training checkpoint, without --fused")
        return self.gtc_head.decode(self.before_gtc(x))

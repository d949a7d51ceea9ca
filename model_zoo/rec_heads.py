"""Heads of the recognisers: CTC, alone or with the NRTR or SAR head that guides its training.

Source: PaddleOCR `ppocr/modeling/heads/rec_multi_head.py`, `rec_ctc_head.py` (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from paddle2torch.model_zoo.crnn import SequenceEncoder
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.initialisers import truncated_normal, uniform_by_fan_in
from paddle2torch.model_zoo.layers import BatchNorm1d
from paddle2torch.model_zoo.lightsvtr import light_svtr_options_of
from paddle2torch.model_zoo.nrtr import Transformer
from paddle2torch.model_zoo.registry import Part, Seen, Shapes, count_items, register
from paddle2torch.model_zoo.sar import SARHead
from paddle2torch.model_zoo.svtr import seen_svtr_options, svtr_options_of

Targets = Mapping[str, Tensor]

# NRTR has padding, unknown, start and end where CTC has the blank, and one symbol that no label uses.
NRTR_EXTRA_SYMBOLS = 4
# SAR has unknown, start and end in one, and padding where CTC has the blank.
SAR_EXTRA_SYMBOLS = 2
# Of the map that `use_pool` averages, and of the positions of `use_pos`.
POOLED_ROWS, MOST_POSITIONS = 3, 80


class ClassLinear(nn.Linear):
    """A linear layer of the CTC head: it has an L2 of its own, and starts uniform by the width of its input."""

    DECAY_SETTING = "fc_decay"
    """The optimiser's setting that is its L2, where it is given."""

    def init_weights(self) -> None:
        """Weights and bias."""
        uniform_by_fan_in(self.weight, self.in_features)
        uniform_by_fan_in(self.bias, self.in_features)


class CTCHead(nn.Module):
    """A linear layer to the classes, or two where `mid_channels` is given; class 0 is the blank.

    `use_guide` puts a separable convolution along the time before them, as PP-OCRv6 tiny has it: what that name means
    in the necks, a gradient that is not taken, is another thing.
    """

    def __init__(
        self, in_channels: int, classes: int, mid_channels: int | None = None, *, use_guide: bool = False
    ) -> None:
        super().__init__()
        self.mid_channels = mid_channels
        self.guide_layer: nn.Sequential | None = None
        if use_guide:
            self.guide_layer = nn.Sequential(
                nn.Conv1d(in_channels, in_channels, 5, padding=2, groups=in_channels, bias=False),
                BatchNorm1d(in_channels),
                nn.Hardswish(),
                nn.Conv1d(in_channels, in_channels, 1, bias=False),
                BatchNorm1d(in_channels),
                nn.Hardswish(),
            )
        if mid_channels is None:
            self.fc = ClassLinear(in_channels, classes)
        else:
            # No activation between them: they factor one large matrix.
            self.fc1 = ClassLinear(in_channels, mid_channels)
            self.fc2 = ClassLinear(mid_channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, T, in_channels); returns (N, T, classes): logits in training, else probabilities."""
        logits = self.with_features(x)[1]
        return logits if self.training else logits.softmax(-1)

    def with_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the last layer reads, (N, T, channels), and its logits (N, T, classes)."""
        features = self.features(x)
        return features, self.last(features)

    def features(self, x: Tensor) -> Tensor:
        """x: float (N, T, in_channels); returns (N, T, channels): what the last layer reads."""
        if self.guide_layer is not None:
            x = self.guide_layer(x.transpose(1, 2)).transpose(1, 2)
        return x if self.mid_channels is None else self.fc1(x)

    @property
    def last(self) -> nn.Linear:
        """The layer to the classes."""
        return self.fc if self.mid_channels is None else self.fc2


class SingleCTCHead(CTCHead):
    """`CTCHead` as the only head of a recogniser, on the sequence of its neck.

    Args:
        in_channels: channels of the neck.
        classes: CTC classes, blank included.
        mid_channels, use_guide: see `CTCHead`; the first is 96 in v2.
    """

    def __init__(
        self, in_channels: int, *, classes: int, mid_channels: int | None = None, use_guide: bool = False
    ) -> None:
        super().__init__(in_channels, classes, mid_channels, use_guide=use_guide)

    def forward(self, x: Tensor, targets: Targets | None = None) -> Any:
        """x: float (N, T, in_channels); `targets` are not needed.

        Evaluation: probabilities (N, T, classes). Training: `{"ctc": logits (N, T, classes), "features": (N, T, C)}`,
        what the last layer reads, for the center loss.
        """
        if not self.training:
            return super().forward(x)
        features, logits = self.with_features(x)
        return {"ctc": logits, "features": features}


class FCTranspose(nn.Module):
    """(N, C, T) to (N, T, out_channels), linear without bias."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_channels, out_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, T); returns (N, T, out_channels)."""
        return self.fc(x.transpose(1, 2))


class AddPos(nn.Module):
    """Adds a learned vector to each step."""

    def __init__(self, steps: int, dim: int) -> None:
        super().__init__()
        self.dec_pos_embed = nn.Parameter(torch.zeros(1, steps, dim))

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, T, dim), T at most `steps`; returns the same shape."""
        return x + self.dec_pos_embed[:, : x.shape[1]]

    def init_weights(self) -> None:
        """By TruncatedNormal."""
        truncated_normal(self.dec_pos_embed)


class MultiHead(nn.Module):
    """CTC for reading, NRTR or SAR beside it in training.

    Raises `ConfigError` for both at once.

    Args:
        in_channels: channels of the backbone.
        classes: CTC classes, blank included.
        ctc: keywords of the neck, `EncoderWithSVTR` or `EncoderWithLightSVTR`; none for "reshape".
        encoder_type: which neck, see `SequenceEncoder`.
        mid_channels, use_guide: see `CTCHead`.
        use_pool: what the backbone gives is the sequence of a map of three rows, and is averaged to one row.
        use_pos: the NRTR head sees where each step is.
        nrtr: keywords of `Transformer` (without `vocabulary`), or None for a checkpoint without that head.
        sar: keywords of `SARHead` (without `symbols`), or None; v3 has it where later versions have NRTR.
        fused: only what reading needs; `nrtr` and `sar` are left out.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        classes: int,
        ctc: Mapping[str, Any],
        encoder_type: str = "svtr",
        mid_channels: int | None = None,
        use_guide: bool = False,
        use_pool: bool = False,
        use_pos: bool = False,
        nrtr: Mapping[str, Any] | None = None,
        sar: Mapping[str, Any] | None = None,
        fused: bool = False,
    ) -> None:
        super().__init__()
        if nrtr is not None and sar is not None:
            raise ConfigError("MultiHead: nrtr and sar are two ways to guide the training: set one of them to null")
        self.use_pool = use_pool
        self.pool = nn.AvgPool2d((POOLED_ROWS, 2)) if use_pool else None
        self.ctc_encoder = SequenceEncoder(in_channels, encoder_type=encoder_type, svtr=ctc)
        self.ctc_head = CTCHead(self.ctc_encoder.out_channels, classes, mid_channels, use_guide=use_guide)
        self.before_gtc: nn.Sequential | None = None
        self.gtc_head: Transformer | None = None
        if nrtr is not None and not fused:
            gtc_head = Transformer(vocabulary=classes + NRTR_EXTRA_SYMBOLS, **nrtr)
            # Registered in Paddle's order, which is that of a checkpoint's tensors.
            width = gtc_head.tgt_word_prj.in_features
            self.before_gtc = nn.Sequential(nn.Flatten(2), FCTranspose(in_channels, width))
            if use_pos:
                self.before_gtc.append(AddPos(MOST_POSITIONS, width))
            self.gtc_head = gtc_head
        self.sar_head: SARHead | None = None
        if sar is not None and not fused:
            self.sar_head = SARHead(in_channels, symbols=classes + SAR_EXTRA_SYMBOLS, **sar)

    def forward(self, x: Tensor, targets: Targets | None = None) -> Tensor | dict[str, Tensor]:
        """x: float (N, in_channels, 1, T), or with `use_pool` a sequence (N, 6 * T, in_channels).

        Evaluation: probabilities (N, T, classes). Training: `{"ctc": logits (N, T, classes)}` and, with the NRTR
        head, `"gtc": logits (N, L, classes + 4)` for `targets`: `label_gtc` int64 (N, max_text_length), start symbol
        first, padded with 0, and `length` int64 (N,), characters in each; L is the longest length plus one. Without
        `length` the labels are taken as long as they are, and no value is waited for. With the
        SAR head, `"sar": logits (N, L, classes + 1)` for `label_sar` int64 (N, L) and `valid_ratio` float (N,), see
        `SARHead`.
        """
        x = self._pooled(x)
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
            labels = targets["label_gtc"]
            if "length" in targets:
                labels = labels[:, : 2 + int(targets["length"].max())]
            out["gtc"] = self.gtc_head(self.before_gtc(x), labels[:, :-1])
        if self.sar_head is not None:
            if targets is None:
                raise ValueError(
                    "the SAR head trains on targets: call model(x, targets) with label_sar and valid_ratio, "
                    "or build the model without it (head.sar = null in model_config.json)"
                )
            out["sar"] = self.sar_head(x, targets["label_sar"], targets["valid_ratio"])
        return out

    def decode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Read with the NRTR head: x float (N, in_channels, 1, T); see `Transformer.decode`."""
        if self.gtc_head is None or self.before_gtc is None:
            raise ValueError("this model has no NRTR head: convert the training checkpoint, without --fused")
        return self.gtc_head.decode(self.before_gtc(self._pooled(x)))

    def _pooled(self, x: Tensor) -> Tensor:
        return x if self.pool is None else self.pool(x.unflatten(1, (POOLED_ROWS, -1)).permute(0, 3, 1, 2))


def _ctc_branch(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of `MultiHead` for its CTC head and the neck before it."""
    encoder, given = "head.ctc_encoder.encoder", hint.get("ctc", {})
    branch: dict[str, Any]
    if f"{encoder}.local_conv.0.weight" in shapes:
        branch = {"encoder_type": "lightsvtr", "ctc": light_svtr_options_of(shapes, encoder, given)}
    elif any(key.startswith(f"{encoder}.") for key in shapes):
        branch = {"ctc": svtr_options_of(shapes, encoder, given)}
    else:
        branch = {"encoder_type": "reshape", "ctc": {}}
    return {**_ctc_head_options(shapes, hint, "head.ctc_head"), **branch}


def _multi_head_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {**_ctc_branch(shapes, hint), "nrtr": None}
    if hint.get("use_pool"):  # an average leaves no trace in the tensors
        options["use_pool"] = True
    if "head.before_gtc.2.dec_pos_embed" in shapes:
        options["use_pos"] = True
    classes = options["classes"]
    if any(key.startswith("head.gtc_head.") for key in shapes):
        vocabulary, width = shapes["head.gtc_head.embedding.embedding.weight"]
        if vocabulary != classes + NRTR_EXTRA_SYMBOLS:
            raise ValueError(
                f"its NRTR head has {vocabulary} symbols, {classes} CTC classes need {classes + NRTR_EXTRA_SYMBOLS}"
            )
        guide = hint.get("nrtr") or {}
        options["nrtr"] = {
            "nrtr_dim": width,
            "num_decoder_layers": count_items(shapes, "head.gtc_head.decoder.{}."),
            "max_text_length": guide.get("max_text_length", 25),
        }
    if any(key.startswith("head.sar_head.") for key in shapes):
        symbols, width = shapes["head.sar_head.decoder.embedding.weight"]
        if symbols != classes + SAR_EXTRA_SYMBOLS:
            raise ValueError(
                f"its SAR head has {symbols} symbols, {classes} CTC classes need {classes + SAR_EXTRA_SYMBOLS}"
            )
        guide = hint.get("sar") or {}
        options["sar"] = {
            "enc_dim": width,
            "d_k": shapes["head.sar_head.decoder.conv3x3_1.bias"][0],
            "max_text_length": guide.get("max_text_length", 25),
        }
    return options


def _ctc_head_options(shapes: Shapes, hint: Mapping[str, Any], head: str = "head") -> dict[str, Any]:
    guide = {"use_guide": True} if f"{head}.guide_layer.0.weight" in shapes else {}
    if f"{head}.fc1.bias" in shapes:
        return {"classes": shapes[f"{head}.fc2.bias"][0], "mid_channels": shapes[f"{head}.fc1.bias"][0], **guide}
    return {"classes": shapes[f"{head}.fc.bias"][0], **guide}


def _seen_options(seen: Seen, options: dict[str, Any]) -> dict[str, Any]:
    ctc = options["ctc"]
    if not ctc:
        return options
    width = ctc.get("hidden_dims", ctc["dims"])
    return {**options, "ctc": seen_svtr_options(seen, "head.ctc_encoder.encoder", width, ctc)}


register(
    Part(
        "head",
        "MultiHead",
        MultiHead,
        signatures=("head.ctc_encoder.encoder.", "head.ctc_head."),
        read_options=_multi_head_options,
        read_seen=_seen_options,
        task="rec",
    )
)
# Two heads have nothing but `head.fc`: a recogniser's is behind a neck, PaddleClas's behind a backbone alone.
register(
    Part(
        "head",
        "CTCHead",
        SingleCTCHead,
        signatures=("neck.encoder.",),
        rank=1,
        read_options=_ctc_head_options,
        task="rec",
        behind_neck=True,
    )
)

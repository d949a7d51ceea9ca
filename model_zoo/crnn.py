"""The neck of the recognisers before v3, a bidirectional LSTM, and the step from maps to sequences.

Source: PaddleOCR `ppocr/modeling/necks/rnn.py` (Apache-2.0); CRNN, arXiv:1507.05717.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.lightsvtr import EncoderWithLightSVTR
from paddle2torch.model_zoo.registry import Part, Seen, Shapes, register
from paddle2torch.model_zoo.svtr import EncoderWithSVTR, seen_svtr_options, svtr_options_of


class Im2Seq(nn.Module):
    """(N, C, 1, T) to (N, T, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, C, 1, T); returns (N, T, C). Raises `ConfigError` for a map of more rows."""
        if x.shape[2] != 1:
            raise ConfigError(
                f"of lines of this height the backbone leaves {x.shape[2]} rows, and the head reads one: lines must "
                "have the height that the network is built for"
            )
        return x.squeeze(2).transpose(1, 2)


class EncoderWithRNN(nn.Module):
    """Two bidirectional LSTM layers."""

    def __init__(self, in_channels: int, *, hidden_size: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(in_channels, hidden_size, num_layers=2, batch_first=True, bidirectional=True)
        self.out_channels = 2 * hidden_size

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, T, in_channels); returns (N, T, 2 * hidden_size)."""
        return self.lstm(x)[0]


class SequenceEncoder(nn.Module):
    """An encoder and the step to a sequence: the LSTM runs after it, the SVTR necks before.

    Raises `ConfigError` for an encoder that no official model has.

    Args:
        in_channels: channels of the backbone.
        encoder_type: "rnn", "svtr", "lightsvtr", or "reshape" for the step alone.
        hidden_size: of the LSTM, in each direction.
        svtr: keywords of `EncoderWithSVTR` or `EncoderWithLightSVTR`.
    """

    def __init__(
        self, in_channels: int, *, encoder_type: str, hidden_size: int = 48, svtr: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.encoder_type = encoder_type
        self.encoder_reshape = Im2Seq()
        self.encoder: EncoderWithRNN | EncoderWithSVTR | EncoderWithLightSVTR | None = None
        self.out_channels = in_channels
        if encoder_type == "rnn":
            self.encoder = EncoderWithRNN(in_channels, hidden_size=hidden_size)
        elif encoder_type == "svtr":
            self.encoder = EncoderWithSVTR(in_channels, **(svtr or {}))
        elif encoder_type == "lightsvtr":
            self.encoder = EncoderWithLightSVTR(in_channels, **(svtr or {}))
        elif encoder_type != "reshape":
            raise ConfigError(f"SequenceEncoder: encoder_type is {encoder_type!r}, not rnn, svtr, lightsvtr or reshape")
        if self.encoder is not None:
            self.out_channels = self.encoder.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, 1, T); returns (N, T, out_channels)."""
        if self.encoder is None:
            return self.encoder_reshape(x)
        if self.encoder_type == "rnn":
            return self.encoder(self.encoder_reshape(x))
        return self.encoder_reshape(self.encoder(x))


def _sequence_encoder_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    if "neck.encoder.conv1.conv.weight" in shapes:
        svtr = {"use_guide": False, **(hint.get("svtr") or {})}
        return {"encoder_type": "svtr", "svtr": svtr_options_of(shapes, "neck.encoder", svtr)}
    if hint.get("encoder_type") == "reshape" or not any(key.startswith("neck.encoder.") for key in shapes):
        return {"encoder_type": "reshape"}
    return {"encoder_type": "rnn", "hidden_size": shapes["neck.encoder.lstm.weight_hh_l0"][1]}


def _seen_options(seen: Seen, options: dict[str, Any]) -> dict[str, Any]:
    svtr = options.get("svtr")
    if svtr is None:
        return options
    width = svtr.get("hidden_dims", svtr["dims"])
    return {**options, "svtr": seen_svtr_options(seen, "neck.encoder", width, svtr)}


register(
    Part(
        "neck",
        "SequenceEncoder",
        SequenceEncoder,
        signatures=("neck.encoder.",),
        read_options=_sequence_encoder_options,
        read_seen=_seen_options,
    )
)

"""The SAR head: "show, attend and read", which guides the training of the PP-OCRv3 recognisers.

Source: PaddleOCR `ppocr/modeling/heads/rec_sar_head.py` (Apache-2.0); arXiv:1811.00751. It runs in training only, and
reads the labels it is to predict (teacher forcing).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paddle2torch.model_zoo.layers import Embedding


class SAREncoder(nn.Module):
    """One vector for a whole line: the LSTM's output at its last step that is not padding."""

    def __init__(self, in_channels: int, *, enc_dim: int, dropout: float) -> None:
        super().__init__()
        self.rnn_encoder = nn.LSTM(in_channels, enc_dim, num_layers=2, batch_first=True, dropout=dropout)
        self.linear = nn.Linear(enc_dim, enc_dim)

    def forward(self, x: Tensor, valid_ratio: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W), valid_ratio: float (N,); returns (N, enc_dim)."""
        states, _ = self.rnn_encoder(x.amax(2).transpose(1, 2))
        last = _valid_width(valid_ratio, states.shape[1]) - 1
        return self.linear(states[torch.arange(len(last), device=last.device), last])


class ParallelSARDecoder(nn.Module):
    """An LSTM over the line's vector and the label; each of its steps looks at the features with 2-D attention."""

    def __init__(self, in_channels: int, *, symbols: int, enc_dim: int, d_k: int, dropout: float) -> None:
        super().__init__()
        self.conv1x1_1 = nn.Linear(enc_dim, d_k)
        self.conv3x3_1 = nn.Conv2d(in_channels, d_k, 3, padding=1)
        self.conv1x1_2 = nn.Linear(d_k, 1)
        self.rnn_decoder = nn.LSTM(enc_dim, enc_dim, num_layers=2, batch_first=True)
        self.embedding = Embedding(symbols, enc_dim, padding_idx=symbols - 1)
        self.pred_dropout = nn.Dropout(dropout)
        # Padding is never predicted.
        self.prediction = nn.Linear(2 * enc_dim + in_channels, symbols - 1)

    def forward(self, x: Tensor, line: Tensor, labels: Tensor, valid_ratio: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W), line: (N, enc_dim), labels: int64 (N, L), valid_ratio: float (N,).

        Returns logits (N, L, symbols - 1) of what follows each symbol of the label.
        """
        states, _ = self.rnn_decoder(torch.cat((line.unsqueeze(1), self.embedding(labels)), dim=1))
        query, key = self.conv1x1_1(states), self.conv3x3_1(x)
        energy = torch.tanh(key.unsqueeze(1) + query[..., None, None])  # (N, L + 1, d_k, H, W)
        scores = self.conv1x1_2(energy.permute(0, 1, 3, 4, 2)).squeeze(-1)
        width = x.shape[3]
        padding = torch.arange(width, device=x.device) >= _valid_width(valid_ratio, width).unsqueeze(1)
        scores = scores.masked_fill(padding[:, None, None], -torch.inf)
        weights = scores.flatten(2).softmax(-1).view_as(scores)
        attended = torch.einsum("nlhw,nchw->nlc", weights, x)
        joined = torch.cat((states, attended, line.unsqueeze(1).expand_as(states)), dim=2)
        return self.pred_dropout(self.prediction(joined))[:, 1:]


class SARHead(nn.Module):
    """The head.

    Args:
        in_channels: channels of the backbone.
        symbols: classes of CTC without the blank, then unknown, start and end in one, and padding.
        enc_dim: width of both LSTMs.
        d_k: width of the attention.
        max_text_length: longest label in training, start and end included.
        enc_drop_rnn: dropout between the layers of the encoder's LSTM.
        pred_dropout: dropout of the logits.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        symbols: int,
        enc_dim: int = 512,
        d_k: int = 512,
        max_text_length: int = 30,
        enc_drop_rnn: float = 0.1,
        pred_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.max_text_length = max_text_length
        self.encoder = SAREncoder(in_channels, enc_dim=enc_dim, dropout=enc_drop_rnn)
        self.decoder = ParallelSARDecoder(in_channels, symbols=symbols, enc_dim=enc_dim, d_k=d_k, dropout=pred_dropout)

    def init_weights(self) -> None:
        """Embed as Paddle's layer does by itself."""
        nn.init.xavier_uniform_(self.decoder.embedding.weight)

    def forward(self, x: Tensor, labels: Tensor, valid_ratio: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W), labels: int64 (N, L), start symbol first, padded with `symbols - 1`.

        `valid_ratio`, float (N,), is the part of each line's width that is not padding. Returns logits (N, L,
        symbols - 1): those at position i are of the symbol at i + 1.
        """
        return self.decoder(x, self.encoder(x, valid_ratio), labels, valid_ratio)


def _valid_width(valid_ratio: Tensor, width: int) -> Tensor:
    """Columns that are not padding, int64 (N,)."""
    return torch.ceil(valid_ratio * width).long().clamp(max=width)

"""The NRTR head: a transformer decoder that writes the text symbol by symbol. It guides CTC in training.

Source: PaddleOCR `ppocr/modeling/heads/rec_nrtr_head.py` (Apache-2.0); NRTR, arXiv:1806.00926.
Symbols: 0 padding, 1 unknown, 2 start, 3 end, from 4 on the characters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.layers import Embedding, Mlp

START, END = 2, 3
KeyValue = tuple[Tensor, Tensor]


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention with Paddle's packed projections (`qkv`, or `q` and `kv`)."""

    def __init__(self, dim: int, num_heads: int, *, self_attn: bool) -> None:
        super().__init__()
        if dim % num_heads:
            raise ConfigError(f"nrtr_dim {dim} cannot be shared out to {num_heads} heads")
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        if self_attn:
            self.qkv = nn.Linear(dim, dim * 3)
        else:
            self.q = nn.Linear(dim, dim)
            self.kv = nn.Linear(dim, dim * 2)
        self.attn_drop = nn.Dropout(0.0)
        self.out_proj = nn.Linear(dim, dim)

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        n, length, width = x.shape
        return (
            x.view(n, length, parts, self.num_heads, width // parts // self.num_heads).permute(2, 0, 3, 1, 4).unbind()
        )

    def project_self(self, x: Tensor) -> tuple[Tensor, ...]:
        """x: float (N, L, dim); returns query, key and value, each (N, heads, L, dim / heads)."""
        return self._heads(self.qkv(x), 3)

    def project_query(self, x: Tensor) -> Tensor:
        """x: float (N, L, dim); returns the query (N, heads, L, dim / heads)."""
        return self._heads(self.q(x), 1)[0]

    def project_memory(self, memory: Tensor) -> tuple[Tensor, ...]:
        """memory: float (N, T, dim); returns key and value, each (N, heads, T, dim / heads)."""
        return self._heads(self.kv(memory), 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention of projected heads; `mask` is added to the scores. Returns (N, L, dim)."""
        scores = (q @ k.transpose(-2, -1)) * self.scale
        if mask is not None:
            scores = scores + mask
        x = self.attn_drop(scores.softmax(-1)) @ v
        return self.out_proj(x.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """A decoder layer: self-attention, cross-attention, MLP, each added and then normalised."""

    RECOMPUTED = True

    def __init__(self, dim: int, num_heads: int, *, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(dim, num_heads, self_attn=True)
        self.norm1 = nn.LayerNorm(dim, eps=1e-5)
        self.dropout1 = nn.Dropout(dropout)
        self.cross_attn = MultiheadAttention(dim, num_heads, self_attn=False)
        self.norm2 = nn.LayerNorm(dim, eps=1e-5)
        self.dropout2 = nn.Dropout(dropout)
        self.mlp = Mlp(dim, hidden, nn.ReLU(), dropout)
        self.norm3 = nn.LayerNorm(dim, eps=1e-5)
        self.dropout3 = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, memory: tuple[Tensor, ...], mask: Tensor | None = None, cache: KeyValue | None = None
    ) -> tuple[Tensor, KeyValue]:
        """x: float (N, L, dim); `memory` projected by `cross_attn.project_memory`; `cache` of the earlier steps.

        Returns (N, L, dim) and keys and values of the self-attention over all steps so far.
        """
        q, k, v = self.self_attn.project_self(x)
        if cache is not None:
            k, v = torch.cat((cache[0], k), dim=2), torch.cat((cache[1], v), dim=2)
        x = self.norm1(x + self.dropout1(self.self_attn.attend(q, k, v, mask)))
        q = self.cross_attn.project_query(x)
        x = self.norm2(x + self.dropout2(self.cross_attn.attend(q, *memory)))
        return self.norm3(x + self.dropout3(self.mlp(x))), (k, v)


class Embeddings(nn.Module):
    """Symbols to vectors, times the square root of their width."""

    def __init__(self, vocabulary: int, dim: int) -> None:
        super().__init__()
        self.embedding = Embedding(vocabulary, dim, padding_idx=0)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: int64 (N, L); returns float (N, L, dim)."""
        return self.embedding(ids) * math.sqrt(self.embedding.embedding_dim)


class PositionalEncoding(nn.Module):
    """Sines and cosines of the position. A buffer that official checkpoints carry: (5000, 1, dim)."""

    def __init__(self, dim: int, dropout: float, max_len: int = 5000) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        pe = torch.empty(max_len, 1, dim)
        if not pe.is_meta:  # there it comes from a checkpoint, and arithmetic would load the compiler (2 s)
            steps = torch.arange(max_len).view(-1, 1, 1)
            angles = steps * torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim))
            pe[..., 0::2], pe[..., 1::2] = angles.sin(), angles.cos()
        self.register_buffer("pe", pe)

    pe: Tensor

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """x: float (N, L, dim), whose first step is at position `start`; returns the same shape."""
        return self.dropout(x + self.pe[start : start + x.shape[1], 0])


class Transformer(nn.Module):
    """The decoder: teacher-forced in training, greedy in `decode`.

    Args:
        vocabulary: number of symbols, the four special ones included.
        nrtr_dim: width; a head for every 32.
        num_decoder_layers: layers.
        max_text_length: most symbols that `decode` writes, start included.
    """

    def __init__(
        self, *, vocabulary: int, nrtr_dim: int = 384, num_decoder_layers: int = 4, max_text_length: int = 25
    ) -> None:
        super().__init__()
        self.max_text_length = max_text_length
        self.embedding = Embeddings(vocabulary, nrtr_dim)
        self.positional_encoding = PositionalEncoding(nrtr_dim, dropout=0.1)
        self.decoder = nn.ModuleList(
            TransformerBlock(nrtr_dim, nrtr_dim // 32, hidden=nrtr_dim * 4, dropout=0.1)
            for _ in range(num_decoder_layers)
        )
        self.tgt_word_prj = nn.Linear(nrtr_dim, vocabulary, bias=False)

    @property
    def layers(self) -> list[TransformerBlock]:
        """The decoder's layers, in order."""
        return [layer for layer in self.decoder if isinstance(layer, TransformerBlock)]

    def forward(self, memory: Tensor, symbols: Tensor) -> Tensor:
        """Logits of the next symbol after each given one.

        memory: float (N, T, nrtr_dim); symbols: int64 (N, L), start symbol first. Returns (N, L, vocabulary).
        """
        x = self.positional_encoding(self.embedding(symbols))
        length = symbols.shape[1]
        mask = torch.full((length, length), float("-inf"), dtype=x.dtype, device=x.device).triu(1)
        for layer in self.layers:
            x, _ = layer(x, layer.cross_attn.project_memory(memory), mask)
        return self.tgt_word_prj(x)

    @torch.no_grad()
    def decode(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Greedy decoding of a batch, one step per symbol, with cached keys and values.

        memory: float (N, T, nrtr_dim). Returns symbols int64 (N, L) without the start symbol, and their
        probabilities float (N, L); L is at most `max_text_length - 1`. What follows a row's end symbol is padding
        (symbol 0, probability 0). Raises RuntimeError in training mode, where dropout would change the text.
        """
        if self.training:
            raise RuntimeError("decode() reads text: call model.eval() first, dropout is on")
        projected = [layer.cross_attn.project_memory(memory) for layer in self.layers]
        caches: list[KeyValue | None] = [None] * len(projected)
        last = torch.full((memory.shape[0], 1), START, device=memory.device)
        done = torch.zeros_like(last, dtype=torch.bool)
        symbols, probabilities = [], []
        for step in range(self.max_text_length - 1):
            x = self.positional_encoding(self.embedding(last), start=step)
            for i, layer in enumerate(self.layers):
                x, caches[i] = layer(x, projected[i], cache=caches[i])
            probability, last = self.tgt_word_prj(x[:, -1]).softmax(-1).max(-1, keepdim=True)
            symbols.append(last.masked_fill(done, 0))
            probabilities.append(probability.masked_fill(done, 0.0))
            done = done | (last == END)
            if done.all():
                break
        return torch.cat(symbols, dim=1), torch.cat(probabilities, dim=1)

    def init_weights(self) -> None:
        """The projection to symbols by the width of its input."""
        nn.init.normal_(self.tgt_word_prj.weight, std=self.tgt_word_prj.in_features**-0.5)

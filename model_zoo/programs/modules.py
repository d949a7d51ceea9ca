"""The layers of a program: PyTorch's own where they compute the same, else one with Paddle's meaning and the same
state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paddle2torch.model_zoo.programs.numbers import is_open, number_of
from paddle2torch.model_zoo.programs.opaque import is_exporting
from paddle2torch.model_zoo.programs.operations.convolution import convolve, transposed
from paddle2torch.model_zoo.programs.operations.indexing import with_a_zero
from paddle2torch.model_zoo.programs.table import ProgramError

TURNS_AT_MOST = 1_000_000
"""Turns of one loop, by when it must have ended: a damaged condition must not run without end."""
UNROLLED_AT_MOST = 64
"""Turns of a loop over arrays that a graph holds one after the other."""
WRITTEN_OUT_AT_MOST = 4
"""The same of a loop over tensors alone, which could stay a loop: where it goes over a few images, each place is known
if it is written out.
"""


class Constant(nn.Module):
    """A constant of the program. It is computed again where the program is loaded, so it is not part of the state."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value, persistent=False)
        self.number = value.reshape(()).item() if value.numel() == 1 else None

    def forward(self) -> Tensor:
        if self.number is not None and is_exporting():
            # PyTorch's compiler takes no tensor of one number into a loop from outside.
            return torch.full(self.value.shape, self.number, dtype=self.value.dtype, device=self.value.device)
        return self.value

    def extra_repr(self) -> str:
        return f"{tuple(self.value.shape)}, {self.value.dtype}"


class PaddleConv(nn.Module):
    """A convolution with Paddle's paddings (SAME, VALID, uneven ones) or layout. The weight is as `nn.Conv2d` has
    it.
    """

    def __init__(self, shape: Sequence[int], bias: bool, **settings: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(tuple(shape)))
        self.bias = nn.Parameter(torch.empty(shape[0])) if bias else None
        self.settings = settings

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self.weight, self.bias, **self.settings)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, {', '.join(f'{key}={value}' for key, value in self.settings.items())}"


class PaddleConvTranspose(nn.Module):
    """A transposed convolution with Paddle's paddings, sizes and layout. The weight is as `nn.ConvTranspose2d` has
    it.
    """

    def __init__(self, shape: Sequence[int], bias: bool, **settings: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(tuple(shape)))
        self.bias = nn.Parameter(torch.empty(shape[1] * settings["groups"])) if bias else None
        self.settings = settings

    def forward(self, x: Tensor, output_size: Any = ()) -> Tensor:
        sizes = list(output_size) if isinstance(output_size, list | tuple) else [output_size]
        return transposed(x, self.weight, self.bias, output_size=sizes, **self.settings)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, {', '.join(f'{key}={value}' for key, value in self.settings.items())}"


class ChannelsLast(nn.Module):
    """A normalisation over the last axis of its input in place of axis 1."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x.movedim(-1, 1))
        return y.movedim(1, -1)


class FlatLayerNorm(nn.Module):
    """`nn.LayerNorm` over all axes from one on, with weights in a row as Paddle stores them."""

    def __init__(self, size: int, epsilon: float, begin: int, scale: bool, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size)) if scale else None
        self.bias = nn.Parameter(torch.empty(size)) if bias else None
        self.epsilon, self.begin = epsilon, begin

    def forward(self, x: Tensor) -> Tensor:
        shape = list(x.shape[self.begin :])
        weight = None if self.weight is None else self.weight.reshape(shape)
        bias = None if self.bias is None else self.bias.reshape(shape)
        return nn.functional.layer_norm(x, shape, weight, bias, self.epsilon)


class ScaledDropout(nn.Module):
    """Dropout that scales at inference, by 1 - p, in place of in training (Paddle's `downgrade_in_infer`)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x * (1.0 - self.p)
        return x * torch.empty_like(x).bernoulli_(1.0 - self.p)


class Embedding(nn.Embedding):
    """`nn.Embedding`, but the row for padding is zeros whatever its weights are."""

    def __init__(self, rows: int, columns: int, padding: int) -> None:
        super().__init__(rows, columns)
        self.padding = padding

    def forward(self, input: Tensor) -> Tensor:
        made = super().forward(input.to(torch.int64))
        return made if self.padding == -1 else made * (input != self.padding).unsqueeze(-1).to(made.dtype)


class Recurrent(nn.Module):
    """A wrapper around `nn.LSTM`, `nn.GRU` or `nn.RNN` on (time, batch, channels) with given states."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, states: list[Tensor], lengths: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        initial = tuple(states) if self.layer.mode == "LSTM" else states[0]
        if lengths is not None:
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths.to("cpu", torch.int64), enforce_sorted=False)
            outputs, last = self.layer(packed, initial)
            made, _ = nn.utils.rnn.pad_packed_sequence(outputs, total_length=x.shape[0])
        else:
            made, last = self.layer(x, initial)
        return made, list(last) if isinstance(last, tuple) else [last]


def recurrent_keys(layers: int, bidirectional: bool, biases: bool) -> list[str]:
    """Keys of `nn.LSTM`'s state in the order of Paddle's list of weights."""
    directions = ["", "_reverse"] if bidirectional else [""]
    names = [
        [
            f"{kind}_l{layer}{direction}"
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if biases else 2]
        ]
        for layer in range(layers)
        for direction in directions
    ]
    return [name for group in names for name in group[:2]] + [name for group in names for name in group[2:]]


class WhileLoop(nn.Module):
    """Runs its body while the condition holds: the body takes the loop's values and what it reads of the outside,
    and gives the next condition and the next values. `turns` is how often, where that is a size.

    starts: for each value the integer that it starts with, where the program says one.
    """

    def __init__(self, body: nn.Module, starts: Sequence[int | None] = ()) -> None:
        super().__init__()
        self.body, self.starts = body, tuple(starts)

    def forward(self, condition: Any, values: list[Any], outside: list[Any], turns: Any = None) -> tuple[Any, ...]:
        if is_exporting():
            arrays = any(isinstance(item, list) for item in (*values, *outside))
            if arrays or (isinstance(turns, int) and turns <= WRITTEN_OUT_AT_MOST):
                return _unrolled_loop(self.body, _with_starts(values, self.starts), outside, turns)
            return _exported_loop(self.body, condition, values, outside)
        done = 0
        while bool(condition):
            done += 1
            if done > TURNS_AT_MOST:
                raise ProgramError(f"a loop has not ended after {TURNS_AT_MOST:,} turns")
            condition, *values = self.body(*values, *outside)
        return tuple(values)


class FixedSizeError(ProgramError):
    """A program can be exported for one size only of what it says is free."""


def _unrolled_loop(body: nn.Module, values: list[Any], outside: list[Any], turns: Any) -> tuple[Any, ...]:
    """A loop that grows an array of tensors: one for each image of a batch, so for a batch that is known."""
    if isinstance(turns, torch.SymInt):
        raise FixedSizeError("a loop that grows an array of tensors, one for each image, needs a fixed batch")
    if not isinstance(turns, int) or turns > UNROLLED_AT_MOST:
        raise ProgramError("a loop that grows an array of tensors cannot be exported; run the model itself")
    for _ in range(turns):
        _, *values = body(*values, *outside)
    return tuple(values)


def _with_starts(values: list[Any], starts: Sequence[int | None]) -> list[Any]:
    """The values of a loop, those with a known start as constants whose number PyTorch follows from turn to turn."""
    return [
        value if start is None else torch.tensor(start, dtype=value.dtype, device=value.device).reshape(value.shape)
        for value, start in zip(values, starts or [None] * len(values), strict=True)
    ]


def _exported_loop(body: nn.Module, condition: Any, values: list[Any], outside: list[Any]) -> tuple[Any, ...]:
    ranks = [item.ndim for item in values]
    outer = [item.ndim if isinstance(item, Tensor) else -1 for item in outside]

    def again(condition: Tensor, *rest: Any) -> Tensor:
        return condition.clone().reshape(())

    def turn(condition: Tensor, *rest: Any) -> tuple[Any, ...]:
        following, *made = body(*map(_from_row, rest, ranks), *map(_from_row, rows, outer))
        # What the body returns unchanged must not be the same tensor.
        return (following.clone().reshape(1), *(_to_row(item).clone() for item in made))

    # PyTorch's compiler takes numbers for constants where they have no axis: it hands none of these to a loop.
    rows = [_to_row(item) for item in outside]
    result = torch.while_loop(again, turn, tuple(_to_row(item).clone() for item in (condition, *values)))
    return tuple(map(_from_row, result[1:], ranks))


def _to_row(x: Any) -> Any:
    return x.reshape(1) if isinstance(x, Tensor) and x.ndim == 0 else x


def _from_row(x: Any, rank: int) -> Any:
    return x.reshape(()) if rank == 0 else x


class Condition(nn.Module):
    """One of two blocks, as the condition says. Each reads its own part of what is outside.

    effects: whether a block changes an array. Where a graph is exported and the condition is known only when it runs,
    both blocks are computed and the condition chooses between their results.
    """

    def __init__(
        self,
        if_true: nn.Module,
        if_false: nn.Module | None,
        reads: tuple[tuple[int, ...], tuple[int, ...]],
        results: int,
        effects: bool = False,
    ) -> None:
        super().__init__()
        self.if_true, self.if_false = if_true, if_false
        self.reads, self.results, self.effects = reads, results, effects

    def forward(self, condition: Any, outside: list[Any]) -> tuple[Any, ...]:
        true, false = ([outside[place] for place in places] for places in self.reads)
        if is_open(condition):
            condition = torch.scalar_tensor(torch.sym_ite(condition, 1, 0), dtype=torch.int64) != 0
        if is_exporting() and isinstance(condition, Tensor):
            return self.both(condition.reshape(()), true, false)
        chosen: Callable[..., Any] | None = self.if_true if bool(condition) else self.if_false
        if chosen is None:
            return (None,) * self.results
        return tuple(chosen(*(true if bool(condition) else false)))

    def both(self, condition: Tensor, true: list[Any], false: list[Any]) -> tuple[Any, ...]:
        """The results of the block that the condition names; both are computed."""
        if self.if_false is None:
            raise ProgramError("a condition without a second branch cannot be exported; run the model itself")
        if self.effects:
            raise ProgramError("a condition that changes an array of tensors cannot be exported; run the model itself")
        pairs = zip(self.if_true(*true), self.if_false(*false), strict=True)
        return tuple(_either(condition, *pair) for pair in pairs)


def _either(condition: Tensor, a: Any, b: Any) -> Tensor:
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        raise ProgramError("a condition that gives an array of tensors cannot be exported; run the model itself")
    if a.ndim != b.ndim:
        raise ProgramError(f"a condition that gives {a.ndim} axes or {b.ndim} cannot be exported; run the model itself")
    for axis, (first, second) in enumerate(zip(a.shape, b.shape, strict=True)):
        if statically_known_true(first == second):
            continue
        size = number_of(torch.where(condition, _size_as_tensor(a, axis), _size_as_tensor(b, axis)))
        torch._check(size >= 0)
        a, b = _of_size(a, axis, size), _of_size(b, axis, size)
    if a.dtype == torch.bool:
        return (condition & a) | (~condition & b)
    return torch.where(condition, a, b)


def _size_as_tensor(x: Tensor, axis: int) -> Tensor:
    return torch.scalar_tensor(x.shape[axis], dtype=torch.int64, device=x.device)


def _of_size(x: Tensor, axis: int, size: Any) -> Tensor:
    """x cut off along an axis, or with zeros behind it, to a size that is known when the graph runs."""
    places = torch.arange(size, device=x.device).clamp(max=_size_as_tensor(x, axis))
    return with_a_zero(x, axis).index_select(axis, places)

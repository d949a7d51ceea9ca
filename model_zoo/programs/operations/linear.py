"""Matrix products, recurrent networks, decompositions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from paddle2torch.model_zoo.programs.table import ProgramError, operation


@operation("matmul")
def matmul(
    x: Tensor,
    y: Tensor,
    *,
    transpose_x: bool = False,
    transpose_y: bool = False,
    alpha: float = 1.0,
    x_num_col_dims: int | None = None,
    y_num_col_dims: int | None = None,
) -> Tensor:
    """The matrix product on the last two axes. `…_num_col_dims` (older `mul`) are where the columns begin."""
    if x_num_col_dims is not None or y_num_col_dims is not None:
        rows, columns = x_num_col_dims or 1, y_num_col_dims or 1
        shape = [*x.shape[:rows], *y.shape[columns:]]
        return torch.matmul(x.flatten(rows).flatten(0, rows - 1), y.flatten(columns).flatten(0, columns - 1)).reshape(
            shape
        )
    x = x.transpose(-1, -2) if transpose_x and x.ndim > 1 else x
    y = y.transpose(-1, -2) if transpose_y and y.ndim > 1 else y
    product = torch.matmul(x, y)
    return product if alpha == 1.0 else product * alpha


@operation("bmm")
def bmm(x: Tensor, y: Tensor) -> Tensor:
    """Matrix products of two batches."""
    return torch.bmm(x, y)


@operation("mv")
def mv(x: Tensor, vec: Tensor) -> Tensor:
    """A matrix times a vector."""
    return torch.mv(x, vec)


@operation("dot")
def dot(x: Tensor, y: Tensor) -> Tensor:
    """The sum of products on the last axis."""
    return (x * y).sum(-1)


@operation("addmm")
def addmm(input: Tensor, x: Tensor, y: Tensor, *, beta: float = 1.0, alpha: float = 1.0) -> Tensor:
    """beta * input + alpha * x @ y."""
    return beta * input + alpha * torch.matmul(x, y)


@operation("baddbmm")
def baddbmm(
    input: Tensor, x: Tensor, y: Tensor, *, beta: float = 1.0, alpha: float = 1.0, out_dtype: Any = None
) -> Tensor:
    """beta * input + alpha * x @ y, in batches."""
    return beta * input + alpha * torch.bmm(x, y)


@operation("fc")
def fc(
    input: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    *,
    in_num_col_dims: int = 1,
    activation_type: str = "",
    padding_weights: bool = False,
) -> Tensor:
    """A matrix product of all axes from `in_num_col_dims` on, with bias and activation."""
    if padding_weights or activation_type not in ("", "relu"):
        raise ProgramError(f"fc with the activation {activation_type!r} or padded weights is not known")
    y = torch.matmul(input.flatten(in_num_col_dims), w)
    y = y if bias is None else y + bias.reshape(-1)
    return torch.relu(y) if activation_type else y


@operation("einsum", results=3)
def einsum(x: list[Tensor], *, equation: str) -> tuple[Tensor, None, None]:
    """Einstein's sum."""
    return torch.einsum(equation, *x), None, None


@operation("bilinear")
def bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight[k] @ y for each k."""
    z = torch.einsum("ni,kij,nj->nk", x, weight, y)
    return z if bias is None else z + bias


@operation("cross")
def cross(x: Tensor, y: Tensor, *, axis: int = 9) -> Tensor:
    """The cross product; without an axis (9) on the first one of size 3."""
    place = axis if axis != 9 else next(place for place, size in enumerate(x.shape) if size == 3)
    return torch.linalg.cross(x, y, dim=place)


@operation("inverse")
def inverse(x: Tensor) -> Tensor:
    """The inverse of matrices."""
    return torch.linalg.inv(x)


@operation("det", "determinant")
def det(x: Tensor) -> Tensor:
    """Determinants."""
    return torch.linalg.det(x)


@operation("solve")
def solve(x: Tensor, y: Tensor) -> Tensor:
    """z with x @ z = y."""
    return torch.linalg.solve(x, y)


@operation("triangular_solve")
def triangular_solve(
    x: Tensor, y: Tensor, *, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> Tensor:
    """z with x @ z = y for a triangular x."""
    x = x.transpose(-1, -2) if transpose else x
    return torch.linalg.solve_triangular(x, y, upper=upper != transpose, unitriangular=unitriangular)


@operation("cholesky")
def cholesky(x: Tensor, *, upper: bool = False) -> Tensor:
    """The triangular root of matrices."""
    return torch.linalg.cholesky(x, upper=upper)


@operation("matrix_power")
def matrix_power(x: Tensor, *, n: int) -> Tensor:
    """The n-th power of matrices."""
    if not -1000 <= n <= 1000:
        raise ProgramError(f"matrix_power {n}")
    return torch.linalg.matrix_power(x, n)


@operation("qr", results=2)
def qr(x: Tensor, *, mode: str = "reduced") -> tuple[Tensor, Tensor]:
    """The QR decomposition."""
    q, r = torch.linalg.qr(x, mode)
    return q, r


@operation("svd", results=3)
def svd(x: Tensor, *, full_matrices: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """The singular value decomposition."""
    u, s, vh = torch.linalg.svd(x, full_matrices)
    return u, s, vh


@operation("eigh", results=2)
def eigh(x: Tensor, *, UPLO: str = "L") -> tuple[Tensor, Tensor]:  # noqa: N803
    """Eigenvalues and vectors of symmetric matrices."""
    values, vectors = torch.linalg.eigh(x, UPLO)
    return values, vectors


_CELLS: dict[str, Any] = {
    "LSTM": torch._VF.lstm,
    "GRU": torch._VF.gru,
    "RNN_TANH": torch._VF.rnn_tanh,
    "RNN_RELU": torch._VF.rnn_relu,
}
_MODES = tuple(_CELLS)


def ordered_weights(weights: Sequence[Any], layers: int, directions: int) -> list[Any]:
    """PyTorch's order (each layer's four) of Paddle's weights: all `w_ih`, `w_hh`, then all `b_ih`, `b_hh`."""
    half = 2 * layers * directions
    if len(weights) not in (half, 2 * half):
        raise ProgramError(f"rnn: {len(weights)} weights for {layers} layers in {directions} directions")
    if len(weights) == half:
        return list(weights)
    ordered = []
    for index in range(0, half, 2):
        ordered += [*weights[index : index + 2], *weights[half + index : half + index + 2]]
    return ordered


@operation("rnn", results=4, choices={"mode": _MODES})
def rnn(
    x: Tensor,
    pre_state: list[Tensor],
    weight_list: list[Tensor],
    sequence_length: Tensor | None = None,
    dropout_state_in: Tensor | None = None,
    *,
    dropout_prob: float = 0.0,
    is_bidirec: bool = False,
    input_size: int = 10,
    hidden_size: int = 100,
    num_layers: int = 1,
    mode: str = "RNN_TANH",
    is_test: bool = False,
) -> tuple[Tensor, None, list[Tensor], None]:
    """A recurrent network on (time, batch, channels): its outputs and the last states.

    With `sequence_length` a row ends there: its outputs are 0 behind, its states those of its end.
    """
    directions = 2 if is_bidirec else 1
    weights = ordered_weights(weight_list, num_layers, directions)
    biases = len(weights) == 4 * num_layers * directions
    states = [state.to(x.dtype) for state in pre_state]
    initial = tuple(states) if mode == "LSTM" else states[0]
    if sequence_length is None:
        result = _CELLS[mode](x, initial, weights, biases, num_layers, 0.0, False, is_bidirec, False)
        return result[0], None, list(result[1:]), None
    lengths = sequence_length.to(device="cpu", dtype=torch.int64)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    order, back = packed.sorted_indices, packed.unsorted_indices
    assert order is not None
    assert back is not None
    turned = tuple(state.index_select(1, order) for state in states)
    result = _CELLS[mode](
        packed.data,
        packed.batch_sizes,
        turned if mode == "LSTM" else turned[0],
        weights,
        biases,
        num_layers,
        0.0,
        False,
        is_bidirec,
    )
    outputs = torch.nn.utils.rnn.PackedSequence(result[0], packed.batch_sizes, order, back)
    padded, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, total_length=x.shape[0])
    return padded, None, [state.index_select(1, back) for state in result[1:]], None


@operation("flash_attn", results=4)
def flash_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    fixed_seed_offset: Tensor | None = None,
    attn_mask: Tensor | None = None,
    *,
    dropout: float = 0.0,
    causal: bool = False,
    return_softmax: bool = False,
    is_test: bool = False,
    rng_name: str = "",
) -> tuple[Tensor, None, None, None]:
    """Attention on (batch, length, heads, channels)."""
    y = torch.nn.functional.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask, is_causal=causal
    )
    return y.transpose(1, 2), None, None, None


@operation("multi_dot")
def multi_dot(x: list[Tensor]) -> Tensor:
    """The product of several matrices."""
    made: Tensor = torch.linalg.multi_dot(x)
    return made


@operation("slogdet")
def slogdet(x: Tensor) -> Tensor:
    """Signs of determinants, and logarithms of their absolute values: (2, …)."""
    return torch.stack(list(torch.linalg.slogdet(x)))


@operation("eigvalsh", results=2, choices={"uplo": ("L", "U")})
def eigvalsh(x: Tensor, *, uplo: str = "L", is_test: bool = False) -> tuple[Tensor, None]:
    """Eigenvalues of symmetric matrices, the smallest first."""
    return torch.linalg.eigvalsh(x, uplo), None


@operation("svdvals")
def svdvals(x: Tensor) -> Tensor:
    """Singular values, the largest first."""
    return torch.linalg.svdvals(x)


@operation("matrix_rank")
def matrix_rank(x: Tensor, *, tol: float = 0.0, use_default_tol: bool = True, hermitian: bool = False) -> Tensor:
    """How many singular values are above the tolerance: int64."""
    if use_default_tol:
        return torch.linalg.matrix_rank(x, hermitian=hermitian)
    return torch.linalg.matrix_rank(x, atol=tol, rtol=0.0, hermitian=hermitian)


@operation("cholesky_solve")
def cholesky_solve(x: Tensor, y: Tensor, *, upper: bool = False) -> Tensor:
    """The solution of A @ result = x where y is the Cholesky factor of A."""
    return torch.cholesky_solve(x, y, upper)

"""Operations on constants run once, while the graph is built."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from paddle2torch.model_zoo.programs.graph import Node
from paddle2torch.model_zoo.programs.table import OF_DAMAGE, Definition, ProgramError
from paddle2torch.model_zoo.programs.values import (
    Known,
    count_elements,
    plain_number,
    plain_numbers,
    unwrapped,
    wrapped,
)

if TYPE_CHECKING:
    from paddle2torch.model_zoo.programs.block import BlockBuilder

FOLDED_AT_MOST = 1 << 22
"""Elements of a tensor that is computed while a graph is built; a larger one is computed when the model runs."""
FOLDED_IN_ALL_AT_MOST = 1 << 26

_SIZED = """
affine_grid anchor_generator arange as_strided bicubic_interp bilinear_interp bincount broadcast_tensors crop
deformable_conv diag_embed embedding empty expand expand_as eye fold full full_batch_size_like full_with_tensor
histogram kron linear_interp linspace logspace meshgrid nearest_interp one_hot pad pad2d pad3d prior_box
repeat_interleave repeat_interleave_with_tensor_index roi_align roi_pool sequence_mask tile tril_indices
trilinear_interp triu_indices unfold unpool
"""
_GROWING = frozenset(_SIZED.split())
"""Kinds whose result is larger than the product of what they are given: they take sizes from numbers."""


def fold(block: BlockBuilder, node: Node, definition: Definition, operands: list[Any]) -> list[Any] | None:
    """The results of an operation on constants; None where they would be too large, or cannot be computed now."""

    def arguments(device: str | None) -> list[Any]:
        def tensor(value: Any) -> Any:
            if isinstance(value, list):
                return [tensor(item) for item in value]
            return value.tensor.to(device) if isinstance(value, Known) and device else unwrapped(value)

        return [
            plain_numbers(operand)
            if name in definition.numbers
            else plain_number(operand)
            if name in definition.scalars
            else tensor(operand)
            for name, operand in zip(definition.operands, operands, strict=False)
        ]

    keywords = block.keywords(node, definition)
    # Broadcast, at most: elements times elements. Only what takes sizes from numbers can make more.
    size = math.prod(max(count_elements(unwrapped(operand)), 1) for operand in operands)
    if node.kind in _GROWING or size > FOLDED_AT_MOST:
        extra = {"device": "meta"} if definition.device else {}
        try:
            size = count_elements(definition.function(*arguments("meta"), **keywords, **extra))
        except RuntimeError as error:
            if isinstance(error, NotImplementedError) or "meta" in str(error):
                return None  # the operation reads values, which tensors without data do not have
            raise
    if size > FOLDED_AT_MOST or block.owner.folded_elements + size > FOLDED_IN_ALL_AT_MOST:
        return None
    try:
        made = definition.function(*arguments(None), **keywords)
    except OF_DAMAGE as error:
        raise ProgramError(f"its constants cannot be computed: {error!s:.300}") from None
    block.owner.folded_elements += size
    results = [made] if definition.results in (1, "list") else list(made)
    return [wrapped(item) for item in results]

"""The form of a program for running it: what the weights alone decide is computed once, and one convolution does its
normalisation, the map that is added to it, its activation and its affines as well.

It is the fold of the named networks (`model_zoo.forms.folding`), found in the graph in place of being written beside
the network: a chain of operations of which each reads nothing but the one before. Outputs differ by rounding; the
module has no state to save and is for running only.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from paddle2torch.model_zoo.errors import ConversionError
from paddle2torch.model_zoo.forms.folded import Affine, FoldedConv2d, FoldedConvTranspose2d, Tail
from paddle2torch.model_zoo.forms.folding import Convolution, bias_of, drop_denormals, folded
from paddle2torch.model_zoo.forms.layouts import Layouts
from paddle2torch.model_zoo.layers import fold_batch_norm
from paddle2torch.model_zoo.network import channels_last
from paddle2torch.model_zoo.programs.control import is_effect, remove_dead
from paddle2torch.model_zoo.programs.modules import Constant
from paddle2torch.model_zoo.programs.network import Program
from paddle2torch.model_zoo.programs.paths import put

FROZEN_AT_MOST = 1 << 22
"""Elements of a tensor that is computed from the weights once; a larger one is computed in every run."""
FROZEN_IN_ALL_AT_MOST = 1 << 26

_ACTIVATIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "relu": ("relu", {}),
    "sigmoid": ("sigmoid", {}),
    "silu": ("swish", {}),
    "swish": ("swish", {"beta": 1.0}),
    "hardswish": ("hardswish", {"threshold": 6.0, "scale": 6.0, "offset": 3.0}),
    "hard_swish": ("hardswish", {"threshold": 6.0, "scale": 6.0, "offset": 3.0}),
}
"""Kinds of operation that oneDNN's convolution does as well, under its own names, and the attributes that they need."""


def fold_program(program: Program) -> Program:
    """The form for running: a new program in evaluation mode on the CPU that shares no tensor with `program`."""
    module = copy.deepcopy(program).eval().requires_grad_(False)
    module.meta = dict(program.meta)
    with torch.no_grad():
        _Folder(module).run()
        drop_denormals(module)
    module.graph.lint()
    module.recompile()
    if any(isinstance(item, FoldedConv2d) for item in module.modules()):
        _lay_out(module)
    return module


def _lay_out(module: nn.Module) -> None:
    """Weights of convolutions with the channels last, the faster layout on a CPU; what oneDNN makes of them is kept."""
    for item in module.modules():
        if isinstance(item, FoldedConv2d):
            item.layouts = Layouts()
        if isinstance(item, FoldedConv2d | FoldedConvTranspose2d):
            channels_last(item)


@dataclass
class _Chain:
    """A convolution and what has been taken into it so far."""

    node: fx.Node
    conv: Convolution
    weight: Tensor  # float64, the outputs first
    bias: Tensor  # float64
    activation: str = "none"
    affine: Affine | None = None
    residual: fx.Node | None = None


class _Folder:
    """Rewrites the graph of one program."""

    def __init__(self, module: Program) -> None:
        self.module, self.graph = module, module.graph
        self.known: dict[fx.Node, Tensor] = {}

    def run(self) -> None:
        self._freeze()
        for node in list(self.graph.nodes):
            if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
                continue
            conv = self.module.get_submodule(str(node.target))
            if type(conv) in (nn.Conv2d, nn.ConvTranspose2d):
                assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
                self._fold(node, conv)
        remove_dead(self.graph, self.module)
        self.module.delete_all_unused_submodules()

    def _freeze(self) -> None:
        """Compute once what depends on weights and constants alone."""
        interpreter = fx.Interpreter(self.module)
        left = FROZEN_IN_ALL_AT_MOST
        for node in list(self.graph.nodes):
            if node.op == "get_attr":
                self.known[node] = interpreter.get_attr(str(node.target), (), {})
            elif node.op == "call_module" and isinstance(self.module.get_submodule(str(node.target)), Constant):
                self.known[node] = interpreter.call_module(str(node.target), (), {})
            elif node.op == "call_function" and node.all_input_nodes and self.known.keys() >= {*node.all_input_nodes}:
                made = None if is_effect(node) else self._computed(node)
                if made is not None and made.numel() <= min(FROZEN_AT_MOST, left):
                    left -= made.numel()
                    self.known[node] = made
        for number, (node, value) in enumerate(list(self.known.items())):
            if node.op == "call_function" and any(user not in self.known for user in node.users):
                path = f"frozen.c{number}"
                put(self.module, path, Constant(value.contiguous().clone()))
                with self.graph.inserting_before(node):
                    constant = self.graph.call_module(path)
                constant.meta.update(node.meta)
                node.replace_all_uses_with(constant)
                self.known[constant] = value

    def _computed(self, node: fx.Node) -> Tensor | None:
        """What an operation gives on what is known; None where that is no tensor, or it fails, as it will when run."""
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda item: self.known[item])
        try:
            made = node.target(*args, **kwargs)  # type: ignore[operator]  # a function, of this kind of node
        except (ConversionError, RuntimeError, TypeError, ValueError, LookupError):
            return None
        return made if isinstance(made, Tensor) else None

    def _fold(self, node: fx.Node, conv: Convolution) -> None:
        outputs = int(isinstance(conv, nn.ConvTranspose2d))
        weight = conv.weight.double().transpose(0, outputs)
        if outputs and conv.groups > 1:
            return  # its outputs lie in groups
        chain = _Chain(node, conv, weight, bias_of(conv))
        while len(chain.node.users) == 1 and self._take(chain, next(iter(chain.node.users))):
            pass
        tail = Tail(chain.activation, chain.affine)
        weight, residual = chain.weight.transpose(0, outputs).contiguous(), chain.residual
        put(self.module, str(node.target), folded(conv, weight, chain.bias, tail, residual=residual is not None))
        if chain.node is not node:
            node.meta = dict(chain.node.meta)
            chain.node.replace_all_uses_with(node)
            # What was taken in has no readers now, but for one another: the last first.
            last = chain.node
            while last is not node:
                taken_in = [item for item in last.all_input_nodes if item not in self.known and item is not residual]
                if residual in last.all_input_nodes:
                    last.prepend(node)  # what is added may be computed after the convolution
                self.graph.erase_node(last)
                last = taken_in[0]
        if residual is not None:
            node.args = (*node.args, residual)

    def _take(self, chain: _Chain, user: fx.Node) -> bool:
        """Take the operation `user` into the chain, where it can be."""
        if chain.affine is not None:
            return False
        if user.op == "call_module":
            norm = self.module.get_submodule(str(user.target))
            if type(norm) is not nn.BatchNorm2d or user.args != (chain.node,):
                return False
            if chain.activation != "none" or chain.residual is not None:
                return False
            chain.weight, chain.bias = fold_batch_norm(chain.weight, norm, chain.bias)
        elif user.op != "call_function":
            return False
        elif chain.activation == "none" and (activation := _activation(user, chain.node)) is not None:
            if chain.residual is not None and activation != "relu":
                return False  # oneDNN has no other behind a sum
            chain.activation = activation
        elif (residual := self._residual(chain, user)) is not None:
            chain.residual = residual
        else:
            affine = self._affine(user, chain.node, chain.conv.out_channels)
            if affine is None or chain.residual is not None:
                return False
            scale, shift = affine
            if chain.activation == "none":
                self._scale(chain, scale, shift)
            elif scale.numel() == shift.numel() == 1:
                return self._take_tail(chain, user, float(scale), float(shift))
            else:
                return False
        chain.node = user
        return True

    def _residual(self, chain: _Chain, user: fx.Node) -> fx.Node | None:
        """The map that an operation adds to the chain's, of the same size where the program says one."""
        if user.meta.get("kind") != "add" or len(user.args) != 2 or user.kwargs.get("axis", -1) != -1:
            return None
        if type(chain.conv) is not nn.Conv2d or chain.activation != "none" or chain.residual is not None:
            return None
        other = user.args[1] if user.args[0] is chain.node else user.args[0]
        shapes = [
            getattr(item.meta.get("declared"), "shape", None)
            for item in (chain.node, other)
            if isinstance(item, fx.Node)
        ]
        if not isinstance(other, fx.Node) or other is chain.node or other in self.known:
            return None
        return other if shapes[0] is not None and len(shapes[0]) == 4 and shapes[0] == shapes[1] else None

    def _take_tail(self, chain: _Chain, user: fx.Node, scale: float, shift: float) -> bool:
        """Take an affine of one number each behind the activation, and one that follows, which is often its shift."""
        chain.node = user
        followers = list(user.users)
        if len(followers) == 1 and followers[0].op == "call_function":
            further = self._affine(followers[0], user, chain.conv.out_channels)
            if further is not None and further[0].numel() == further[1].numel() == 1:
                scale, shift = scale * float(further[0]), shift * float(further[0]) + float(further[1])
                chain.node = followers[0]
        chain.affine = (scale, shift)
        return True

    def _scale(self, chain: _Chain, scale: Tensor, shift: Tensor) -> None:
        chain.weight = chain.weight * scale.reshape(-1, 1, 1, 1)
        chain.bias = chain.bias * scale + shift

    def _affine(self, user: fx.Node, before: fx.Node, channels: int) -> tuple[Tensor, Tensor] | None:
        """Scale and shift of an operation on `before` and a constant: float64, one number or one for each channel."""
        kind = user.meta.get("kind")
        zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        if len(user.args) != 2 or (kind not in ("add", "multiply") and user.args[0] is not before):
            return None
        other = user.args[1] if user.args[0] is before else user.args[0]
        if other is before:
            return None
        if kind == "scale":
            number, bias = other, user.kwargs.get("bias", 0.0)
            if not isinstance(number, int | float) or not isinstance(bias, int | float):
                return None
            after = user.kwargs.get("bias_after_scale", True)
            return one * number, one * (bias if after else bias * number)
        value = self._constant(other, channels, user.kwargs.get("axis", -1))
        if value is None:
            return None
        if kind == "add":
            return one, value
        if kind == "subtract":
            return one, -value
        if kind == "multiply":
            return value, zero
        return (1.0 / value, zero) if kind == "divide" and bool((value != 0).all()) else None

    def _constant(self, other: Any, channels: int, axis: Any) -> Tensor | None:
        """A constant beside a map (N, C, H, W) that has one number, or one for each channel."""
        if isinstance(other, int | float) and not isinstance(other, bool):
            return torch.tensor([float(other)], dtype=torch.float64) if math.isfinite(other) else None
        value = self.known.get(other) if isinstance(other, fx.Node) else None
        if value is None or not value.is_floating_point():
            return None
        if value.numel() == 1 and value.ndim <= 4:
            return value.double().reshape(1)
        shape = tuple(value.shape)
        placed = shape == (channels,) and axis == 1
        if placed or shape in ((channels, 1, 1), (1, channels, 1, 1)):
            return value.double().reshape(channels)
        return None


def _activation(user: fx.Node, before: fx.Node) -> str | None:
    """oneDNN's name of an activation of `before`; None for another operation."""
    found = _ACTIVATIONS.get(user.meta.get("kind", ""))
    if found is None or user.args != (before,):
        return None
    name, wanted = found
    # What is not given has these values as well.
    given = dict(user.kwargs)
    return (
        name
        if all(given.get(key, value) == value for key, value in wanted.items()) and not set(given) - set(wanted)
        else None
    )

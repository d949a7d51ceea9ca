"""Layers that an exporter wrote in pieces, found again by their shape and their constants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paddle2torch.converters.onnx_files.graph import Graph, close
from paddle2torch.converters.onnx_files.model import Node


@dataclass(frozen=True)
class Made:
    """What replaces nodes that belong together, at the place of the last of them."""

    kind: str
    reads: str
    attributes: Mapping[str, Any]
    scale: str | None = None
    bias: str | None = None
    turned: str = ""  # the sequence of which `reads` has the last two dimensions changed over


Found = tuple[Node, Made, list[Node]]
"""The last of nodes that belong together, what they are, and all of them."""


class Patterns:
    """`made` has what nodes are together, by the output of the last; `absorbed` the outputs of the others.

    `doubled` are values that are twice what the network has there: an optimiser put a factor of a half into the layers
    that read them.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.made: dict[str, Made] = {}
        self.absorbed: set[str] = set()
        self.doubled: set[str] = set()
        self._recognise()

    def _recognise(self) -> None:
        for node in self.graph.nodes:
            if node.output in self.absorbed or node.output in self.made:
                continue
            found = (
                self._norm(node) or self._gelu(node) or self._gated(node) or self._hardsigmoid(node)
                or self._affine(node) or self._nothing(node)
            )  # fmt: skip
            if found is not None:
                last, made, parts = found
                self.made[last.output] = made
                self.absorbed.update(part.output for part in parts if part is not last)

    def _norm(self, node: Node) -> Found | None:
        """(x - mean) / sqrt(mean of its square + epsilon), over the last dimension, then scale and bias."""
        found = self._divided_by_root(node) or self._scaled_by_root(node)
        centred = self._centred(node.inputs[0]) if found is not None else None
        if found is None or centred is None:
            return None
        epsilon, scale, parts = found
        x, turned, before = centred
        last, bias = node, None
        parts = [*before, *parts, node]
        following = self.graph.only_reader(last.output)
        if scale is None and following is not None and following.kind == "Mul":
            scale = self._vector(following)
            if scale is not None:
                last = following
                parts.append(following)
                following = self.graph.only_reader(last.output)
        if following is not None and following.kind == "Add" and (given := self._vector(following)) is not None:
            bias, last = given, following
            parts.append(following)
        reads, before_turn = (f"{x}@turned", x) if turned else (x, "")
        return last, Made("layer_norm", reads, {"epsilon": epsilon}, scale, bias, before_turn), parts

    def _divided_by_root(self, node: Node) -> tuple[float, str | None, list[Node]] | None:
        """(epsilon, None, nodes) where `node` divides by sqrt(mean of the square + epsilon)."""
        if node.kind != "Div" or len(node.inputs) != 2:
            return None
        of, root = node.inputs[0], self.graph.sole(node.inputs[1])
        summed = self.graph.sole(root.inputs[0]) if root is not None and root.kind == "Sqrt" else None
        variance = self.graph.pair(summed, "Add")
        averaged = self.graph.sole(variance[0]) if variance is not None else None
        if root is None or summed is None or variance is None or averaged is None or not self._over_last(averaged):
            return None
        square = self.graph.sole(averaged.inputs[0])
        if square is None or not (
            (square.kind == "Pow" and square.inputs[:1] == (of,) and self.graph.is_number(square.inputs[1], 2))
            or (square.kind == "Mul" and square.inputs == (of, of))
        ):
            return None
        return variance[1], None, [square, averaged, summed, root]

    def _scaled_by_root(self, node: Node) -> tuple[float, str | None, list[Node]] | None:
        """(epsilon, scale, no other nodes) of ONNX Runtime's normalisation without a mean."""
        if node.kind != "SimplifiedLayerNormalization" or node.attributes.get("axis", -1) not in (-1, 2):
            return None
        return float(node.attributes.get("epsilon", 1e-5)), node.inputs[1], []

    def _centred(self, name: str) -> tuple[str, bool, list[Node]] | None:
        """(x, whether it is turned, nodes) where `name` is x without its mean over what is then the last dimension."""
        node, parts, turned = self.graph.maker.get(name), [], False
        if node is not None and node.kind == "Transpose" and node.attributes.get("perm") == (0, 2, 1):
            parts, turned = [node], True
            node = self.graph.sole(node.inputs[0])
        if node is None or node.kind != "Sub" or len(node.inputs) != 2:
            return None
        mean = self.graph.sole(node.inputs[1])
        over = ((1,), (-2,)) if turned else ((-1,), (2,))
        if mean is None or not self._over(mean, over) or mean.inputs[0] != node.inputs[0]:
            return None
        return node.inputs[0], turned, [mean, node, *parts]

    def _over_last(self, node: Node) -> bool:
        """Whether `node` is the mean over the last dimension, which stays."""
        # A sequence has three dimensions everywhere here.
        return self._over(node, ((-1,), (2,)))

    def _over(self, node: Node, dimensions: tuple[tuple[int, ...], ...]) -> bool:
        """Whether `node` is the mean over one of `dimensions`, which stay."""
        if node.kind != "ReduceMean" or not node.inputs or node.attributes.get("keepdims", 1) != 1:
            return False
        return self.graph.integers(node, "axes") in dimensions

    def _vector(self, node: Node) -> str | None:
        """The constant of one dimension that `node` adds or multiplies with."""
        found = [name for name in node.inputs if name in self.graph.constants]
        return found[0] if len(found) == 1 and len(self.graph.constants[found[0]].tensor.shape) == 1 else None

    def _gelu(self, node: Node) -> Found | None:
        """0.5 * x * (1 + erf(x / sqrt 2)), found by its Erf; the halving is before or after."""
        if node.kind != "Erf" or len(node.inputs) != 1:
            return None
        inner = self.graph.sole(node.inputs[0])
        x = self.graph.pair_of(inner, "Div", math.sqrt(2)) or self.graph.pair_of(inner, "Mul", math.sqrt(0.5))
        added = self.graph.only_reader(node.outputs[0])
        if x is None or inner is None or added is None or self.graph.pair_of(added, "Add", 1) is None:
            return None
        product = self.graph.only_reader(added.outputs[0])
        if product is None or product.kind != "Mul" or len(product.inputs) != 2:
            return None
        other = next((name for name in product.inputs if name != added.outputs[0]), "")
        if other == x:
            last = self.graph.only_reader(product.outputs[0])
            if last is not None and (self.graph.pair_of(last, "Mul", 0.5) or self.graph.pair_of(last, "Div", 2)):
                return last, Made("gelu", x, {}), [inner, node, added, product, last]
            readers = self.graph.readers[product.output]
            if product.output in self.graph.served or any(reader.kind not in ("Conv", "MatMul") for reader in readers):
                return None
            self.doubled.add(product.output)
            return product, Made("gelu", x, {}), [inner, node, added, product]
        half = self.graph.sole(other)
        if half is not None and x in (self.graph.pair_of(half, "Mul", 0.5), self.graph.pair_of(half, "Div", 2)):
            return product, Made("gelu", x, {}), [inner, node, added, half, product]
        return None

    def _gated(self, node: Node) -> Found | None:
        """x * sigmoid(x), x * hardsigmoid(x)."""
        if node.kind != "Mul" or len(node.inputs) != 2:
            return None
        for x, gate in (node.inputs, node.inputs[::-1]):
            maker = self.graph.sole(gate)
            if maker is not None and maker.kind == "Sigmoid":
                # Paddle's Swish multiplies by its beta first, which is 1.
                beta = self.graph.sole(maker.inputs[0]) if maker.inputs != (x,) else None
                if maker.inputs == (x,):
                    return node, Made("swish", x, {}), [maker, node]
                if beta is not None and self.graph.pair_of(beta, "Mul", 1) == x:
                    return node, Made("swish", x, {}), [beta, maker, node]
            ramp = self._ramp(gate)
            if ramp is not None and ramp[0] == x and close(ramp[1], 1 / 6) and close(ramp[2], 0.5):
                return node, Made("hardswish", x, {}), [*ramp[3], node]
            relu6 = self._shifted_relu6(gate)
            if relu6 is not None and relu6[0] == x:
                last = self.graph.only_reader(node.outputs[0])
                if last is not None and (self.graph.pair_of(last, "Div", 6) or self.graph.pair_of(last, "Mul", 1 / 6)):
                    return last, Made("hardswish", x, {}), [*relu6[1], node, last]
        return None

    def _ramp(self, name: str) -> tuple[str, float, float, list[Node]] | None:
        """(x, slope, offset, nodes) where `name` is min(max(slope * x + offset, 0), 1), however it is written."""
        node = self.graph.sole(name)
        if node is None:
            return None
        if node.kind == "HardSigmoid":
            slope, offset = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
            return node.inputs[0], float(slope), float(offset), [node]
        # clip(x + 3, 0, 6) / 6
        sixth = self.graph.pair_of(node, "Div", 6) or self.graph.pair_of(node, "Mul", 1 / 6)
        if sixth is not None:
            relu6 = self._shifted_relu6(sixth)
            return None if relu6 is None else (relu6[0], 1 / 6, 0.5, [*relu6[1], node])
        clip = self.graph.clip(node)
        if clip is None or clip[1:] != (0.0, 1.0):
            return None
        added = self.graph.sole(clip[0])
        summed = self.graph.pair(added, "Add")
        multiplied = self.graph.sole(summed[0]) if summed is not None else None
        product = self.graph.pair(multiplied, "Mul")
        if summed is None or product is None or added is None or multiplied is None:
            return None
        return product[0], product[1], summed[1], [multiplied, added, node]

    def _shifted_relu6(self, name: str) -> tuple[str, list[Node]] | None:
        """(x, nodes) where `name` is clip(x + 3, 0, 6)."""
        node = self.graph.sole(name)
        clip = self.graph.clip(node)
        if node is None or clip is None or not (clip[1] == 0 and close(clip[2], 6)):
            return None
        added = self.graph.sole(clip[0])
        x = self.graph.pair_of(added, "Add", 3)
        return None if x is None or added is None else (x, [added, node])

    def _hardsigmoid(self, node: Node) -> Found | None:
        if node.kind not in ("Clip", "Div", "Mul"):
            return None
        # Whoever reads it: a gate is read once, but it need not be.
        ramp = self._ramp(node.outputs[0]) if self.graph.only_reader(node.outputs[0]) is not None else None
        if ramp is None:
            return None
        reader = self.graph.only_reader(node.outputs[0])
        if reader is not None and reader.kind == "Mul" and ramp[0] in reader.inputs and close(ramp[1], 1 / 6):
            return None  # it belongs to a Hardswish
        return node, Made("hardsigmoid", ramp[0], {"slope": ramp[1], "offset": ramp[2]}), ramp[3]

    def _affine(self, node: Node) -> Found | None:
        """x * scale + bias with two numbers: a learnable affine, or a factor that was not learned."""
        product = self.graph.pair(node, "Mul")
        if product is None:
            return self._shifted(node)
        last = self.graph.only_reader(node.outputs[0])
        summed = self.graph.pair(last, "Add")
        if last is None or summed is None or self._is_ramp(last):
            return None
        if summed[1] == 0:
            # Paddle's `scale` has a bias too. Should it have been learned, the network asks for it (`align.py`).
            return last, Made("factor", product[0], {"scale": product[1]}), [node, last]
        scale, bias = (next(name for name in part.inputs if name in self.graph.constants) for part in (node, last))
        return last, Made("affine", product[0], {}, scale, bias), [node, last]

    def _shifted(self, node: Node) -> Found | None:
        """An affine whose scale an optimiser multiplied into the convolution before it: its bias is left."""
        summed = self.graph.pair(node, "Add")
        maker = self.graph.maker.get(summed[0]) if summed is not None else None
        if summed is None or summed[1] == 0 or maker is None or maker.kind != "Conv":
            return None
        clip = self.graph.clip(self.graph.only_reader(node.output))
        if clip is not None and clip[1] == 0:
            return None  # the inside of a Hardswish
        weight = self.graph.constants.get(maker.inputs[1])
        if weight is None or not weight.tensor.shape or weight.tensor.shape[0] == 1:
            return None  # the bias of a convolution with one channel
        bias = next(name for name in node.inputs if name in self.graph.constants)
        return node, Made("affine", summed[0], {}, self.graph.one(bias), bias), [node]

    def _is_ramp(self, added: Node) -> bool:
        """Whether the sum is the inside of a Hardsigmoid."""
        clip = self.graph.clip(self.graph.only_reader(added.outputs[0]))
        return clip is not None and clip[1:] == (0.0, 1.0)

    def _nothing(self, node: Node) -> Found | None:
        """A factor by which values are multiplied, and an addition of nothing."""
        for kind in ("Mul", "Div"):
            pair = self.graph.pair(node, kind)
            if pair is not None and pair[1] != 0:
                factor = pair[1] if kind == "Mul" else 1 / pair[1]
                return node, Made("factor", pair[0], {"scale": factor}), [node]
        pair = self.graph.pair(node, "Add") or self.graph.pair(node, "Sub")
        if pair is not None and pair[1] == 0:
            return node, Made("assign", pair[0], {}), [node]
        return None

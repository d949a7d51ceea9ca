"""Damage to ONNX files: of their bytes, and of what they say. `python -m onnx_mutations COUNT SEED` counts answers."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_writer

from paddle2torch.converters.architecture import Architecture
from paddle2torch.converters.characters import Charset
from paddle2torch.converters.convert import convert_onnx
from paddle2torch.converters.onnx_files.description import describe_onnx
from paddle2torch.converters.templates import Template
from paddle2torch.model_zoo.errors import Paddle2TorchError

STYLES = ("paddle2onnx, version 11", "paddle2onnx, version 12, constants as nodes", "whole layers, version 17")
TASKS = ("rec", "det", "cls", "lstm")
KINDS = (
    *("kind", "input", "output", "remove", "repeat", "move"),
    *("attribute", "shape", "type", "domain", "opset", "rename"),
)
NUMBERS = (0, 1, 2, 3, 7, 2**20, 2**31, 2**32, 2**40, 2**60, 2**63, 2**64 - 1)


def template(task: str) -> Template:
    """What is known of the small network for a task before its file is read."""
    config = onnx_writer.CONFIGS[task]
    charset = None if config.charset is None else Charset(config.charset, False, "a test")
    return Template("small", "a test", config.task, Architecture(config.backbone, config.neck, config.head), charset)


class Mutations:
    """An endless row of damaged files, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.bases = []
        for task in TASKS:
            for style in STYLES:
                model = onnx_writer.proto(task, onnx_writer.STYLES[style], character="a\nb\nc\nd\ne\nf\ng")
                content = model.SerializeToString()
                # Weights are most of a file, and any bits of them are good ones.
                telling = np.ones(len(content), bool)
                for tensor in (
                    *model.graph.initializer,
                    *(a.t for n in model.graph.node for a in n.attribute if a.type == 4),
                ):
                    if len(tensor.raw_data) > 64:
                        start = content.find(tensor.raw_data)
                        telling[start : start + len(tensor.raw_data)] = False
                self.bases.append((task, content, np.flatnonzero(telling)))

    def draw(self) -> tuple[str, bytes]:
        """The task of the network that it was, and the file."""
        task, content, telling = self.random.choice(self.bases)
        if self.random.random() < 0.5:
            return task, self._bytes(bytearray(content), telling)
        return task, self._meaning(content)

    def _bytes(self, data: bytearray, telling: np.ndarray) -> bytes:
        draw = self.random

        def place() -> int:
            return int(telling[draw.randrange(len(telling))]) if draw.random() < 0.9 else draw.randrange(len(data))

        at = place()
        kind = draw.choice(("bit", "bits", "cut", "insert", "delete", "number", "swap"))
        if kind == "bit":
            data[at] ^= 1 << draw.randrange(8)
        elif kind == "bits":
            for _ in range(draw.randrange(2, 30)):
                data[place()] ^= 1 << draw.randrange(8)
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = draw.randbytes(draw.randrange(1, 20))
        elif kind == "delete":
            del data[at : at + draw.randrange(1, 50)]
        elif kind == "number":
            data[at : at + 1] = _varint(draw.choice(NUMBERS))
        else:
            other, size = place(), draw.randrange(1, 40)
            data[at : at + size], data[other : other + size] = data[other : other + size], data[at : at + size]
        return bytes(data)

    def _meaning(self, content: bytes) -> bytes:
        """A file that is well-formed and says something else."""
        draw = self.random
        model = onnx_writer.onnx.ModelProto.FromString(content)
        graph = model.graph
        for _ in range(draw.randrange(1, 4)):
            node, other = draw.choice(graph.node), draw.choice(graph.node)
            kind = draw.choice(KINDS)
            if kind == "kind":
                node.op_type = other.op_type
            elif kind == "input" and node.input and other.output:
                node.input[draw.randrange(len(node.input))] = draw.choice((*other.output, *other.input, ""))
            elif kind == "output" and node.output:
                node.output[0] = draw.choice((*other.output, "", "x"))
            elif kind == "remove":
                graph.node.remove(node)
            elif kind == "repeat":
                graph.node.append(other)
            elif kind == "move":
                node.CopyFrom(other)
            elif kind == "attribute" and node.attribute:
                self._attribute(draw.choice(node.attribute))
            elif kind in ("shape", "type") and graph.initializer:
                tensor = draw.choice(graph.initializer)
                if kind == "type":
                    tensor.data_type = draw.randrange(0, 20)
                elif tensor.dims:
                    tensor.dims[draw.randrange(len(tensor.dims))] = draw.choice(NUMBERS[:10])
                else:
                    tensor.dims.append(draw.choice(NUMBERS[:10]))
            elif kind == "domain":
                node.domain = draw.choice(("com.microsoft", "ai.onnx", "\n"))
            elif kind == "opset":
                model.opset_import[0].version = draw.choice((0, 1, 5, 23, 2**40))
            elif kind == "rename" and graph.initializer:
                draw.choice(graph.initializer).name = draw.choice(graph.initializer).name
        return bytes(model.SerializeToString())

    def _attribute(self, attribute: Any) -> None:
        draw = self.random
        if attribute.ints:
            attribute.ints[draw.randrange(len(attribute.ints))] = draw.choice((-1, *NUMBERS[:10]))
        elif attribute.type == 1:
            attribute.f = draw.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))
        elif attribute.type == 2:
            attribute.i = draw.choice((-1, *NUMBERS[:10]))
        else:
            attribute.name = draw.choice(("", "axes", "perm", "value"))


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def answer(path: Path, task: str) -> str:
    """What reading the file gave: the kind of error, or "converted". Anything but our own errors is raised."""
    try:
        describe_onnx(path)
        convert_onnx(path, template(task), name="small")
    except Paddle2TorchError as error:
        message = str(error)
        assert len(message) < 1500, message
        assert message.isprintable(), message
        return type(error).__name__
    return "converted"


def main(count: int, seed: int) -> None:
    """Read `count` damaged files, and say what that gave."""
    mutations, answers, slowest = Mutations(seed), Counter[str](), 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "damaged.onnx")
        for _ in range(count):
            task, content = mutations.draw()
            path.write_bytes(content)
            start = time.process_time()
            answers[answer(path, task)] += 1
            slowest = max(slowest, time.process_time() - start)
    print(dict(answers), f"slowest {slowest:.2f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""Small Paddle files written by hand, independently of the readers under test."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest

# `VarType.Type` of Paddle's framework.proto.
TYPE_CODES = {"bool": 0, "int32": 2, "int64": 3, "float16": 4, "float32": 5, "float64": 6, "uint8": 20, "uint16": 22}


class PaddleFiles:
    """Encoders of the formats. bfloat16 is told by numpy's uint16, as Paddle does."""

    @staticmethod
    def varint(number: int) -> bytes:
        number %= 1 << 64
        encoded = bytearray()
        while number > 0x7F:
            encoded.append(number & 0x7F | 0x80)
            number >>= 7
        return bytes([*encoded, number])

    @classmethod
    def field(cls, number: int, value: int | float | str | bytes) -> bytes:
        """One protobuf field: an integer as varint, a float as 32 bits, text and messages with their length."""
        if isinstance(value, int):
            return cls.varint(number << 3) + cls.varint(value)
        if isinstance(value, float):
            return cls.varint(number << 3 | 5) + struct.pack("<f", value)
        content = value.encode() if isinstance(value, str) else value
        return cls.varint(number << 3 | 2) + cls.varint(len(content)) + content

    @classmethod
    def tensor_desc(cls, code: int, shape: tuple[int, ...]) -> bytes:
        return cls.field(1, code) + b"".join(cls.field(2, size) for size in shape)

    @classmethod
    def record(cls, array: np.ndarray, description: bytes | None = None) -> bytes:
        """A tensor as `.pdiparams` stores it."""
        if description is None:
            description = cls.tensor_desc(TYPE_CODES[array.dtype.name], array.shape)
        return struct.pack("<IQIi", 0, 0, 0, len(description)) + description + array.tobytes()

    @classmethod
    def variable(cls, name: str, shape: tuple[int, ...], code: int = 5, persistable: bool = False) -> bytes:
        tensor = cls.field(1, cls.tensor_desc(code, shape))
        kind = cls.field(1, 7) + cls.field(3, tensor)
        return cls.field(1, name) + cls.field(2, kind) + (cls.field(3, 1) if persistable else b"")

    @classmethod
    def operation(
        cls, kind: str, inputs: dict[str, list[str]], outputs: dict[str, list[str]], attributes: dict[str, Any]
    ) -> bytes:
        encoded = b""
        for number, arguments in ((1, inputs), (2, outputs)):
            for parameter, names in arguments.items():
                encoded += cls.field(number, cls.field(1, parameter) + b"".join(cls.field(2, name) for name in names))
        encoded += cls.field(3, kind)
        for name, value in attributes.items():
            encoded += cls.field(4, cls.field(1, name) + cls._attribute(value))
        return encoded

    @classmethod
    def _attribute(cls, value: Any) -> bytes:
        if isinstance(value, bool):
            return cls.field(2, 6) + cls.field(10, int(value))
        if isinstance(value, int):
            return cls.field(2, 0) + cls.field(3, value)
        if isinstance(value, float):
            return cls.field(2, 1) + cls.field(4, value)
        if isinstance(value, str):
            return cls.field(2, 2) + cls.field(5, value)
        if isinstance(value, bytes):  # an attribute that is already encoded
            return value
        return cls.field(2, 3) + b"".join(cls.field(6, item) for item in value)

    @classmethod
    def program_desc(cls, operations: list[bytes], variables: list[bytes]) -> bytes:
        block = cls.field(1, 0) + cls.field(2, -1)
        block += b"".join(cls.field(3, variable) for variable in variables)
        block += b"".join(cls.field(4, operation) for operation in operations)
        return cls.field(1, block) + cls.field(4, cls.field(1, 2004001))

    @classmethod
    def small_pdmodel(cls) -> bytes:
        """A convolution with a bias and a hard swish; parameters `conv2d_0.b_0` (4) and `conv2d_0.w_0` (4, 3, 1, 1)."""
        holder = cls.field(1, "feed") + cls.field(2, cls.field(1, 9)) + cls.field(3, 1)
        variables = [
            holder,
            cls.variable("x", (-1, 3, -1, -1)),
            cls.variable("conv2d_0.w_0", (4, 3, 1, 1), persistable=True),
            cls.variable("conv2d_0.b_0", (4,), persistable=True),
            cls.variable("a", (-1, 4, -1, -1)),
            cls.variable("b", (-1, 4, -1, -1)),
            cls.variable("c", (-1, 4, -1, -1)),
        ]
        convolution = {
            "strides": [2, 1],
            "paddings": [0, 0],
            "groups": 1,
            "data_format": "NCHW",
            "use_cudnn": True,
            "op_callstack": "not read",
        }
        operations = [
            cls.operation("feed", {"X": ["feed"]}, {"Out": ["x"]}, {"col": 0}),
            cls.operation(
                "conv2d", {"Bias": [], "Filter": ["conv2d_0.w_0"], "Input": ["x"]}, {"Output": ["a"]}, convolution
            ),
            cls.operation("elementwise_add", {"X": ["a"], "Y": ["conv2d_0.b_0"]}, {"Out": ["b"]}, {"axis": 1}),
            cls.operation("hard_swish", {"X": ["b"]}, {"Out": ["c"]}, {"offset": 3.0}),
            cls.operation("fetch", {"X": ["c"]}, {"Out": ["fetch"]}, {"col": 0}),
        ]
        return cls.program_desc(operations, variables)

    @staticmethod
    def tensor(number: int, shape: list[int], dtype: str = "f32") -> dict[str, Any]:
        """A value of a PIR program."""
        return {"%": number, "TT": {"#": "0.t_dtensor", "D": [{"#": f"0.t_{dtype}"}, shape, "NCHW", [], 0]}}

    @classmethod
    def pir_parameter(cls, number: int, name: str, shape: list[int]) -> dict[str, Any]:
        result = cls.tensor(number, shape)
        return {"#": "p", "A": [0, 1, 1, name], "DA": [], "O": result, "OA": [1, 0, 1], "QA": []}

    @classmethod
    def pir_operation(
        cls, kind: str, inputs: list[int], outputs: list[dict[str, Any]], attributes: dict[str, Any]
    ) -> dict[str, Any]:
        """An operation; an attribute is (type, value), a list of it as tuple of such."""
        written = [{"N": name, "AT": cls._pir_attribute(value)} for name, value in attributes.items()]
        return {"#": kind, "A": written, "I": [{"%": number} for number in inputs], "O": outputs, "OA": []}

    @classmethod
    def _pir_attribute(cls, value: Any) -> dict[str, Any]:
        if isinstance(value, list):
            return {"#": "0.a_array", "D": [cls._pir_attribute(item) for item in value]}
        code, content = value
        return {"#": code, "D": content}

    @staticmethod
    def pir_program(operations: list[dict[str, Any]], version: int = 4) -> bytes:
        block = {"#": "block_0", "args": [], "ops": operations}
        program = {"regions": [{"#": "region_0", "blocks": [block]}]}
        base = {"magic": "pir", "trainable": True, "version": version}
        return json.dumps({"base_code": base, "program": program}).encode()

    @classmethod
    def small_pir(cls) -> bytes:
        """The network of `small_pdmodel`, as Paddle 3 writes it: the bias reshaped before it is added."""
        shape = [-1, 4, -1, -1]
        one, zero = ("0.a_i32", 1), ("0.a_i32", 0)
        convolution = {
            "strides": [("0.a_i32", 2), one],
            "paddings": [zero, zero],
            "groups": one,
            "data_format": ("0.a_str", "NCHW"),
        }
        array = {"value": [("0.a_i64", 1), ("0.a_i64", -1), ("0.a_i64", 1), ("0.a_i64", 1)]}
        return cls.pir_program(
            [
                cls.pir_parameter(1, "conv2d_0.w_0", [4, 3, 1, 1]),
                cls.pir_parameter(2, "conv2d_0.b_0", [4]),
                cls.pir_operation("1.data", [], [cls.tensor(3, [-1, 3, -1, -1])], {"name": ("0.a_str", "x")}),
                cls.pir_operation("1.conv2d", [3, 1], [cls.tensor(4, shape)], convolution),
                cls.pir_operation("1.full_int_array", [], [cls.tensor(5, [4], "i64")], array),
                cls.pir_operation("1.reshape", [2, 5], [cls.tensor(6, [1, 4, 1, 1])], {}),
                cls.pir_operation("1.add", [4, 6], [cls.tensor(7, shape)], {}),
                cls.pir_operation("1.hardswish", [7], [cls.tensor(8, shape)], {}),
                cls.pir_operation("1.fetch", [8], [cls.tensor(9, shape)], {"col": zero}),
            ]
        )


@pytest.fixture(scope="session")
def paddle_files() -> type[PaddleFiles]:
    """Encoders of Paddle's file formats."""
    return PaddleFiles

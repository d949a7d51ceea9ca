"""The Open Inference Protocol (KServe v2) over HTTP, as docling's engine `kserve_v2_ocr` and Triton's clients speak it.

Inputs: `image`, UINT8 (1, height, width, 3), RGB; `lang_type`, BYTES (1, 1), which may be left out. Outputs: `boxes`,
FP32 (lines, 4, 2), pixels; `txts`, BYTES (lines,); `scores`, FP32 (lines,). Tensors are lists of JSON, or bytes behind
the JSON, whose length is then in a header.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paddle2torch.model_zoo.show import show
from paddle2torch.ocr.results import PageText
from paddle2torch.serving.limits import Limits, RequestError
from paddle2torch.tasks.geometry import quad_of
from paddle2torch.tasks.pixels import BGRImage

HEADER_LENGTH = "inference-header-content-length"
INPUTS = (
    {"name": "image", "datatype": "UINT8", "shape": [1, -1, -1, 3]},
    {"name": "lang_type", "datatype": "BYTES", "shape": [1, 1]},
)
OUTPUTS = (
    {"name": "boxes", "datatype": "FP32", "shape": [-1, 4, 2]},
    {"name": "txts", "datatype": "BYTES", "shape": [-1]},
    {"name": "scores", "datatype": "FP32", "shape": [-1]},
)

_DESCRIPTION_AT_MOST = 65_536
"""Bytes of the JSON in front of binary tensors."""

_JSON_AT_MOST = 24_000_000
"""Bytes of a request whose tensors are lists: about eight million values, which take a second to be read."""

_BRACKETS_AT_MOST = 256
"""Lists and objects of a request: many small ones would take many times their length in memory."""


@dataclass(frozen=True)
class Inference:
    """A request. image: uint8 (height, width, 3), BGR. lang: as the client calls it. outputs: each with whether it is
    wanted as bytes.
    """

    id: str | None
    image: BGRImage
    lang: str | None
    outputs: Mapping[str, bool]


def parse_inference(body: bytes, header_length: str | None, limits: Limits) -> Inference:
    """Read a request. Raises `RequestError` for one that is none."""
    description, rest = _divided(body, header_length)
    if len(description) > _JSON_AT_MOST:
        raise RequestError(
            413, "too_large", f"tensors as lists have at most {_JSON_AT_MOST:,} bytes: send the image as bytes"
        )
    if description.count(b"[") + description.count(b"{") > _BRACKETS_AT_MOST:
        raise _bad(f"the JSON has more than {_BRACKETS_AT_MOST} lists and objects: a tensor's data is one flat list")
    try:
        request = json.loads(description)
    except (ValueError, RecursionError):
        raise _bad("the body is not JSON in UTF-8") from None
    if not isinstance(request, dict):
        raise _bad("the body is not a JSON object")
    image: np.ndarray[Any, Any] | None = None
    lang: str | None = None
    offset = 0
    for entry in _objects(request, "inputs"):
        name, size = entry.get("name"), _parameters(entry).get("binary_data_size")
        raw = None
        if size is not None:
            if type(size) is not int or not 0 <= size <= len(rest) - offset:
                raise _bad(
                    f"input {show(name)}: binary_data_size is {show(size)}, and {len(rest) - offset:,} bytes are left"
                )
            raw = rest[offset : offset + size]
            offset += size
        if name == "image":
            image = _pixels(entry, raw, limits)
        elif name == "lang_type":
            lang = _text(entry, raw)
        else:
            raise _bad(f"there is no input {show(name)}; there are image and lang_type")
    if offset != len(rest):
        raise _bad(f"{len(rest) - offset:,} bytes are left behind the tensors")
    if image is None:
        raise _bad("the input image is missing")
    identifier = request.get("id")
    return Inference(
        identifier if isinstance(identifier, str) else None,
        np.ascontiguousarray(image[0, :, :, ::-1]),
        lang,
        _wanted(request),
    )


def _divided(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    length = int(header_length) if header_length.isascii() and header_length.isdecimal() else -1
    if not 0 <= length <= min(len(body), _DESCRIPTION_AT_MOST):
        raise _bad(
            f"{HEADER_LENGTH} is {show(header_length)}: it is the length of the JSON, at most {_DESCRIPTION_AT_MOST:,}"
        )
    return body[:length], memoryview(body)[length:]


def _objects(request: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    found = request.get(key, [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise _bad(f"{key} is not a list of objects")
    return found


def _parameters(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    found = entry.get("parameters") or {}
    if not isinstance(found, dict):
        raise _bad("parameters is not an object")
    return found


def _shape(entry: Mapping[str, Any], datatype: str, like: Sequence[int | None]) -> tuple[int, ...]:
    shape = entry.get("shape")
    fits = (
        isinstance(shape, list)
        and len(shape) == len(like)
        and all(type(side) is int and side > 0 and want in (None, side) for side, want in zip(shape, like, strict=True))
    )
    if not fits or entry.get("datatype") != datatype:
        words = ["n" if want is None else str(want) for want in like]
        raise _bad(
            f"input {show(entry.get('name'))} is {datatype} ({', '.join(words)}), not "
            f"{show(entry.get('datatype'))} {show(shape)}"
        )
    assert isinstance(shape, list)
    return tuple(shape)


def _pixels(entry: Mapping[str, Any], raw: memoryview | None, limits: Limits) -> np.ndarray[Any, Any]:
    shape = _shape(entry, "UINT8", (1, None, None, 3))
    if shape[1] * shape[2] > limits.pixels:
        raise RequestError(
            413, "too_many_pixels", f"the image has {shape[2]} x {shape[1]} pixels; {limits.pixels:,} are read at most"
        )
    if raw is not None:
        values = np.frombuffer(raw, np.uint8)
    else:
        data = entry.get("data")
        if not isinstance(data, list) or not all(type(value) is int and 0 <= value <= 255 for value in data):
            raise _bad("input image: data is not a flat list of whole numbers from 0 to 255")
        values = np.array(data, np.uint8)
    if values.size != math.prod(shape):
        raise _bad(f"input image: {values.size:,} values for a shape of {list(shape)}")
    return values.reshape(shape)


def _text(entry: Mapping[str, Any], raw: memoryview | None) -> str:
    shape = entry.get("shape")
    if entry.get("datatype") != "BYTES" or shape not in ([1, 1], [1]):
        raise _bad("input lang_type is BYTES (1, 1)")
    if raw is None:
        data = entry.get("data")
        if not isinstance(data, list) or len(data) != 1 or not isinstance(data[0], str):
            raise _bad("input lang_type: data is not a list of one text")
        return data[0]
    if len(raw) < 4 or int.from_bytes(raw[:4], "little") != len(raw) - 4:
        raise _bad("input lang_type: its bytes are not a length of 4 bytes and as many bytes of text")
    try:
        return bytes(raw[4:]).decode("utf-8")
    except UnicodeDecodeError:
        raise _bad("input lang_type is not UTF-8") from None


def _wanted(request: Mapping[str, Any]) -> dict[str, bool]:
    known = [str(output["name"]) for output in OUTPUTS]
    always = _parameters(request).get("binary_data_output") is True
    asked = _objects(request, "outputs")
    if not asked:
        return dict.fromkeys(known, always)
    wanted = {}
    for entry in asked:
        if entry.get("name") not in known:
            raise _bad(f"there is no output {show(entry.get('name'))}; there are {', '.join(known)}")
        wanted[entry["name"]] = _parameters(entry).get("binary_data", always) is True
    return wanted


def answer_inference(inference: Inference, page: PageText, model: str) -> tuple[bytes, dict[str, str]]:
    """The body of the answer and its headers."""
    boxes = np.array([quad_of(line.box) for line in page], np.float32).reshape(-1, 4, 2)
    texts = [line.text for line in page]
    scores = np.array([line.score for line in page], np.float32)
    tensors: dict[str, tuple[str, list[int], list[Any], bytes]] = {
        "boxes": ("FP32", list(boxes.shape), boxes.reshape(-1).tolist(), boxes.tobytes()),
        "txts": ("BYTES", [len(texts)], texts, b"".join(map(_with_length, texts))),
        "scores": ("FP32", list(scores.shape), scores.tolist(), scores.tobytes()),
    }
    outputs, raw = [], []
    for name, as_bytes in inference.outputs.items():
        datatype, shape, values, data = tensors[name]
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if as_bytes:
            output["parameters"] = {"binary_data_size": len(data)}
            raw.append(data)
        else:
            output["data"] = values
        outputs.append(output)
    answer: dict[str, Any] = {"model_name": model, "model_version": "1", "outputs": outputs}
    if inference.id is not None:
        answer["id"] = inference.id
    description = json.dumps(answer).encode()
    if not raw:
        return description, {"content-type": "application/json"}
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(description))}
    return b"".join([description, *raw]), headers


def _with_length(text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    return len(data).to_bytes(4, "little") + data


def _bad(message: str) -> RequestError:
    return RequestError(400, "bad_request", message)

"""JSON from outside: numbers bounded, types checked, messages short."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from paddle2torch.model_zoo.config import (
    ClsPostprocess,
    ClsPreprocess,
    DBPostprocess,
    DetPreprocess,
    RecPreprocess,
)
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError
from paddle2torch.model_zoo.strict_json import from_json, read_json


@dataclass(frozen=True)
class Thing:
    """All kinds of fields."""

    number: float = 0.0
    count: int = 0
    kind: Literal["a", "b"] = "a"
    names: tuple[str, ...] = ()
    pair: tuple[int, int] = (1, 2)
    options: Mapping[str, Any] | None = None


DEEP: Any = []
for _ in range(100):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"number": float("nan")}, r"t\.json: number: expected a number, found nan"),
        ({"number": float("-inf")}, "expected a number, found -inf"),
        ({"number": 10**400}, r"t\.json: number: an integer of 1,329 bits is too large a number"),
        ({"count": 10**5000}, "an integer of 16,610 bits is too large a number"),
        ({"count": 1.0}, "expected int, found 1.0"),
        ({"count": True}, "expected int, found True"),
        ({"count": "9" * 5000}, r"expected int, found '9{79}…"),
        ({"kind": ["a"]}, r"\['a'\] is not one of 'a', 'b'"),
        ({"kind": 10**5000}, "an integer of 16,610 bits is not one of"),
        ({"names": "abc"}, "expected a list, found 'abc'"),
        ({"names": {"a": 1}}, "expected a list, found {'a': 1}"),
        ({"pair": [1]}, "expected 2 values, found 1"),
        ({"options": {"a": {"b": [float("inf")]}}}, r"t\.json: options\.a: expected a number, found inf"),
        ({"options": {"a": DEEP}}, "is nested more than 20 levels deep"),
        ({"options": 5}, "expected an object, found 5"),
        ({"x" * 10**6: 1}, "unknown key 'x{79}…"),
        ({"\x1b[2J": 1}, r"unknown key '\\x1b\[2J'"),
        ([], "expected an object with the keys of Thing, found"),
        (5, "expected an object with the keys of Thing, found 5"),
        (None, "expected an object with the keys of Thing, found None"),
    ],
    ids=range(20),
)
def test_foreign_values_are_named_with_their_place(data: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        from_json(Thing, data, "t.json")
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": NaN}', "is not JSON: NaN is not a JSON number"),
        (b'{"a": -Infinity}', "is not JSON: -Infinity is not a JSON number"),
        (b'{"a": 1e400}', "is not JSON: the number 1e400 is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON: a number of 5,000 digits"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a": "\xff"}', "is not JSON"),
        (b"", "is not JSON"),
    ],
)
def test_files_with_values_that_json_has_not(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 400


def test_large_files_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    start = time.process_time()
    with pytest.raises(FileFormatError, match="is larger than"):
        read_json(path)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (RecPreprocess, {"image_shape": [3, 100_000, 320]}, "image_shape is 100000|image_shape is"),
        (RecPreprocess, {"image_shape": [3, 48, 100_000_000]}, "image_shape is"),
        (RecPreprocess, {"image_shape": [3, 0, 320]}, "image_shape is"),
        (RecPreprocess, {"image_shape": [3, -48, 320]}, "image_shape is"),
        (RecPreprocess, {"image_shape": [1, 48, 320]}, "must be 3 channels"),
        (RecPreprocess, {"image_shape": [3, 1024, 1024], "max_width": 3200}, "at most 1,048,576 pixels"),
        (RecPreprocess, {"max_width": 10**9}, "max_width is 1000000000: it must be a number from 1 to 16,384"),
        (RecPreprocess, {"max_width": 0}, "max_width is 0"),
        (RecPreprocess, {"std": [0.5, 0, 0.5]}, "std is 0"),
        (RecPreprocess, {"scale": 0}, "scale is 0"),
        (RecPreprocess, {"mean": [1e300, 0, 0]}, "mean is 1e[+]300"),
        (DetPreprocess, {"limit_side_len": 1_000_000}, "limit_side_len is 1000000"),
        (DetPreprocess, {"limit_side_len": 0}, "limit_side_len is 0"),
        (DetPreprocess, {"limit_side_len": -1, "limit_type": "resize_long"}, "limit_side_len is -1"),
        (ClsPreprocess, {"image_shape": [3, 5000, 5000]}, "image_shape is"),
        (ClsPreprocess, {"resize_short": 100_000}, "resize_short is 100000"),
        (DBPostprocess, {"unclip_ratio": 1e12}, "unclip_ratio is 1000000000000.0"),
        (DBPostprocess, {"unclip_ratio": -1.5}, "unclip_ratio is -1.5"),
        (DBPostprocess, {"thresh": 2}, "thresh is 2"),
        (DBPostprocess, {"max_candidates": 10**9}, "max_candidates is 1000000000"),
        (ClsPostprocess, {"labels": []}, "labels: a classifier has 1 to 1000 of them, here are 0"),
        (ClsPostprocess, {"labels": ["0"] * 100_000}, "here are 100,000"),
        (ClsPostprocess, {"labels": ["\x1b[2J"]}, r"labels: '\\x1b\[2J' \(number 1\) has a control character"),
        (ClsPostprocess, {"thresh": -0.1}, "thresh is -0.1"),
    ],
)
def test_what_settings_ask_for_has_limits(kind: type[Any], data: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        from_json(kind, data, "model_config.json: preprocess")
    assert str(caught.value).startswith("model_config.json: preprocess")

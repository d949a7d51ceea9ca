"""The KServe v2 form, byte by byte as docling's engine sends it: by its rules, without docling."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from coloured_bars import bar, blank, pipeline, put

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from starlette.testclient import TestClient

from paddle2torch.serving import kserve
from paddle2torch.serving.app import create_app
from paddle2torch.serving.limits import Limits

ALL = ("boxes", "txts", "scores")


@pytest.fixture(scope="module")
def service() -> Iterator[TestClient]:
    app = create_app({"en": pipeline()}, hosts=None, limits=Limits(pixels=100_000))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def pixels() -> np.ndarray:
    """RGB, as docling sends it."""
    page = blank(100, 320)
    put(page, bar("ABC"), 20, 10)
    put(page, bar("CC BA"), 20, 60)
    return page[None, :, :, ::-1]


def with_length(text: str) -> bytes:
    return len(text.encode()).to_bytes(4, "little") + text.encode()


def description(shown: np.ndarray, outputs: tuple[str, ...] = ALL, **inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": "lang_type", "shape": [1, 1], "datatype": "BYTES", **inputs.get("lang_type", {})},
            {"name": "image", "shape": list(shown.shape), "datatype": "UINT8", **inputs.get("image", {})},
        ],
        "outputs": [{"name": name} for name in outputs],
    }


def binary(image: np.ndarray, lang: str = "english", **changes: Any) -> tuple[dict[str, str], bytes]:
    """Headers and body."""
    raw = [with_length(lang), image.tobytes()]
    sizes = [{"parameters": {"binary_data_size": len(data)}} for data in raw]
    request = description(image, lang_type=sizes[0], image=sizes[1])
    for output in request["outputs"]:
        output["parameters"] = {"binary_data": True}
    request |= changes
    header = json.dumps(request).encode()
    return {"Inference-Header-Content-Length": str(len(header))}, header + b"".join(raw)


def infer(service: TestClient, headers: dict[str, str], body: bytes, path: str = "/v2/models/ocr/infer") -> Any:
    return service.post(path, headers=headers, content=body)


def tensors_behind(response: Any) -> dict[str, Any]:
    length = int(response.headers["Inference-Header-Content-Length"])
    rest = response.content[length:]
    found: dict[str, Any] = {}
    for output in json.loads(response.content[:length])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        data, rest = rest[:size], rest[size:]
        if output["datatype"] == "FP32":
            found[output["name"]] = np.frombuffer(data, np.float32).reshape(output["shape"])
        else:
            texts = []
            while data:
                end = 4 + int.from_bytes(data[:4], "little")
                texts.append(data[4:end].decode())
                data = data[end:]
            assert output["shape"] == [len(texts)]
            found[output["name"]] = texts
    assert rest == b""
    return found


def test_binary_tensors_go_in_and_come_out(service: TestClient) -> None:
    found = tensors_behind(infer(service, *binary(pixels())))
    assert found["txts"] == ["ABC", "CC BA"]
    assert found["boxes"].shape == (2, 4, 2)
    np.testing.assert_allclose(found["boxes"][0, [0, 2]], [[20, 10], [92, 36]], atol=6)
    np.testing.assert_allclose(found["scores"][0], (0.9 + 0.8 + 0.6) / 3, atol=1e-6)


def test_tensors_may_be_lists_of_json(service: TestClient) -> None:
    image = pixels()
    request = description(image, lang_type={"data": ["en"]}, image={"data": image.reshape(-1).tolist()})
    response = infer(service, {}, json.dumps({**request, "id": "7"}).encode())
    answer = response.json()
    assert (answer["id"], answer["model_name"]) == ("7", "ocr")
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert outputs["txts"]["data"] == ["ABC", "CC BA"]
    assert outputs["boxes"]["shape"] == [2, 4, 2]
    assert len(outputs["boxes"]["data"]) == 16
    assert outputs["scores"]["datatype"] == "FP32"


def test_a_page_without_text_has_empty_tensors(service: TestClient) -> None:
    found = tensors_behind(infer(service, *binary(np.full((1, 64, 64, 3), 255, np.uint8))))
    assert found["txts"] == []
    assert found["boxes"].shape == (0, 4, 2)


def test_metadata_health_and_versions(service: TestClient) -> None:
    for path in ("/v2/models/ocr", "/v2/models/ocr/versions/1"):
        about = service.get(path).json()
        assert [tensor["name"] for tensor in about["inputs"]] == ["image", "lang_type"]
        assert [tensor["name"] for tensor in about["outputs"]] == list(ALL)
        assert service.get(f"{path}/ready").json()["ready"] is True
        assert infer(service, *binary(pixels()), path=f"{path}/infer").status_code == 200
    assert service.get("/v2").json()["name"] == "paddle2torch"
    for path in ("/v2/models/other", "/v2/models/other/infer", "/v2/models/ocr/versions/2"):
        response = service.post(path) if path.endswith("infer") else service.get(path)
        assert response.status_code == 404
        assert isinstance(response.json()["error"], str)


def _cases() -> dict[str, tuple[dict[str, str], bytes, int, str]]:
    image = pixels()
    headers, body = binary(image)
    length = headers["Inference-Header-Content-Length"]

    def plain(**changes: Any) -> bytes:
        return json.dumps({**description(image[:, :1, :1], image={"data": [1, 2, 3]}), **changes}).encode()

    def shaped(shape: Any, **others: Any) -> bytes:
        return plain(inputs=[{"name": "image", "datatype": "UINT8", "shape": shape, "data": [0] * 3, **others}])

    huge = [1, 4000, 4000, 3]
    return {
        "no JSON": ({}, b"\xff\xfe", 400, "not JSON"),
        "deep JSON": ({}, b"[" * 100_000, 400, "flat list"),
        "deep objects": ({}, b'{"a":' * 200 + b"1" + b"}" * 200, 400, "image is missing"),
        "many lists": ({}, b'{"inputs":[' + b"[]," * 1000 + b"[]]}", 400, "flat list"),
        "a list": ({}, b"[]", 400, "not a JSON object"),
        "no inputs": ({}, b"{}", 400, "image is missing"),
        "inputs of another kind": ({}, b'{"inputs":{"image":1}}', 400, "list of objects"),
        "another input": ({}, plain(inputs=[{"name": "img"}]), 400, "no input 'img'"),
        "another output": ({}, plain(inputs=[], outputs=[{"name": "text"}]), 400, "image is missing"),
        "header too long": ({"Inference-Header-Content-Length": "99999999"}, body, 400, "length of the JSON"),
        "header negative": ({"Inference-Header-Content-Length": "-1"}, body, 400, "length of the JSON"),
        "header no number": (
            {"Inference-Header-Content-Length": "\u00b2".encode().decode("latin-1")},
            body,
            400,
            "length",
        ),
        "bytes missing": ({"Inference-Header-Content-Length": length}, body[:-1], 400, "bytes are left"),
        "bytes too many": ({"Inference-Header-Content-Length": length}, body + b"1", 400, "bytes are left behind"),
        "a shape that lies": ({}, shaped([1, 2, 2, 3]), 400, "3 values for a shape"),
        "a shape of text": ({}, shaped("1,1,1,3"), 400, "UINT8 (1, n, n, 3)"),
        "a shape of floats": ({}, shaped([1, 1.0, 1.0, 3]), 400, "UINT8 (1, n, n, 3)"),
        "a shape of nothing": ({}, shaped([1, 0, 5, 3]), 400, "UINT8 (1, n, n, 3)"),
        "two pictures": ({}, shaped([2, 1, 1, 3]), 400, "UINT8 (1, n, n, 3)"),
        "another type": ({}, shaped([1, 1, 1, 3], datatype="FP32"), 400, "UINT8 (1, n, n, 3)"),
        "too many pixels": ({}, shaped(huge), 413, "pixels"),
        "values out of range": ({}, shaped([1, 1, 1, 3], data=[0, 1, 256]), 400, "from 0 to 255"),
        "values of another kind": ({}, shaped([1, 1, 1, 3], data=[0, 1, True]), 400, "from 0 to 255"),
        "not UTF-8": (*binary_bad_text(), 400, "not UTF-8"),
    }


def binary_bad_text() -> tuple[dict[str, str], bytes]:
    headers, body = binary(pixels())
    return headers, body.replace(with_length("english"), b"\x07\0\0\0\xff\xfeglish")


@pytest.mark.parametrize("case", _cases())
def test_what_is_no_request_is_refused_with_one_message(service: TestClient, case: str) -> None:
    headers, body, status, message = _cases()[case]
    encoded = [(key.encode(), value.encode("latin-1")) for key, value in headers.items()]
    response = service.post("/v2/models/ocr/infer", headers=encoded, content=body)
    assert response.status_code == status, response.text
    assert message in response.json()["error"]
    assert list(response.json()) == ["error"]


def test_tensors_as_lists_are_short_and_as_bytes_as_long_as_a_body(
    service: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kserve, "_JSON_AT_MOST", 1000)
    image = pixels()
    request = description(image, lang_type={"data": ["en"]}, image={"data": image.reshape(-1).tolist()})
    refused = infer(service, {}, json.dumps(request).encode())
    assert refused.status_code == 413
    assert "send the image as bytes" in refused.json()["error"]
    assert infer(service, *binary(image)).status_code == 200


def test_a_language_that_is_not_served_is_refused(service: TestClient) -> None:
    # The pipeline's models are of nobody: who serves one alone, serves it for every language that there is.
    assert infer(service, *binary(pixels(), lang="arabic")).status_code == 200
    refused = infer(service, *binary(pixels(), lang="klingon"))
    assert refused.status_code == 422
    assert "no language is called 'klingon'" in refused.json()["error"]

"""The service in this process: what each address answers, and to whom; with networks that see coloured bars."""

from __future__ import annotations

import contextlib
import io
import json
import os
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from coloured_bars import Colours, bar, blank, pipeline, put
from PIL import Image
from torch import Tensor

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from starlette.testclient import TestClient

from paddle2torch.cli import main
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.ocr.formats import FORMATS
from paddle2torch.ocr.job import run_job
from paddle2torch.ocr.pipeline import OCR
from paddle2torch.serving.app import create_app
from paddle2torch.serving.door import LOOPBACK
from paddle2torch.serving.limits import Limits
from paddle2torch.serving.server import Settings
from paddle2torch.serving.uploads import plain_name
from paddle2torch.tasks.images import BGRImage

BROKEN_PDF = b"%PDF-1.4\nnothing of a PDF"


def png(image: BGRImage) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def picture(text: str) -> BGRImage:
    page = blank(64, 320)
    put(page, bar(text), 20, 18)
    return page


def pdf(*texts: str) -> bytes:
    pages = [Image.fromarray(picture(text)[:, :, ::-1]) for text in texts]
    file = io.BytesIO()
    pages[0].save(file, "PDF", save_all=True, append_images=pages[1:], resolution=144)
    return file.getvalue()


@contextlib.contextmanager
def client(ocr: OCR | None = None, **options: Any) -> Iterator[TestClient]:
    limits = Limits(**options.pop("limits", {}))
    options = {"hosts": None, "network_threads": 1, **options}
    app = create_app({"en": ocr or pipeline()}, limits=limits, **options)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def service() -> Iterator[TestClient]:
    with client(threads=2) as found:
        yield found


def error_of(response: Any) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"code", "message"}
    assert error["message"]
    return response.status_code, error["code"]


# What is read


@pytest.mark.parametrize("format", [name for name, form in FORMATS.items() if not form.binary])
def test_a_picture_comes_back_in_every_text_format_as_ocr_writes_it(
    service: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("upload").write_bytes(png(picture("ABC CAB")))
    expected = io.StringIO()
    assert run_job(pipeline(), ["upload"], stream=expected, format=format) == []
    response = service.post("/ocr", params={"format": format}, content=png(picture("ABC CAB")))
    assert response.status_code == 200, response.text
    assert response.text == expected.getvalue()
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "html;" not in response.headers["content-type"].replace("hocr+html", "")


def test_the_pages_of_a_pdf_come_as_lines_and_as_one_document(service: TestClient) -> None:
    texts = ["ABC", "CAB", "BBA C"]
    response = service.post("/ocr?format=jsonl", files={"file": ("three.pdf", pdf(*texts))})
    assert response.headers["content-type"] == "application/x-ndjson"
    pages = [json.loads(line) for line in response.text.splitlines()]
    assert [(page["source"], page["page"], page["pages"]) for page in pages] == [("three.pdf", n, 3) for n in (1, 2, 3)]
    assert [[line["text"] for line in page["lines"]] for page in pages] == [[text] for text in texts]
    document = service.post("/ocr", content=pdf(*texts)).json()
    assert document == [page["lines"] for page in pages]
    smaller = service.post("/ocr?format=jsonl&dpi=72", content=pdf("ABC"))
    assert json.loads(smaller.text)["width"] == pages[0]["width"] // 2


def test_pages_that_cannot_be_read_are_named_and_the_others_are_read() -> None:
    file = io.BytesIO()
    frames = [
        Image.fromarray(picture("ABC")[:, :, ::-1]),
        Image.new("RGB", (3000, 300)),
        Image.fromarray(picture("CAB")[:, :, ::-1]),
    ]
    frames[0].save(file, "TIFF", save_all=True, append_images=frames[1:])
    with client(limits={"pixels": 100_000}) as service:
        response = service.post("/ocr", content=file.getvalue())
        assert [page and page[0]["text"] for page in response.json()] == ["ABC", None, "CAB"]
        assert response.headers["x-pages-not-read"] == "2"
        lines = [
            json.loads(line) for line in service.post("/ocr?format=jsonl", content=file.getvalue()).text.splitlines()
        ]
        assert lines[1] == {
            "source": "upload",
            "page": 2,
            "error": "upload, page 2 has 3000 x 300 pixels, too many for this server",
        }
        assert [page["page"] for page in lines] == [1, 2, 3]


def test_a_file_name_is_a_name_and_nothing_else(service: TestClient) -> None:
    response = service.post("/ocr?format=jsonl", files={"file": ("../../etc/passwd", png(picture("ABC")))})
    assert json.loads(response.text)["source"] == "passwd"
    assert plain_name("C:\\x\\a\x07\x1b[2J\u202e.png") == "a[2J.png"
    assert plain_name("é" * 300) == "é" * 200
    assert {plain_name(name) for name in ("", ".", "..", "a/..", "\0")} == {"upload"}


def test_several_languages_are_served_and_others_refused() -> None:
    class Shouting(Colours):
        config = replace(Colours.config, name="en_PP-OCRv4_rec", charset=("X", "Y", "Z", " "))

    readers = {"en": pipeline(rec=Shouting().eval()), "ch": pipeline()}
    with TestClient(create_app(readers, hosts=None)) as service:

        def read(**query: str) -> Any:
            return service.post("/ocr", params={"format": "text", **query}, content=png(picture("ABC")))

        assert read().text == read(lang="English").text == "XYZ\n"
        assert read(lang="ch").text == read(lang="chinese").text == "ABC\n"
        assert error_of(read(lang="arabic")) == (422, "unknown_language")
        assert error_of(read(lang="klingon")) == (422, "unknown_language")
        assert service.get("/health").json()["languages"] == ["en", "ch"]


# What is refused


def test_every_refusal_has_its_status_its_word_and_a_message(service: TestClient) -> None:
    def post(content: bytes = b"", query: str = "", **options: Any) -> tuple[int, str]:
        return error_of(service.post(f"/ocr{query}", content=content, **options))

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.png", png(picture("A")))
    assert post() == (422, "empty")
    assert post(archive.getvalue()) == (415, "unknown_kind")
    assert post(b"GIF89a") == (422, "unreadable")
    assert post(png(picture("A"))[:-40]) == (422, "unreadable")
    assert post(BROKEN_PDF) == (422, "unreadable")
    assert post(b"x", headers={"content-encoding": "gzip"}) == (415, "encoding")
    assert post(b"x", "?format=pdf") == (422, "bad_option")
    assert post(b"x", "?dpi=1e9") == (422, "bad_option")
    assert post(b"x", headers={"content-type": "multipart/form-data"}) == (400, "bad_form")
    assert post(b"no form", headers={"content-type": "multipart/form-data; boundary=b"}) == (400, "bad_form")
    assert error_of(service.post("/ocr", files=[("a", ("a", b"1")), ("b", ("b", b"2"))])) == (422, "one_file")
    assert error_of(service.post("/ocr", files={"file": ("a", b"1")}, data={"lang": "ch"})) == (422, "unknown_field")
    assert error_of(service.post("/ocr", files=[("a", (str(n), b"1")) for n in range(9)])) == (413, "too_many_parts")
    assert error_of(service.get("/ocr")) == (405, "method")
    assert error_of(service.get("/etc/passwd")) == (404, "not_found")
    # The server is none the worse for it.
    assert service.post("/ocr?format=text", content=png(picture("ABC"))).text == "ABC\n"


def test_what_is_larger_than_the_limits_is_refused_before_it_is_read() -> None:
    with client(limits={"body_bytes": 20_000, "pages": 2, "pixels": 50_000}) as service:
        assert error_of(service.post("/ocr", content=b"x" * 20_001)) == (413, "too_large")
        of_unknown_length = (b"x" * 1000 for _ in range(30))
        assert error_of(service.post("/ocr", content=of_unknown_length)) == (413, "too_large")
        assert error_of(service.post("/ocr", content=pdf("A", "B", "C"))) == (413, "too_many_pages")
        assert error_of(service.post("/ocr", content=png(blank(500, 500)))) == (413, "too_many_pixels")
    with client(limits={"held_bytes": 1000}) as service:
        refused = service.post("/ocr", content=b"x" * 1001)
        assert error_of(refused) == (503, "busy")
        assert refused.headers["retry-after"] == "2"
        assert "paddle2torch_body_bytes_now 0.0" in service.get("/metrics").text


class Slow(Colours):
    """A recogniser that waits to be let go."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0
        self.entered = threading.Event()
        self.go = threading.Event()

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        self.entered.set()
        assert self.go.wait(20)
        return super().forward(x)


def test_a_full_house_is_said_and_what_takes_too_long_is_given_up() -> None:
    slow = Slow()
    with (
        client(pipeline(rec=slow.eval()), limits={"requests": 2, "request_seconds": 1.5}) as service,
        ThreadPoolExecutor(2) as pool,
    ):
        waiting = [pool.submit(service.post, "/ocr", content=png(picture("ABC"))) for _ in range(2)]
        assert slow.entered.wait(10)
        while "paddle2torch_requests_now 2.0" not in service.get("/metrics").text:
            time.sleep(0.01)
        refused = service.post("/ocr", content=png(picture("ABC")))
        assert error_of(refused) == (503, "busy")
        assert [error_of(one.result()) for one in waiting] == [(504, "too_long")] * 2
        slow.go.set()
        assert service.post("/ocr?format=text", content=png(picture("CAB"))).text == "CAB\n"
        # The one that waited was never begun.
        assert slow.runs == 2


def test_a_stream_that_takes_too_long_ends_with_a_line_that_says_so() -> None:
    class OnePage(Slow):
        def forward(self, x: Tensor) -> Tensor:
            if self.runs == 0:
                self.go.set()
            elif self.runs == 1:
                self.go.clear()
            return super().forward(x)

    slow = OnePage()
    with client(pipeline(rec=slow.eval()), limits={"request_seconds": 1.5}, together=1) as service:
        response = service.post("/ocr?format=jsonl", content=pdf("ABC", "CAB", "AAA"))
        lines = [json.loads(line) for line in response.text.splitlines()]
        slow.go.set()
        assert lines[0]["lines"][0]["text"] == "ABC"
        assert lines[1] == {"source": "upload", "error": "reading took longer than 1.5 seconds and was given up"}
        assert len(lines) == 2


def test_only_who_has_the_token_is_let_in() -> None:
    with client(token="s3cret") as service:
        for headers in (
            {},
            {"authorization": "Bearer s3cre"},
            {"authorization": "Basic s3cret"},
            {"authorization": "Bearer \xff\xfe"},
        ):
            encoded = [(key.encode(), value.encode("latin-1")) for key, value in headers.items()]
            refused = service.post("/ocr", content=png(picture("A")), headers=encoded)
            assert error_of(refused) == (401, "token")
            assert refused.headers["www-authenticate"] == "Bearer"
        for path in ("/metrics", "/openapi.json", "/v2", "/v2/models/ocr", "/nothing"):
            assert service.get(path).status_code == 401
        for path in ("/", "/serve.js", "/serve.css", "/health", "/v2/health/live", "/v2/health/ready"):
            assert service.get(path).status_code == 200
        allowed = service.post(
            "/ocr?format=text", content=png(picture("ABC")), headers={"authorization": "bearer s3cret"}
        )
        assert allowed.text == "ABC\n"


def test_pages_of_the_web_cannot_reach_a_server_of_this_machine() -> None:
    with client(hosts=LOOPBACK) as service:
        for host in ("evil.example", "evil.example:8000", "localhost.evil.example", ""):
            assert error_of(service.get("/health", headers={"host": host})) == (403, "host")
        for host in ("localhost:8000", "LOCALHOST", "127.0.0.1:1", "[::1]:8000", "[::1]"):
            assert service.get("/health", headers={"host": host}).status_code == 200
        sent = {"host": "localhost:8000", "origin": "http://evil.example"}
        assert error_of(service.post("/ocr", content=b"x", headers=sent)) == (403, "origin")
        own = {"host": "localhost:8000", "origin": "http://localhost:8000"}
        assert service.post("/ocr", content=png(picture("A")), headers=own).status_code == 200


def test_other_machines_are_let_in_only_with_a_token_or_by_word() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org"):
        with pytest.raises(ConfigError, match="--token"):
            Settings(host=host).check()
        Settings(host=host, token="x").check()
        Settings(host=host, without_token=True).check()
    for host in ("127.0.0.1", "localhost", "::1"):
        Settings(host=host).check()
    for token in ("", " ", "é", "a\nb"):
        with pytest.raises(ConfigError, match="ASCII"):
            Settings(token=token).check()
    result = CliRunner().invoke(main, ["serve", "--host", "0.0.0.0"])
    assert result.exit_code == 1
    assert "--without-token" in result.output


# What is between requests


def test_no_answer_goes_to_another_request_and_small_pages_share_batches() -> None:
    texts = [f"{a}{b}{c}" for a in "ABC" for b in "ABC" for c in "ABC"]
    colours = Colours()
    with client(pipeline(rec=colours.eval()), threads=2) as service, ThreadPoolExecutor(16) as pool:

        def read(text: str) -> str:
            return service.post("/ocr?format=text", content=png(picture(text))).text

        assert list(pool.map(read, texts * 4)) == [f"{text}\n" for text in texts * 4]
        metrics = service.get("/metrics").text
    assert max(batch[0] for batch in colours.batches) > 1, "no two pages were read together"
    assert 'paddle2torch_pages_total{result="read"} 108.0' in metrics
    assert "paddle2torch_lines_total 108.0" in metrics
    assert 'paddle2torch_requests_total{route="/ocr",status="200"} 108.0' in metrics
    assert "paddle2torch_requests_now 0.0" in metrics
    assert "paddle2torch_pages_waiting 0.0" in metrics


def test_a_page_that_fails_does_not_harm_those_that_are_read_with_it() -> None:
    class Fragile(Colours):
        def forward(self, x: Tensor) -> Tensor:
            if bool(((x[:, 1] > 0.9) & (x[:, 0] < -0.9) & (x[:, 2] < -0.9)).any()):  # green: a B
                raise RuntimeError("broken on purpose")
            return super().forward(x)

    with client(pipeline(rec=Fragile().eval())) as service, ThreadPoolExecutor(8) as pool:
        texts = ["AAC", "BBB", "CCA", "ACA"] * 4
        answers = list(pool.map(lambda text: service.post("/ocr?format=text", content=png(picture(text))), texts))
    for text, answer in zip(texts, answers, strict=True):
        if text == "BBB":
            assert error_of(answer) == (422, "unreadable")
        else:
            assert answer.text == f"{text}\n"


def test_metrics_have_the_routes_that_there_are_and_none_that_clients_make_up(service: TestClient) -> None:
    service.get("/a/made/up/address")
    text = service.get("/metrics").text
    assert "made" not in text
    assert 'route="other",status="404"' in text


def test_the_page_loads_nothing_from_elsewhere(service: TestClient) -> None:
    for path in ("/", "/serve.js", "/serve.css"):
        response = service.get(path)
        assert response.status_code == 200
        assert "script-src 'self'" in response.headers["content-security-policy"]
        outside = response.text.replace("http://www.w3.org/2000/svg", "")
        assert "://" not in outside
        assert "innerHTML" not in outside


def test_openapi_describes_what_there_is(service: TestClient) -> None:
    described = service.get("/openapi.json").json()
    post = described["paths"]["/ocr"]["post"]
    assert {"200", "401", "408", "413", "415", "422", "503", "504"} <= set(post["responses"])
    assert [parameter["name"] for parameter in post["parameters"]] == ["format", "lang", "dpi"]
    assert "multipart/form-data" in post["requestBody"]["content"]
    assert "/v2/models/{model}/infer" in described["paths"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_an_application_that_was_made_before_a_fork_reads_after_it() -> None:
    app = create_app({"en": pipeline()}, hosts=None)
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):  # whatever it is, the child must not go on with the tests
            torch.set_num_threads(1)
            with TestClient(app) as service:
                status = 0 if service.post("/ocr?format=text", content=png(picture("ABC"))).text == "ABC\n" else 2
        os._exit(status)
    until = time.monotonic() + 30
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        assert time.monotonic() < until, "the child hangs"
        time.sleep(0.02)
    assert os.waitstatus_to_exitcode(ended[1]) == 0


# One OCR in many threads


def test_several_ocrs_in_many_threads_give_what_one_by_one_gives() -> None:
    ocrs = [pipeline(), pipeline(fast=True), pipeline(turn_pages=False, cls=None)]
    pictures = [picture(f"{a}{b} {c}") for a in "ABC" for b in "ABC" for c in "ABC"]
    pictures += [np.ascontiguousarray(np.rot90(picture("ABCA CAB"), 2)), blank()]

    def read(work: tuple[int, int]) -> list[Any]:
        which, index = work
        return [(line.text, line.score, line.box.tolist()) for line in ocrs[which](pictures[index])]

    every = [(which, index) for index in range(len(pictures)) for which in range(len(ocrs))]
    expected = {work: read(work) for work in every}
    assert expected[0, len(pictures) - 2] != expected[2, len(pictures) - 2], "they are to differ"
    order = [*every, *reversed(every)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(read, order)) == [expected[work] for work in order]

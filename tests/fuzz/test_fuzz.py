"""A short part of `make fuzz`: seeded inputs of every kind, what was found before, and that faults are found at all."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz.cases import Link, Pipe, Repeat, Sparse, dump_case, load_case, write_case
from fuzz.kinds import find_kinds
from fuzz.planted import FAULTS
from fuzz.run import CORPUS, Bench, bench, fuzz, replay

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the fuzzer reads /proc")

KINDS = find_kinds()


@pytest.fixture(scope="module")
def one_bench() -> Iterator[Bench]:
    with bench() as place:
        yield place


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"planted"}))
def test_hostile_inputs_are_read_or_refused(one_bench: Bench, kind: str) -> None:
    report = fuzz(one_bench, kind, seed=14, seconds=60, count=KINDS[kind].short)
    assert not report.findings, [finding["last"] for finding in report.findings.values()]
    assert report.tried == KINDS[kind].short


def test_what_was_found_once_stays_mended(one_bench: Bench) -> None:
    paths = sorted(CORPUS.rglob("*.json"))
    results = replay(one_bench, paths)
    assert len(results) == len(paths)
    assert {path.name: found["last"] for path, found in results if found["result"] not in ("accepted", "refused")} == {}


def test_every_sort_of_fault_is_found(tmp_path: Path) -> None:
    for fault in FAULTS:
        (tmp_path / f"{fault}.json").write_text(dump_case("planted", {"fault.txt": fault.encode()}, "planted"))
    with bench(hang=1.0, modules=["fuzz.planted"]) as place:
        results = {path.stem: found["result"] for path, found in replay(place, tmp_path.glob("*.json"))}
        assert results == {fault: fault.rstrip(" 23") for fault in FAULTS}
        report = fuzz(place, "planted", seed=1, seconds=60, count=8)
    # Most of these are faults; those that end the process do not end the search, and each is kept as a case.
    assert report.tried == 8
    assert report.findings
    for finding in report.findings.values():
        (tmp_path / "again.json").write_text(finding["case"])
        assert load_case(tmp_path / "again.json")[0] == "planted"


def test_a_case_is_kept_as_it_was(tmp_path: Path) -> None:
    case = {
        "text.yml": b"a: \xc3\xa9\n",
        "bytes": bytes(range(256)),
        "long": bytes(5000),
        "link": Link("../x"),
        "pipe": Pipe(),
        "sparse": Sparse(2**40),
        "many": Repeat(b"[", b"{},", 1000, b"]"),
        "deep/file": b"",
    }
    (tmp_path / "case.json").write_text(dump_case("yaml", case, "a reason"))
    assert load_case(tmp_path / "case.json") == ("yaml", case)
    (tmp_path / "folder").mkdir()
    assert write_case(case, tmp_path / "folder") < 20_000
    assert (tmp_path / "folder" / "sparse").stat().st_size == 2**40
    assert (tmp_path / "folder" / "many").read_bytes() == b"[" + b"{}," * 1000 + b"]"
    assert (tmp_path / "folder" / "pipe").is_fifo()

"""`make fuzz MINUTES=5 [SEED=1] [KIND=yaml,pdf]`: hostile and broken inputs of every kind of outside file.

Each kind is tried in a process of its own, which is ended and begun anew where an input takes too long, too much
memory, or the process with it. A finding is an input that was neither read nor refused with a `Paddle2TorchError`, or
that took more than it may. Each is kept as a JSON file that `--replay` tries again and `--unpack` lays out as files;
exit status 1 says that there are some.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"

HANG = 10.0
"""Processor seconds after which an input is ended; five times as many by the clock where it only waits.

Where other work runs beside, the clock says little of what does not wait: 20 times as many then.
"""

WAITS = 0.5
"""Processor seconds that show that an input does more than wait."""

PREPARATION = 300.0
"""Seconds by the clock for importing and for making seeds, on a machine that does much else."""

TREE_MEMORY = 1500 << 20
"""What the worker and the processes below it may have together before they are ended."""

GOOD = ("accepted", "refused")


@dataclass
class Report:
    """What came of one kind's inputs."""

    kind: str
    counts: Counter[str] = field(default_factory=Counter)
    findings: dict[str, dict[str, Any]] = field(default_factory=dict)
    peak: int = 0
    slowest: float = 0.0

    @property
    def tried(self) -> int:
        return self.counts.total()

    def add(self, end: dict[str, Any]) -> None:
        """Count one input; of each finding the first is kept."""
        self.counts[end["result"]] += 1
        self.peak = max(self.peak, end.get("peak", 0))
        self.slowest = max(self.slowest, end.get("seconds", 0.0))
        if end["result"] not in GOOD:
            known = self.findings.setdefault(end["signature"], {**end, "times": 0})
            known["times"] += 1


class Worker:
    """A worker process and the eye on it. `hang` is in seconds, as `HANG`; `modules` have kinds of their own."""

    def __init__(self, sandbox: Path, *, hang: float = HANG, modules: Sequence[str] = ()) -> None:
        self.hang = hang
        shutil.rmtree(sandbox, ignore_errors=True)
        sandbox.mkdir(parents=True)
        self.errors = (sandbox.parent / f"{sandbox.name}.log").open("w+b")
        reading, writing = os.pipe()
        path = os.pathsep.join([str(HERE.parent), str(HERE.parents[1])])
        environment = os.environ | {
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "MALLOC_ARENA_MAX": "2",
            "PYTHONHASHSEED": "0",
            "NO_COLOR": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fuzz.worker", str(sandbox.resolve()), str(writing), *modules],
            stdin=subprocess.PIPE,
            stdout=self.errors,
            stderr=self.errors,
            pass_fds=(writing,),
            env=environment,
            start_new_session=True,
        )
        os.close(writing)
        self.reading = reading
        self.rest = b""
        assert self._next(PREPARATION) == {"ready": True}, self._said()

    def ask(self, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What the worker says about a job, and at the end {"died": why} where it did not come to its end."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        self.process.stdin.flush()
        begun, before, trying = time.monotonic(), self._usage()[0], False
        while True:
            line = self._next(0.05)
            if line is not None:
                begun, before, trying = time.monotonic(), self._usage()[0], "begin" in line
                yield line
                if "done" in line or ("case" in job and "end" in line):
                    return
                continue
            if self.process.poll() is not None and line is None:
                left = self._next(0.0)
                if left is not None:
                    yield left
                    continue
                yield {"died": self._how()}
                return
            now, memory = self._usage()
            processor, clock = now - before, time.monotonic() - begun
            endless = processor > self.hang or clock > (5 if processor < WAITS else 20) * self.hang
            if memory > TREE_MEMORY:
                why = {"died": f"more than {memory >> 20} MB", "result": "memory"}
            elif endless if trying else clock > PREPARATION:
                why = {"died": f"no end after {processor:.0f} s of processor, {clock:.0f} s", "result": "hang"}
            else:
                continue
            self.close()
            yield why
            return

    def _next(self, seconds: float) -> dict[str, Any] | None:
        end = time.monotonic() + seconds
        while b"\n" not in self.rest:
            left = max(0.0, end - time.monotonic())
            if not select.select([self.reading], [], [], left)[0]:
                return None
            more = os.read(self.reading, 1 << 20)
            if not more:
                return None
            self.rest += more
        line, self.rest = self.rest.split(b"\n", 1)
        found: dict[str, Any] = json.loads(line)
        return found

    def _usage(self) -> tuple[float, int]:
        """Processor seconds and resident bytes of the worker and every process below it."""
        seconds, memory, open_ones = 0.0, 0, [self.process.pid]
        while open_ones:
            pid = open_ones.pop()
            try:
                stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                seconds += sum(map(int, stat[11:15])) / os.sysconf("SC_CLK_TCK")
                memory += int(stat[21]) * os.sysconf("SC_PAGE_SIZE")
                open_ones += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            except (OSError, IndexError):
                continue
        return seconds, memory

    def _how(self) -> str:
        code = self.process.returncode
        name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return f"{name}: {self._said()}"

    def _said(self) -> str:
        self.errors.flush()
        self.errors.seek(0)
        return self.errors.read().decode("utf-8", "replace").strip()[-600:]

    def close(self) -> None:
        """End the worker and what it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()


class Bench:
    """A worker for one input after the other, begun anew where one took it with it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder, self.options = folder, options
        self.worker: Worker | None = None

    def ask(self, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """As `Worker.ask`."""
        if self.worker is None:
            self.worker = Worker(self.folder, **self.options)
        for line in self.worker.ask(job):
            if "died" in line:
                self.close()
            yield line

    def close(self) -> None:
        """End the worker."""
        if self.worker is not None:
            self.worker.close()
        self.worker = None


@contextmanager
def bench(**options: Any) -> Iterator[Bench]:
    """A bench in a folder that goes with it."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        made = Bench(Path(folder) / "w", **options)
        try:
            yield made
        finally:
            made.close()


def fuzz(bench: Bench, kind: str, seed: int, seconds: float, count: int = 1 << 62) -> Report:
    """Try inputs of a kind for a time or up to a number, whichever ends first."""
    report = Report(kind)
    end, number = time.monotonic() + seconds, 0
    while number < count and time.monotonic() < end:
        job = {"kind": kind, "seed": seed, "first": number, "count": count - number, "seconds": end - time.monotonic()}
        begun = False
        for line in bench.ask(job):
            if "begin" in line:
                number, begun = line["begin"], True
            elif "end" in line:
                report.add(line)
                number = line["end"] + 1
            elif "done" in line:
                return report
            elif not begun:
                raise RuntimeError(f"no seeds of {kind}: {line['died']}")
            else:
                report.add(_dead(bench, job, number, line))
                number += 1
    return report


def _dead(bench: Bench, job: dict[str, Any], number: int, line: dict[str, Any]) -> dict[str, Any]:
    """The finding of an input that took its process with it: made once more, and not tried."""
    said = list(bench.ask({**job, "first": number, "count": 1, "seconds": 60, "write": line["died"]}))
    cases = [answer["case"] for answer in said if "case" in answer]
    if not cases:
        raise RuntimeError(f"{job['kind']}, number {number}: the input cannot be made again: {said}")
    result = line.get("result", "died")
    what = re.sub(r"\d+", "N", line["died"])[:80]
    return {"result": result, "signature": f"{result} {what}", "last": line["died"], "traceback": "", "case": cases[0]}


def replay(bench: Bench, paths: Iterable[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """What comes of stored cases, each path with its report."""
    found = []
    for path in paths:
        for line in bench.ask({"case": str(Path(path).resolve())}):
            if "end" in line:
                found.append((Path(path), line))
            elif "died" in line:
                found.append((Path(path), {"result": line.get("result", "died"), "last": line["died"]}))
    return found


def unpack(path: Path, folder: Path) -> None:
    """Lay a stored case out as files."""
    sys.path[:0] = [str(HERE.parent)]
    from fuzz.cases import load_case, write_case

    folder.mkdir(parents=True)
    write_case(load_case(path)[1], folder)


def keep(report: Report, folder: Path) -> None:
    """Write a kind's findings: the case, and beside it what came of it."""
    for signature, finding in report.findings.items():
        name = re.sub(r"[^A-Za-z0-9]+", "-", signature).strip("-")[:90]
        target = folder / report.kind / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.with_suffix(".json").write_text(finding["case"])
        target.with_suffix(".txt").write_text(f"{finding['last']}\n\n{finding['traceback']}\n")


def table(reports: Iterable[Report]) -> str:
    """What came of each kind, a line each."""
    rows = [
        f"{'kind':<12}{'tried':>7}{'refused':>9}{'accepted':>9}{'findings':>9}{'slowest':>9}{'peak MB':>9}  of which"
    ]
    for report in reports:
        bad = {result: count for result, count in report.counts.items() if result not in GOOD}
        rows.append(
            f"{report.kind:<12}{report.tried:>7}{report.counts['refused']:>9}{report.counts['accepted']:>9}"
            f"{len(report.findings):>9}{report.slowest:>8.1f}s{report.peak >> 20:>9}  "
            + ", ".join(f"{result}: {count}" for result, count in sorted(bad.items()))
        )
    return "\n".join(rows)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="by the clock, for all kinds together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", default="", help="one or several, by commas; without it all")
    parser.add_argument("--count", type=int, default=1 << 62, help="inputs of each kind, at most")
    parser.add_argument("--jobs", type=int, default=2, help="kinds at a time")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), help="folder for what is found")
    parser.add_argument(
        "--replay", type=Path, nargs="*", help="try stored cases again instead; without a path the corpus"
    )
    parser.add_argument(
        "--unpack", type=Path, nargs=2, metavar=("CASE", "FOLDER"), help="lay a stored case out as files"
    )
    options = parser.parse_args()
    if options.unpack:
        unpack(*options.unpack)
        return 0
    if options.replay is not None:
        with bench() as place:
            results = replay(place, options.replay or sorted(CORPUS.rglob("*.json")))
        for path, found in results:
            print(f"{found['result']:<10} {path.name}  {found.get('last', '')}")
        return 0 if all(found["result"] in GOOD for _, found in results) else 1
    sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]
    from fuzz.kinds import find_kinds

    known = find_kinds()
    kinds = options.kind.split(",") if options.kind else list(known)
    for kind in kinds:
        if kind not in known:
            parser.error(f"{kind!r} is no kind: {', '.join(known)}")
    seconds = 60 * options.minutes * min(options.jobs, len(kinds)) / len(kinds)
    said = threading.Lock()

    def one(kind: str) -> Report:
        with bench() as place:
            report = fuzz(place, kind, options.seed, seconds, options.count)
        keep(report, options.findings)
        with said:
            for finding in report.findings.values():
                print(
                    f"{kind}: {finding['signature']} ({finding['times']} times): {finding['last'][:200]!r}", flush=True
                )
        return report

    with ThreadPoolExecutor(options.jobs) as pool:
        reports = list(pool.map(one, kinds))
    print(table(reports))
    return 1 if any(report.findings for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())

"""The process in which inputs are tried: one after another, watched from inside and from outside.

Reads jobs from standard input, a JSON object a line: {"kind", "seed", "first", "count", "seconds"} makes inputs and
tries them, {"case": PATH} tries a stored one. Says what it begins and what came of it on the file descriptor that it is
given, a JSON object a line, so that whoever watches knows what it died of. Further arguments name modules with kinds.

Inside, an audit hook refuses and notes every file that is opened for writing, made, moved or removed outside the
folders of the input, and every program that is started; the forbidden file may not even be read.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import resource
import shutil
import sys
import time
import traceback
import warnings
from pathlib import Path
from random import Random
from typing import IO, Any

PER_BYTE = 8
"""An input may take 300 MB above the interpreter or 8 times its files, whichever is more."""

LONGEST_MESSAGE = 6000

_PATHS = {
    "open": (0,),
    "os.mkdir": (0,),
    "os.rename": (0, 1),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.symlink": (1,),
    "os.link": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.utime": (0,),
    "shutil.rmtree": (0,),
}
_PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.startfile")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Guard:
    """The audit hook: active while an input is tried."""

    def __init__(self, sandbox: Path) -> None:
        self.active = False
        self.broken: list[str] = []
        self.allowed = tuple(os.path.realpath(sandbox / name) for name in ("out", "home", "tmp"))
        self.secret = os.path.realpath(sandbox / "secret")
        self.input = os.path.realpath(sandbox / "in")

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active or (event not in _PATHS and event not in _PROGRAMS and event != "ctypes.dlopen"):
            return
        self.active = False  # what is asked below is not audited
        try:
            problem = self._problem(event, arguments)
        finally:
            self.active = True
        if problem is not None:
            self.broken.append(problem)
            raise PermissionError(13, f"the fuzzer: {problem}")

    def _problem(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        if event in _PROGRAMS:
            program = arguments[0]
            # The library may only start itself.
            return None if program == sys.executable else f"{event} {program!r:.200}"
        if event == "ctypes.dlopen":
            inside = isinstance(arguments[0], str) and os.path.realpath(arguments[0]).startswith(
                (self.input, self.secret)
            )
            return f"loads {arguments[0]!r:.200} as native code" if inside else None
        writing = True
        if event == "open":
            _, mode, flags = arguments
            writing = bool(set("wax+") & set(mode)) if isinstance(mode, str) else bool((flags or 0) & _WRITING)
        for index in _PATHS[event]:
            path = arguments[index]
            if isinstance(path, int) or path is None:
                continue
            with_links = os.path.realpath(os.fsdecode(path))
            if with_links.startswith(self.secret + "/"):
                return f"{event} of the forbidden file, as {path!r:.200}"
            if writing and not with_links.startswith((*self.allowed, "/dev/null", "/dev/shm/", "/proc/self/")):
                return f"{event} outside the folders of the input: {path!r:.200}"
        return None


def status(name: str) -> int:
    """A figure of /proc/self/status, in bytes."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(name + ":"):
                return int(line.split()[1]) << 10
    raise ValueError(name)


def lay_out(sandbox: Path) -> None:
    """The folders of the next input, empty; the forbidden file as it was."""
    for name in ("in", "out", "home", "tmp"):
        shutil.rmtree(sandbox / name, ignore_errors=True)
        (sandbox / name).mkdir()
    os.chdir(sandbox / "out")
    if not (sandbox / "secret" / "key.txt").is_file():
        (sandbox / "secret").mkdir(exist_ok=True)
        (sandbox / "secret" / "key.txt").write_text("a key that must not leave\n")


def try_case(kind: Any, case: Any, sandbox: Path, guard: Guard) -> dict[str, Any]:
    """What came of one input: `result`, and for a finding what tells it from others, and the traceback."""
    from fuzz.cases import write_case
    from fuzz.kinds import BrokenPromiseError

    from paddle2torch.model_zoo.errors import Paddle2TorchError

    lay_out(sandbox)
    size = write_case(case, sandbox / "in")
    before = status("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    guard.broken.clear()
    result, error = "accepted", None
    start = time.process_time()
    guard.active = True
    try:
        kind.run(sandbox / "in")
    except Paddle2TorchError as caught:
        result, error = "refused", caught
    except BrokenPromiseError as caught:
        result, error = "promise", caught
    except BaseException as caught:
        result, error = "raw", caught
    finally:
        guard.active = False
    seconds = time.process_time() - start
    peak = status("VmHWM") - before
    # Where this process has no more room, the library's own message is not an answer: another machine has more.
    chain, link = [], error
    while link is not None and len(chain) < 20:
        chain.append(link)
        link = link.__cause__ or link.__context__
    place = _place(chain[0]) if chain else ""
    text = str(error) if error is not None else ""
    if guard.broken:
        result, place = "outside", guard.broken[0][:60]
    elif strange := _strangers(sandbox):
        result, place = "outside", f"left {strange}"
    elif result in ("accepted", "refused"):
        if any(isinstance(one, MemoryError) for one in chain) or peak > max(kind.memory, PER_BYTE * size):
            result = "memory"
        elif seconds > kind.seconds:
            result = "slow"
        elif len(text) > LONGEST_MESSAGE:
            result = "long message"
    report = {"result": result, "peak": peak, "seconds": round(seconds, 2), "size": size}
    if result not in ("accepted", "refused"):
        kinds_of = type(error).__name__ if error is not None else ""
        shown = "".join(traceback.format_exception(error)) if error is not None else ""
        last = f"{kinds_of}: {text[:300]}" if error is not None else "accepted"
        report |= {
            "signature": f"{result} {kinds_of} {place}",
            "last": f"{last} [{seconds:.1f} s, {peak / 2**20:.0f} MB of {size:,} bytes]",
            "traceback": shown[-6000:] + "".join(f"\n{line}" for line in guard.broken[:5]),
        }
    return report


def _strangers(sandbox: Path) -> list[str]:
    """What is in the sandbox beside its folders: written by native code that no hook sees."""
    known = {"in", "out", "home", "tmp", "secret"}
    return [path.name for path in sandbox.iterdir() if path.name not in known][:3]


def _place(error: BaseException) -> str:
    """The innermost line of the library on the way to an exception."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/tests/" not in frame.filename]
    ours = [
        frame
        for frame in frames
        if any(part in frame.filename for part in ("paddle2torch", "converters", "model_zoo"))
        and "site-packages" not in frame.filename
    ]
    return f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else ""


def smaller(kind: Any, case: Any, signature: str, sandbox: Path, guard: Guard, seconds: float = 3.0) -> Any:
    """The case with pieces cut out of its one small file as long as the same finding comes of it."""
    names = [name for name, entry in case.items() if isinstance(entry, bytes)]
    end = time.monotonic() + seconds
    for name in sorted(names, key=lambda name: -len(case[name])):
        if len(case[name]) > 20_000:
            continue
        step = max(1, len(case[name]) // 2)
        while step and time.monotonic() < end:
            place = 0
            while place < len(case[name]) and time.monotonic() < end:
                shorter = {**case, name: case[name][:place] + case[name][place + step :]}
                if try_case(kind, shorter, sandbox, guard).get("signature") == signature:
                    case = shorter
                else:
                    place += step
            step //= 2
    return case


def main() -> None:
    """Work through the jobs on standard input."""
    sandbox, descriptor = Path(sys.argv[1]), int(sys.argv[2])
    out: IO[str] = os.fdopen(descriptor, "w", buffering=1)

    def say(**what: Any) -> None:
        out.write(json.dumps(what) + "\n")

    sandbox.mkdir(parents=True, exist_ok=True)
    lay_out(sandbox)
    os.environ |= {
        "PADDLE2TORCH_HOME": str(sandbox / "home"),
        "TMPDIR": str(sandbox / "tmp"),
        # PyTorch makes it when its compiler is first imported (to count multiply-adds), from a name it knew before.
        "TORCHINDUCTOR_CACHE_DIR": str(sandbox / "tmp" / "torchinductor"),
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(sandbox / "home" / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    from fuzz.cases import dump_case, load_case
    from fuzz.kinds import find_kinds

    for module in sys.argv[3:]:
        importlib.import_module(module)
    kinds = find_kinds()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    guard = Guard(sandbox)
    sys.addaudithook(guard.hook)
    # A request for much more than is allowed fails here, where it would succeed on a larger machine.
    room = status("VmSize") + (6 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    say(ready=True)
    minimised: set[str] = set()
    prepared: set[str] = set()
    for line in sys.stdin:
        job = json.loads(line)
        if "case" in job:
            name, case = load_case(Path(job["case"]))
            if name not in prepared:
                prepared.add(name)
                kinds[name].prepare()
            say(begin=job["case"])
            say(end=job["case"], kind=name, **try_case(kinds[name], case, sandbox, guard))
            continue
        kind = kinds[job["kind"]]
        lay_out(sandbox)
        if kind.name not in prepared:
            prepared.add(kind.name)
            kind.prepare()
        end = time.monotonic() + job["seconds"]
        number = job["first"]
        while number < job["first"] + job["count"] and time.monotonic() < end:
            case = kind.make(Random(f"{job['seed']} {kind.name} {number}"))
            if job.get("write"):
                say(case=dump_case(kind.name, case, job["write"]))
                break
            say(begin=number)
            report = try_case(kind, case, sandbox, guard)
            signature = report.get("signature")
            if signature is not None:
                if signature not in minimised and report["result"] in ("raw", "promise", "outside"):
                    minimised.add(signature)
                    say(begin=number)
                    case = smaller(kind, case, signature, sandbox, guard)
                report["case"] = dump_case(kind.name, case, report["last"])
            say(end=number, kind=kind.name, **report)
            number += 1
        say(done=True)


if __name__ == "__main__":
    main()

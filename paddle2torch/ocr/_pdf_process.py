"""The process that renders PDFs, run as a script by `pdf.py`: what a PDF does to PDFium, it does to this process alone.

Requests are lines of JSON on standard input, answers lines of JSON on standard output, followed by as many bytes as
they say. A thread ends the process where a request takes too much time of the processor or too much memory.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any, BinaryIO

TOO_LONG, TOO_MUCH = 61, 62
_EVERY = 0.01


class Watch(threading.Thread):
    """Ends the process at a limit: of processor time from the start of a request, of memory above that of the start."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = memory()
        self.until = float("inf")
        self.most = float("inf")

    def run(self) -> None:
        while True:
            time.sleep(_EVERY)
            if time.process_time() > self.until:
                os._exit(TOO_LONG)
            if memory() - self.before > self.most:
                os._exit(TOO_MUCH)


def memory() -> float:
    """Bytes that this process holds; where the system does not say so, the most that it has held, or nothing."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024)


def limit_memory(more: float) -> None:
    """A bound that holds between two looks of the watch, where the system has such bounds."""
    try:
        import resource

        with open("/proc/self/statm", "rb") as file:
            mapped = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError):
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = int(mapped + 2 * more)
    resource.setrlimit(resource.RLIMIT_AS, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def main() -> None:
    """Answer requests until there are no more."""
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "r+b") as nothing:
        for standard in (0, 1, 2):
            os.dup2(nothing.fileno(), standard)
    import pypdfium2

    watch = Watch()
    watch.start()
    document: Any = None
    while line := requests.readline():
        request = json.loads(line)
        watch.until = time.process_time() + request["seconds"]
        watch.most = request["memory"]
        try:
            if "render" in request:
                watch.most -= 3 * request["pixels"]
                render(document, request, answers)
            else:
                limit_memory(request["memory"])
                if document is not None:
                    document.close()
                source = request["path"] if "path" in request else requests.read(request["length"])
                document = pypdfium2.PdfDocument(source)
                # Before anything else is asked of it, or what is filled in is not drawn.
                document.init_forms()
                answer(answers, {"count": len(document)})
        except pypdfium2.PdfiumError as error:
            password = getattr(error, "err_code", None) == pypdfium2.raw.FPDF_ERR_PASSWORD
            answer(answers, {"error": str(error), "password": password})
        except MemoryError:
            os._exit(TOO_MUCH)
        watch.until = watch.most = float("inf")


def render(document: Any, request: dict[str, Any], answers: BinaryIO) -> None:
    """One page: uint8, BGR, after its height and width."""
    page = document[request["render"]]
    try:
        width, height = page.get_size()  # in points
        scale = request["scale"] if max(width, height) * request["scale"] <= request["large"] else 1.0
        scale = min(scale, (request["pixels"] / (width * height)) ** 0.5, request["side"] / max(width, height))
        bitmap = page.render(scale=scale)
        try:
            pixels = bitmap.to_numpy()
            answer(answers, {"height": pixels.shape[0], "width": pixels.shape[1]})
            for row in pixels:
                answers.write(row.tobytes())
            answers.flush()
        finally:
            bitmap.close()
    finally:
        page.close()


def answer(answers: BinaryIO, data: dict[str, Any]) -> None:
    """One line."""
    answers.write(json.dumps(data).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    # The folder of this script is no place to import from.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    main()

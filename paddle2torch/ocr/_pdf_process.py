"""The process that opens PDFs, run as a script by `pdf.py`: what a PDF does to PDFium, it does to this process alone.

Requests are lines of JSON on standard input, answers lines of JSON on standard output, followed by as many bytes as
they say. A thread ends the process where a request takes too much time of the processor or too much memory.
"""

from __future__ import annotations

import ctypes
import io
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
    set_limit(resource.RLIMIT_AS, int(mapped + 2 * more))


def set_limit(kind: int, most: int) -> None:
    """Set one of the system's limits of this process, no higher than it may be set."""
    import resource

    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


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
    session = Session()
    while line := requests.readline():
        request = json.loads(line)
        watch.until = time.process_time() + request["seconds"]
        watch.most = request["memory"]
        data = requests.read(request["length"]) if "length" in request else b""
        try:
            if "render" in request:
                watch.most -= 3 * request["pixels"]
                render(session.document, request, answers)
            elif "open" in request:
                limit_memory(request["memory"])
                session.open(request["open"] or data)
                answer(answers, {"count": len(session.document)})
            elif "save" in request:
                content = session.save()
                answer(answers, {"length": len(content)})
                answers.write(content)
                answers.flush()
            else:
                session.change(request, data)
                answer(answers, {})
        except pypdfium2.PdfiumError as error:
            password = getattr(error, "err_code", None) == pypdfium2.raw.FPDF_ERR_PASSWORD
            answer(answers, {"error": str(error), "password": password})
        except MemoryError:
            os._exit(TOO_MUCH)
        watch.until = watch.most = float("inf")


class Session:
    """One document after the other, and the text that is to be put on the pages of the last one."""

    def __init__(self) -> None:
        self.document: Any = None
        self.text: list[tuple[int, list[int], list[list[Any]]]] = []

    def open(self, source: str | bytes) -> None:
        import pypdfium2

        self.close()
        self.document = pypdfium2.PdfDocument(source)
        # Before anything else is asked of it, or what is filled in is not drawn.
        self.document.init_forms()

    def close(self) -> None:
        if self.document is not None:
            self.document.close()
        self.document, self.text = None, []

    def change(self, request: dict[str, Any], data: bytes) -> None:
        """Begin a document, add a page, note text."""
        import pypdfium2

        if "create" in request:
            self.close()
            self.document = pypdfium2.PdfDocument.new()
        elif "page" in request:
            add_picture(self.document, request, data)
        else:
            index = len(self.document) - 1 if request["text"] is None else request["text"]
            self.text.append((index, request["size"], json.loads(data)))

    def save(self) -> bytes:
        """The document with its text. What has text already is kept as it is."""
        characters = sorted({character for _, _, pieces in self.text for piece in pieces for character in piece[0]})
        codes = {character: code for code, character in enumerate(characters, 1)}
        font = load_font(self.document, codes) if characters else None
        for index, size, pieces in self.text:
            page = self.document[index]
            try:
                add_text(self.document, page, font, codes, size, pieces)
            finally:
                page.close()
        content = io.BytesIO()
        self.document.save(content)
        return content.getvalue()


# By EXIF's orientation: where the stored picture's columns and rows go on a page whose sides are 1, y up.
ORIENTATIONS = {
    1: (1, 0, 0, 1, 0, 0),
    2: (-1, 0, 0, 1, 1, 0),
    3: (-1, 0, 0, -1, 1, 1),
    4: (1, 0, 0, -1, 0, 1),
    5: (0, -1, -1, 0, 1, 1),
    6: (0, -1, 1, 0, 0, 1),
    7: (0, 1, 1, 0, 0, 0),
    8: (0, 1, -1, 0, 1, 0),
}


def add_picture(document: Any, request: dict[str, Any], data: bytes) -> None:
    """A page that a picture fills."""
    import pypdfium2

    width, height = request["page"]
    page = document.new_page(width, height)
    image = pypdfium2.PdfImage.new(document)
    if "orientation" in request:
        image.load_jpeg(io.BytesIO(data), inline=True)
    else:
        rows, columns, channels = request["pixels"]
        kind = pypdfium2.raw.FPDFBitmap_Gray if channels == 1 else pypdfium2.raw.FPDFBitmap_BGR
        bitmap = pypdfium2.PdfBitmap.new_native(columns, rows, kind)
        stride = bitmap.stride
        target = memoryview(bitmap.buffer).cast("B")
        length = columns * channels
        for row in range(rows):
            target[row * stride : row * stride + length] = data[row * length : (row + 1) * length]
        image.set_bitmap(bitmap)
        bitmap.close()
    a, b, c, d, e, f = ORIENTATIONS[request.get("orientation", 1)]
    matrix = pypdfium2.PdfMatrix(a * width, b * height, c * width, d * height, e * width, f * height)
    image.set_matrix(matrix)
    page.insert_obj(image)
    page.gen_content()
    page.close()


def load_font(document: Any, codes: dict[str, int]) -> Any:
    """A font whose `codes` mean characters; every letter is a box as wide as it is high.

    Letters without an outline would do for what is not drawn, but PDFium passes over a text of one such letter.
    """
    import pypdfium2.raw as pdfium

    entries = [f"<{code:04X}> <{character.encode('utf-16-be').hex().upper()}>" for character, code in codes.items()]
    groups = [entries[start : start + 100] for start in range(0, len(entries), 100)]
    mapping = "\n".join(f"{len(group)} beginbfchar\n" + "\n".join(group) + "\nendbfchar" for group in groups)
    to_unicode = TO_UNICODE.format(mapping=mapping).encode()
    path = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "assets", "boxes.ttf")
    with open(path, "rb") as file:
        font = file.read()
    glyphs = b"\0\0" + b"\0\1" * len(codes)  # every code is the one empty glyph
    loaded = pdfium.FPDFText_LoadCidType2Font(
        document.raw, as_bytes(font), len(font), to_unicode, as_bytes(glyphs), len(glyphs)
    )
    if not loaded:
        raise MemoryError
    return loaded


TO_UNICODE = """/CIDInit /ProcSet findresource begin
12 dict begin
begincmap
/CIDSystemInfo << /Registry (Adobe) /Ordering (UCS) /Supplement 0 >> def
/CMapName /Adobe-Identity-UCS def
/CMapType 2 def
1 begincodespacerange
<0000> <FFFF>
endcodespacerange
{mapping}
endcmap
CMapName currentdict /CMap defineresource pop
end
end
"""

FINE = 16  # parts of a pixel that PDFium is asked about: it counts in integers
DESCENT = 0.2  # of the font's height, below its base line


def as_bytes(data: bytes) -> Any:
    return (ctypes.c_uint8 * len(data)).from_buffer_copy(data)


def add_text(
    document: Any, page: Any, font: Any, codes: dict[str, int], size: list[int], pieces: list[list[Any]]
) -> None:
    """Pieces (text, x and y of its start, end, and upper corner, in pixels) on a page that has no text of its own."""
    import pypdfium2.raw as pdfium

    words = page.get_textpage()
    try:
        if words.count_chars():
            return
    finally:
        words.close()
    origin, right, down = (on_page(page, size, point) for point in ((0, 0), (size[0], 0), (0, size[1])))
    across = [(right[axis] - origin[axis]) / size[0] for axis in (0, 1)]
    below = [(down[axis] - origin[axis]) / size[1] for axis in (0, 1)]

    def place(x: float, y: float) -> tuple[float, float]:
        return tuple(origin[axis] + across[axis] * x + below[axis] * y for axis in (0, 1))  # type: ignore[return-value]

    for text, *corners in pieces:
        start, end, above = (place(*corners[at : at + 2]) for at in (0, 2, 4))
        along = [(end[axis] - start[axis]) / len(text) for axis in (0, 1)]
        up = [above[axis] - start[axis] for axis in (0, 1)]
        base = [start[axis] + DESCENT * up[axis] for axis in (0, 1)]
        written = pdfium.FPDFPageObj_CreateTextObj(document.raw, font, 1.0)
        numbers = (ctypes.c_uint32 * len(text))(*(codes[character] for character in text))
        pdfium.FPDFText_SetCharcodes(written, numbers, len(text))
        pdfium.FPDFTextObj_SetTextRenderMode(written, pdfium.FPDF_TEXTRENDERMODE_INVISIBLE)
        pdfium.FPDFPageObj_SetMatrix(written, pdfium.FS_MATRIX(*along, *up, *base))
        pdfium.FPDFPage_InsertObject(page.raw, written)
    page.gen_content()


def on_page(page: Any, size: list[int], point: tuple[int, int]) -> tuple[float, float]:
    """Where a pixel of the page's picture is in the page's own coordinates, whatever its rotation and box are."""
    import pypdfium2.raw as pdfium

    x, y = ctypes.c_double(), ctypes.c_double()
    fine = (FINE * side for side in (*size, *point))
    width, height, column, row = fine
    pdfium.FPDF_DeviceToPage(page.raw, 0, 0, width, height, 0, column, row, x, y)
    return x.value, y.value


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
    # Nothing is to be imported from this script's folder.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    main()

"""Pictures and PDFs, on their way to the detector."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from random import Random

import numpy as np
from fuzz.cases import Case, Link, Pipe, Repeat, Sparse
from fuzz.kinds import (
    Kind,
    RefusedError,
)
from fuzz.mutate import (
    mutate_bytes,
)


def pictures() -> dict[str, bytes]:
    """A small picture in each format and in modes that are read in ways of their own."""
    if not _PICTURES:
        from PIL import Image, features

        grey = Image.fromarray(np.arange(48 * 32, dtype=np.uint16).reshape(32, 48).astype(np.uint8), "L")
        colour = Image.merge("RGB", (grey, grey.rotate(180), grey))
        wide = Image.fromarray((np.arange(48 * 32) * 37 % 65536).astype(np.uint16).reshape(32, 48))
        exif = Image.Exif()
        exif[0x0112] = 6
        for name, image, options in (
            ("a.png", colour, {}),
            ("16.png", wide, {}),
            ("palette.png", colour.quantize(), {}),
            ("1.png", grey.convert("1"), {}),
            ("alpha.png", colour.convert("RGBA"), {}),
            ("a.jpg", colour, {"exif": exif}),
            ("grey.jpg", grey, {}),
            ("progressive.jpg", colour, {"progressive": True}),
            ("a.bmp", colour, {}),
            ("a.gif", colour.quantize(), {}),
            ("a.ppm", colour, {}),
            ("16.pgm", wide, {}),
            ("a.tif", colour, {"compression": "tiff_lzw"}),
            ("16.tif", wide, {}),
            ("pages.tif", colour, {"save_all": True, "append_images": [grey, colour]}),
            ("a.webp", colour, {}),
            ("lossless.webp", colour.convert("RGBA"), {"lossless": True}),
            ("a.jp2", colour, {}),
            ("a.avif", colour, {}),
        ):
            if name.endswith("avif") and not features.check("avif"):
                continue
            kind = {"tif": "TIFF", "jpg": "JPEG", "jp2": "JPEG2000", "pgm": "PPM"}.get(name.split(".")[-1])
            stream = io.BytesIO()
            image.copy().save(stream, kind or name.split(".")[-1].upper(), **options)
            _PICTURES[name] = stream.getvalue()
    return _PICTURES


_PICTURES: dict[str, bytes] = {}


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG of these header fields; `rows` is what is compressed, `more` further chunks before it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width % 2**32, height % 2**32, depth % 256, colour % 256, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in chunks)


class Image(Kind):
    """A picture of any format, on its way to the detector."""

    name = "image"

    def make(self, rng: Random) -> Case:
        name = rng.choice(list(pictures()))
        content = pictures()[name]
        match rng.randrange(10):
            case 0:
                side = rng.choice((1, 1000, 5000, 16_000, 16_384, 40_000, 2**31 - 1))
                other = rng.choice((1, side, 10, 2**31))
                depth, colour = rng.choice(((1, 0), (8, 0), (16, 0), (8, 2), (16, 2), (8, 3), (8, 6), (16, 6), (1, 3)))
                rows = bytes(min(side * other // 8 + other, rng.choice((100, 20_000_000))))
                return {"a.png": png(side, other, depth, colour, rows, *rng.choice(((), self._chunks(rng))))}
            case 1:
                # The sizes, where the formats have them.
                place = {"png": (16, 4, ">I"), "bmp": (18, 4, "<i"), "gif": (6, 2, "<H")}.get(name.split(".")[-1])
                if place is not None:
                    start, size, letter = place
                    values = (1, 1000, 16_384, 30_000, 2 ** (8 * size - 1) - 1)
                    sides = b"".join(struct.pack(letter, rng.choice(values)) for _ in range(2))
                    content = content[:start] + sides + content[start + 2 * size :]
                return {name: content}
            case 2:
                return {
                    name: rng.choice((Pipe(), Sparse(2**40), Link("/dev/zero"), Link(name), b"", Link("../secret")))
                }
            case 3:
                count = rng.choice((100, 100_000))
                return {
                    "a.ppm": Repeat(
                        b"P%d\n%d %d\n255\n" % (rng.choice((1, 2, 3, 5, 6)), rng.choice((100, 30_000)), 16_000),
                        rng.choice((b"1 ", b"\0", b"# x\n")),
                        count,
                    )
                }
        return {name: mutate_bytes(rng, content)}

    @staticmethod
    def _chunks(rng: Random) -> tuple[tuple[bytes, bytes], ...]:
        big = zlib.compress(bytes(rng.choice((1000, 70_000_000))), 9)
        return rng.choice(
            (
                ((b"zTXt", b"Comment\0\0" + big),),
                ((b"iCCP", b"x\0\0" + big),),
                ((b"tEXt", b"a\0b"),) * 20_000,
                ((b"acTL", struct.pack(">II", 2**31, 0)),),
                ((b"eXIf", b"II*\0\xff\xff\xff\x7f"),),
                ((b"PLTE", b"\0" * 7),),
            )
        )

    def run(self, folder: Path) -> None:
        read_all(folder)


def read_all(folder: Path) -> None:
    """Every page of every file, brought to the detector's input; raises `RefusedError` where one of them fails."""
    from paddle2torch.model_zoo.config import DetPreprocess
    from paddle2torch.ocr.pages import Failure, find_sources, read_pages
    from paddle2torch.tasks.detection import preprocess

    failures = []
    for page in read_pages(find_sources(sorted(folder.iterdir()))):
        if isinstance(page, Failure):
            failures.append(page.message)
        else:
            preprocess(page.image, DetPreprocess())
    if failures:
        raise RefusedError("\n".join(failures[:5]))


def pdf(objects: list[bytes], root: int = 1) -> bytes:
    """A PDF of these objects, numbered from 1."""
    out = bytearray(b"%PDF-1.7\n")
    places = []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n" % number + content + b"\nendobj\n"
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer\n<< /Size %d /Root %d 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, root, start)
    return bytes(out)


def stream(dictionary: bytes, content: bytes, packed: bool = True) -> bytes:
    """A stream object."""
    if packed:
        content, dictionary = zlib.compress(content, 9), dictionary + b" /Filter /FlateDecode"
    return b"<< %s /Length %d >>\nstream\n" % (dictionary, len(content)) + content + b"\nendstream"


class Pdf(Kind):
    """A PDF on its way to the detector. What a page may take is made less, so that many of them can be tried."""

    name = "pdf"

    def make(self, rng: Random) -> Case:
        box = b"[0 0 %d %d]" % (rng.choice((100, 100, 612, 10**9, -5, 0)), rng.choice((100, 792, 14_400, 1)))
        drawing = b"BT /F 24 Tf 10 50 Td (Hello) Tj ET 0 0 50 50 re f q 50 0 0 50 0 0 cm /I Do Q\n"
        forms: list[bytes] = []
        match rng.randrange(8):
            case 0:  # much to draw in few bytes
                piece = rng.choice(
                    (drawing, b"q ", b"0 0 m 9 9 l S ", b"q 50 0 0 50 0 0 cm /I Do Q ", b"/X Do ", b"0 0 1 1 re W n ")
                )
                drawing = piece * rng.choice((100, 20_000, 400_000))
            case 1:  # forms that draw forms
                depth, width = rng.choice(((3, 3), (8, 8), (30, 2), (12, 10)))
                for level in range(depth):
                    inner = b"/X Do " * width if level < depth - 1 else b"0 0 9 9 re f "
                    below = b"/Resources << /XObject << /X %d 0 R >> >>" % (7 + level)
                    forms.append(stream(b"/Type /XObject /Subtype /Form /BBox [0 0 99 99] " + below, inner))
                drawing = b"/X Do "
            case 2:
                forms = [stream(b"/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources 4 0 R", b"/X Do /X Do ")]
                drawing = b"/X Do "
        size = rng.choice((2, 2, 2000, 30_000, 2**31 - 1))
        picture = stream(
            b"/Type /XObject /Subtype /Image /Width %d /Height %d /ColorSpace /DeviceRGB /BitsPerComponent 8"
            % (size, size),
            bytes(min(12 * size, 20_000_000)),
        )
        objects = [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [%s] /Count %d >>"
            % (rng.choice((b"3 0 R", b"3 0 R", b"3 0 R " * 30, b"2 0 R")), rng.choice((1, 1, 30, 2**31 - 1, -1))),
            b"<< /Type /Page /Parent 2 0 R /MediaBox %s /Contents 5 0 R /Resources 4 0 R >>" % box,
            b"<< /Font << /F << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >>"
            b" /XObject << /I 6 0 R /X 7 0 R >> >>",
            stream(b"", drawing),
            picture,
            *forms,
        ]
        content = pdf(objects)
        if rng.random() < 0.5:
            content = mutate_bytes(rng, content)
        return {"a.pdf": content}

    def run(self, folder: Path) -> None:
        from paddle2torch.ocr import pdf

        pdf.SECONDS = 0.3
        read_all(folder)

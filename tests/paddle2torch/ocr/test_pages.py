"""Files of every kind become pages, one at a time; what is broken is a failure in its place."""

from __future__ import annotations

import gc
import glob
import io
import re
import sys
import time
import weakref
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pypdfium2
import pytest
from PIL import Image

from paddle2torch.ocr import pages, pdf
from paddle2torch.ocr.pages import Failure, Page, find_sources, read_pages
from paddle2torch.tasks.images import load_image


def write_pdf(path: Path, *sizes: tuple[float, float]) -> Path:
    """A PDF of empty pages of these sizes in points."""
    document = pypdfium2.PdfDocument.new()
    for size in sizes:
        document.new_page(*size)
    document.save(path)
    document.close()
    return path


def write_png(path: Path, value: int = 100) -> Path:
    Image.new("L", (30, 20), value).save(path)
    return path


def protected_pdf() -> bytes:
    """A PDF whose owner's and user's keys fit no password that anybody has, least of all the empty one."""
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 100 100]>>",
        b"<</Filter/Standard/V 1/R 2/P -4/O<%s>/U<%s>>>" % (b"12" * 32, b"34" * 32),
    ]
    data, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer<</Size 5/Root 1 0 R/Encrypt 4 0 R/ID[<%s><%s>]>>" % (b"ab" * 16, b"ab" * 16)
    return data + b"xref\n0 5\n0000000000 65535 f \n%s%s\nstartxref\n%d\n%%%%EOF\n" % (table, trailer, len(data))


def only(results: list[Page | Failure]) -> list[Page]:
    assert all(isinstance(result, Page) for result in results), results
    return [result for result in results if isinstance(result, Page)]


def failure(*sources: Path | str) -> Failure:
    (result,) = read_pages([str(source) for source in sources])
    assert isinstance(result, Failure)
    return result


def test_globs_go_round_no_circle_of_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "a", deep):
        (folder / "page.png").write_bytes(b"")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "page.png").write_bytes(b"")
    expected = sorted(glob.glob(str(tmp_path / "**/*.png"), recursive=True))
    assert len(expected) == 3
    for number, target in enumerate((tmp_path, tmp_path / "a", deep, Path("."))):
        for folder in (tmp_path, tmp_path / "a", deep):
            (folder / f"link{number}").symlink_to(target, target_is_directory=True)
    (deep / "itself").symlink_to("itself")
    started = time.process_time()
    for pattern in ("**/*.png", "**", "**/**/page.png", "**/**/**/**/*.png"):
        assert len(find_sources([tmp_path / pattern])) == 3
    assert len(find_sources([tmp_path / "**/b/**/p*.png"])) == 3
    assert sorted({Path(name).resolve() for name in find_sources([tmp_path / "a**/**/*.png"])}) == sorted(
        map(Path, expected)
    )
    monkeypatch.chdir(tmp_path)
    assert len(find_sources(["**/*.png"])) == 3
    assert time.process_time() - started < 2
    monkeypatch.setattr("paddle2torch.tasks.file_patterns.FOLDERS_AT_MOST", 2)
    with pytest.warns(UserWarning, match="after 2 folders the others are left"):
        assert len(find_sources(["**/*.png"])) == 2


def test_globs_find_what_the_standard_library_finds(tmp_path: Path) -> None:
    for name in ("p.png", "a/p.png", "a/b/p.png", "a/b/q.jpg", "ab/c/a/p.png", ".h/p.png", "a/[x]/p.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for pattern in ("**/*.png", "a/**", "**/a/**/*.png", "a*/**/p.png", "a**/*.png", "**/b/*", "**//p.png", "x/**/*"):
        expected = sorted(name for name in glob.glob(str(tmp_path / pattern), recursive=True) if Path(name).is_file())
        found = find_sources([tmp_path / pattern])
        assert found == (list(map(str, map(Path, expected))) or [str(tmp_path / pattern)]), pattern


def test_folders_and_globs(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", ".hidden.png", "notes.txt", "c.pdf"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "deep.png").mkdir()
    (tmp_path / "deep.png" / "d.png").write_bytes(b"x")
    here = [str(tmp_path / name) for name in ("a.JPG", "b.png", "c.pdf")]
    assert find_sources([tmp_path]) == here
    assert find_sources([tmp_path / "*.p*"]) == here[1:]
    assert find_sources([tmp_path / "**/*.png"]) == [here[1], str(tmp_path / "deep.png" / "d.png")]
    # What is named twice is read once; what is named itself may be called anything.
    assert find_sources([tmp_path / "notes.txt", tmp_path / "b.png", tmp_path]) == [
        str(tmp_path / "notes.txt"),
        here[1],
        here[0],
        here[2],
    ]
    assert find_sources(["-"]) == ["-"]


def test_a_name_with_brackets_is_a_name(tmp_path: Path) -> None:
    path = write_png(tmp_path / "page[1].png")
    assert find_sources([path]) == [str(path)]


def test_images_have_one_page(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", 7)
    (page,) = only(list(read_pages([str(path)])))
    assert (page.source, page.number, page.count) == (str(path), 1, 1)
    np.testing.assert_array_equal(page.image, np.full((20, 30, 3), 7, np.uint8))


def test_pdf_is_rendered_at_twice_its_points_and_large_pages_at_once(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf", (595, 842), (1200, 800), (0.01, 0.01))
    read = only(list(read_pages([str(path)])))
    assert [page.image.shape for page in read] == [(1684, 1190, 3), (800, 1200, 3), (1, 1, 3)]
    assert [(page.number, page.count) for page in read] == [(1, 3), (2, 3), (3, 3)]
    assert all(page.image.dtype == np.uint8 and page.image.min() == 255 for page in read)


@pytest.mark.parametrize("size", [(1e7, 1e7), (1e7, 1e-3), (14_400, 14_400)])
def test_a_page_of_any_size_is_rendered_within_bounds(
    size: tuple[float, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pdf, "MAX_PIXELS", 2**16)
    (page,) = only(list(read_pages([str(write_pdf(tmp_path / "a.pdf", size))])))
    # Sides are rounded up.
    assert page.image.shape[0] * page.image.shape[1] <= 2**16 + 2 * 2**8 + 1
    assert max(page.image.shape) <= pdf.MAX_SIDE


def test_colours_of_a_pdf_are_bgr(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), (250, 10, 20)).save(tmp_path / "red.pdf")
    (page,) = only(list(read_pages([str(tmp_path / "red.pdf")])))
    assert np.abs(page.image[10, 10].astype(int) - [20, 10, 250]).max() <= 3


def test_a_pdf_with_a_password_says_so(tmp_path: Path) -> None:
    path = tmp_path / "secret.pdf"
    path.write_bytes(protected_pdf())
    result = failure(path)
    assert result.number is None
    assert "secret.pdf is protected by a password" in result.message
    assert "qpdf" in result.message


def test_pages_of_a_tiff_in_their_own_modes(tmp_path: Path) -> None:
    path = tmp_path / "scan.tif"
    others = [Image.new("1", (50, 60), 1), Image.new("RGB", (5, 6), (10, 20, 30))]
    Image.new("L", (30, 20), 200).save(path, save_all=True, append_images=others)
    read = only(list(read_pages([str(path)])))
    assert [page.image.shape for page in read] == [(20, 30, 3), (60, 50, 3), (6, 5, 3)]
    assert [page.image[0, 0].tolist() for page in read] == [[200] * 3, [255] * 3, [30, 20, 10]]
    Image.new("I;16", (30, 20), 0x1234).save(tmp_path / "one.tif")
    (single,) = only(list(read_pages([str(tmp_path / "one.tif")])))
    assert single.count == 1
    np.testing.assert_array_equal(single.image, load_image(tmp_path / "one.tif"))


def test_a_broken_page_of_a_tiff_does_not_stop_the_others(tmp_path: Path) -> None:
    path = tmp_path / "scan.tif"
    noise = np.random.default_rng(0).integers(0, 256, (3, 40, 40), np.uint8)
    frames = [Image.fromarray(frame) for frame in noise]
    frames[0].save(path, save_all=True, append_images=frames[1:], compression="tiff_deflate")
    data = bytearray(path.read_bytes())
    with Image.open(path) as image:
        image.seek(1)
        offset = image.tag_v2[273][0]
    data[offset : offset + 40] = bytes(40)
    path.write_bytes(data)
    first, broken, last = read_pages([str(path)])
    assert isinstance(first, Page)
    assert isinstance(last, Page)
    np.testing.assert_array_equal(last.image[:, :, 0], noise[2])
    assert isinstance(broken, Failure)
    assert broken.number == 2
    assert "scan.tif, page 2" in broken.message


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_what_cannot_be_read_is_a_failure_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "half.pdf").write_bytes(write_pdf(tmp_path / "a.pdf", (100, 100)).read_bytes()[:200])
    jpeg = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(jpeg, "JPEG")
    (tmp_path / "half.jpg").write_bytes(jpeg.getvalue()[: len(jpeg.getvalue()) // 2])
    tiff = io.BytesIO()
    Image.new("L", (30, 20)).save(tiff, "TIFF")
    (tmp_path / "half.tif").write_bytes(tiff.getvalue()[:100])
    (tmp_path / "folder").mkdir()
    for name, reason in {
        "empty.png": "empty",
        "text.png": "not an image",
        "half.pdf": "broken",
        "half.jpg": "truncated",
        "half.tif": "truncated",
        "folder": "holds no images",
        "missing.png": "no such file",
        "*.webp": "no file matches",
    }.items():
        result = failure(tmp_path / name)
        assert name in result.message
        assert reason in result.message


def test_the_rest_is_read_after_a_failure(tmp_path: Path) -> None:
    good = [write_png(tmp_path / f"{i}.png", i) for i in range(3)]
    good[1].write_bytes(good[1].read_bytes()[:50])
    results = list(read_pages(find_sources([tmp_path])))
    assert [type(result) for result in results] == [Page, Failure, Page]
    assert [result.source for result in results] == [str(path) for path in good]


def test_what_is_done_is_not_loaded(tmp_path: Path) -> None:
    pdf = write_pdf(tmp_path / "a.pdf", (50, 50), (60, 60), (70, 70))
    broken = tmp_path / "b.png"
    broken.write_bytes(b"never opened as an image")
    done = {(str(pdf), 1), (str(pdf), 3), (str(broken), 1)}
    (page,) = only(list(read_pages([str(pdf), str(broken)], lambda source, number: (source, number) in done)))
    assert (page.number, page.count, page.image.shape) == (2, 3, (120, 120, 3))


@pytest.mark.parametrize("kind", ["png", "pdf", "tif", "none"])
def test_standard_input(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [Image.new("L", (30, 20), 9)] * (1 if kind == "png" else 2)
    if kind != "none":
        more = {} if kind == "png" else {"save_all": True, "append_images": images[1:]}
        images[0].save(tmp_path / f"x.{kind}", **more)
    data = (tmp_path / f"x.{kind}").read_bytes() if kind != "none" else b""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    results = list(read_pages(["-"]))
    if kind == "none":
        assert results == [Failure("-", None, "standard input: the image is empty (0 bytes)")]
    else:
        assert [(page.source, page.number) for page in only(results)] == [("-", i + 1) for i in range(len(images))]


@pytest.mark.slow
def test_one_page_at_a_time_is_in_memory(tmp_path: Path) -> None:
    pdf = write_pdf(tmp_path / "a.pdf", *[(100, 100)] * 20)
    images = [write_png(tmp_path / f"{i}.png") for i in range(20)]
    alive: weakref.WeakSet[Page] = weakref.WeakSet()
    most = 0
    for page in read_pages([str(pdf), *map(str, images)]):
        assert isinstance(page, Page)
        alive.add(page)
        most = max(most, len(alive))
    gc.collect()
    assert most <= 2
    assert not [page for page in alive if page is not None and page.source != str(images[-1])]


def pdf_of(content: bytes, *objects: bytes) -> bytes:
    """A PDF of one page that draws `content`; further objects are numbered from 5."""
    bodies = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R/Resources<</XObject<</F 5 0 R>>>>>>",
        content,
        *objects,
    ]
    return (
        b"%PDF-1.4\n"
        + b"".join(b"%d 0 obj %s endobj\n" % (i, b) for i, b in enumerate(bodies, 1))
        + b"trailer<</Root 1 0 R>>"
    )


def stream(data: bytes, more: bytes = b"") -> bytes:
    return b"<</Length %d%s>>stream\n%s\nendstream" % (len(data), more, data)


def endless_pdf() -> bytes:
    """A form that draws a form ten times, twelve deep."""
    forms = []
    for number in range(5, 17):
        more = b"/Type/XObject/Subtype/Form/BBox[0 0 200 200]/Resources<</XObject<</F %d 0 R>>>>" % (number + 1)
        forms.append(stream(b"/F Do " * 10, more))
    last = stream(b"0 0 9 9 re f", b"/Type/XObject/Subtype/Form/BBox[0 0 200 200]")
    return pdf_of(stream(b"/F Do"), *forms, last)


def large_pdf() -> bytes:
    """A content stream of 128 MB in a few hundred kilobytes."""
    packer = zlib.compressobj(9)
    piece = b"0 0 m 1 1 l " * 2**16
    data = b"".join(packer.compress(piece) for _ in range(2**27 // len(piece))) + packer.flush()
    return pdf_of(stream(data, b"/Filter/FlateDecode"))


@pytest.mark.slow
@pytest.mark.parametrize("make", [endless_pdf, large_pdf])
def test_a_page_that_takes_too_much_ends_alone(make: Callable[[], bytes], tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(make())
    good = write_pdf(tmp_path / "b.pdf", (50, 50), (60, 60))
    started = time.monotonic()
    failure, *read = read_pages([str(tmp_path / "a.pdf"), str(good)])
    assert time.monotonic() - started < 40
    assert isinstance(failure, Failure)
    assert failure.number == 1
    assert re.search(r"a\.pdf, page 1 takes too (long|much memory)$", failure.message)
    assert [page.image.shape[0] for page in only(read)] == [100, 120]


@pytest.mark.slow
def test_after_some_endless_pages_the_others_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "SECONDS", 0.1)
    data = endless_pdf().replace(b"/Kids[3 0 R]/Count 1", b"/Kids[%s]/Count 40" % (b"3 0 R " * 40))
    (tmp_path / "a.pdf").write_bytes(data)
    results = list(read_pages([str(tmp_path / "a.pdf")]))
    assert [result.number for result in results] == [1, 2, 3, None]
    assert "the others are left, from page 4" in results[-1].message  # type: ignore[union-attr]


def test_a_pdf_of_more_pages_than_it_can_hold_is_refused(tmp_path: Path) -> None:
    kids = b"".join(
        b"%d 0 obj<</Type/Pages/Count %d/Kids[%s]>>endobj\n" % (i, 10 ** (15 - i), b"%d 0 R " % (i + 1) * 10)
        for i in range(10, 15)
    )
    data = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 10 0 R>>endobj\n" + kids
    data += b"15 0 obj<</Type/Page/MediaBox[0 0 9 9]>>endobj\ntrailer<</Root 1 0 R>>"
    (tmp_path / "a.pdf").write_bytes(data)
    assert "pages, more than its" in failure(tmp_path / "a.pdf").message


def test_standard_input_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "STDIN_AT_MOST", 100)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bytes(101))))
    (result,) = read_pages(["-"])
    assert isinstance(result, Failure)
    assert "standard input: there are more than 100 bytes" in result.message


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("none left"), "there is not enough memory for it"),
        (OSError("the disk is gone"), "OSError: the disk is gone"),
        (RecursionError("too deep"), "RecursionError: too deep"),
    ],
)
def test_one_file_never_ends_the_run(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = write_png(tmp_path / "a.png"), write_png(tmp_path / "b.png")
    whole = load_image

    def load(path: Path, **options: object) -> object:
        if path == first:
            raise error
        return whole(path)

    monkeypatch.setattr(pages, "load_image", load)
    broken, read = read_pages([str(first), str(second)])
    assert isinstance(broken, Failure)
    assert f"a.png cannot be read: {said}" in broken.message
    assert isinstance(read, Page)

"""Labels go out and come back; what a format has no place for is counted; broken files are named with the place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from paddle2torch import cli
from paddle2torch.cli.data import KINDS
from paddle2torch.labels.carry import FORMATS, cut_lines, export_labels, import_labels
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError, Paddle2TorchError

QUADS: list[dict[str, Any]] = [
    {"transcription": "Total, 12.90", "points": [[10, 10], [110, 10], [110, 30], [10, 30]]},
    {"transcription": 'quotes " and 名前', "points": [[20, 60], [90, 65], [88, 85], [18, 80]]},
    {"transcription": "###", "points": [[120, 10], [150, 10], [150, 20], [120, 20]]},
]
POLYGON = {"transcription": "round", "points": [[10.25, 100], [60, 95], [110, 100], [110, 120], [60, 115], [8, 117]]}


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """A label file of two pages, one of which has no text."""
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.full((140, 170, 3), 200, np.uint8))
    rows = [("a.png", [*QUADS, POLYGON]), ("b.png", [])]
    text = "".join(f"{name}\t{json.dumps(boxes, ensure_ascii=False)}\n" for name, boxes in rows)
    (tmp_path / "Label.txt").write_text(text, encoding="utf-8")
    return tmp_path / "Label.txt"


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    rows = [("a.png", "first"), ("b.jpg", "[second] 名")]
    for name, _ in rows:
        cv2.imwrite(str(tmp_path / name), np.full((20, 80, 3), 100, np.uint8))
    (tmp_path / "rec.txt").write_text("".join(f"{name}\t{text}\n" for name, text in rows), encoding="utf-8")
    return tmp_path / "rec.txt"


def boxes_of(label_file: Path) -> dict[str, Any]:
    rows = (row.split("\t") for row in label_file.read_text(encoding="utf-8").splitlines())
    return {name: json.loads(boxes) for name, boxes in rows}


def test_the_command_knows_every_format() -> None:
    assert list(KINDS.choices) == list(FORMATS)


@pytest.mark.parametrize("kind", ["label-studio", "labelme", "coco", "imagefolder"])
def test_pages_come_back_as_they_were(kind: str, pages: Path, tmp_path: Path) -> None:
    out = export_labels(kind, pages, tmp_path / "out")
    assert (out.pictures, out.regions, out.notes) == (2, 4, ())
    back = import_labels(kind, tmp_path / "out", tmp_path / "back.txt")
    unreadable = "1 regions without a text, marked as ### (first: "
    assert all(note.startswith(unreadable) for note in back.notes)
    assert boxes_of(tmp_path / "back.txt") == boxes_of(pages)


def test_icdar_has_whole_pixels_and_quads(pages: Path, tmp_path: Path) -> None:
    out = export_labels("icdar2015", pages, tmp_path / "out")
    assert [note.partition(" (first")[0] for note in out.notes] == [
        "2 names that a label file does not hold, with their folder or as no .jpg",
        "1 polygons that are not quads, made their smallest rectangle",
        "1 regions whose points were rounded to whole pixels",
    ]
    assert (tmp_path / "out" / "gt_a.txt").read_text(encoding="utf-8").splitlines()[0] == (
        "10,10,110,10,110,30,10,30,Total, 12.90"
    )
    (tmp_path / "out" / "a.png").touch()
    back = import_labels("icdar2015", tmp_path / "out", tmp_path / "back.txt")
    assert boxes_of(tmp_path / "back.txt")["a.png"][:3] == QUADS
    assert back.notes[0].startswith("1 pictures that are not beside their label file, taken for NAME.jpg")


@pytest.mark.parametrize(("kind", "second"), [("tesstrain", "b.png"), ("imagefolder", "b.jpg")])
def test_lines_come_back_with_their_pictures(kind: str, second: str, lines: Path, tmp_path: Path) -> None:
    export_labels(kind, lines, tmp_path / "out")
    import_labels(kind, tmp_path / "out", tmp_path / "out" / "back.txt")
    text = (tmp_path / "out" / "back.txt").read_text(encoding="utf-8")
    assert text == f"a.png\tfirst\n{second}\t[second] 名\n"
    assert (tmp_path / "out" / "a.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    assert Image.open(tmp_path / "out" / second).size == (80, 20)


def test_a_format_for_pages_does_not_take_lines(lines: Path, pages: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="labels of lines, and coco is for pages"):
        export_labels("coco", lines, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"labels of pages, and tesstrain .*data crop"):
        export_labels("tesstrain", pages, tmp_path / "out")
    with pytest.raises(ConfigError, match="exists"):
        export_labels("coco", pages, pages)


def test_a_turned_photograph_has_the_size_that_is_seen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (200, 100)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "l.txt").write_text(f"a.jpg\t{json.dumps(QUADS[:1])}\n")
    export_labels("coco", tmp_path / "l.txt", tmp_path / "out.json")
    (image,) = json.loads((tmp_path / "out.json").read_text())["images"]
    assert (image["width"], image["height"]) == (100, 200)


def test_lines_are_cut_as_they_are_read(pages: Path, tmp_path: Path) -> None:
    image = np.full((140, 170, 3), 255, np.uint8)
    image[10:30, 10:110] = (0, 0, 255)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    cut = cut_lines(pages, tmp_path / "out")
    assert cut.pictures == 3
    assert cut.notes == ("1 regions without a text that can be read, left out (first: a.png)",)
    rows = (tmp_path / "out" / "rec_gt.txt").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "crop_img/a_crop_0.png\tTotal, 12.90"
    assert [row.split("\t")[1] for row in rows[1:]] == ['quotes " and 名前', "round"]
    first = cv2.imread(str(tmp_path / "out" / "crop_img" / "a_crop_0.png"))
    assert first is not None
    assert first.shape == (20, 100, 3)
    assert (first == (0, 0, 255)).all()


def test_label_studio_as_people_draw(tmp_path: Path) -> None:
    """A turned rectangle, an upload's address, a cancelled annotation, a region without text."""
    size = {"original_width": 200, "original_height": 100}
    drawn = {"x": 50, "y": 20, "width": 10, "height": 10, "rotation": 90}
    results = [
        {"id": "x", "type": "rectangle", **size, "value": drawn},
        {"id": "x", "type": "textarea", **size, "value": {**drawn, "text": ["turned"]}},
        {"id": "y", "type": "rectangle", **size, "value": {"x": 0, "y": 0, "width": 10, "height": 10, "rotation": 0}},
    ]
    tasks = [
        {
            "data": {"ocr": "/data/upload/3/8c-page%201.png"},
            "annotations": [{"was_cancelled": True, "result": []}, {"result": results}],
        },
        {"data": {"image": "/data/local-files/?d=scans/b.png"}, "annotations": []},
    ]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    done = import_labels("label-studio", tmp_path / "tasks.json", tmp_path / "l.txt")
    found = boxes_of(tmp_path / "l.txt")
    assert found == {
        "8c-page 1.png": [
            {"transcription": "turned", "points": [[100, 20], [100, 40], [90, 40], [90, 20]]},
            {"transcription": "###", "points": [[0, 0], [20, 0], [20, 10], [0, 10]]},
        ],
        "scans/b.png": [],
    }
    assert [note.split(" (")[0] for note in done.notes] == [
        "1 regions without a text, marked as ###",
        "1 tasks without an annotation, which have no regions",
    ]


BROKEN: list[tuple[str, Any, str]] = [
    ("label-studio", {"a": 1}, "the export is not a list"),
    ("label-studio", [{"data": {}}], 'task 1: data has no "ocr"'),
    ("label-studio", [{"data": {"ocr": "a"}, "annotations": [{"result": [3]}]}], "task 1, result 1 is not an object"),
    ("labelme", {"shapes": [{"label": "x", "points": [[1, 2]]}], "imagePath": "a"}, "shape 1: the points are not 3"),
    ("labelme", {"shapes": [], "imagePath": 3}, "imagePath: the text is not a string"),
    ("coco", {"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 2}]}, "annotation 1: there is no"),
    ("coco", {"images": [{"id": [], "file_name": "a"}], "annotations": []}, "image 1: its id is not"),
    ("imagefolder", {"file_name": "a", "objects": {"polygons": [[[0, 0]]], "text": []}}, "line 1: 1 polygons have 0"),
]


@pytest.mark.parametrize(("kind", "content", "message"), BROKEN)
def test_faults_have_a_file_and_a_place(kind: str, content: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(json.dumps(content))
    with pytest.raises(FileFormatError, match=rf"in\.json.*{message}"):
        import_labels(kind, tmp_path / "in.json", tmp_path / "out.txt")
    assert not (tmp_path / "out.txt").exists()


NESTED = "[" * 100_000


@pytest.mark.parametrize("kind", ["label-studio", "labelme", "coco", "imagefolder"])
@pytest.mark.parametrize("content", ["{", NESTED, '{"shapes": [NaN]}', '["\\ud800"]', ""])
def test_hostile_json_is_an_error_of_ours(kind: str, content: str, tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(content)
    try:
        import_labels(kind, tmp_path / "in.json", tmp_path / "out.txt")
    except (FileFormatError, ConfigError):
        assert not (tmp_path / "out.txt").exists()
    else:
        assert (kind, content) == ("imagefolder", ""), "a file without rows"


def test_names_stay_in_the_folder(tmp_path: Path) -> None:
    inside = tmp_path / "data"
    inside.mkdir()
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((9, 9, 3), np.uint8))
    (inside / "l.txt").write_text("../a.png\ttext\n")
    export_labels("tesstrain", inside / "l.txt", inside / "out")
    assert sorted(path.name for path in (inside / "out").iterdir()) == ["a.gt.txt", "a.png"]
    assert export_labels("imagefolder", inside / "l.txt", inside / "folder").notes == (
        "1 pictures from outside the folder, of whose paths the name is kept (first: ../a.png)",
    )
    (inside / "two.txt").write_text("../a.png\ttext\nA.png\ttext\n")
    with pytest.raises(ConfigError, match="would both be written"):
        export_labels("imagefolder", inside / "two.txt", inside / "out2")


ODD = ["", "*", "###", "text", "  two  ", "a, b", "q\"'", "back\\slash", "שלום", "\U0001f600", "line\nbreak", "=1+1"]


@pytest.mark.parametrize("kind", ["label-studio", "labelme", "coco", "imagefolder", "icdar2015"])
def test_odd_texts_come_back_or_are_counted(kind: str, pages: Path, tmp_path: Path) -> None:
    boxes = [{**QUADS[0], "transcription": text} for text in ODD]
    pages.write_text(f"a.png\t{json.dumps(boxes)}\n", encoding="utf-8")
    out = export_labels(kind, pages, tmp_path / "out")
    back = import_labels(kind, tmp_path / "out", tmp_path / "back.txt")
    (found,) = boxes_of(tmp_path / "back.txt").values()
    changed = [text for text, region in zip(ODD, found, strict=True) if region["transcription"] != text]
    assert changed == {"imagefolder": [], "icdar2015": ["", "line\nbreak"]}.get(kind, [""])
    notes = " ".join(out.notes + back.notes)
    assert ("marked as ###" in notes) == ("" in changed)
    assert ("line breaks" in notes) == ("line\nbreak" in changed)


@pytest.mark.parametrize("kind", ["labelme", "imagefolder", "icdar2015"])
def test_pictures_of_one_name_are_told_apart_by_their_folders(kind: str, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "x.png"), np.zeros((50, 150, 3), np.uint8))
    rows = [f"{folder}/x.png\t{json.dumps([{**QUADS[0], 'transcription': folder}])}" for folder in "ab"]
    (tmp_path / "l.txt").write_text("\n".join(rows) + "\n")
    out = export_labels(kind, tmp_path / "l.txt", tmp_path / "out")
    import_labels(kind, tmp_path / "out", tmp_path / "back.txt")
    names = ["a_x.jpg", "b_x.jpg"] if kind == "icdar2015" else ["a/x.png", "b/x.png"]
    assert {name: boxes[0]["transcription"] for name, boxes in boxes_of(tmp_path / "back.txt").items()} == dict(
        zip(names, "ab", strict=True)
    )
    assert any("names that a label file does not hold" in note for note in out.notes) == (kind == "icdar2015")
    (tmp_path / "twice.txt").write_text(f"{rows[0]}\n{rows[0]}\n")
    with pytest.raises(ConfigError, match=r"a/x\.png is there twice"):
        export_labels(kind, tmp_path / "twice.txt", tmp_path / "twice")


@pytest.mark.parametrize("kind", ["label-studio", "imagefolder"])
def test_a_path_of_windows_is_named_with_the_remedy(kind: str, pages: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "in" / "a.png")
    pages.write_text("in\\a.png\t[]\n")
    with pytest.raises(FileFormatError, match=r"there is in/a\.png: write / between folders"):
        export_labels(kind, pages, tmp_path / "out")


def test_the_command(pages: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> Callable[[], str]:
        result = CliRunner().invoke(cli.main, ["data", *arguments])
        assert result.exit_code == 0, result.output
        return lambda: result.stdout

    said_in_words = run("export", "coco", str(pages), "-o", str(tmp_path / "c.json"))()
    assert said_in_words.splitlines()[0] == "2 pictures, 4 regions"
    said = json.loads(run("import", "coco", str(tmp_path / "c.json"), "-o", str(tmp_path / "l.txt"), "--json")())
    assert (said["pictures"], said["regions"], len(said["notes"])) == (2, 4, 0)
    run("crop", str(pages), "-o", str(tmp_path / "cut"))
    assert len(list((tmp_path / "cut" / "crop_img").iterdir())) == 3


def test_pages_that_are_missing_are_counted_or_named(pages: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileFormatError, match=r"a\.png: there is no such file; --pictures"):
        export_labels("coco", pages, tmp_path / "out.json")
    with pytest.raises(Paddle2TorchError, match=r"a\.png: there is no such file"):
        export_labels("imagefolder", pages, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert cut_lines(pages, tmp_path / "cut").notes[0].startswith("1 pages that cannot be read, left out")

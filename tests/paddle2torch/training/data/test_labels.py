"""Label files as people write them, and what is said of those that are not what they should be."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from paddle2torch.model_zoo.errors import ConfigError, FileFormatError
from paddle2torch.tasks.images import ImageError
from paddle2torch.training.data.drops import DataError
from paddle2torch.training.data.labels import Group, LabelFiles, parse_boxes, stack_polygons


def label_file(folder: Path, content: str | bytes, name: str = "train.txt") -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def labels(samples: LabelFiles) -> list[str]:
    return [samples.label(index) for index in range(len(samples))]


def test_lines_of_any_editor(tmp_path: Path) -> None:
    content = "\ufeffa.jpg\tone\r\n\r\nb c.jpg\t two \u2028 \x0b\n\nd.jpg\t\ne.jpg\tfour\t320\t48"
    samples = LabelFiles([label_file(tmp_path, content)], str(tmp_path))
    assert labels(samples) == ["one", " two \u2028 \x0b", "", "four"]
    assert samples.where(1) == f"{tmp_path / 'train.txt'}, line 3 (b c.jpg)"


def test_several_files_with_shares(tmp_path: Path) -> None:
    files = [label_file(tmp_path, f"x.jpg\t{name}\n" * count, name) for name, count in (("a", 3), ("b", 5))]
    samples = LabelFiles(files, str(tmp_path), (1.0, 0.5))
    assert samples.groups == [Group(3, 1.0), Group(5, 0.5)]
    assert labels(samples) == ["a"] * 3 + ["b"] * 5
    assert LabelFiles(files, str(tmp_path), (0.2,)).groups == [Group(3, 0.2), Group(5, 0.2)]
    for ratios in ((0.5, 1.5), (0.0, 1.0), (1.0, 1.0, 1.0)):
        with pytest.raises(ConfigError, match="one share above 0 and at most 1 for each of 2"):
            LabelFiles(files, str(tmp_path), ratios)


def test_another_delimiter(tmp_path: Path) -> None:
    file = label_file(tmp_path, "a.jpg one two\n")
    assert labels(LabelFiles([file], str(tmp_path), delimiter=" ")) == ["one"]
    with pytest.raises(FileFormatError, match="line 1: there is no ';' between"):
        LabelFiles([file], str(tmp_path), delimiter=";")


def test_spaces_for_tabs(tmp_path: Path) -> None:
    file = label_file(tmp_path, "a.jpg\tone\nb.jpg    two\n")
    with pytest.raises(FileFormatError, match=r"train\.txt, line 2: there is no tab .* has spaces: 'b\.jpg    two'"):
        LabelFiles([file], str(tmp_path))


def test_what_is_no_label_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the label file .*none\.txt: there is no such file"):
        LabelFiles([str(tmp_path / "none.txt")], str(tmp_path))
    with pytest.raises(DataError, match="is a directory"):
        LabelFiles([str(tmp_path)], str(tmp_path))
    with pytest.raises(DataError, match="has no samples"):
        LabelFiles([label_file(tmp_path, "\n\n")], str(tmp_path))
    with pytest.raises(FileFormatError, match=r"train\.txt, line 2 is not UTF-8"):
        LabelFiles([label_file(tmp_path, b"a.jpg\tone\nb.jpg\t\xff\xfe\n")], str(tmp_path))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_what_windows_calls_unicode(tmp_path: Path, encoding: str) -> None:
    content = "\ufeffa.jpg\tone\r\n".encode(encoding)
    with pytest.raises(FileFormatError, match=r"train\.txt is UTF-16, .* save the label file as UTF-8"):
        LabelFiles([label_file(tmp_path, content)], str(tmp_path))


def test_what_excel_makes_of_json(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"not JSON .*Excel put it into quotation marks and doubled"):
        parse_boxes('"[{""transcription"": ""a"", ""points"": [[0, 0], [1, 0], [1, 1]]}]"', "train.txt, line 1")


@pytest.mark.skipif(os.sep == "\\", reason="there they are what divides folders")
def test_paths_with_backslashes_say_what_to_write(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((4, 6, 3), dtype=np.uint8))
    samples = LabelFiles([label_file(tmp_path, "images\\a.png\tone\nimages\\b.png\ttwo\n")], str(tmp_path))
    rng = np.random.default_rng(0)
    with pytest.raises(ImageError, match=r"images\\a\.png: there is no such file, but there is images/a\.png: write /"):
        samples.image(0, rng)
    with pytest.raises(ImageError, match=r"there is no such file$"):
        samples.image(1, rng)


def test_images(tmp_path: Path) -> None:
    for name, value in (("a.png", 10), ("b.png", 20), ("[c].png", 30)):
        cv2.imwrite(str(tmp_path / name), np.full((4, 6, 3), value, dtype=np.uint8))
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    content = '["a.png", "b.png"]\tboth\n[c].png\tone\nnone.png\tx\nempty.png\tx\nfolder.png\tx\n'
    samples = LabelFiles([label_file(tmp_path, content)], str(tmp_path))
    rng = np.random.default_rng(0)
    assert {int(samples.image(0, rng)[0, 0, 0]) for _ in range(20)} == {10, 20}
    assert samples.image(1, rng).shape == (4, 6, 3)
    for index, message in ((2, "there is no such file"), (3, r"is empty \(0 bytes\)"), (4, "is a directory")):
        with pytest.raises(ImageError, match=message):
            samples.image(index, rng)


def test_boxes() -> None:
    data = [
        {"transcription": "a", "points": [[0, 1], [2.5, 1], [2, 3], [0, 3]], "key_cls": "x"},
        {"transcription": "###", "points": [[0, 0], [9, 0], [9, 9]]},
        {"transcription": "*", "points": [[0, 0], [9, 0], [9, 9], [4, 12], [0, 9]]},
    ]
    boxes = parse_boxes(json.dumps(data), "")
    assert boxes.ignore.tolist() == [False, True, True]
    assert boxes.polygons.shape == (3, 5, 2)
    # Fewer points: the last one again, as PaddleOCR fills up.
    assert boxes.polygons[1].tolist() == [[0, 0], [9, 0], [9, 9], [9, 9], [9, 9]]
    assert parse_boxes("[]", "").polygons.shape == (0, 4, 2)
    assert stack_polygons([]).shape == (0, 4, 2)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("text", "the label is not JSON"),
        ("[" * 100_000, "the label is not JSON"),
        ('{"points": []}', "not a JSON list"),
        ('[{"points": [[0, 0], [1, 0], [1, 1]]}]', 'box 1 is not an object with a "transcription"'),
        ('[{"transcription": "a", "points": [[0, 0], [1, 0]]}]', 'the "points" of box 1'),
        ('[{"transcription": "a", "points": [[0, 0], [1, 0], ["1", 1]]}]', 'the "points" of box 1'),
        ('[{"transcription": "a", "points": [[0, 0], [1, 0], [1]]}]', 'the "points" of box 1'),
        ('[{"transcription": "a", "points": [[0, 0], [1, 0], [NaN, 1]]}]', "NaN is not a JSON number"),
        ('[{"transcription": "a", "points": [[0, 0], [1, 0], [1e9, 1]]}]', 'the "points" of box 1'),
        ('[{"transcription": "a", "points": [[0, 0], [1, 0], [true, 1]]}]', 'the "points" of box 1'),
    ],
)
def test_what_are_no_boxes(label: str, message: str) -> None:
    with pytest.raises(FileFormatError, match=f"^here: .*{message}"):
        parse_boxes(label, "here")


def test_label_files_that_are_none_or_too_large(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sparse.txt").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match="pipe: is not a regular file"):
        LabelFiles([str(tmp_path / "pipe")], str(tmp_path))
    with pytest.raises(FileFormatError, match="which no label file is"):
        LabelFiles([str(tmp_path / "sparse.txt")], str(tmp_path))

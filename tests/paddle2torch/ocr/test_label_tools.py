"""First labels for label tools: they come back as the lines that were read."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from result_pages import line, page

from paddle2torch.labels.carry import import_labels
from paddle2torch.ocr.formats import write_stream
from paddle2torch.training.data.labels import LabelFiles, parse_boxes

PAGE = page(line("Total 12.90", 200, 10), line("one, two", 10, 12), source="scans/a.png")


def written(format: str) -> str:
    stream = io.StringIO()
    write_stream([PAGE, page(source="b\tc.png")], format, stream)
    return stream.getvalue()


def test_ppocrlabel_reads_a_label_file(tmp_path: Path) -> None:
    (tmp_path / "Label.txt").write_text(written("ppocrlabel"), encoding="utf-8")
    file = LabelFiles([str(tmp_path / "Label.txt")], "")
    assert [file.path(index) for index in range(len(file))] == ["scans/a.png", "b c.png"]
    assert parse_boxes(file.label(0), "").polygons[1].tolist() == [[10, 12], [90, 12], [90, 32], [10, 32]]
    assert parse_boxes(file.label(1), "").polygons.shape == (0, 4, 2)


def test_label_studio_takes_predictions(tmp_path: Path) -> None:
    tasks = json.loads(written("label-studio"))
    assert tasks[0]["data"] == {"ocr": "scans/a.png"}
    (prediction,) = tasks[0]["predictions"]
    assert prediction["score"] == pytest.approx(0.87654)
    assert [result["from_name"] for result in prediction["result"][:3]] == ["poly", "label", "transcription"]
    for task in tasks:  # as a person accepts them
        task["annotations"] = task.pop("predictions")
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    import_labels("label-studio", tmp_path / "tasks.json", tmp_path / "Label.txt")
    first = (tmp_path / "Label.txt").read_text().splitlines()[0]
    assert json.loads(first.split("\t")[1])[1] == {
        "transcription": "one, two",
        "points": [[10, 12], [90, 12], [90, 32], [10, 32]],
    }

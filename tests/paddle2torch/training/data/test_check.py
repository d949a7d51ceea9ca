"""`data check` on sets with one of every fault, and on good ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from tiny_training import tiny_config, tiny_det_config

from paddle2torch import cli
from paddle2torch.model_zoo.config import ModelConfig
from paddle2torch.training.config_files import write_settings
from paddle2torch.training.data import Reason
from paddle2torch.training.data.check import DataCheck, Kind, check_data
from paddle2torch.training.data.near import PAGE_GRID, difference_hash, near_pairs
from paddle2torch.training.official import official_settings
from paddle2torch.training.settings import Settings

ALL_OF_LINES = {
    Kind.LINE: 2,
    Kind.LEADS_OUT: 1,
    Kind.SHARED: 1,
    Kind.NEARLY_SHARED: 1,
    Kind.CONFLICT: 1,
    Kind.TWICE: 1,
    Reason.EMPTY: 1,
    Reason.TOO_LONG: 1,
    Reason.OUTSIDE: 1,
    Reason.UNREADABLE: 2,
    Reason.LACKING: 1,
    Reason.SQUEEZED: 1,
}
"""What is wrong with the training lines of `with_every_fault`, and how often."""


def picture(seed: int, width: int = 90, height: int = 40) -> NDArray[np.uint8]:
    """A picture that is no other's, and smooth, as photographs are."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 9, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def settings_for(folder: Path, config: ModelConfig) -> Settings:
    """The official recipe, on `train.txt` and `val.txt` in the folder."""
    settings = official_settings(config, pretrained=None)

    def split(name: str) -> Any:
        part = getattr(settings.data, name)
        file = str(folder / ("train.txt" if name == "train" else "val.txt"))
        dataset = replace(part.dataset, data_dir=str(folder), label_file_list=(file,))
        return replace(part, dataset=dataset, loader=replace(part.loader, num_workers=0))

    return replace(settings, data=replace(settings.data, train=split("train"), eval=split("eval")))


def with_every_fault(folder: Path) -> Settings:
    folder.mkdir()
    lines = []
    for number in range(6):
        assert cv2.imwrite(str(folder / f"{number}.png"), picture(number))
        lines.append(f"{number}.png\tabc{'abcdef'[number] if number < 5 else ''}\n".encode())
    for name, seed in (("same.bmp", 0), ("other.bmp", 1), ("empty.png", 10), ("long.png", 11), ("outside.png", 12)):
        assert cv2.imwrite(str(folder / name), picture(seed))
    assert cv2.imwrite(str(folder / "lacking.png"), picture(13))
    assert cv2.imwrite(str(folder.parent / "out.png"), picture(14))
    assert cv2.imwrite(str(folder / "wide.png"), picture(15, 3000))
    (folder / "broken.png").write_bytes(b"no picture")
    lines += [
        b"no tab on this line\n",
        b"\xff.png\tabc\n",
        b"empty.png\t\n",
        b"long.png\tabcdefabcdefa\n",
        b"outside.png\txyz\n",
        b"lacking.png\tab\xe2\x82\xac\n",
        b"../out.png\tabc\n",
        b"wide.png\tabc\n",
        b"broken.png\tabc\n",
        b"missing.png\tabc\n",
        b"same.bmp\tabca\n",
        b"other.bmp\tcba\n",
    ]
    (folder / "train.txt").write_bytes(b"".join(lines))
    assert cv2.imwrite(str(folder / "shared.bmp"), picture(2))
    assert cv2.imwrite(str(folder / "near.jpg"), picture(3), [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert cv2.imwrite(str(folder / "own.png"), picture(30))
    (folder / "val.txt").write_text("shared.bmp\tabcc\nnear.jpg\tabcd\nown.png\tabf\n")
    return settings_for(folder, tiny_config())


def counts(check: DataCheck, split: str) -> dict[Kind | Reason, int]:
    return {one.kind: one.count for one in check.findings if one.split == split and one.kind is not Kind.SELDOM}


def test_every_fault_of_a_seeded_set_is_found(tmp_path: Path) -> None:
    check = check_data(with_every_fault(tmp_path / "set"), tiny_config())
    assert counts(check, "train") == ALL_OF_LINES
    assert not check.good
    places = {one.kind: one.examples for one in check.findings if one.split == "train"}
    assert "line 7: there is no tab" in places[Kind.LINE][0]
    assert "line 8 is not UTF-8" in places[Kind.LINE][1]
    assert "same.bmp" in places[Kind.TWICE][0]
    assert "other.bmp" in places[Kind.CONFLICT][0]
    assert "shared.bmp" in places[Kind.SHARED][0]
    assert "near.jpg" in places[Kind.NEARLY_SHARED][0]
    assert "3000 x 40 pixels become" in places[Reason.SQUEEZED][0]
    # Only the evaluation data has an f (the one of the training data is in a label that is too long).
    assert counts(check, "eval") == {}
    assert [one.kind for one in check.findings if not one.fault] == [Kind.TWICE, Kind.SELDOM]
    assert check.splits["train"].samples == 16
    assert (check.splits["train"].width[0], check.splits["train"].width[-1]) == (90, 3000)


def test_a_good_set_is_good(tmp_path: Path) -> None:
    for number in range(8):
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), picture(number))
    (tmp_path / "train.txt").write_text("".join(f"{number}.png\tabcde\n" for number in range(5)))
    (tmp_path / "val.txt").write_text("".join(f"{number}.png\tabcde\n" for number in range(5, 8)))
    check = check_data(settings_for(tmp_path, tiny_config()), tiny_config())
    assert (check.good, check.findings, check.untouched) == (True, (), ("f",))


def test_characters_that_only_the_evaluation_data_has(tmp_path: Path) -> None:
    for number in range(2):
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), picture(number))
    (tmp_path / "train.txt").write_text("0.png\tab\n")
    (tmp_path / "val.txt").write_text("1.png\tac\n")
    check = check_data(settings_for(tmp_path, tiny_config()), tiny_config())
    assert counts(check, "eval") == {Kind.UNTRAINED: 1}
    assert [one.examples for one in check.findings if one.kind is Kind.UNTRAINED] == [("'c' (1 times)",)]


def test_faults_of_pages(tmp_path: Path) -> None:
    def box(*points: tuple[int, int]) -> dict[str, Any]:
        return {"transcription": "a", "points": [list(point) for point in points]}

    good = box((10, 10), (60, 10), (60, 30), (10, 30))
    labels = {
        "good.png": json.dumps([good]),
        "outside.png": json.dumps([box((10, 10), (500, 10), (500, 30), (10, 30))]),
        "crossed.png": json.dumps([good, box((10, 10), (60, 30), (60, 10), (10, 30))]),
        "none.png": "[]",
        "text.png": "not boxes",
    }
    for number, name in enumerate(labels):
        assert cv2.imwrite(str(tmp_path / name), picture(number, 100, 80))
    (tmp_path / "train.txt").write_text("".join(f"{name}\t{label}\n" for name, label in labels.items()))
    assert cv2.imwrite(str(tmp_path / "near.jpg"), picture(0, 100, 80), [cv2.IMWRITE_JPEG_QUALITY, 80])
    (tmp_path / "val.txt").write_text(f"near.jpg\t{labels['good.png']}\n")
    check = check_data(settings_for(tmp_path, tiny_det_config()), tiny_det_config())
    assert counts(check, "train") == {
        Kind.BOX_OUTSIDE: 1,
        Kind.BOX_SHAPE: 1,
        Kind.NEARLY_SHARED: 1,
        Reason.EMPTY: 1,
        Reason.MALFORMED: 1,
    }
    assert check.splits["train"].boxes == 4


def test_a_split_that_cannot_be_opened_is_a_finding(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "0.png"), picture(0))
    (tmp_path / "val.txt").write_text("0.png\tabc\n")
    check = check_data(settings_for(tmp_path, tiny_config()), tiny_config())
    assert counts(check, "train") == {Kind.UNOPENED: 1}
    assert check.splits["eval"].samples == 1


def test_the_command_says_it_by_its_status_its_table_and_its_page(tmp_path: Path) -> None:
    settings = with_every_fault(tmp_path / "set")
    write_settings(settings, tiny_config(), tmp_path / "settings")
    arguments = ["data", "check", "--config", str(tmp_path / "settings" / "config.json")]
    page = tmp_path / "check.html"
    result = CliRunner().invoke(cli.main, [*arguments, "--report", str(page)])
    assert result.exit_code == 1, result.output
    assert "training image that the evaluation data has too" in result.stdout
    assert "faults were found" in result.stdout
    text = page.read_text(encoding="utf-8")
    assert text.count("<img ") == 16  # the usable ones, and others in place of those that are not
    assert 'src="http' not in text
    shown = CliRunner().invoke(cli.main, [*arguments, "--json"])
    data = json.loads(shown.stdout)
    assert data["good"] is False
    assert len(data["findings"]) == len(ALL_OF_LINES) + 1


def test_labels_in_the_page_stay_text(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "0.png"), picture(0))
    (tmp_path / "train.txt").write_text("<script>alert(1)</script>.png\tabc\n0.png\tabc\n")
    (tmp_path / "val.txt").write_text("0.png\t<img src=x>\n")
    write_settings(settings_for(tmp_path, tiny_config()), tiny_config(), tmp_path / "settings")
    page = tmp_path / "check.html"
    config = str(tmp_path / "settings" / "config.json")
    result = CliRunner().invoke(cli.main, ["data", "check", "--config", config, "--report", str(page)])
    assert result.exit_code == 1, result.output
    assert "<script" not in page.read_text(encoding="utf-8")
    assert "<img src=x" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("quality", [60, 95])
def test_the_same_picture_compressed_again_is_near_and_others_are_not(quality: int) -> None:
    pages = [picture(number, 200, 150) for number in range(40)]
    again = [cv2.imdecode(cv2.imencode(".jpg", page, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1) for page in pages]
    some, others = (
        [found for page in part if (found := difference_hash(page, PAGE_GRID)) is not None] for part in (pages, again)
    )
    assert len(some) == len(others) == 40
    assert list(near_pairs(some, others)) == [(number, number) for number in range(40)]
    assert difference_hash(np.full((20, 20, 3), 7, dtype=np.uint8), PAGE_GRID) is None

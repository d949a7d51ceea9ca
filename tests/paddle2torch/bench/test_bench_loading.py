"""How fast data comes, beside the step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from tiny_training import tiny_config

from paddle2torch import cli
from paddle2torch.bench.loading import LoadingBench, bench_loading
from paddle2torch.training.config_files import write_settings
from paddle2torch.training.official import official_settings
from paddle2torch.training.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The official recipe of the tiny recogniser, on eight lines, loaded by the process itself."""
    rng = np.random.default_rng(0)
    for number in range(8):
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), rng.integers(0, 256, (40, 70, 3), dtype=np.uint8))
    (tmp_path / "train.txt").write_text("".join(f"{number}.png\tabc\n" for number in range(8)))
    recipe = official_settings(tiny_config(), pretrained=None)
    split = recipe.data.train
    dataset = replace(split.dataset, data_dir=str(tmp_path), label_file_list=(str(tmp_path / "train.txt"),))
    split = replace(split, dataset=dataset, loader=replace(split.loader, batch_size_per_card=2, num_workers=0))
    return replace(recipe, data=replace(recipe.data, train=split))


def test_data_is_timed_beside_the_step(settings: Settings) -> None:
    result = bench_loading(settings, tiny_config(), seconds=0.2)
    assert result.samples > 8  # more than an epoch: it goes on with the next one
    assert 0.2 <= result.seconds < 5
    assert result.workers == 0
    assert result.decode_ms > 0
    assert result.transform_ms > 0
    assert result.step_samples_per_second is not None


def test_figures_follow_from_what_was_measured() -> None:
    result = LoadingBench(100, 2.0, 1, 1.5, 2.5, 10.0)
    assert (result.samples_per_second, result.times_the_step) == (50.0, 5.0)
    assert replace(result, step_samples_per_second=None).times_the_step is None


def test_the_command_prints_both(settings: Settings, tmp_path: Path) -> None:
    write_settings(settings, tiny_config(), tmp_path / "settings")
    arguments = ["bench", "loader", "--config", str(tmp_path / "settings" / "config.json"), "--seconds", "0.1"]
    told = CliRunner().invoke(cli.main, [*arguments, "--no-step", "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["step_samples_per_second"] is None
    shown = CliRunner().invoke(cli.main, [*arguments, "--no-step"])
    assert "a sample takes" in shown.stdout

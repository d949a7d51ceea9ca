"""Ray itself, where it is installed: a job with broken files that is gone on with, and what is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
from coloured_bars import page_of, settings
from material import TESTS
from PIL import Image
from small_models import saved, small_config

from paddle2torch.model_zoo.errors import ConfigError, Paddle2TorchError

ray = pytest.importorskip("ray", reason="needs ray")
pq = pytest.importorskip("pyarrow.parquet")

from paddle2torch.ray import datasets  # noqa: E402 - it needs Ray
from paddle2torch.ray.reading import PackedModel  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    environment = {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    ray.init(address="local", num_cpus=3, log_to_driver=False, runtime_env={"env_vars": environment})
    yield
    ray.shutdown()


def write(path: Path, text: str) -> None:
    cv2.imwrite(str(path), page_of(text))


def test_a_job_is_written_whole_and_gone_on_with(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "_sent", lambda model: model)
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for index, text in enumerate(("A", "AB", "ABC", "B")):
        write(folder / f"{index}.png", text)
    (folder / "2b.png").write_bytes(b"broken")
    frame = Image.open(folder / "3.png")
    frame.save(folder / "4.pdf", save_all=True, append_images=[frame], resolution=144)
    pages, errors = datasets.run_job([folder], str(output), pages_per_block=2, **settings())
    assert pages == 7
    (error,) = errors
    assert "2b.png" in error
    with pytest.raises(ConfigError, match="--resume"):
        datasets.run_job([folder], str(output), **settings())
    written = sorted(output.glob("*.parquet"))
    assert len(written) >= 3
    write(folder / "9.png", "C")
    pages, errors = datasets.run_job([folder], str(output), resume=True, **settings())
    assert (pages, len(errors)) == (8, 1)
    assert set(written) < set(output.glob("*.parquet")), "what was written is as it was"
    rows = sorted(pq.read_table(output).to_pylist(), key=lambda row: row["id"])
    assert [row["id"].rpartition("/")[2] for row in rows] == [
        *("0.png#1", "1.png#1", "2.png#1", "2b.png#1", "3.png#1", "4.pdf#1", "4.pdf#2", "9.png#1")
    ]
    assert [row["text"] for row in rows] == ["A", "AB", "ABC", None, "B", "B", "B", "C"]


def test_an_output_and_what_was_noted_of_it_belong_together(cluster: None, tmp_path: Path) -> None:
    write(tmp_path / "a.png", "A")
    output, noted = tmp_path / "out", tmp_path / "out.checkpoint"
    assert datasets.run_job([tmp_path / "a.png"], str(output), **settings()) == (1, [])
    shutil.rmtree(output)
    assert datasets.run_job([tmp_path / "a.png"], str(output), resume=True, **settings()) == (1, [])
    shutil.rmtree(noted)
    with pytest.raises(ConfigError, match=r"out\.checkpoint does not say which"):
        datasets.run_job([tmp_path / "a.png"], str(output), resume=True, **settings())


def test_models_of_a_folder_are_sent_and_others_go_by_name(cluster: None, tmp_path: Path) -> None:
    sent = datasets._sent(saved(tmp_path / "own", small_config(nrtr=False)))
    assert isinstance(ray.get(sent), PackedModel)
    assert datasets._sent("en_PP-OCRv4_rec") == "en_PP-OCRv4_rec"
    with pytest.raises(ConfigError, match="en_PP-OCRv4_rec"):
        datasets._sent("en_PP-OCRv4_rek")


def test_actors_leave_cpus_to_find_pages_with() -> None:
    assert datasets.actors_of({"CPU": 8.0}, None, 1, 0, 1) == (7, 7)
    assert datasets.actors_of({"CPU": 8.0}, None, 3, 0, 2) == (2, 2)
    assert datasets.actors_of({"CPU": 16.0, "GPU": 2.0}, None, 1, 0.5, 1) == (4, 4)
    assert datasets.actors_of({"CPU": 3.0}, (1, 50), 1, 0, 2) == (1, 50)
    for resources, actors in (({"CPU": 3.0}, 2), ({"CPU": 1.0}, None), ({"CPU": 8.0}, (9, 10)), ({"CPU": 8.0}, (3, 2))):
        with pytest.raises(ConfigError, match="the job would wait for ever"):
            datasets.actors_of(resources, actors, 1, 0, 2)
    with pytest.raises(ConfigError, match=r"1 CPU and 1 GPU are not from 1 to 0"):
        datasets.actors_of({"CPU": 8.0}, 1, 1, 1, 1)


def test_an_error_of_ray_is_told_by_what_it_comes_from() -> None:
    def fail() -> None:
        raise Paddle2TorchError("en_PP-OCRv4_rec cannot be had")

    with pytest.raises(Paddle2TorchError) as caught:
        fail()
    told = ray.exceptions.RayTaskError("fail", "Traceback:\n  File x\nOSError: the disk is full\n", caught.value)
    assert datasets.reason_of(told) == "en_PP-OCRv4_rec cannot be had"
    assert datasets.reason_of(RuntimeError("Traceback:\n  File x\nOSError: the disk is full\n")).endswith(
        "disk is full"
    )


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no images or PDFs"):
        datasets.read_pages([])

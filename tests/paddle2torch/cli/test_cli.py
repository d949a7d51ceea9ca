"""Commands as users type them: results on stdout, the rest on stderr, exit codes that scripts can use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from paddle2torch import cli
from paddle2torch.assets import ASSETS
from paddle2torch.parity.verification import bundled_images


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


@pytest.fixture
def converted(ch_export: Path, tmp_path: Path) -> Path:
    result = run("convert", "ch_PP-OCRv4_rec", "--weights", ch_export, "-o", tmp_path / "model")
    assert result.exit_code == 0, result.output
    assert "legacy export -> fused form, 234 tensors, read back bit for bit" in result.stdout
    assert "note: an export has no training branches" in result.stderr
    return tmp_path / "model"


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; from paddle2torch.cli import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    modules = set(output.splitlines()[-1].split())
    assert not modules & {"torch", "numpy", "cv2", "paddle", "safetensors", "requests", "huggingface_hub"}
    assert "convert" in output


def test_list_is_a_table_or_json() -> None:
    table = run("list")
    assert table.exit_code == 0
    assert "en_PP-OCRv4_rec" in table.stdout
    models = {model["name"]: model for model in json.loads(run("list", "--json").stdout)}
    assert models["en_PP-OCRv4_rec"]["converted"] is None
    assert models["en_PP-OCRv4_rec"]["licence"] == "Apache-2.0"


def test_read(converted: Path) -> None:
    images = bundled_images("rec")
    result = run("read", converted, *images, "--json")
    assert result.exit_code == 0, result.output
    lines = json.loads(result.stdout)
    assert [Path(line["image"]).name for line in lines] == [image.name for image in images]
    assert lines[0]["text"] == "Reads 0123"
    assert [char["char"] for char in lines[0]["chars"]] == list("Reads 0123")
    assert all(0 < char["score"] <= 1 for char in lines[0]["chars"])
    table = run("read", converted, images[0])
    assert "Reads 0123" in table.stdout


def test_reading_what_is_no_image(converted: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    result = run("read", converted, tmp_path / "a.png")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "a.png" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_image_among_others_that_cannot_be_read_stops_nothing(converted: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    image = bundled_images("rec")[0]
    result = run("read", converted, tmp_path / "a.png", image, tmp_path / "none.png")
    assert result.exit_code == 1
    assert "Reads 0123" in result.stdout
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == ["not read", "not read"]
    broken, line, missing = json.loads(run("read", converted, tmp_path / "a.png", image, "x.png", "--json").stdout)
    assert line["text"] == "Reads 0123"
    assert "a.png is not an image" in broken["error"]
    assert "x.png: there is no such file" in missing["error"]


def test_an_option_allows_a_picture_more(converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddle2torch.tasks.picture_budget.WORK_AT_MOST", 1000)
    monkeypatch.setattr("paddle2torch.tasks.picture_budget.WORK_PER_BYTE", 0)
    image = bundled_images("rec")[0]
    refused = run("read", converted, image)
    assert refused.exit_code == 1
    assert "--max-picture-mb" in refused.stderr
    read = run("read", converted, image, "--max-picture-mb", "300")
    assert read.exit_code == 0
    assert "Reads 0123" in read.stdout


def test_verify_says_equal_and_writes_a_report(converted: Path, tmp_path: Path) -> None:
    golden = ASSETS / "ch_PP-OCRv4_rec.golden.safetensors"
    report = tmp_path / "report.html"
    result = run("verify", converted, "--reference", golden, "--report", report)
    assert result.exit_code == 0, result.output
    assert "EQUAL: 256 of 256 layers hold" in result.stdout
    assert "not covered:" in result.stdout
    assert report.read_text(encoding="utf-8").lower().startswith("<!doctype html>")
    data = json.loads(run("verify", converted, "--reference", golden, "--json").stdout)
    assert data[0]["holds"] is True
    assert len(data[0]["layers"]) == 256


def test_verify_of_a_broken_model_fails(converted: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = converted / "model.safetensors"
    state = load_file(path)
    key = "head.ctc_encoder.encoder.svtr_block.1.mixer.proj.weight"
    state[key] = state[key].T.contiguous()
    save_file(state, path)
    golden = ASSETS / "ch_PP-OCRv4_rec.golden.safetensors"
    result = run("verify", converted, "--reference", golden)
    assert result.exit_code == 1
    assert "NOT EQUAL" in result.stdout
    assert "look at head.ctc_encoder.encoder.svtr_block.1.mixer.proj" in result.stdout


def test_verify_with_nothing_converted() -> None:
    result = run("verify")
    assert result.exit_code == 1
    assert "no model is converted here yet: paddle2torch convert NAME" in result.stderr


def test_convert_errors_are_one_message(tmp_path: Path) -> None:
    (tmp_path / "a.pdparams").write_bytes(b"\x80\x04N.")
    result = run("convert", "own", "--weights", tmp_path / "a.pdparams")
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    assert str(tmp_path / "a.pdparams") in result.stderr
    assert run("convert").exit_code == 2
    unknown = run("convert", "en_PP-OCRv4_rek")
    assert "did you mean en_PP-OCRv4_rec" in unknown.stderr
    assert "--weights PATH" in unknown.stderr


def test_texts_with_odd_file_names(converted: Path, tmp_path: Path) -> None:
    image = tmp_path / "mit Leer und ümläut.png"
    _, data = cv2.imencode(".png", np.full((48, 200, 3), 255, np.uint8))
    image.write_bytes(data.tobytes())
    lines = json.loads(run("read", converted, image, "--json").stdout)
    assert lines[0]["image"] == str(image)
    assert lines[0]["text"] == ""
    assert lines[0]["score"] == 0.0


def test_a_warning_is_a_note(converted: Path) -> None:
    import torch._inductor.config as compiler

    with compiler.patch({"cpp.cxx": (None, "/nowhere/g++")}):
        result = run("read", converted, bundled_images("rec")[0], "--compiled")
    assert result.exit_code == 0, result.output
    assert "Reads 0123" in result.stdout
    (note,) = result.stderr.splitlines()
    assert note.startswith("note: no C++ compiler was found")
    assert note.endswith("runs without being compiled")


def test_read_in_bfloat16(converted: Path) -> None:
    """Without the compiled form: the network's output in that type, which differs from float32."""
    image = bundled_images("rec")[0]
    results = [
        run("read", converted, image, "--json", *flag) for flag in ((), ("--precision", "bf16"), ("--bfloat16",))
    ]
    assert [result.stderr for result in results] == ["", "", "--bfloat16 is called --precision bf16 now\n"]
    scores = [json.loads(result.stdout)[0]["score"] for result in results]
    assert scores[0] != scores[1] == scores[2]
    assert abs(scores[0] - scores[1]) < 0.1


# Where the output goes


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp932:strict"},
        {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
    ids=lambda environment: ",".join(environment.values()),
)
def test_any_text_reaches_a_file_or_a_pipe(environment: dict[str, str]) -> None:
    code = (
        "import click; from paddle2torch import cli; from paddle2torch.cli.output import print_json\n"
        "@click.command()\ndef text(): print('纯臻 € ß عام'); print_json(['纯']); click.echo('é', err=True)\n"
        "cli.main.add_command(text); cli.main(['text'])"
    )
    code = code.encode("ascii", "backslashreplace").decode()
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHONIO", "PYTHONUTF8", "LC_"))}
    done = subprocess.run(
        [sys.executable, "-c", code.encode("ascii", "backslashreplace").decode()],
        capture_output=True,
        env={**plain, **environment, "LANG": ""},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("utf-8").splitlines() == ["纯臻 € ß عام", "[", '  "纯"', "]"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"]])
def test_a_full_disk_behind_standard_output_is_one_message(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "paddle2torch.cli", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "Error: standard output cannot be written: No space left on device; choose another place\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows says something else")
def test_a_closed_pipe_is_one_message() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "paddle2torch.cli", "list"], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr == "Error: standard output cannot be written: Broken pipe; choose another place\n"


@pytest.mark.parametrize(("module", "said"), [("accelerate.utils", "paddle2torch[train]"), ("numpy_x", None)])
def test_a_missing_extra_is_named(module: str, said: str | None) -> None:
    @click.command()
    def go() -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    result = CliRunner().invoke(cli.Commands("group", commands={"go": go}), ["go"])
    assert result.exit_code == 1
    if said is None:
        assert isinstance(result.exception, ModuleNotFoundError)
    else:
        assert result.stderr == f"Error: accelerate is not installed: pip install '{said}'\n"

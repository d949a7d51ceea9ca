"""One place chooses device and precision; and what happens on a device is followed on one that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import stand_in
import torch

from paddle2torch import device as devices
from paddle2torch.api import load_pretrained
from paddle2torch.device import choose_device, choose_dtype, describe, exact_float32, memory_format
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.tasks.failures import OUT_OF_MEMORY, what_went_wrong

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.fixture(scope="module")
def library(compiler: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from paddle2torch.compiled.kernel_library import find_compiler

    if torch.backends.cuda.is_built():
        pytest.skip("needs a PyTorch without CUDA, whose own hooks would be in the stand-in's place")
    return stand_in.build(find_compiler(), tmp_path_factory.mktemp("stand_in"))


@pytest.mark.slow
def test_a_gpu_is_waited_for_at_lines_of_the_log_alone(library: Path) -> None:
    """Steps in half precision, of which the last one ends a line, of recogniser and detector; and pages."""
    found = stand_in.found_on("cuda", library)
    for name, before in (("fp16", [[]]), ("bf16", []), ("resumed", [])):
        *others, last = found[name]["steps"]
        assert others == before, name
        assert len(last) == 1, name
        assert "device.py: values: NDArray[Any] = x.detach().cpu()" in last[0], name
        assert found[name]["copies"] == [], name
        # PyTorch's own scaling of gradients has float64, which it leaves out on Apple's GPUs.
        assert [where for where in found[name]["doubles"] if "unscale_gradients" not in where] == [], name
    assert found["read"] == {
        "kept": ["cuda", "cuda"],
        "pages": ["PageText"] * 3,
        "of_pages": 3,
        "lines": 30,
        "of_lines": 1,
        "copies": [],
        "doubles": [],
    }


@pytest.mark.slow
def test_no_float64_is_made_on_an_apple_gpu(library: Path) -> None:
    """Neither in training, with the loss that is float64 elsewhere, nor in reading. CTC is computed on the CPU."""
    found = stand_in.found_on("mps", library)
    assert found["rec"]["doubles"] == found["read"]["doubles"] == []
    (step,) = found["rec"]["steps"]
    assert len(step) == 4
    assert "losses.py: log_probabilities, labels =" in step[0]
    assert found["read"]["pages"] == ["PageText"] * 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "device 'gpu' is none that PyTorch knows: cpu, cuda, cuda:1, mps, xpu, or auto"),
        ("cuda:-1", "is none that PyTorch knows"),
        ("mps", "device mps is not there: PyTorch .* finds no mps device"),
        ("xpu:3", "device xpu:3 is not there"),
        ("vulkan", "device vulkan is not there"),
    ],
)
def test_a_device_that_is_not_there_is_named(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_device(name)


def test_a_gpu_that_is_one_too_many_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="device cuda:2 is not there: of cuda there are 2, counted from 0"):
        choose_device("cuda:2")


def test_a_precision_is_a_word_or_a_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [choose_dtype(word, CPU) for word in ("fp32", "fp16", "bf16", torch.float64)] == [
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float64,
    ]
    for wrong in ("float32", "int8", torch.int8):
        with pytest.raises(ConfigError, match="precision is one of fp32, fp16, bf16, not"):
            choose_dtype(wrong, CPU)
    with pytest.raises(ConfigError, match="mps has no float64"):
        choose_dtype(torch.float64, MPS)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(ConfigError, match="cuda does not compute in bf16: take fp16 or fp32"):
        choose_dtype("bf16", CUDA)


def test_channels_are_last_where_that_is_fast() -> None:
    last, first = torch.channels_last, torch.contiguous_format
    found = [memory_format(device, dtype) for device in (CPU, CUDA, MPS) for dtype in (torch.float32, torch.bfloat16)]
    assert found == [last, last, first, last, first, first]


def test_tf32_is_said_and_can_be_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    usual = "cuda (a GPU), fp32: convolutions in TF32, matrix products in float32"
    assert describe(CUDA, "fp32") == usual
    with exact_float32(CUDA):
        assert describe(CUDA, "fp32") == "cuda (a GPU), fp32: convolutions in float32, matrix products in float32"
    assert describe(CUDA, "fp32") == usual
    with exact_float32(CPU):
        assert describe(CUDA, "fp32") == usual
    assert [describe(CUDA, "bf16"), describe(CPU, "fp32")] == ["cuda (a GPU), bf16", "cpu, fp32"]


def test_a_gpu_without_memory_is_said_as_a_machine_without() -> None:
    assert what_went_wrong(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")) == OUT_OF_MEMORY


def test_compiled_models_are_refused_on_a_gpu_with_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from small_models import saved, small_config

    monkeypatch.setattr(devices, "_need", lambda device: None)
    folder = saved(tmp_path / "model", small_config("fused"))
    for form in ("compiled", "quantized"):
        with pytest.raises(ConfigError, match=f"a {form} model is .* on the CPU, not .* cuda: .* torch.compile"):
            load_pretrained(folder, device="cuda", **{form: True})


def test_the_old_name_of_the_precision_is_taken_and_said(tmp_path: Path) -> None:
    from small_models import saved, small_config

    folder = saved(tmp_path / "model", small_config("fused"))
    with pytest.warns(FutureWarning, match="dtype is called precision now"):
        network = load_pretrained(folder, dtype=torch.bfloat16)
    assert next(network.parameters()).dtype == torch.bfloat16


def test_a_device_is_measured_and_what_it_cannot_do_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny_training import tiny_config, tiny_det_config

    from paddle2torch.bench import device as bench
    from paddle2torch.model_zoo.network import build_model

    networks = {"recogniser": build_model(tiny_config()), "detector": build_model(tiny_det_config())}
    monkeypatch.setattr(bench, "PAGE", (64, 64))
    monkeypatch.setattr(bench, "LINE", (48, 64))
    found = bench.bench_device("cpu", precisions=["fp32", "fp8"], batches=[2], repeat=1, **networks).to_json()
    good, bad = found["cases"][:3], found["cases"][3:]
    assert [case["what"] for case in good] == [case["what"] for case in bad]
    assert [case["what"] for case in good] == ["lines read", "maps of pages", "lines learnt"]
    assert all(case["per_second"] > 0 and case["failed"] is None for case in good)
    assert all("precision is one of fp32" in case["failed"] and case["per_second"] is None for case in bad)


def test_every_command_that_computes_takes_a_device(tmp_path: Path) -> None:
    from click.testing import CliRunner
    from small_models import saved
    from tiny_training import tiny_config, tiny_settings

    from paddle2torch.cli import main
    from paddle2torch.parity.verification import bundled_images
    from paddle2torch.training.config_files import write_settings

    model = str(saved(tmp_path / "model", tiny_config()))
    write_settings(tiny_settings(tmp_path / "out"), tiny_config(), tmp_path / "settings")
    config, image = str(tmp_path / "settings" / "config.json"), str(bundled_images("rec")[0])
    for command in (
        ["read", model, image],
        ["ocr", image, "--rec", model, "--det", model],
        ["verify", model],
        ["train", "--config", config],
        ["eval", "--config", config, "--model", model],
        ["bench", "device"],
    ):
        result = CliRunner().invoke(main, [*command, "--device", "mps"])
        assert result.exit_code == 1, command
        assert "device mps is not there" in result.output, command

"""What this machine has and can do, for a bug report: `paddle2torch doctor`."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

import torch

from paddle2torch._version import __version__
from paddle2torch.bench.processes import version_of
from paddle2torch.cache import cache_dir, zoo_dir
from paddle2torch.compiled.kernel_library import CompilerError, find_compiler, kernels_path, processor
from paddle2torch.device import available_cores
from paddle2torch.model_zoo.cards import UrlSource, WheelSource, list_cards
from paddle2torch.model_zoo.errors import SourceError
from paddle2torch.zoo.pip_process import run_pip

PACKAGES = (
    *("numpy", "safetensors", "huggingface_hub", "opencv-python-headless", "opencv-python", "pillow", "pypdfium2"),
    *("torchvision", "paddlepaddle", "onnx", "onnxruntime", "openvino", "transformers", "accelerate", "lmdb"),
    *("ocrmypdf", "docling", "pyclipper", "python-bidi"),
)
"""Distributions whose versions explain faults; two OpenCV in one environment are a fault by themselves."""

INSTRUCTIONS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")
"""A processor's instructions: those for which there are kernels, in Linux's names."""

PIP_SECONDS = 30
ENVIRONMENT = (
    *("PADDLE2TORCH_HOME", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CXX", "HF_HOME"),
    *("HF_ENDPOINT", "HF_HUB_OFFLINE", "PIP_INDEX_URL", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)
"""What changes behaviour. Of an address only the host is shown: it may hold a password."""


@dataclass(frozen=True)
class Finding:
    """A fact of a group ("versions"), and whether something is wrong with it."""

    group: str
    name: str
    value: str
    wrong: bool = False


def examine(*, sources: bool = True) -> list[Finding]:
    """Everything that is known without running a network; no path of a user's own and no password is in it.

    sources: ask the places that models come from whether they answer, which takes some seconds.
    """
    findings = [*_versions(), *_processor(), *_devices(), *_compiler(), *_folders(), *_environment()]
    return findings + (_sources() if sources else [])


def _versions() -> list[Finding]:
    found = [
        Finding("versions", "paddle2torch", __version__),
        Finding("versions", "Python", f"{platform.python_version()} on {platform.platform(terse=True)}"),
        Finding("versions", "torch", torch.__version__),
    ]
    installed = {name: version_of(name) for name in PACKAGES}
    both = installed["opencv-python"] is not None and installed["opencv-python-headless"] is not None
    for name, number in installed.items():
        if number is not None:
            beside = " (beside the headless one: uninstall one of them)" if both and name == "opencv-python" else ""
            found.append(Finding("versions", name, number + beside, wrong=bool(beside)))
    return found


def _processor() -> list[Finding]:
    model, flags = platform.processor() or platform.machine(), frozenset[str]()
    for line in processor().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            model = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags = frozenset(value.split())
    has = " ".join(name for name in INSTRUCTIONS if name in flags) or "not known"
    return [
        Finding("processor", "model", model),
        Finding("processor", "instructions", f"{has}; PyTorch uses {torch.backends.cpu.get_cpu_capability()}"),
        Finding("processor", "cores", f"{os.cpu_count()}, {available_cores()} for this process"),
        Finding("processor", "threads", f"{torch.get_num_threads()} of PyTorch"),
    ]


def _devices() -> list[Finding]:
    if torch.cuda.is_available():
        return [
            Finding("devices", f"cuda:{index}", torch.cuda.get_device_name(index))
            for index in range(torch.cuda.device_count())
        ]
    why = "built without CUDA" if torch.version.cuda is None else f"CUDA {torch.version.cuda}, no device found"
    return [Finding("devices", "GPU", f"none that this PyTorch can use ({why})")]


def _compiler() -> list[Finding]:
    try:
        compiler = find_compiler()
    except CompilerError as error:
        return [Finding("compiler", "C++", str(error))]
    kernels = "made" if kernels_path().exists() else "not made yet"
    return [Finding("compiler", "C++", compiler), Finding("compiler", "kernels", f"{kernels} for this processor")]


def _folders() -> list[Finding]:
    found = []
    for name, folder in (("cache", cache_dir()), ("converted models", zoo_dir())):
        there = folder
        while not there.exists() and there != there.parent:
            there = there.parent
        writable = os.access(there, os.W_OK)
        free = shutil.disk_usage(there).free
        count = sum(1 for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else 0
        inside = f", {count:,} inside" if name == "converted models" else ""
        state = "can be written" if writable else "cannot be written: set PADDLE2TORCH_HOME"
        value = f"{state}, {free / 1e9:.1f} GB free{inside}"
        found.append(Finding("folders", name, value, wrong=not writable or free < 5e8))
    return found


def _environment() -> list[Finding]:
    found = []
    for name in ENVIRONMENT:
        value = os.environ.get(name) or os.environ.get(name.lower())
        if value:
            host = urlsplit(value).hostname if "://" in value else None
            found.append(Finding("environment", name, host or ("set" if os.sep in value else value)))
    return found


def _sources() -> list[Finding]:
    """Whether each place answers that models come from."""
    hosts: dict[str, str] = {}
    wheel: WheelSource | None = None
    for card in list_cards():
        for source in (*card.sources.training, *card.sources.inference):
            if isinstance(source, UrlSource):
                hosts.setdefault(urlsplit(source.url).netloc, source.url)
            elif isinstance(source, WheelSource):
                wheel = wheel or source
    questions: dict[str, Callable[[], str]] = {"Hugging Face Hub": _ask_hub}
    questions |= {host: functools.partial(_ask_host, url) for host, url in hosts.items()}
    if wheel is not None:
        questions["wheels, by pip"] = functools.partial(_ask_pip, wheel.distribution)
    with ThreadPoolExecutor(len(questions)) as pool:
        answers = list(pool.map(_asked, questions.values()))
    return [Finding("sources", name, said, wrong) for name, (said, wrong) in zip(questions, answers, strict=True)]


def _asked(question: Callable[[], str]) -> tuple[str, bool]:
    try:
        return question(), False
    except SourceError as error:
        return str(error), True


def _ask_hub() -> str:
    # Imported here: it takes a third of a second.
    from paddle2torch.zoo.hub_access import check_online

    check_online()
    return "answers"


def _ask_host(url: str) -> str:
    from paddle2torch.zoo.downloads import check_reachable

    check_reachable(url)
    return "answers"


def _ask_pip(distribution: str) -> str:
    try:
        done = run_pip("index", "versions", "--ignore-requires-python", distribution, seconds=PIP_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceError(f"pip gave no answer: {type(error).__name__}") from error
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip found nothing"]
        raise SourceError(" ".join(said[-1].split())[:200])
    return "answers"

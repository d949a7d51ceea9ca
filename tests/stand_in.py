"""An accelerator that is not there: what runs on it is followed without values, and every wait for it is counted.

`found_on("cuda", LIBRARY)` (or mps) trains and reads on it in a process of its own. LIBRARY is `stand_in.cpp`, compiled
by `build`; it must be in the process before PyTorch is.

Tensors of the CPU are real. Those of the device are fake ones of PyTorch's `FakeTensorMode`, whose operations know
shapes, dtypes and devices only; where values come back to the CPU, zeros come. So all of a training runs, evaluation
and checkpoints included, and shows each place that waits for the device, makes float64 there, or mixes devices.
"""

from __future__ import annotations

import functools
import inspect
import json
import linecache
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

LIBRARIES = Path(torch.__file__).parent

PROGRAM = (
    "import ctypes, sys; [ctypes.CDLL(path, ctypes.RTLD_GLOBAL) for path in sys.argv[2:4]]; "
    "import paddle2torch.training.trainer; "  # the package first: tests/ has a folder of its name
    f"sys.path.append({str(Path(__file__).parent)!r}); import stand_in; stand_in.main(sys.argv[1], sys.argv[4:])"
)


def build(compiler: str, folder: Path) -> Path:
    """Compile `stand_in.cpp`; three seconds."""
    source, library = Path(__file__).with_suffix(".cpp"), folder / "stand_in.so"
    flags = ("-std=c++20", "-O0", "-shared", "-fPIC", "-w", f"-I{LIBRARIES / 'include'}", f"-L{LIBRARIES / 'lib'}")
    subprocess.run([compiler, *flags, source, "-o", library, "-lc10", "-ltorch_cpu"], check=True)
    return library


def found_on(kind: str, library: Path, *cases: str) -> dict[str, Any]:
    """What training and reading do on a device of that kind, in all cases of `main` or in some."""
    environment = {**os.environ, "STAND_IN": kind, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, kind, LIBRARIES / "lib" / "libtorch_cpu.so", library, *cases]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class StandIn(TorchDispatchMode):
    """Follows everything on devices of one kind.

    waits: operations for which Python waits for the device. copies: those that bring values there and wait for it,
    as their memory is not pinned. doubles: operations that make float64 there.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        # A backward pass has a thread for each kind of device, and FakeTensorMode bears one at a time.
        self._one = threading.RLock()
        self.waits: list[str] = []
        self.copies: list[str] = []
        self.doubles: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        there, device = _touched((args, tuple(kwargs.values())))
        if not there and (device is None or device.type != self.kind):
            return func(*args, **kwargs)
        name = func.name()
        if _is_composite(name):
            with self:
                return func.decompose(*args, **kwargs)
        if name == "aten::_local_scalar_dense":
            self.waits.append(_where(name))
            return args[0].dtype.is_floating_point * 0.0 or args[0].dtype == torch.bool or 0
        if there and name in ("aten::_to_copy", "aten::copy_"):
            into = args[0] if name == "aten::copy_" else None
            back = not isinstance(into, FakeTensor) if into is not None else _is_cpu(kwargs.get("device"))
            if back:
                self.waits.append(_where(name))
                return _values_of(args[-1] if into is not None else args[0], kwargs, into)
        if name.startswith("aten::_ctc_loss"):
            if self.kind == "mps":
                raise NotImplementedError(f"{name} is not there on Apple's GPUs")
            lengths = args[3:5] if "backward" in name else args[2:4]
            self.waits += [_where(name) for length in lengths if isinstance(length, FakeTensor)]
        if name in LACKING:
            return LACKING[name](*args, **kwargs)
        if not there and name == "aten::_to_copy" and not kwargs.get("non_blocking"):
            self.copies.append(_where(name))
        try:
            with self._one, self.fake:
                result = func(*args, **kwargs)
        except NotImplementedError:
            raise NotImplementedError(f"{name} has no form without values: add it to LACKING") from None
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, FakeTensor) and leaf.device.type == self.kind and leaf.dtype == torch.float64:
                self.doubles.append(_where(name))
        return result


def _touched(values: Iterable[Any]) -> tuple[bool, torch.device | None]:
    """Whether there is a tensor of the device among these arguments, in lists too; and the device that they name."""
    there, device = False, None
    for value in values:
        if isinstance(value, FakeTensor):
            return True, device
        if isinstance(value, torch.device):
            device = value
        elif isinstance(value, list | tuple):
            there, inner = _touched(value)
            device = inner or device
            if there:
                return True, device
    return there, device


@functools.cache
def _is_composite(name: str) -> bool:
    """Whether an operation is made of others: in inference mode it comes whole."""
    return name.startswith("aten::") and torch._C._dispatch_has_kernel_for_dispatch_key(
        name, "CompositeImplicitAutograd"
    )


def _where(name: str) -> str:
    """An operation, and the line of ours that asks for it. Frame by frame: `traceback` looks at every file of a stack,
    which took half of the time of a checkpoint.
    """
    frame = inspect.currentframe()
    while frame is not None:
        file = frame.f_code.co_filename
        if "/paddle2torch/" in file and "/tests/" not in file and "site-packages" not in file:
            return f"{name}, {Path(file).name}: {linecache.getline(file, frame.f_lineno).strip()}"
        frame = frame.f_back
    return name


def _is_cpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cpu"


def _values_of(there: Tensor, kwargs: dict[str, Any], into: Tensor | None) -> Tensor:
    """Zeros where values come back; of bools, which ask whether all is well, what says yes."""
    dtype = kwargs.get("dtype") or there.dtype
    if into is None:
        into = torch.empty(there.shape, dtype=dtype)
    return into.fill_(1 if into.dtype == torch.bool else 0)


def _ctc(log_probabilities: Tensor, targets: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    steps, count, _classes = log_probabilities.shape
    return log_probabilities.new_zeros(count), log_probabilities.new_zeros(count, steps, 2 * targets.shape[1] + 1)


LACKING: dict[str, Callable[..., Any]] = {
    "aten::_ctc_loss.Tensor": _ctc,
    "aten::_ctc_loss_backward.Tensor": lambda _, log_probabilities, *__, **___: torch.zeros_like(log_probabilities),
    "aten::_use_cudnn_ctc_loss.Tensor": lambda *_, **__: False,
    "aten::_use_miopen_ctc_loss.Tensor": lambda *_, **__: False,
    "aten::_fused_sgd_": lambda *_, **__: None,
    "aten::_amp_foreach_non_finite_check_and_unscale_": lambda *_, **__: None,
    "aten::_amp_update_scale_": lambda scale, *_, **__: scale,
}
"""Operations whose shapes PyTorch does not tell without running them."""


def _apply(module: nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`nn.Module._apply` for fake tensors, which cannot be swapped in place: parameters become others."""
    for child in module.children() if recurse else ():
        child._apply(function)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                moved = function(parameter)
            if moved is not parameter:
                module._parameters[name] = nn.Parameter(moved, parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = function(buffer)
    return module


@contextmanager
def stand_in(kind: str) -> Iterator[StandIn]:
    """Let PyTorch, and us, believe in one such device."""
    import torch.cuda.amp.common

    from paddle2torch import device
    from paddle2torch.training import log

    log.plot_curves = lambda folder: True  # which says nothing of devices
    nn.Module._apply = _apply  # type: ignore[method-assign, assignment]
    torch.Tensor.pin_memory = lambda tensor, *_: tensor  # type: ignore[method-assign]
    device._need = lambda _: None
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    module = getattr(torch, kind)
    module._lazy_init = lambda: None
    for name, value in (
        ("get_device_name", "a stand-in"),
        ("is_bf16_supported", True),
        ("max_memory_allocated", 1 << 20),
        ("driver_allocated_memory", 1 << 20),
        ("get_rng_state", torch.zeros(16, dtype=torch.uint8)),
        ("set_rng_state", None),
        ("set_device", None),
        ("current_device", 0),
    ):
        setattr(module, name, lambda *_, value=value, **__: value)
    with StandIn(kind) as mode:
        yield mode


def trained(
    mode: StandIn, folder: Path, *, det: bool = False, resume: bool = False, steps: int = 1, **sections: Any
) -> dict[str, Any]:
    """Train a tiny network on the device for an epoch of so many steps; what was found in each, and in all."""
    from accelerate.state import AcceleratorState
    from tiny_training import TinyBatches, tiny_config, tiny_det_config, tiny_settings

    from paddle2torch.training import log, trainer

    log.QUIET_SECONDS = 1e9
    AcceleratorState._reset_state(True)
    training = {"epochs": 1, "device": f"{mode.kind}:0", **sections.pop("training", {})}
    settings = tiny_settings(folder, det=det, training=training, **sections)
    loader = replace(settings.data.train.loader, batch_size_per_card=20 // steps)
    settings = replace(
        settings,
        data=replace(settings.data, train=replace(settings.data.train, loader=loader)),
        output=replace(settings.output, print_steps=steps),
    )
    waits: list[list[str]] = []
    copies: list[str] = []
    original = trainer.step

    def counted(*args: Any, **kwargs: Any) -> None:
        before = len(mode.waits), len(mode.copies)
        original(*args, **kwargs)
        waits.append(mode.waits[before[0] :])
        copies.extend(mode.copies[before[1] :])

    trainer.step = counted
    try:
        config = tiny_det_config() if det else tiny_config()
        result = trainer.train(settings, config, resume=resume, make_batches=TinyBatches.make)
    finally:
        trainer.step = original
    found = {"steps": waits, "copies": copies, "line": result.line, "doubles": sorted(set(mode.doubles))}
    mode.doubles.clear()
    return found


def read(mode: StandIn) -> dict[str, Any]:
    """Read three pages on the device."""
    from tiny_training import tiny_config, tiny_det_config

    from paddle2torch.model_zoo.forms.folding import fold
    from paddle2torch.model_zoo.network import build_model
    from paddle2torch.ocr.pages import Page
    from paddle2torch.ocr.pipeline import OCR

    detector, recogniser = (build_model(config()).eval() for config in (tiny_det_config, tiny_config))
    device = torch.device(f"{mode.kind}:0")
    folded = [fold(network.to(device)) for network in (detector, recogniser)]
    found: dict[str, Any] = {"kept": [next(network.parameters()).device.type for network in folded]}
    ocr = OCR(det=folded[0], rec=folded[1], cls=None, version=None)
    pages = [Page(str(number), 1, 1, np.full((64, 96, 3), 255, np.uint8)) for number in range(3)]
    before = len(mode.waits), len(mode.copies)
    results = ocr.read_together(pages)
    found["pages"] = [type(result).__name__ for result in results]
    found["of_pages"] = len(mode.waits) - before[0]
    lines = [np.full((48, width, 3), 255, np.uint8) for width in (40, 50, 60)] * 10
    before = len(mode.waits), before[1]
    found["lines"] = len(ocr.recognizer(lines))
    found["of_lines"] = len(mode.waits) - before[0]
    found["copies"] = mode.copies[before[1] :]
    found["doubles"] = sorted(set(mode.doubles))
    return found


def main(kind: str, only: Sequence[str] = ()) -> None:
    """Print what was found on a device of that kind, in all cases or in those."""
    found: dict[str, Any] = {}
    with stand_in(kind) as mode, tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        cases: dict[str, Callable[[], dict[str, Any]]] = {"rec": lambda: trained(mode, here / "rec")}
        if kind == "cuda":
            bf16: dict[str, Any] = {"det": True, "loss": {"main_loss_type": "BCELoss"}}
            cases = {
                "fp16": lambda: trained(
                    mode,
                    here / "rec",
                    steps=2,
                    training={"precision": "fp16"},
                    optimizer={"clip_norm_global": 1.0},
                ),
                "bf16": lambda: trained(mode, here / "det", training={"precision": "bf16"}, **bf16),
                "resumed": lambda: trained(
                    mode, here / "det", resume=True, training={"precision": "bf16", "epochs": 2}, **bf16
                ),
            }
        cases["read"] = lambda: read(mode)
        for name, case in cases.items():
            if not only or name in only:
                found[name] = case()
    print(json.dumps(found))

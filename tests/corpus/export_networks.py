"""Networks of Paddle's own collections, exported and run by Paddle: what a converter of programs is tried on.

    python tests/corpus/export_networks.py FOLDER COLLECTION [CHECKOUT] [NAME…]

COLLECTION is one of `vision` (which needs no checkout), `clas`, `seg`, `detection`, `ocr`; CHECKOUT is the folder of
PaddleClas, PaddleSeg, PaddleDetection or PaddleOCR. Run without PyTorch in the process. Each network becomes
FOLDER/COLLECTION_NAME with `inference.json`, `inference.pdiparams` and `io.0.npz` to `io.2.npz`: `in:NAME` each input,
`out:INDEX` what Paddle computes with plain kernels, at three sizes where the program leaves sizes free. With PIR=0 in
the environment the programs are of the legacy format. A network that is there already is not made again.

Weights are made up, but never all zero or one: a convolution of offsets that starts as zeros would show nothing.
Nothing of these collections is part of this repository.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

os.environ.update(
    {
        "CUDA_VISIBLE_DEVICES": "",
        "FLAGS_enable_pir_api": os.environ.get("PIR", "1"),
        "FLAGS_use_cinn": "0",
        "FLAGS_use_mkldnn": "0",
        "GLOG_minloglevel": "3",
    }
)

import numpy as np

SECONDS_AT_MOST = 420
"""For one network."""

Overrides = dict[str, Any]

# What the collections import for training, for data or for drawing, and no network computes with.
_NOT_NEEDED = """
albumentations albucore easydict faiss imgaug lap motmetrics mpl_toolkits paddlenlp paddleslim pandas pkg_resources
prettytable pycocotools scipy seaborn skimage sklearn terminaltables ujson visualdl
"""


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for packages that are not installed and that no network computes with."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self) if name.split(".")[0] in _NOT_NEEDED.split() else None

    def create_module(self, spec: Any) -> Any:
        module = MagicMock(name=spec.name)
        module.__path__, module.__spec__ = [], spec
        return module

    def exec_module(self, module: Any) -> None:
        """It has no content."""


def two(size: int | list[int]) -> list[int]:
    """Height and width; -1 where they are free."""
    return size if isinstance(size, list) else [size, size]


# Collections: each gives (network, input specifications) of a name.


def vision(paddle: Any, checkout: Path, name: str, overrides: Overrides) -> tuple[Any, list[Any]]:
    """A network of paddle.vision: an image with a free batch, free sizes where the network allows."""
    size = two(overrides.pop("size", -1))
    network = getattr(paddle.vision.models, name)(num_classes=10, **overrides)
    return network, [paddle.static.InputSpec([None, 3, *size], "float32", "x")]


def clas(paddle: Any, checkout: Path, name: str, overrides: Overrides) -> tuple[Any, list[Any]]:
    """A backbone of PaddleClas as a classifier."""
    size = two(overrides.pop("size", -1))
    backbone = importlib.import_module("ppcls.arch.backbone")
    key = overrides.pop("classes", "class_num")
    network = getattr(backbone, name)(**({key: 10} if key else {}), **overrides)
    return network, [paddle.static.InputSpec([None, 3, *size], "float32", "x")]


def seg(paddle: Any, checkout: Path, name: str, overrides: Overrides) -> tuple[Any, list[Any]]:
    """A network of PaddleSeg, as its configuration has it, without softmax or argmax behind."""
    importlib.import_module("paddleseg.models")
    cvlibs = importlib.import_module("paddleseg.cvlibs")
    size = two(overrides.pop("size", -1))
    settings = cvlibs.Config(str(checkout / "configs" / overrides.pop("config"))).dic["model"]
    settings.update({"num_classes": 4, **overrides})

    def create(item: dict[str, Any]) -> Any:
        item = {
            key: create(value) if isinstance(value, dict) and "type" in value else value for key, value in item.items()
        }
        kind = item.pop("type")
        item.pop("pretrained", None)
        manager = cvlibs.manager
        components = manager.MODELS if kind in manager.MODELS.components_dict else manager.BACKBONES
        return components[kind](**item)

    return create(settings), [paddle.static.InputSpec([None, 3, *size], "float32", "x")]


def detection(paddle: Any, checkout: Path, name: str, overrides: Overrides) -> tuple[Any, list[Any]]:
    """A detector of PaddleDetection as its own exporter makes it, to the boxes."""
    workspace = importlib.import_module("ppdet.core.workspace")
    importlib.import_module("ppdet.modeling")
    size = two(overrides.pop("size", -1))
    config = workspace.load_config(str(checkout / "configs" / overrides.pop("config")))
    for section in config.values():
        if isinstance(section, dict) and section.get("eval_size"):
            section["eval_size"] = list(size) if size[0] > 0 else None
    workspace.merge_config({"eval_size": list(size) if size[0] > 0 else None, **overrides})
    network = workspace.create(config.architecture)
    for part in ("aux_neck", "aux_head"):
        if hasattr(network, part):
            delattr(network, part)
    network.eval()
    if hasattr(network, "deploy"):
        network.deploy = True
    for layer in network.sublayers():
        if hasattr(layer, "convert_to_deploy"):
            layer.convert_to_deploy()
    spec = paddle.static.InputSpec
    inputs = {
        "image": spec([None, 3, *size], "float32", "image"),
        "im_shape": spec([None, 2], "float32", "im_shape"),
        "scale_factor": spec([None, 2], "float32", "scale_factor"),
    }
    utils = importlib.import_module("ppdet.engine.export_utils")
    static = paddle.jit.to_static(network, input_spec=[dict(inputs)], full_graph=True)
    return static, utils._prune_input_spec([inputs], static.forward.main_program, static.forward.outputs)


def ocr(paddle: Any, checkout: Path, name: str, overrides: Overrides) -> tuple[Any, list[Any]]:
    """A network of PaddleOCR as its own exporter makes it."""
    import yaml

    config = yaml.safe_load((checkout / "configs" / overrides.pop("config")).read_text(encoding="utf-8"))
    architecture = config["Architecture"]
    if "Models" in architecture:
        architecture = {"algorithm": architecture["algorithm"], **architecture["Models"][overrides.pop("part")]}
    shape = overrides.pop("input_shape", None)
    for path, value in overrides.items():
        *parents, last = path.split(".")
        place = architecture
        for parent in parents:
            place = place[parent]
        place[last] = value
    head = architecture.get("Head") or {}
    formula = architecture["algorithm"].startswith(("LaTeXOCR", "UniMERNet", "PP-FormulaNet"))
    if formula:
        head["is_export"] = True
        architecture["Backbone"].update(
            {"LaTeXOCR": {"is_predict": True, "is_export": True}}.get(architecture["algorithm"], {})
        )
        if architecture["algorithm"] == "UniMERNet":
            architecture["Backbone"]["is_export"] = True
    elif head.get("name") == "MultiHead":
        head["out_channels_list"] = {"CTCLabelDecode": 40, "SARLabelDecode": 42, "NRTRLabelDecode": 43}
    elif architecture["model_type"] in ("rec", "table", "e2e") and "out_channels" not in head:
        head["out_channels"] = 40
    if architecture["model_type"] == "sr":
        architecture["Transform"]["infer_mode"] = True
    architecture_module = importlib.import_module("ppocr.modeling.architectures")
    exporter = importlib.import_module("ppocr.utils.export_model")
    network = architecture_module.build_model(architecture)
    exporter.convert_bn(network)
    network.eval()
    logger = importlib.import_module("logging").getLogger("ppocr")
    return exporter.dynamic_to_static(network, architecture, logger, shape), []


COLLECTIONS: dict[str, Callable[[Any, Path, str, Overrides], tuple[Any, list[Any]]]] = {
    "vision": vision,
    "clas": clas,
    "seg": seg,
    "detection": detection,
    "ocr": ocr,
}


def fill(paddle: Any, network: Any) -> None:
    """Statistics that show something, and values around those that are all the same at the start.

    Kernels that start small, as those of detectors' heads do, become as large as others: scores that differ in the
    seventh digit alone would be suppressed in an order that rounding decides.
    """
    for name, tensor in network.state_dict().items():
        if "float" not in str(tensor.dtype) or tensor.size == 0:
            continue
        random = np.random.default_rng([len(name), *tensor.shape, sum(name.encode())])
        array = tensor.numpy()
        last = name.rsplit(".", 1)[-1]
        if last == "_variance":
            array = random.uniform(0.6, 1.4, tensor.shape)
        elif last == "_mean":
            array = random.normal(0, 0.1, tensor.shape)
        elif tensor.size > 1 and float(array.std()) == 0 and last in ("weight", "bias", "_bias", "_weight"):
            array = array + random.normal(0, 0.1, tensor.shape)
        elif tensor.ndim == 4 and 0 < float(array.std()) < (usual := np.sqrt(1.5 / np.prod(tensor.shape[1:]))):
            array = array * (usual / array.std())
        else:
            continue
        tensor.set_value(array.astype(str(tensor.dtype).rsplit(".", 1)[-1]))


def inputs_of(feeds: list[tuple[str, list[int], str]], index: int, sizes: list[Any]) -> dict[str, np.ndarray]:
    """The made-up inputs of a program, at one of its sizes: (batch, height, width, any other free axis)."""
    batch, height, width, other = sizes[index % len(sizes)]
    made = {}
    for place, (name, shape, dtype) in enumerate(feeds):
        image = len(shape) == 4
        free = [batch, other, height if image else other, width if image else other, other]
        full = [size if size >= 0 else free[min(axis, 4)] for axis, size in enumerate(shape)]
        random = np.random.default_rng([place, index, *full])
        if name == "im_shape":
            made[name] = np.tile(np.array([[height, width]], dtype), (full[0], 1))
        elif name == "scale_factor":
            made[name] = random.uniform(0.8, 1.6, full).astype(dtype)
        elif "int" in dtype:
            made[name] = random.integers(0, 4, full).astype(dtype)
        elif dtype == "bool":
            made[name] = random.integers(0, 2, full).astype(bool)
        elif image or len(shape) > 2:
            made[name] = random.normal(0, 1, full).astype(dtype)
        else:
            made[name] = random.uniform(0.6, 1, full).astype(dtype)  # shares, as valid ratios are
    return made


def export(collection: str, name: str, checkout: Path, overrides: Overrides, target: Path) -> str:
    """Export and run one network; what it says is shown."""
    import paddle

    paddle.seed(1)
    sizes = overrides.pop("sizes", [(1, 64, 64, 8), (2, 96, 64, 8), (3, 64, 128, 12)])
    network, specs = COLLECTIONS[collection](paddle, checkout, name, overrides)
    fill(paddle, network)
    network.eval()
    path = str(target / "inference")
    if collection not in ("detection", "ocr"):
        network = paddle.jit.to_static(network, input_spec=specs, full_graph=True)
    started = time.perf_counter()
    paddle.jit.save(network, path, **({"input_spec": specs} if collection == "detection" else {}))
    paddle.enable_static()
    executor = paddle.static.Executor(paddle.CPUPlace())
    program, names, fetches = paddle.static.load_inference_model(path, executor)
    feeds = _feeds(program, names)
    seen = []
    for index in range(len(sizes)):
        inputs = inputs_of(feeds, index, sizes)
        shapes = tuple(array.shape for array in inputs.values())
        if shapes in seen:
            continue
        seen.append(shapes)
        try:
            values = executor.run(program, feed=inputs, fetch_list=fetches, return_numpy=False)
        except Exception as error:  # a size that the network does not take: any operation says so, in any type
            if index == 0:
                raise
            print(f"   at {shapes} Paddle says: {str(error).strip().splitlines()[-1][:150]}")
            continue
        saved = {f"in:{key}": array for key, array in inputs.items()}
        saved.update({f"out:{place}": np.array(item) for place, item in enumerate(values)})
        np.savez(target / f"io.{index}.npz", **saved)
    (target / "about.json").write_text(json.dumps({"seconds": time.perf_counter() - started}), encoding="utf-8")
    parameters = target / "inference.pdiparams"
    if parameters.exists() and parameters.stat().st_size == 0:
        parameters.unlink()
    return ", ".join(str(shape) for shape in seen)


def _feeds(program: Any, names: list[str]) -> list[tuple[str, list[int], str]]:
    """(name, shape, dtype) of each input."""
    found = []
    for name in names:
        variable = None
        for operation in program.global_block().ops:
            if operation.name() == "pd_op.data" and operation.attrs()["name"] == name:
                variable = operation.results()[0]
        if variable is None:
            variable = program.global_block().var(name)
        found.append((name, list(variable.shape), str(variable.dtype).rsplit(".", 1)[-1].lower()))
    return found


def main() -> None:
    """Export the networks that are named, or all of the collection, each in a process of its own."""
    folder, collection = Path(sys.argv[1]), sys.argv[2]
    rest = sys.argv[3:]
    checkout = Path(".") if collection == "vision" else Path(rest.pop(0)).resolve()
    here = Path(__file__).resolve().parent
    recipes = json.loads((here / f"{collection}.json").read_text(encoding="utf-8"))
    sys.meta_path.append(_Absent())
    sys.path.insert(0, str(checkout))
    for attribute, kind in (("float", float), ("int", int), ("bool", bool)):
        if not hasattr(np, attribute):
            setattr(np, attribute, kind)  # the collections were written for an older numpy
    import paddle

    del paddle
    for name in rest or list(recipes):
        target = (folder / f"{collection}_{name}").resolve()
        if (target / "about.json").exists():
            continue
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        child = os.fork()
        if child == 0:
            signal.alarm(SECONDS_AT_MOST)
            os.chdir(checkout)
            try:
                shown = export(collection, name, checkout, dict(recipes.get(name, {})), target)
                print(f"ok {collection}_{name}: {shown}", flush=True)
                os._exit(0)
            except BaseException as error:
                if os.environ.get("TRACE"):
                    traceback.print_exc()
                last = (str(error).strip() or repr(error)).splitlines()[-1]
                print(f"REFUSED {collection}_{name}: {type(error).__name__}: {last[:300]}", flush=True)
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if status:
            if os.WIFSIGNALED(status):
                print(f"REFUSED {collection}_{name}: ended by signal {os.WTERMSIG(status)}", flush=True)
            shutil.rmtree(target, ignore_errors=True)


if __name__ == "__main__":
    main()

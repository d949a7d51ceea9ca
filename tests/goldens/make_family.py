"""Compute the goldens of `family.py` with PaddleOCR's own network code under Paddle.

    cd tests && python -m goldens.make_family /path/to/PaddleOCR /path/to/paddleclas

As `make.py`; the second folder is the one that the wheel `paddleclas` holds. See README.md for the versions.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
from goldens.family import (
    CLASSES,
    LABEL_SAR,
    PROGRAMS,
    SIZES,
    VALID_RATIO,
    architecture,
    is_paddleclas,
    picture,
    task_of,
)
from goldens.make import HERE, LABEL_GTC, LENGTH, base_model, record
from goldens.ymls import ONE_SIZE
from recipe import image, tensor
from safetensors.numpy import save_file

from paddle2torch.atomic import land_file
from paddle2torch.converters.layout import lstm_key
from paddle2torch.parity.golden import OUTPUT, sample

SAMPLES = 16
# The output must depend on the image by so much of its largest value, or equality would show little.
SPREAD = 0.02


def pplcnet(paddleclas: Path) -> Any:
    """PaddleClas's class `PPLCNet`, called as PaddleOCR's are, without what the packages around it import."""
    folders = ("", ".utils", ".arch", ".arch.backbone", ".arch.backbone.base", ".arch.backbone.legendary_models")
    for folder in folders:
        package = ModuleType(f"ppcls{folder}")
        package.__path__ = [str(paddleclas / f"ppcls{folder}".replace(".", "/"))]
        sys.modules[package.__name__] = package
    for name in ("logger", "save_load"):
        module = ModuleType(f"ppcls.utils.{name}")
        module.__dict__["load_dygraph_pretrain"] = None
        sys.modules[module.__name__] = module
        setattr(sys.modules["ppcls.utils"], name, module)
    official = importlib.import_module("ppcls.arch.backbone.legendary_models.pp_lcnet").PPLCNet

    class PPLCNet(official):
        def forward(self, x: Any, targets: None = None) -> Any:
            return super().forward(x)

    return PPLCNet


def official_network(checkout: Path, paddleclas: Path, name: str) -> Any:
    """The official network with the recipe's weights, without dropout and stochastic depth."""
    import paddle

    settings = architecture(name)
    if settings["model_type"] == "rec":
        settings["Head"]["out_channels"] = CLASSES
        settings["Head"]["out_channels_list"] = {
            "CTCLabelDecode": CLASSES,
            "NRTRLabelDecode": CLASSES + 3,
            "SARLabelDecode": CLASSES + 2,
        }
        network = base_model(checkout)(settings)
    elif is_paddleclas(name):
        backbone = {key: value for key, value in settings["Backbone"].items() if key != "name"}
        network = pplcnet(paddleclas)(**backbone, class_num=settings["Head"]["class_num"])
    else:
        network = base_model(checkout)(settings)
    for key, parameter in network.state_dict().items():
        if not key.endswith(("._mean", "._variance", ".pe")):
            # An LSTM's tensor has two names.
            parameter.set_value(tensor(lstm_key(key) or key, tuple(parameter.shape)))
    for layer in network.sublayers():
        # PP-LCNet's dropout is no dropout alone: it scales in evaluation.
        if isinstance(layer, paddle.nn.Dropout) and layer.mode == "upscale_in_train":
            layer.p = 0.0
        elif type(layer).__name__ == "DropPath":
            layer.drop_prob = 0.0
        elif isinstance(layer, paddle.nn.LSTM):
            layer.dropout = 0.0
    return network


def train(network: Any, x: np.ndarray) -> Any:
    """A forward pass in training; a second head gets its targets."""
    import paddle

    targets = None
    head = getattr(network, "head", None)
    if hasattr(head, "sar_head"):
        targets = [None, paddle.to_tensor(LABEL_SAR), None, paddle.to_tensor(VALID_RATIO)]
    elif hasattr(head, "gtc_head"):
        targets = [None, paddle.to_tensor(LABEL_GTC), paddle.to_tensor(LENGTH)]
    # The code of the SAR head takes sizes for int32, as Paddle had them once.
    size = paddle.shape
    paddle.shape = lambda x: size(x).astype("int32")
    network.train()
    with paddle.no_grad():
        result = network(paddle.to_tensor(x), targets)
    paddle.shape = size
    return result


def calibrate(network: Any, x: np.ndarray) -> dict[str, np.ndarray]:
    """Give the batch normalisations the statistics of a batch, rounded to half the digits; returns them by name."""
    norms = [layer for layer in network.sublayers() if hasattr(layer, "_variance")]
    momenta = [layer._momentum for layer in norms]
    for layer in norms:
        layer._momentum = 0.0
    train(network, x)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer._momentum = momentum
    stored = {}
    for key, value in network.state_dict().items():
        if key.endswith(("._mean", "._variance")):
            stored[key] = value.numpy().astype(np.float16)
            value.set_value(stored[key].astype(np.float32))
    return stored


def save_program(network: Any, name: str, fused: bool) -> None:
    """Keep Paddle's export, and which parameter of it is which tensor of the network."""
    import paddle

    if fused:
        fuse(network)
    _, height, width = SIZES[name]
    image_spec = paddle.static.InputSpec([None, 3, height, width if name in ONE_SIZE else None], "float32", "x")
    program = paddle.jit.to_static(network.eval(), input_spec=[image_spec], full_graph=True)
    with TemporaryDirectory() as folder:
        paddle.jit.save(program, f"{folder}/inference")
        exported = json.loads(Path(folder, "inference.json").read_text(encoding="utf-8"))
    names = {parameter.name: key for key, parameter in network.state_dict().items()}
    text = json.dumps({"names": names, "program": exported}, separators=(",", ":"))
    with land_file(HERE / "family" / f"{name}{'.fused' if fused else ''}.program.json.gz") as path:
        path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def fuse(layer: Any) -> None:
    """What PaddleOCR's export does since 2026: `rep()` of v6's parts, and of RepSVTR's each one's `fuse`."""
    if hasattr(layer, "rep"):
        layer.rep()
    for name, child in list(layer.named_children()):
        repvit = type(child).__module__.endswith("rec_repvit")
        if repvit and type(child).__name__ in ("Conv2D_BN", "RepVGGDW"):
            setattr(layer, name, child.fuse())
        else:
            fuse(child)


def main() -> None:
    """Write all goldens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder of a PaddleOCR checkout")
    parser.add_argument("paddleclas", type=Path, help="folder `paddleclas` of that wheel")
    parser.add_argument("--only", action="append", choices=SIZES, help="these networks")
    arguments = parser.parse_args()
    checkout, paddleclas = arguments.checkout.resolve(), arguments.paddleclas.resolve()
    # Before Paddle is imported: one thread and no oneDNN, so that sums are in one order.
    os.environ |= {"OMP_NUM_THREADS": "1", "FLAGS_use_mkldnn": "0", "CUDA_VISIBLE_DEVICES": ""}
    sys.path.insert(0, str(checkout))
    from paddle.nn.functional import softmax
    from paddle.utils import unique_name

    for name, (count, height, width) in SIZES.items():
        if name not in (arguments.only or SIZES):
            continue
        unique_name.switch()  # or the names of parameters would depend on the networks before
        network = official_network(checkout, paddleclas, name)
        # Large: where the coarsest maps are a few cells, their statistics would magnify every rounding.
        task = task_of(name)
        wide = width if name in ONE_SIZE else 640
        batch = {"det": (2, 3, 192, 256), "rec": (2, 3, height, wide), "cls": (8, 3, height, width)}[task]
        statistics = calibrate(network, picture(name, "calibration", batch))
        layers, result = record(network.eval(), picture(name, "family", (count, 3, height, width)))
        output = result["maps"] if task == "det" else result
        # Its export ends in a softmax that the network has not.
        layers[OUTPUT] = (softmax(output) if is_paddleclas(name) else output).numpy().copy()
        axes = {"det": (2, 3), "rec": 1, "cls": 0}[task]
        spread = layers[OUTPUT].std(axis=axes).mean() / layers[OUTPUT].max()
        if spread < SPREAD:
            raise SystemExit(f"{name}: the output hardly depends on the image ({spread:.3f}); change the recipe")
        tensors = {f"statistics:{key}": values for key, values in statistics.items()}
        for key, values in layers.items():
            tensors[f"layer:{key}"] = np.append(sample(values, SAMPLES), np.abs(values).max())
        if hasattr(getattr(network, "head", None), "sar_head"):
            tensors["sar"] = train(network, image("sar", (2, 3, height, 90)))["sar"].numpy().copy()
        with land_file(HERE / "family" / f"{name}.safetensors") as path:
            save_file(tensors, path)
        for fused in PROGRAMS.get(name, ()):
            save_program(network, name, fused)
        print(f"{name}: {len(layers)} layers, spread {spread:.3f}")


if __name__ == "__main__":
    main()

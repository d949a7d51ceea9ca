"""Compute the goldens of `family.py` with PaddleOCR's own network code under Paddle.

    cd tests && python -m goldens.make_family /path/to/PaddleOCR

As `make.py`; see README.md for the versions.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from goldens.family import CLASSES, LABEL_SAR, SIZES, VALID_RATIO, architecture
from goldens.make import HERE, LABEL_GTC, LENGTH, base_model, record
from recipe import image, tensor
from safetensors.numpy import save_file

from paddle2torch.converters.layout import lstm_key
from paddle2torch.golden import OUTPUT, sample
from paddle2torch.landing import land_file

SAMPLES = 16
# The output must depend on the image by so much of its largest value, or equality would show little.
SPREAD = 0.02


def official_network(checkout: Path, name: str) -> Any:
    """PaddleOCR's `BaseModel` with the recipe's weights, without dropout."""
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
    for key, parameter in network.state_dict().items():
        if not key.endswith(("._mean", "._variance", ".pe")):
            # An LSTM's tensor has two names.
            parameter.set_value(tensor(lstm_key(key) or key, tuple(parameter.shape)))
    for layer in network.sublayers():
        if isinstance(layer, paddle.nn.Dropout):
            layer.p = 0.0
        elif isinstance(layer, paddle.nn.LSTM):
            layer.dropout = 0.0
    return network


def train(network: Any, x: np.ndarray) -> Any:
    """A forward pass in training; a second head gets its targets."""
    import paddle

    targets = None
    if hasattr(network.head, "sar_head"):
        targets = [None, paddle.to_tensor(LABEL_SAR), None, paddle.to_tensor(VALID_RATIO)]
    elif hasattr(network.head, "gtc_head"):
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


def main() -> None:
    """Write all goldens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder of a PaddleOCR checkout")
    checkout = parser.parse_args().checkout.resolve()
    # Before Paddle is imported: one thread and no oneDNN, so that sums are in one order.
    os.environ |= {"OMP_NUM_THREADS": "1", "FLAGS_use_mkldnn": "0", "CUDA_VISIBLE_DEVICES": ""}
    sys.path.insert(0, str(checkout))

    for name, (count, height, width) in SIZES.items():
        network = official_network(checkout, name)
        # Large: where the coarsest maps are a few cells, their statistics would magnify every rounding.
        batch = (2, 3, 192, 256) if name.endswith("_det") else (2, 3, height, 640)
        statistics = calibrate(network, image("calibration", batch))
        layers, result = record(network.eval(), image("family", (count, 3, height, width)))
        layers[OUTPUT] = (result["maps"] if isinstance(result, dict) else result).numpy().copy()
        spread = layers[OUTPUT].std(axis=(2, 3) if isinstance(result, dict) else 1).mean() / layers[OUTPUT].max()
        if spread < SPREAD:
            raise SystemExit(f"{name}: the output hardly depends on the image ({spread:.3f}); change the recipe")
        tensors = {f"statistics:{key}": values for key, values in statistics.items()}
        for key, values in layers.items():
            tensors[f"layer:{key}"] = np.append(sample(values, SAMPLES), np.abs(values).max())
        if hasattr(network.head, "sar_head"):
            tensors["sar"] = train(network, image("sar", (2, 3, height, 90)))["sar"].numpy().copy()
        with land_file(HERE / "family" / f"{name}.safetensors") as path:
            save_file(tensors, path)
        print(f"{name}: {len(layers)} layers, spread {spread:.3f}")


if __name__ == "__main__":
    main()

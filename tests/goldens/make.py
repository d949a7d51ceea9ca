"""Compute the goldens of this folder with PaddleOCR's own network code under Paddle.

    cd tests && python -m goldens.make /path/to/PaddleOCR

Nothing but this script needs Paddle or that checkout; see README.md for the versions. Running it again changes no byte.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.util
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from recipe import digest, image, tensor
from safetensors.numpy import save_file

from paddle2torch.atomic import land_file
from paddle2torch.parity.golden import OUTPUT, Golden, sample, save_golden

HERE = Path(__file__).parent
# Values kept of a layer in evaluation and in training, and of a result in training (all of a recogniser's).
EVAL_SAMPLES, TRAIN_SAMPLES, RESULT_SAMPLES = 64, 16, 8192
# A layer beyond these bounds hides errors of the layers before it; a choice by less than this may fall otherwise.
SMALLEST, LARGEST, MARGIN = 1e-3, 1e4, 1e-4

# What the NRTR head learns to write: 2 starts, 3 ends, 0 pads; and the number of characters of each row.
LABEL_GTC = np.array([[2, 9, 4, 23, 11, 4, 7, 3, 0, 0, 0, 0], [2, 17, 5, 3, 0, 0, 0, 0, 0, 0, 0, 0]], np.int64)
LENGTH = np.array([6, 2], np.int64)

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Network:
    """A network to record: its official configuration, what is changed in it, and the sizes of the images."""

    config: str
    evaluation: Shape
    training: Shape
    calibration: Shape
    change: Callable[[dict[str, Any]], None] | None = None


def a_users_own(architecture: dict[str, Any]) -> None:
    """A recogniser that is not published: another scale, neck and decoder, and 20 classes."""
    ctc, nrtr = architecture["Head"]["head_list"]
    architecture["Backbone"]["scale"] = 0.5
    ctc["CTCHead"]["Neck"] |= {"dims": 64, "hidden_dims": 96, "kernel_size": [3, 3]}
    nrtr["NRTRHead"] |= {"nrtr_dim": 64, "num_decoder_layers": 2}
    architecture["Head"]["out_channels_list"] = {"CTCLabelDecode": 20, "NRTRLabelDecode": 23}


REC_CONFIG = "configs/rec/PP-OCRv4/en_PP-OCRv4_rec.yml"
DET_CONFIG = "configs/det/ch_PP-OCRv4/ch_PP-OCRv4_det_student.yml"
NETWORKS: Mapping[str, Network] = {
    "en_PP-OCRv4_rec": Network(REC_CONFIG, (2, 3, 48, 75), (2, 3, 48, 101), (8, 3, 48, 160)),
    "own_rec": Network(REC_CONFIG, (2, 3, 48, 83), (2, 3, 48, 59), (8, 3, 48, 160), a_users_own),
    "ch_PP-OCRv4_det": Network(DET_CONFIG, (2, 3, 32, 96), (2, 3, 96, 64), (8, 3, 96, 96)),
    "ch_ppocr_mobile_v2.0_cls": Network("configs/cls/cls_mv3.yml", (2, 3, 48, 75), (3, 3, 41, 67), (8, 3, 48, 192)),
}
DECODED: Shape = (6, 3, 48, 200)
# Of these sizes (height, width) the output itself is kept: maps smaller than the pooling to one row, and higher.
ODD_SIZES = ((48, 3), (16, 20), (32, 50), (64, 50), (80, 33))

# Sizes of images (N, H, W) for the table of shapes: where the number of steps changes, the widest line of the pipeline,
# batches, and heights that the pooling to one row takes and does not take.
WIDTHS = (*range(1, 6), 8, 9, 12, 13, 16, 17, 20, 21, 28, 29, 32, 33, 36, 37, 40, 63, 64, 65, 100, 159, 160, 161, 319)
SIZES = (
    *((1, 48, width) for width in (*WIDTHS, 320, 321, 333, 960, 1599, 3200)),
    *((batch, 48, 32) for batch in (2, 3, 8, 16, 33, 64)),
    *((batch, 48, 320) for batch in (2, 6)),
    *((1, height, width) for height in (1, 16, 31, 32, 33, 40, 47, 49, 63, 64, 80, 81, 96) for width in (32, 100)),
    # Here the steps are as many as the neck's channels: a second row would not even fail.
    (1, 40, 960),
    (1, 96, 960),
)


def official_network(checkout: Path, network: Network) -> Any:
    """PaddleOCR's `BaseModel` for the configuration, as its tools/train.py builds it."""
    config = yaml.safe_load((checkout / network.config).read_text(encoding="utf-8"))
    architecture = config["Architecture"]
    if architecture["model_type"] == "rec":
        characters = (checkout / config["Global"]["character_dict_path"]).read_text(encoding="utf-8").splitlines()
        classes = 1 + len(characters) + config["Global"]["use_space_char"]
        architecture["Head"]["out_channels_list"] = {"CTCLabelDecode": classes, "NRTRLabelDecode": classes + 3}
    if network.change is not None:
        network.change(architecture)
    return base_model(checkout)(copy.deepcopy(architecture))


def base_model(checkout: Path) -> Any:
    """PaddleOCR's class `BaseModel`."""
    # Not as ppocr.modeling.architectures.base_model: that package imports the whole of PaddleOCR.
    path = checkout / "ppocr" / "modeling" / "architectures" / "base_model.py"
    spec = importlib.util.spec_from_file_location("base_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.BaseModel


def set_weights(network: Any, calibration: Shape) -> dict[str, np.ndarray]:
    """Give the network the recipe's weights and the statistics of a batch; returns those statistics by name.

    Statistics that do not belong to the weights would let the image fade from layer to layer.
    """
    import paddle

    for name, parameter in network.state_dict().items():
        if not name.endswith(("._mean", "._variance", ".pe")):  # positions are the network's own
            parameter.set_value(tensor(name, tuple(parameter.shape)))
    norms = []
    for layer in network.sublayers():
        if isinstance(layer, paddle.nn.Dropout):
            layer.p = 0.0
        elif hasattr(layer, "_variance"):
            norms.append((layer, layer._momentum))
            layer._momentum = 0.0
    network.train()
    forward(network, image("calibration", calibration))
    for layer, momentum in norms:
        layer._momentum = momentum
    return statistics(network)


def statistics(network: Any) -> dict[str, np.ndarray]:
    """The running statistics of all batch normalisations, by name."""
    state = network.state_dict()
    return {name: state[name].numpy() for name in sorted(state) if name.endswith(("._mean", "._variance"))}


def forward(network: Any, x: np.ndarray) -> Any:
    """One forward pass; a recogniser in training gets the targets, repeated to the size of the batch."""
    import paddle

    targets = None
    if network.training and hasattr(network.head, "gtc_head"):
        repeats = len(x) // len(LENGTH)
        label_gtc, length = np.tile(LABEL_GTC, (repeats, 1)), np.tile(LENGTH, repeats)
        # As MultiLabelEncode orders them: label_ctc, which no forward pass reads, label_gtc, length.
        targets = [None, paddle.to_tensor(label_gtc), paddle.to_tensor(length)]
    with paddle.no_grad():
        return network(paddle.to_tensor(x), targets)


def record(network: Any, x: np.ndarray) -> tuple[dict[str, np.ndarray], Any]:
    """The output of every sublayer that returns one tensor, in order of execution, and the network's result."""
    import paddle

    layers: dict[str, np.ndarray] = {}
    runs: Counter[str] = Counter()

    def hook(path: str) -> Callable[[Any, Any, Any], None]:
        def run(layer: Any, inputs: Any, output: Any) -> None:
            runs[path] += 1
            if isinstance(output, paddle.Tensor):
                # A copy: Paddle's array is a view of memory that is written to again.
                layers[path if runs[path] == 1 else f"{path}#{runs[path]}"] = output.numpy().copy()

        return run

    handles = [layer.register_forward_post_hook(hook(path)) for path, layer in network.named_sublayers()]
    result = forward(network, x)
    for handle in handles:
        handle.remove()
    for path, values in layers.items():
        largest = np.abs(values).max()
        if not SMALLEST <= largest <= LARGEST:
            raise SystemExit(f"{path}: largest value {largest:g}; change the recipe")
    return layers, result


def check_margin(probabilities: np.ndarray, what: str) -> None:
    """Stop where the best class is hardly better than the second."""
    ordered = np.sort(probabilities, axis=-1)
    margin = (ordered[..., -1] - ordered[..., -2]).min()
    if margin < MARGIN:
        raise SystemExit(f"{what}: two classes are {margin:g} apart; change the recipe or the image")


def evaluation(name: str, network: Any, shape: Shape, weights: str, version: str) -> Golden:
    """Every layer of a forward pass in evaluation."""
    x = image("evaluation", shape)
    layers, result = record(network.eval(), x)
    output = result["maps"].numpy() if isinstance(result, dict) else result.numpy()
    layers[OUTPUT] = output
    ids = scores = None
    if output.ndim == 3:
        check_margin(output, name)
        ids, scores = output.argmax(-1), output.max(-1)
    return Golden(
        source="",
        form="training",
        paddle_version=version,
        weights={"recipe": weights},
        input=x,
        layers={path: sample(values, EVAL_SAMPLES) for path, values in layers.items()},
        shapes={path: values.shape for path, values in layers.items()},
        largest={path: float(np.abs(values).max()) for path, values in layers.items()},
        ids=ids,
        scores=scores,
    )


def training(network: Any, shape: Shape, known: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], list[list[Any]]]:
    """Results, moved statistics and the layers that are not `known` from evaluation, of one forward pass in training.

    Also path, shape and largest value of each of these layers.
    """
    layers, result = record(network.train(), image("training", shape))
    layers = {path: values for path, values in layers.items() if path not in known}
    tensors = {f"layer:{path}": sample(values, TRAIN_SAMPLES) for path, values in layers.items()}
    about = [[path, list(values.shape), float(np.abs(values).max())] for path, values in layers.items()]
    for key, values in result.items() if isinstance(result, dict) else [("logits", result)]:
        if key != "ctc_neck":  # a layer, returned for distillation
            tensors[key] = sample(values.numpy(), RESULT_SAMPLES)
    for path, values in statistics(network).items():
        tensors[f"moved:{path}"] = sample(values, TRAIN_SAMPLES)
    if "gtc" in tensors:
        tensors |= {"label_gtc": LABEL_GTC, "length": LENGTH}
    return tensors, about


def decoding(network: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the NRTR head reads from images, start symbol first: symbols int64 (N, L), probabilities float32 (N, L)."""
    import paddle

    network.eval()
    head = network.head.gtc_head
    logits: list[np.ndarray] = []

    def keep(layer: Any, inputs: Any, output: Any) -> None:
        logits.append(output.numpy())

    handle = head.tgt_word_prj.register_forward_post_hook(keep)
    with paddle.no_grad():
        symbols, probabilities = head(network.head.before_gtc(network.backbone(paddle.to_tensor(x))))
    handle.remove()
    steps = np.stack(logits)
    check_margin(np.exp(steps - steps.max(-1, keepdims=True)), "NRTR")
    return symbols.numpy(), probabilities.numpy()


def reading(network: Any) -> dict[str, np.ndarray]:
    """What a recogniser reads with its NRTR head, and its outputs for odd sizes."""
    x = image("decoding", DECODED)
    tensors = {}
    # Alone, an image ends the loop with its own end symbol.
    for key, batch in (("together", x), ("alone", x[-1:])):
        tensors[f"decoded:{key}"], tensors[f"decoded:{key}.probabilities"] = decoding(network, batch)
    for height, width in ODD_SIZES:
        tensors[f"size:{height}x{width}"] = forward(network, image("size", (1, 3, height, width))).numpy()
    return tensors


def shapes(network: Any) -> list[list[Any]]:
    """For each size of image (N, H, W) the shape of the output, or "error"."""
    network.eval()
    table: list[list[Any]] = []
    for batch, height, width in SIZES:
        result: Any = "error"
        # Paddle's own checks, and the assertion of its Im2Seq.
        with contextlib.suppress(ValueError, AssertionError):
            result = list(forward(network, np.zeros((batch, 3, height, width), np.float32)).shape)
        table.append([[batch, height, width], result])
    return table


def main() -> None:
    """Write all goldens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder of a PaddleOCR checkout")
    checkout = parser.parse_args().checkout.resolve()
    # Before Paddle is imported: one thread and no oneDNN, so that sums are in one order.
    os.environ |= {"OMP_NUM_THREADS": "1", "FLAGS_use_mkldnn": "0", "CUDA_VISIBLE_DEVICES": ""}
    sys.path.insert(0, str(checkout))
    import paddle

    table: list[list[Any]] = []
    for name, spec in NETWORKS.items():
        network = official_network(checkout, spec)
        stored = {f"statistics:{path}": values for path, values in set_weights(network, spec.calibration).items()}
        state = network.state_dict()
        weights = digest({path: state[path].numpy() for path in state if not path.endswith(".pe")})
        golden = evaluation(name, network, spec.evaluation, weights, paddle.__version__)
        save_golden(golden, HERE / f"{name}.eval.safetensors")
        if hasattr(network.head, "gtc_head"):
            stored |= reading(network)
        if name == "en_PP-OCRv4_rec":
            table = shapes(network)
        # Last: it moves the statistics.
        trained, layers = training(network, spec.training, golden.layers)
        header = {"paddle": paddle.__version__, "weights": weights, "layers": layers}
        with land_file(HERE / f"{name}.train.safetensors") as path:
            save_file(stored | trained, path, {"golden": json.dumps(header)})
        print(f"{name}: {len(golden.layers)} layers in evaluation, {len(layers)} in training")
    lines = ",\n".join(json.dumps(row) for row in table)
    (HERE / "shapes.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()

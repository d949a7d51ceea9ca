"""Compute the goldens of `training_losses.npz`: losses of classifiers and of distillation, and changes of images, by
PaddleOCR's own code under Paddle.

    cd tests && python -m goldens.make_training_losses /path/to/PaddleOCR

`NAME` holds a loss in float64, `NAME/INPUT` its gradient by one of the arrays of `inputs`; `image/NAME` the picture of
`picture` after one of RandAugment's operations. See README.md for the versions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
LENGTHS = np.array([4, 1, 3])
CLASSES, SYMBOLS, STEPS = 9, 13, 6

# PaddleOCR's entries of `Loss.loss_config_list`, without their weights: a name of ours, its class, its options.
PAIRS = {"model_name_pairs": [["Student", "Teacher"]], "key": "head_out"}
NAMES = {"model_name_list": ["Student", "Teacher"], "key": "head_out", "multi_head": True}
LOSSES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ctc": ("DistillationCTCLoss", NAMES),
    "nrtr": ("DistillationNRTRLoss", {**NAMES, "smoothing": True}),
    "nrtr plain": ("DistillationNRTRLoss", {**NAMES, "smoothing": False}),
    "sar": ("DistillationSARLoss", {**NAMES, "ignore_index": CLASSES + 1}),
    "dml ctc": ("DistillationDMLLoss", {**PAIRS, "act": "softmax", "use_log": True, "multi_head": True}),
    "dml sar": (
        "DistillationDMLLoss",
        {**PAIRS, "act": "softmax", "use_log": True, "multi_head": True, "dis_head": "sar"},
    ),
    "kl gtc": ("DistillationKLDivLoss", {**PAIRS, "multi_head": True, "dis_head": "gtc"}),
    "dkd": ("DistillationDKDLoss", {**PAIRS, "multi_head": True, "dis_head": "gtc", "alpha": 1.0, "beta": 2.0}),
    "dkd, warm": ("DistillationDKDLoss", {**PAIRS, "multi_head": True, "dis_head": "gtc", "temperature": 4.0}),
    "distance": ("DistillationDistanceLoss", {**PAIRS, "mode": "l2", "key": "backbone_out"}),
    "distance l1": ("DistillationDistanceLoss", {**PAIRS, "mode": "l1", "key": "backbone_out"}),
    "distance smooth": ("DistillationDistanceLoss", {**PAIRS, "mode": "smooth_l1", "key": "backbone_out"}),
    "ctc logits": ("DistillCTCLogits", PAIRS),
}
HEADS = ("ctc", "gtc", "sar", "backbone_out")


def inputs() -> dict[str, NDArray[np.float64]]:
    """What two networks give, float64: of both the logits of three heads, and features."""
    rng = np.random.Generator(np.random.PCG64(21))
    shapes = {
        "ctc": (3, STEPS, CLASSES),
        "gtc": (3, int(LENGTHS.max()) + 1, SYMBOLS),
        "sar": (3, 7, CLASSES + 1),
        "backbone_out": (3, 4, 1, STEPS),
    }
    return {
        f"{name}.{head}": rng.normal(scale=2, size=shapes[head]) for name in ("Student", "Teacher") for head in HEADS
    }


def labels() -> dict[str, NDArray[np.int64]]:
    """The labels of both heads, int64 (3, 7), padded, and their lengths."""
    rng = np.random.Generator(np.random.PCG64(22))
    ctc, gtc = np.zeros((3, 7), dtype=np.int64), np.zeros((3, 7), dtype=np.int64)
    sar = np.full((3, 7), CLASSES + 1, dtype=np.int64)
    for row, length in enumerate(LENGTHS):
        # No two neighbours are equal, as CTC has few steps.
        text = np.cumsum(rng.integers(1, CLASSES - 2, length)) % (CLASSES - 1)
        ctc[row, :length] = text + 1
        gtc[row, : length + 2] = [2, *(text + 4), 3]
        sar[row, : length + 2] = [CLASSES, *text, CLASSES]
    return {"label_ctc": ctc, "label_gtc": gtc, "label_sar": sar, "length": LENGTHS}


def classes() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits (5, 4) and labels (5,) of a classifier."""
    rng = np.random.Generator(np.random.PCG64(23))
    return rng.normal(scale=3, size=(5, 4)), rng.integers(0, 4, 5)


def picture() -> NDArray[np.uint8]:
    """An image, uint8 (18, 30, 3), that no operation leaves as it is."""
    rows, columns = np.mgrid[0:18, 0:30]
    levels = np.stack([rows * 9 + columns, columns * 6 + 20, 200 - rows * 5 - columns], axis=2)
    levels[4:9, 6:20] += 40
    return np.clip(levels, 0, 255).astype(np.uint8)


def distilled(module: Any, paddle: Any) -> dict[str, NDArray[np.float64]]:
    """Every loss and its gradients."""
    found = {}
    given = labels()
    for name, (kind, options) in LOSSES.items():
        tensors = {key: paddle.to_tensor(value, stop_gradient=False) for key, value in inputs().items()}
        predicts = {
            network: {
                "head_out": {head: tensors[f"{network}.{head}"] for head in HEADS[:3]},
                "backbone_out": tensors[f"{network}.backbone_out"],
            }
            for network in ("Student", "Teacher")
        }
        guide = "label_sar" if "sar" in name else "label_gtc"
        rows = [given["label_ctc"], given[guide], given["length"]]
        batch = [paddle.zeros([3, 1]), *map(paddle.to_tensor, rows), paddle.ones([3])]
        parts = getattr(module, kind)(**options)(predicts, batch)
        loss = parts["loss"] if "loss" in parts else paddle.add_n(list(parts.values()))
        loss.backward()
        found[name] = loss.numpy()
        for key, tensor in tensors.items():
            if tensor.grad is not None and np.abs(tensor.grad.numpy()).max() > 0:
                found[f"{name}/{key}"] = tensor.grad.numpy()
        for key, value in inputs().items():
            assert np.array_equal(tensors[key].numpy(), value), f"{name} changes {key}"
    return found


def changed(randaugment: Any) -> dict[str, NDArray[np.uint8]]:
    """The picture after each operation of RandAugment, both signs where there are two."""
    from PIL import Image

    found = {}
    for sign in (-1, 1):
        randaugment.random.choice = lambda choices, sign=sign: sign
        augment = randaugment.RawRandAugment(magnitude=9)
        for name, operation in augment.func.items():
            result = np.asarray(operation(Image.fromarray(picture()), augment.level_map[name]))
            if sign == -1 or not np.array_equal(result, found[f"image/{name}/-1"]):
                found[f"image/{name}/{sign}"] = result
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paddleocr", type=Path, help="folder that holds PaddleOCR's ppocr/")
    folder = parser.parse_args(arguments).paddleocr
    # By itself: the package around it asks for more than it needs.
    sys.path[:0] = [str(folder), str(folder / "ppocr/data/imaug")]
    import paddle
    import randaugment  # type: ignore[import-not-found]
    from ppocr.losses import cls_loss, distillation_loss

    paddle.set_default_dtype("float64")
    functional = paddle.nn.functional
    one_hot = functional.one_hot
    # It is float32 whatever the default is, and so are the smoothed targets that are made of it.
    functional.one_hot = lambda places, count=None, num_classes=None: one_hot(places, count or num_classes).astype(
        "float64"
    )
    found = distilled(distillation_loss, paddle)
    logits, targets = classes()
    tensor = paddle.to_tensor(logits, stop_gradient=False)
    loss = cls_loss.ClsLoss()(tensor, [None, paddle.to_tensor(targets)])["loss"]
    loss.backward()
    found |= {"cls": loss.numpy(), "cls/logits": tensor.grad.numpy()}
    # PaddleClas's CELoss with its epsilon.
    soft = functional.label_smooth(functional.one_hot(paddle.to_tensor(targets), logits.shape[1]), epsilon=0.125)
    found["cls smooth"] = functional.cross_entropy(paddle.to_tensor(logits), soft, soft_label=True).mean().numpy()
    np.savez_compressed(HERE / "training_losses.npz", **found, **changed(randaugment))


if __name__ == "__main__":
    main()

"""What tests of programs share: a converted folder beside what Paddle computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from paddle2torch import load_pretrained
from paddle2torch.zoo.conversion import convert

GOLDENS = Path(__file__).parent / "goldens" / "programs"
TOLERANCE = 5e-5
"""Of the largest value of an output."""


def names(folder: Path) -> list[str]:
    """The cases in a folder."""
    return sorted(path.parent.name for path in folder.glob("*/io.npz"))


def rows_as_set(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The rows of `found` in the order of `expected`: each expected row takes the nearest that is left.

    Suppression returns rows of equal score in another order.
    """
    left = list(range(len(found)))
    order = []
    for row in expected:
        nearest = min(left, key=lambda index: float(np.abs(found[index] - row).max()))
        left.remove(nearest)
        order.append(nearest)
    return found[order]


def check_outputs(outputs: object, values: np.lib.npyio.NpzFile, rows: bool = False) -> None:
    """Assert that outputs are Paddle's: shapes, types, integers exactly, reals within the tolerance."""
    listed = outputs if isinstance(outputs, tuple) else (outputs,)
    expected = [values[f"out:{index}"] for index in range(len(listed))]
    assert f"out:{len(listed)}" not in values
    for index, (output, wanted) in enumerate(zip(listed, expected, strict=True)):
        assert isinstance(output, torch.Tensor)
        found = output.numpy()
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), index
        if rows and found.ndim == 2 and found.shape[1] == 6:
            found = rows_as_set(found, wanted)
        if np.issubdtype(wanted.dtype, np.floating):
            finite = np.isfinite(wanted)
            largest = np.abs(wanted[finite]).max() if finite.any() else 1.0
            np.testing.assert_allclose(
                found, wanted, rtol=0, atol=TOLERANCE * max(largest, 1e-30), err_msg=f"out {index}"
            )
        elif not (rows and found.ndim == 2):
            np.testing.assert_array_equal(found, wanted, err_msg=f"out {index}")


def check_case(folder: Path, target: Path) -> None:
    """Convert the program in `folder` to `target`, load it, and compare its outputs with Paddle's."""
    convert("case", weights=folder, output=target, as_program=True)
    model = load_pretrained(target)
    with np.load(folder / "io.npz") as values, torch.inference_mode():
        inputs = [torch.from_numpy(values[f"in:{feed.name}"]) for feed in model.config.feeds]
        kinds = {node.kind for node in model.program.walk()}
        check_outputs(model(*inputs), values, rows=bool(kinds & {"multiclass_nms3", "matrix_nms"}))

"""What must work in an environment that has paddle2torch and nothing else: import, convert, read, ocr.

    python smoke.py PADDLE2TORCH

PADDLE2TORCH is the installed command. Reads a page with models of a wheel on PyPI, or of what the cache has. The last
line printed is one JSON object: which versions it ran with.
"""

from __future__ import annotations

import json
import pickle
import platform
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

SHOWN = (
    *("paddle2torch", "torch", "numpy", "safetensors", "huggingface_hub", "opencv-python-headless", "pillow", "click"),
    *("rich", "jinja2", "requests", "pyclipper", "pypdfium2", "filelock", "python-bidi", "pyyaml"),
)


def main(command: str) -> None:
    """Run everything; the first that fails ends it."""
    import cv2
    import numpy as np
    import torch

    import paddle2torch
    from paddle2torch.assets import ASSETS
    from paddle2torch.model_zoo.config import Component, CTCDecode, ModelConfig, RecPreprocess
    from paddle2torch.model_zoo.network import build_model

    assert paddle2torch.__version__ == version("paddle2torch")
    assert not {"opencv-python", "opencv-contrib-python"} & set(_installed()), "a second OpenCV"

    # A checkpoint of one's own, as Paddle writes it.
    config = ModelConfig(
        name="own",
        task="rec",
        form="training",
        backbone=Component("PPLCNetV3", {"scale": 0.5}),
        neck=None,
        head=Component(
            "MultiHead",
            {
                "classes": 8,
                "ctc": {"dims": 32, "depth": 1, "hidden_dims": 32, "kernel_size": [1, 3], "use_guide": True},
                "nrtr": {"nrtr_dim": 64, "num_decoder_layers": 1, "max_text_length": 12},
            },
        ),
        preprocess=RecPreprocess(),
        postprocess=CTCDecode(),
        charset=tuple("abcdefg"),
    )
    torch.manual_seed(0)
    network = build_model(config).eval()
    from paddle2torch import export
    from paddle2torch.zoo.folder import save_model

    save_model(Path("own"), config, network.state_dict())
    export("own", "paddle", "own.pdparams")
    with open("own.pdparams", "rb") as file:
        tensors = pickle.load(file)  # written a moment ago, by us
    assert len(tensors) > 100
    _run(command, "convert", "again", "--weights", "own.pdparams")
    again = paddle2torch.load_pretrained("again")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in network.state_dict().items())
    cv2.imwrite("line.png", np.full((48, 160, 3), 200, np.uint8))
    assert json.loads(_run(command, "read", "again", "line.png", "--json"))[0]["image"] == "line.png"

    page = ASSETS / "page_1.png"
    text = _run(command, "ocr", str(page))
    assert "Espresso" in text, text
    for suffix in ("pdf", "md", "json"):
        _run(command, "ocr", str(page), "-o", f"page.{suffix}")
        assert Path(f"page.{suffix}").stat().st_size > 30
    _run(command, "list")
    print(json.dumps({"Python": platform.python_version(), **{name: version(name) for name in SHOWN}}))


def _installed() -> list[str]:
    from importlib.metadata import distributions

    return [str(found.metadata["Name"]).lower() for found in distributions()]


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return done.stdout


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1])

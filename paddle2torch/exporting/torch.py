"""A `.pt2`: the fused network as `torch.export` saves it, for PyTorch without this package.

>>> extra = {"model_config.json": "", "charset.txt": ""}
>>> model = torch.export.load("en_PP-OCRv4_rec.pt2", extra_files=extra).module()
>>> probabilities = model(x)  # x: float32 (N, 3, 48, W)
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from paddle2torch.atomic import land_file
from paddle2torch.compiled.serving import captured, compare, example_images, served
from paddle2torch.exporting.export import Exported, without_denormals
from paddle2torch.model_zoo.config import CONFIG_NAME, ModelConfig
from paddle2torch.model_zoo.network import Network

CHARSET_NAME = "charset.txt"


def export_torch(network: Network, target: Path, *, force: bool = False) -> Exported:
    """Write the fused form of `network` to the file `target`, which was agreed to be replaced where it exists.

    Batch and image sizes are free (`free_dimensions`). Two texts are inside: `model_config.json` with all constants,
    and `charset.txt` with the characters of the classes 1, 2, … one a line. What was written is loaded and run beside
    the network on five inputs; raises `ConversionError` where it differs, or where the network cannot be captured.
    """
    with land_file(target) as temporary:
        model = served(network)
        notes = without_denormals(model)
        loaded = save_graph(captured(model), temporary, texts(model.network.config))

        def run(image: Tensor) -> np.ndarray:
            with torch.no_grad():
                output: Tensor = loaded(image)
            return output.numpy()

        checks = compare(model, run, example_images(model.network.config), "the exported graph")
    return Exported(target, "torch", f"torch {torch.__version__}", checks, notes)


def save_graph(graph: torch.export.ExportedProgram, target: Path, extra: dict[str, str]) -> nn.Module:
    """Write a captured graph to the file `target`; returns what is loaded from it. extra: texts inside, by name."""
    # Through memory: PyTorch has a say about names of files, and a temporary one is not to its liking.
    buffer = io.BytesIO()
    torch.export.save(graph, buffer, extra_files=extra)
    target.write_bytes(buffer.getbuffer())
    return torch.export.load(io.BytesIO(target.read_bytes())).module()


def texts(config: ModelConfig) -> dict[str, str]:
    """What else is inside, by name."""
    characters = "".join(f"{character}\n" for character in config.charset or ())
    return {CONFIG_NAME: config.dumps()} | ({CHARSET_NAME: characters} if config.charset is not None else {})

"""Networks for tests: a small recogniser, the files it would have in Paddle, and the networks of cards."""

from __future__ import annotations

import pickle
import zlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paddle2torch.converters.characters import Charset
from paddle2torch.converters.templates import from_card
from paddle2torch.model_zoo.cards import load_card
from paddle2torch.model_zoo.config import (
    ClsPostprocess,
    ClsPreprocess,
    Component,
    CTCDecode,
    ModelConfig,
    RecPreprocess,
)
from paddle2torch.model_zoo.network import Network, build_model
from paddle2torch.zoo.folder import save_model


def small_config(form: str = "training", *, nrtr: bool = True, classes: int = 8) -> ModelConfig:
    """A recogniser of the v4 architecture that is small and has square matrices everywhere."""
    guide = {"nrtr_dim": 64, "num_decoder_layers": 1, "max_text_length": 12} if nrtr else None
    neck = {"dims": 32, "depth": 1, "hidden_dims": 32, "kernel_size": [1, 3], "use_guide": True}
    return ModelConfig(
        name="small",
        task="rec",
        form=form,  # type: ignore[arg-type]
        backbone=Component("PPLCNetV3", {"scale": 0.5}),
        neck=None,
        head=Component("MultiHead", {"classes": classes, "ctc": neck, "nrtr": guide}),
        preprocess=RecPreprocess(),
        postprocess=CTCDecode(),
        charset=tuple("abcdefghijklmnopqrstuvwxyz"[: classes - 1]),
    )


def lstm_config() -> ModelConfig:
    """A recogniser of the v2.0 architecture that is small: its neck is an LSTM."""
    return ModelConfig(
        name="crnn",
        task="rec",
        form="training",
        backbone=Component("MobileNetV3", {"scale": 0.35, "model_name": "small"}),
        neck=Component("SequenceEncoder", {"encoder_type": "rnn", "hidden_size": 4}),
        head=Component("CTCHead", {"classes": 4}),
        preprocess=RecPreprocess(image_shape=(3, 32, 100)),
        postprocess=CTCDecode(),
        charset=("a", "b", "c"),
    )


def classifier_config(name: str, **options: Any) -> ModelConfig:
    """The official direction classifier, which is small as it is; options of its backbone."""
    return ModelConfig(
        name=name,
        task="cls",
        form="training",
        backbone=Component("MobileNetV3", {"scale": 0.35, "model_name": "small", **options}),
        neck=None,
        head=Component("ClsHead", {"classes": 2}),
        preprocess=ClsPreprocess(),
        postprocess=ClsPostprocess(),
    )


@cache
def card_network(name: str) -> Network:
    """The card's network, few classes, in training form with weights that no layer leaves as they are."""
    card = load_card(name)
    known = from_card(card)
    if card.task == "rec":
        known = replace(known, charset=Charset(tuple("abcdefghijk"), False, "a test"))
    model = build_model(known.config()).eval()
    fill(model)
    return model


def fill(model: torch.nn.Module) -> None:
    """Weights and statistics from the tensors' names alone: not symmetric, not trivial, of order one in every layer."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
            if name.endswith("running_var"):
                values = rng.uniform(0.5, 1.5, tensor.shape)
            elif tensor.dim() == 1:
                centre = 1.0 if name.endswith(("weight", "scale")) else 0.0
                values = centre + rng.uniform(-0.2, 0.2, tensor.shape)
                if "conv_kxk" in name or "conv_1x1" in name or "identity" in name:
                    values = values * 0.4
            else:
                values = rng.normal(0, max(1, tensor[0].numel()) ** -0.5, tensor.shape)
            tensor.copy_(torch.from_numpy(np.asarray(values)))


def saved(folder: Path, model: Network | ModelConfig, *, overwrite: bool = False) -> Path:
    """`folder` with the converted model; of a config the network is built and filled."""
    if isinstance(model, ModelConfig):
        model = build_model(model)
        fill(model)
    save_model(folder, model.config, model.state_dict(), overwrite=overwrite)
    return folder


def write_pdparams(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    """A checkpoint as Paddle writes it."""
    names = {key: f"param_{index}" for index, key in enumerate(tensors)}
    path.write_bytes(pickle.dumps({**tensors, "StructuredToParameterName@@": names}, protocol=4))
    return path

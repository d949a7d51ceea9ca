"""To Hugging Face transformers: the folder that its own PP-OCRv5 classes load.

They hold PP-OCRv4's mobile networks too, which are the same. Every tensor has another name there, and what only
training needs has no place: the second head of a recogniser, the threshold map of a detector. Re-parameterised layers
exist as sums of branches alone. Names and settings are those of the releases `PaddlePaddle/PP-OCRv5_*_safetensors`.
"""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paddle2torch.atomic import land_folder
from paddle2torch.compiled.serving import Served, compare, example_images
from paddle2torch.converters.transformers import INTRACL, INTRACL_SIZES, family_of, transformers_names
from paddle2torch.exporting.export import Exported
from paddle2torch.model_zoo.config import Component, CTCDecode, DetPreprocess, ModelConfig, RecPreprocess
from paddle2torch.model_zoo.errors import ConversionError
from paddle2torch.model_zoo.layers import BatchNorm2d
from paddle2torch.model_zoo.network import Network, build_model
from paddle2torch.model_zoo.pplcnetv3 import DET_STAGES, REC_STAGES, LearnableRepLayer
from paddle2torch.model_zoo.svtr import EncoderWithSVTR
from paddle2torch.zoo.folder import WEIGHTS_NAME, write_state

# Of the classes there, one epsilon holds for all layer normalisations of a neck. Ours, as Paddle's, have 1e-5 in the
# blocks and 1e-6 in the last one.
LAYER_NORM_EPS = 1e-5


def export_transformers(network: Network, target: Path, *, force: bool = False) -> Exported:
    """Write `network` as the folder `target`: `config.json`, `preprocessor_config.json` and `model.safetensors`.

    Where transformers is installed its class loads the folder, strictly, and is run beside PyTorch. Raises
    `ConversionError` for a network that has no class there, and for a result that differs.
    """
    family = family_of(network.config)
    settings = transformers_config(network)
    state, notes = transformers_state(network)
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    with land_folder(target, overwrite=force, size=size) as folder:
        write_state(folder / WEIGHTS_NAME, state, {})
        for name, data in (("config.json", settings), ("preprocessor_config.json", processor_config(network.config))):
            (folder / name).write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        if importlib.util.find_spec("transformers") is None:
            return Exported(target, "transformers", notes=(*notes, "transformers is not installed: nothing ran it"))
        version = import_module("transformers").__version__
        model = load_strictly(folder, family.class_name)
        # In its own form, branches and all, as it is there: what fusing rounds does not concern this export.
        ours = Served(copy.deepcopy(network).to(device="cpu", dtype=torch.float32)).eval()
        images = example_images(network.config)
        change = _one_epsilon(ours, images)
        checks = compare(ours, lambda image: _run(model, image), images, f"transformers' {family.class_name}")
    if change is not None:
        notes = (*notes, f"that one epsilon changes the output for the checked inputs by {change:.1e} at most")
    return Exported(target, "transformers", f"transformers {version}", checks, notes)


@torch.inference_mode()
def _one_epsilon(model: nn.Module, images: tuple[Tensor, ...]) -> float | None:
    """Give all layer normalisations of `model` the epsilon they share there; how much that changes its output."""
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    if not norms:
        return None
    before = [model(image) for image in images]
    for norm in norms:
        norm.eps = LAYER_NORM_EPS
    return max(float((model(image) - value).abs().max()) for image, value in zip(images, before, strict=True))


@torch.inference_mode()
def _run(model: nn.Module, image: Tensor) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = model(pixel_values=image).last_hidden_state.numpy()
    return array


def load_strictly(folder: Path, class_name: str) -> nn.Module:
    """The model that transformers makes of `folder`, in evaluation mode.

    Raises `ConversionError` where it finds a tensor too few, too many or of another shape: it would go on, with new
    weights.
    """
    transformers = import_module("transformers")
    logging = import_module("transformers.utils.logging")
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, report = getattr(transformers, class_name).from_pretrained(folder, output_loading_info=True)
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    wrong = {
        kind: sorted(map(str, report[kind]))
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if report[kind]
    }
    # Paddle counts no batches.
    missing = [key for key in wrong.pop("missing_keys", []) if not key.endswith("num_batches_tracked")]
    if wrong or missing:
        some = ", ".join([*missing, *(key for keys in wrong.values() for key in keys)][:8])
        raise ConversionError(
            f"transformers {transformers.__version__} does not take the tensors of {class_name}: {some}"
        )
    loaded: nn.Module = model.eval()
    return loaded


def transformers_state(network: Network) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors under the names they have there, float32 on the CPU, and what was left out."""
    state = {key: value.detach().to("cpu", torch.float32) for key, value in network.state_dict().items()}
    if network.config.form == "fused" and network.config.backbone.name == "PPLCNetV3":
        state = with_branches(network.config, state)
    names = transformers_names(network.config, state)
    left = sorted({key.split(".")[1] for key in state if key not in names})
    notes = (f"left out {', '.join(left)}: transformers has no place for what only training needs",) if left else ()
    if network.config.task == "rec":
        notes = (
            *notes,
            f"its layer normalisations share one epsilon ({LAYER_NORM_EPS:g}), Paddle's last has 1e-6",
            "its image processor gives RGB where the network takes BGR: flip the channels of pixel_values",
        )
    return {name: state[key] for key, name in names.items()}, notes


def with_branches(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The fused form as sums of branches again: one convolution of the full kernel, and others that add nothing."""
    options = {**config.backbone.options, "conv_kxk_num": 1}
    trained = replace(config, form="training", backbone=Component("PPLCNetV3", options))
    with torch.device("meta"):
        model = build_model(trained)
    out = {key: value for key, value in state.items() if ".reparam_conv." not in key}
    for path, layer in model.backbone.named_modules(prefix="backbone"):
        if not isinstance(layer, LearnableRepLayer):
            continue
        for name, tensor in layer.state_dict(prefix=f"{path}.").items():
            # Variances are of one and gains of nothing, so that the branch is zero whatever it sees.
            out.setdefault(
                name, torch.ones(tensor.shape) if name.endswith("running_var") else torch.zeros(tensor.shape)
            )
        if f"{path}.act.lab.scale" not in state and layer.act is not None:
            out[f"{path}.act.lab.scale"] = torch.ones(1)
        branch = f"{path}.conv_kxk.0"
        norm = layer.get_submodule("conv_kxk.0.bn")
        assert isinstance(norm, BatchNorm2d)
        out[f"{branch}.conv.weight"] = state[f"{path}.reparam_conv.weight"]
        out[f"{branch}.bn.bias"] = state[f"{path}.reparam_conv.bias"]
        out[f"{branch}.bn.weight"] = torch.ones(norm.num_features)
        out[f"{branch}.bn.running_var"] = torch.full((norm.num_features,), 1 - norm.eps)
    return out


def transformers_config(network: Network) -> dict[str, Any]:
    """`config.json`. Raises `ConversionError` where the class there cannot be told what this network is."""
    config = network.config
    family = family_of(config)
    common = {"architectures": [family.class_name], "model_type": family.model_type, "dtype": "float32"}
    backbone = _lcnet_config(config) if config.backbone.name == "PPLCNetV3" else _hgnet_config(config)
    if config.task == "rec":
        return {**common, "backbone_config": backbone, **_svtr_config(network), "head_out_channels": config.classes}
    kernels = list(config.head.options.get("kernel_list", (3, 2, 2)))
    assert config.neck is not None
    width = config.neck.options.get("out_channels")
    if config.neck.name == "RSEFPN":
        if not config.neck.options.get("shortcut", True):
            raise ConversionError(f"{config.name}: transformers has no RSEFPN without shortcut")
        assert isinstance(network.backbone.out_channels, tuple)
        outputs = list(network.backbone.out_channels)
        return {
            **common,
            "backbone_config": backbone,
            "reduction": 4,
            "layer_list_out_channels": outputs,
            "neck_out_channels": width,
            "kernel_list": kernels,
            "interpolate_mode": "nearest",
        }
    if not config.neck.options.get("intracl") or config.head.options.get("mode", "large") != "large":
        raise ConversionError(f"{config.name}: transformers has no LKPAN without intracl, and no mode but large")
    blocks = {
        f"{INTRACL[letter]}_{word}ratio": [
            [size if letter != "q" else 1, size if letter != "v" else 1],
            [1, 1],
            [size // 2 if letter != "q" else 0, size // 2 if letter != "v" else 0],
        ]
        for letter in INTRACL
        for size, word in INTRACL_SIZES.items()
    }
    return {
        **common,
        "backbone_config": backbone,
        "mode": "large",
        "neck_out_channels": width,
        "reduce_factor": 2,
        "intraclass_block_number": 4,
        "intraclass_block_config": {"reduce_channel": [1, 1, 0], "return_channel": [1, 1, 0], **blocks},
        "scale_factor": 2,
        "scale_factor_list": [1, 2, 4, 8],
        "hidden_act": "relu",
        "kernel_list": kernels,
        "upsample_mode": "nearest",
    }


def processor_config(config: ModelConfig) -> dict[str, Any]:
    """`preprocessor_config.json`: how an image becomes the input, and a recogniser's characters."""
    common = {"image_processor_type": family_of(config).processor, "do_resize": True, "do_rescale": True}
    preprocess = config.preprocess
    if isinstance(preprocess, RecPreprocess):
        _, height, width = preprocess.image_shape
        size = {"height": height, "width": width}
        assert isinstance(config.postprocess, CTCDecode)
        assert config.charset is not None
        return {
            **common,
            "rescale_factor": preprocess.scale,
            "do_normalize": True,
            "image_mean": list(preprocess.mean),
            "image_std": list(preprocess.std),
            "do_convert_rgb": True,
            "do_pad": True,
            "size": size,
            "pad_size": size,
            "max_image_width": preprocess.max_width or 32 * width,
            # Class 0 is the blank.
            "character_list": ["blank", *config.charset],
        }
    assert isinstance(preprocess, DetPreprocess)
    return {
        **common,
        "rescale_factor": preprocess.scale,
        "do_normalize": True,
        # It normalises before it turns RGB into BGR.
        "image_mean": list(preprocess.mean)[::-1],
        "image_std": list(preprocess.std)[::-1],
        "limit_side_len": preprocess.limit_side_len,
        "limit_type": preprocess.limit_type,
        "max_side_limit": 4000,
    }


def _lcnet_config(config: ModelConfig) -> dict[str, Any]:
    options = config.backbone.options
    stages = DET_STAGES if options.get("det") else REC_STAGES
    return {
        "model_type": "pp_lcnet_v3",
        "scale": options.get("scale", 1.0),
        "divisor": 16,
        "conv_symmetric_num": 1 if config.form == "fused" else options.get("conv_kxk_num", 4),
        "out_features": ["stage2", "stage3", "stage4", "stage5"],
        "out_indices": [2, 3, 4, 5],
        "block_configs": [
            [
                [kernel, c_in, c_out, list(stride) if isinstance(stride, tuple) else stride, se]
                for kernel, c_in, c_out, stride, se in blocks
            ]
            for blocks in stages.values()
        ],
    }


def _hgnet_config(config: ModelConfig) -> dict[str, Any]:
    common = {"model_type": "hgnet_v2", "arch": "L", "out_features": ["stage1", "stage2", "stage3", "stage4"]}
    if config.task == "det":
        return common
    return {
        **common,
        "stem_strides": [2, 1, 1, 1, 1],
        "stage_downsample": [True, True, True, True],
        "stage_downsample_strides": [[2, 1], [1, 2], [2, 1], [2, 1]],
    }


def _svtr_config(network: Network) -> dict[str, Any]:
    encoder = network.get_submodule("head.ctc_encoder.encoder")
    assert isinstance(encoder, EncoderWithSVTR)
    hidden = encoder.conv2.conv.out_channels
    kernel = list(encoder.conv1.conv.kernel_size)
    if encoder.out_channels != hidden or list(encoder.conv4.conv.kernel_size) != kernel:
        raise ConversionError(
            f"{network.config.name}: in transformers the neck gives as many channels as its blocks have "
            f"({hidden}, not {encoder.out_channels}), and its two wide convolutions have one kernel"
        )
    options = network.config.head.options["ctc"]
    return {
        "hidden_act": "silu",
        "hidden_size": hidden,
        "mlp_ratio": options.get("mlp_ratio", 2.0),
        "depth": len(encoder.svtr_block),
        "conv_kernel_size": kernel,
        "qkv_bias": True,
        "num_attention_heads": options.get("num_heads", 8),
        "attention_dropout": 0.0,
        "layer_norm_eps": LAYER_NORM_EPS,
    }

"""To Hugging Face transformers: the folder that its own PP-OCRv5, PP-OCRv6 and PP-LCNet classes load.

Those of PP-OCRv5 hold PP-OCRv4's mobile networks too, which are the same. Every tensor has another name there, and what
only training needs has no place: the second head of a recogniser, the threshold map of a detector. Re-parameterised
layers exist as sums of branches alone in PP-OCRv5, as one convolution alone in PP-OCRv6. Names and settings are those
of the releases `PaddlePaddle/PP-OCRv*_safetensors` and `PP-LCNet_*_safetensors`.
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
from paddle2torch.converters.fused_layout import to_there
from paddle2torch.converters.transformers import INTRACL, INTRACL_SIZES, family_of, transformers_names
from paddle2torch.exporting.export import Exported
from paddle2torch.model_zoo.config import (
    ClsPostprocess,
    ClsPreprocess,
    Component,
    CTCDecode,
    DetPreprocess,
    ModelConfig,
    RecPreprocess,
)
from paddle2torch.model_zoo.errors import ConversionError
from paddle2torch.model_zoo.layers import BatchNorm2d
from paddle2torch.model_zoo.lightsvtr import EncoderWithLightSVTR
from paddle2torch.model_zoo.network import Network, build_model, fuse
from paddle2torch.model_zoo.pplcnet import STAGES
from paddle2torch.model_zoo.pplcnetv3 import DET_STAGES, REC_STAGES, LearnableRepLayer
from paddle2torch.model_zoo.pplcnetv4 import DET_STAGES as V4_DET_STAGES
from paddle2torch.model_zoo.pplcnetv4 import DET_STEMS, PLAIN_STEMS, REC_STEMS
from paddle2torch.model_zoo.pplcnetv4 import REC_STAGES as V4_REC_STAGES
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
        logits = network.config.task == "cls"
        checks = compare(ours, lambda image: _run(model, image, logits), images, f"transformers' {family.class_name}")
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
def _run(model: nn.Module, image: Tensor, logits: bool) -> np.ndarray[Any, Any]:
    """The output of the class there, as probabilities where it gives `logits`."""
    output = model(pixel_values=image).last_hidden_state
    array: np.ndarray[Any, Any] = (output.softmax(-1) if logits else output).numpy()
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
    family = family_of(network.config)
    state = {key: value.detach().to("cpu", torch.float32) for key, value in network.state_dict().items()}
    placed = transformers_names(network.config, state)
    left = sorted({key.split(".")[1] for key in state if key not in placed})
    notes = (f"left out {', '.join(left)}: transformers has no place for what only training needs",) if left else ()
    if family.fused:
        if network.config.form == "training":
            notes = (*notes, "left out the branches: transformers has one convolution for each sum of them")
        fused = fuse(copy.deepcopy(network).to(device="cpu", dtype=torch.float32))
        state = {key: value.detach() for key, value in fused.state_dict().items()}
    elif network.config.form == "fused" and network.config.backbone.name == "PPLCNetV3":
        state = with_branches(network.config, state)
    names = transformers_names(network.config, state)
    if any(isinstance(module, nn.LayerNorm) for module in network.modules()):
        notes = (*notes, f"its layer normalisations share one epsilon ({LAYER_NORM_EPS:g}), Paddle's last has 1e-6")
    if network.config.task == "rec" and not family.fused:
        notes = (*notes, "its image processor gives RGB where the network takes BGR: flip the channels of pixel_values")
    preprocess = network.config.preprocess
    if isinstance(preprocess, ClsPreprocess) and preprocess.channel_order == "RGB":
        notes = (*notes, "its image processor turns the channels around: give it images in BGR")
    if family.fused:
        return to_there(names, state), notes
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
    if config.task == "cls":
        return {**common, **_classifier_config(network)}
    configs = {"PPLCNetV3": _lcnet_config, "PPLCNetV4": _lcnetv4_config}
    backbone = configs.get(config.backbone.name, _hgnet_config)(config)
    if config.task == "rec":
        return {**common, "backbone_config": backbone, **_svtr_config(network), "head_out_channels": config.classes}
    kernels = list(config.head.options.get("kernel_list", (3, 2, 2)))
    assert config.neck is not None
    width = config.neck.options.get("out_channels")
    if config.neck.name in ("RSEFPN", "RepLKFPN"):
        if not config.neck.options.get("shortcut", True):
            raise ConversionError(f"{config.name}: transformers has no {config.neck.name} without shortcut")
        large = {"dilated_kernel_size": config.neck.options.get("dilated_kernel_size", 7)}
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
            **(large if config.neck.name == "RepLKFPN" else {}),
        }
    if not config.neck.options.get("intracl") or config.head.options.get("mode", "large") != "large":
        raise ConversionError(
            f"{config.name}: transformers has no {config.neck.name} without intracl, and no mode but large"
        )
    blocks = {
        f"{INTRACL[letter]}_{word}ratio": [
            [size if letter != "q" else 1, size if letter != "v" else 1],
            [1, 1],
            [size // 2 if letter != "q" else 0, size // 2 if letter != "v" else 0],
        ]
        for letter in INTRACL
        for size, word in INTRACL_SIZES.items()
    }
    pan = {
        **common,
        "backbone_config": backbone,
        "neck_out_channels": width,
        "reduce_factor": 2,
        "intraclass_block_number": 4,
        "intraclass_block_config": {"reduce_channel": [1, 1, 0], "return_channel": [1, 1, 0], **blocks},
        "scale_factor": 2,
        "scale_factor_list": [1, 2, 4, 8],
        "kernel_list": kernels,
    }
    if config.neck.name == "RepLKPAN":
        return {**pan, "interpolate_mode": "nearest"}
    return {**pan, "mode": "large", "hidden_act": "relu", "upsample_mode": "nearest"}


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
    if isinstance(preprocess, ClsPreprocess):
        return _classifier_processor(common, preprocess)
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


def _classifier_processor(common: dict[str, Any], preprocess: ClsPreprocess) -> dict[str, Any]:
    """It turns the channels around after it has normalised them, whatever it was given."""
    if preprocess.keep_ratio and preprocess.resize_short is None:
        raise ConversionError(
            "transformers' image processor of PP-LCNet does not pad: it stretches, or cuts out the centre"
        )
    _, height, width = preprocess.image_shape
    size = {"height": height, "width": width}
    return {
        **common,
        "rescale_factor": preprocess.scale,
        "do_normalize": True,
        "image_mean": list(preprocess.mean)[::-1],
        "image_std": list(preprocess.std)[::-1],
        "size": size,
        "do_center_crop": preprocess.resize_short is not None,
        "crop_size": size,
        "resize_short": preprocess.resize_short,
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


def _lcnetv4_config(config: ModelConfig) -> dict[str, Any]:
    options = config.backbone.options
    det, size = options.get("det", False), options.get("model_size", "small")
    stages = (V4_DET_STAGES if det else V4_REC_STAGES)[size]
    mid, width = (DET_STEMS if det else REC_STEMS)[size]
    return {
        "model_type": "pp_lcnet_v4",
        "stem_channels": [3, mid, width],
        "stem_type": "small" if not det and size in PLAIN_STEMS else "large",
        "hidden_act": "relu",
        "block_configs": [
            [
                [3, c_in, c_out, list(stride) if isinstance(stride, tuple) else stride, se]
                for c_in, c_out, stride, se in blocks
            ]
            for blocks in stages.values()
            if blocks
        ],
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
        "out_indices": [1, 2, 3, 4],
    }


def _classifier_config(network: Network) -> dict[str, Any]:
    config = network.config
    head, strides = config.head.options, config.backbone.options.get("stride_list", [2] * 5)
    if head.get("class_expand", 1280) is None or not isinstance(strides[0], int):
        raise ConversionError(
            f"{config.name}: transformers has no PP-LCNet without its wide convolution, or whose first stride differs "
            f"between the axes"
        )
    stages = []
    for stride, blocks in zip((1, *strides[1:]), STAGES.values(), strict=True):
        given = list(stride) if isinstance(stride, list | tuple) else stride
        stages.append([[k, c_in, c_out, 1 if i else given, se] for i, (k, c_in, c_out, se) in enumerate(blocks)])
    assert isinstance(config.postprocess, ClsPostprocess)
    labels = dict(enumerate(map(str, config.postprocess.labels)))
    return {
        "scale": config.backbone.options.get("scale", 1.0),
        "stem_stride": strides[0],
        "block_configs": stages,
        "class_expand": head.get("class_expand", 1280),
        "hidden_dropout_prob": head.get("dropout_prob", 0.2),
        "id2label": {str(index): label for index, label in labels.items()},
        "label2id": {label: index for index, label in labels.items()},
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
    head = network.config.head.options
    if head.get("encoder_type") == "reshape":
        if not head.get("use_guide") or not head.get("mid_channels"):
            raise ConversionError(
                f"{network.config.name}: transformers has this head with a guide and two layers alone"
            )
        return {"hidden_size": head["mid_channels"]}
    encoder = network.get_submodule("head.ctc_encoder.encoder")
    if isinstance(encoder, EncoderWithLightSVTR):
        return {
            "hidden_size": encoder.norm.normalized_shape[0],
            "conv_kernel_size": [1, head["ctc"].get("local_kernel", 7)],
            **_attention_config({"mlp_ratio": 4.0, **head["ctc"]}, len(encoder.svtr_block)),
        }
    assert isinstance(encoder, EncoderWithSVTR)
    hidden = encoder.conv2.conv.out_channels
    kernel = list(encoder.conv1.conv.kernel_size)
    if encoder.out_channels != hidden or list(encoder.conv4.conv.kernel_size) != kernel:
        raise ConversionError(
            f"{network.config.name}: in transformers the neck gives as many channels as its blocks have "
            f"({hidden}, not {encoder.out_channels}), and its two wide convolutions have one kernel"
        )
    options = network.config.head.options["ctc"]
    return {"hidden_size": hidden, "conv_kernel_size": kernel, **_attention_config(options, len(encoder.svtr_block))}


def _attention_config(options: Mapping[str, Any], depth: int) -> dict[str, Any]:
    return {
        "hidden_act": "silu",
        "mlp_ratio": options.get("mlp_ratio", 2.0),
        "depth": depth,
        "qkv_bias": True,
        "num_attention_heads": options.get("num_heads", 8),
        "attention_dropout": 0.0,
        "layer_norm_eps": LAYER_NORM_EPS,
    }

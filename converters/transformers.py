"""The layout of Hugging Face transformers: one table of names, for the way out and for the way in.

Its PP-OCRv5 classes hold PP-OCRv4's mobile networks too. Names are those of `PaddlePaddle/PP-OCRv5_*_safetensors`. The
way in gives the training form: branches are there as branches. What they have no place for is missing then, and said:
the second head of a recogniser; of a detector the threshold map, without which only its fused form is complete.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from paddle2torch.converters.architecture import Architecture, infer
from paddle2torch.converters.characters import Charset
from paddle2torch.converters.convert import Converted, candidates
from paddle2torch.converters.layout import Row
from paddle2torch.converters.templates import Template
from paddle2torch.model_zoo.config import ModelConfig, Origin
from paddle2torch.model_zoo.errors import ConversionError, FileFormatError
from paddle2torch.model_zoo.network import build_model, fuse
from paddle2torch.model_zoo.show import show, show_all, show_path
from paddle2torch.model_zoo.strict_json import read_json

CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
FILES = (CONFIG, PROCESSOR, WEIGHTS)
"""Of a folder in this layout."""
MOST = 9
"""Blocks of a neck and branches of a layer that a file may have."""
ANY = Charset(("?",), False, "")

TRAINING_HEADS = ("head.before_gtc.", "head.gtc_head.", "head.sar_head.", "head.thresh.", "head.aux_")
"""Prefixes of the tensors of heads that only training needs: exports and the classes of transformers lack them."""

# Names here to names there, one after the other.
Renames = tuple[tuple[str, str], ...]
CONV_NORM: Renames = ((r"\.conv\.", ".convolution."), (r"\.bn\.", ".normalization."))
LCNET: Renames = (
    (r"^backbone\.conv1\.", "model.backbone.encoder.convolution."),
    (r"^backbone\.layer_list\.", "model.layer."),
    *((rf"^backbone\.blocks{stage}\.", f"model.backbone.encoder.blocks.{stage - 2}.layers.") for stage in range(2, 7)),
    (r"\.dw_conv\.", ".depthwise_convolution."),
    (r"\.pw_conv\.", ".pointwise_convolution."),
    (r"\.conv_kxk\.", ".conv_symmetric."),
    (r"\.conv_1x1\.", ".conv_small_symmetric."),
    (r"\.se\.conv1\.", ".squeeze_excitation_module.convolutions.0."),
    (r"\.se\.conv2\.", ".squeeze_excitation_module.convolutions.2."),
)
HGNET: Renames = (
    (r"^backbone\.stem\.", "model.backbone.embedder."),
    (r"^backbone\.stages\.", "model.backbone.encoder.stages."),
    (r"\.aggregation_squeeze_conv\.", ".aggregation.0."),
    (r"\.aggregation_excitation_conv\.", ".aggregation.1."),
)
SVTR: Renames = (
    *(
        (rf"^head\.ctc_encoder\.encoder\.{name}\.", f"head.encoder.conv_block.{index}.")
        for index, name in enumerate(("conv1", "conv2", "conv3", "conv4", "conv1x1"))
    ),
    (r"(\.conv_block\.\d+)\.norm\.", r"\1.normalization."),
    (r"^head\.ctc_encoder\.encoder\.", "head.encoder."),
    (r"\.mixer\.qkv\.", ".self_attn.qkv."),
    (r"\.mixer\.proj\.", ".self_attn.projection."),
    (r"(\.svtr_block\.\d+)\.norm(\d)\.", r"\1.layer_norm\2."),
    (r"^head\.ctc_head\.fc\.", "head.head."),
)
RSEFPN: Renames = (
    (r"^neck\.ins_conv\.", "model.neck.insert_conv."),
    (r"^neck\.inp_conv\.", "model.neck.input_conv."),
    (r"\.se_block\.", ".squeeze_excitation_block."),
)
INTRACL = {"v": "vertical_long_to_small_conv", "q": "horizontal_small_to_long_conv", "c": "symmetric_conv_long"}
INTRACL_SIZES = {7: "long", 5: "mid", 3: "short"}
LKPAN: Renames = (
    (r"^neck\.ins_conv\.", "model.neck.input_channel_adjustment_convolution."),
    (r"^neck\.inp_conv\.", "model.neck.input_feature_projection_convolution."),
    (r"^neck\.pan_head_conv\.", "model.neck.path_aggregation_head_convolution."),
    (r"^neck\.pan_lat_conv\.", "model.neck.path_aggregation_lateral_convolution."),
    *((rf"^neck\.incl{level}\.", f"model.neck.intraclass_blocks.{level - 1}.") for level in range(1, 5)),
    (r"\.conv1x1_reduce_channel\.", ".conv_reduce_channel."),
    (r"\.conv1x1_return_channel\.", ".conv_final.convolution."),
    (r"(\.intraclass_blocks\.\d)\.bn\.", r"\1.conv_final.norm."),
    *(
        (rf"\.{letter}_layer_(1x)?{size}(x1|x{size})?\.", f".{name}_{word}ratio.")
        for letter, name in INTRACL.items()
        for size, word in INTRACL_SIZES.items()
    ),
)
DB: Renames = (
    (r"^(head\.(?:binarize_head\.)?)conv1\.", r"\1conv_down.convolution."),
    (r"^(head\.(?:binarize_head\.)?)conv_bn1\.", r"\1conv_down.norm."),
    (r"^(head\.(?:binarize_head\.)?)conv2\.", r"\1conv_up.convolution."),
    (r"^(head\.(?:binarize_head\.)?)conv_bn2\.", r"\1conv_up.norm."),
    (r"^(head\.(?:binarize_head\.)?)conv3\.", r"\1conv_final."),
)
LOCAL: Renames = (
    (r"^head\.binarize\.", "head.binarize_head."),
    (r"^head\.cbn_layer\.last_3\.conv\.", "head.local_refinement_module.convolution_backbone.convolution."),
    (r"^head\.cbn_layer\.last_3\.bn\.", "head.local_refinement_module.convolution_backbone.norm."),
    (r"^head\.cbn_layer\.last_1\.", "head.local_refinement_module.convolution_final."),
)


@dataclass(frozen=True)
class Family:
    """A class of transformers, and what its tensors are called."""

    model_type: str
    class_name: str
    processor: str
    renames: Renames


# By backbone, neck and head.
FAMILIES: Mapping[tuple[str, str | None, str], Family] = {
    ("PPLCNetV3", None, "MultiHead"): Family(
        "pp_ocrv5_mobile_rec",
        "PPOCRV5MobileRecForTextRecognition",
        "PPOCRV5ServerRecImageProcessor",
        (*SVTR, *LCNET, *CONV_NORM),
    ),
    ("PPHGNetV2_B4", None, "MultiHead"): Family(
        "pp_ocrv5_server_rec",
        "PPOCRV5ServerRecForTextRecognition",
        "PPOCRV5ServerRecImageProcessor",
        (*SVTR, *HGNET, *CONV_NORM),
    ),
    ("PPLCNetV3", "RSEFPN", "DBHead"): Family(
        "pp_ocrv5_mobile_det",
        "PPOCRV5MobileDetForObjectDetection",
        "PPOCRV5ServerDetImageProcessor",
        ((r"^head\.binarize\.", "head."), *DB, *RSEFPN, *LCNET, *CONV_NORM),
    ),
    ("PPHGNetV2_B4", "LKPAN", "PFHeadLocal"): Family(
        "pp_ocrv5_server_det",
        "PPOCRV5ServerDetForObjectDetection",
        "PPOCRV5ServerDetImageProcessor",
        (*LOCAL, *DB, *LKPAN, *HGNET, *CONV_NORM),
    ),
}


def transformers_names(config: ModelConfig, keys: Iterable[str]) -> dict[str, str]:
    """{name here: name there} of the tensors that have a place there."""
    renames = family_of(config).renames
    return {key: _renamed(key, renames) for key in keys if not key.startswith(TRAINING_HEADS)}


def family_of(config: ModelConfig) -> Family:
    """The class for a network; raises `ConversionError` where there is none."""
    parts = (config.backbone.name, config.neck.name if config.neck else None, config.head.name)
    if parts not in FAMILIES:
        known = "; ".join(" with ".join(filter(None, key)) for key in FAMILIES)
        raise ConversionError(
            f"{config.name}: transformers has no class for {' with '.join(filter(None, parts))}; it has the networks "
            f"of PP-OCRv5 and PP-OCRv4 mobile: {known}"
        )
    return FAMILIES[parts]


def _renamed(key: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        key = re.sub(pattern, replacement, key)
    return key


def is_transformers(folder: Path) -> bool:
    """Whether `folder` is a model in this layout."""
    return folder.is_dir() and all((folder / name).is_file() for name in (CONFIG, WEIGHTS))


def describe_transformers(folder: Path) -> Template:
    """What the folder says besides its tensors: a recogniser's characters. Raises as `read_json`."""
    template = Template("", show_path(folder))
    if not (folder / PROCESSOR).is_file():
        return template
    data = read_json(folder / PROCESSOR, "processor's settings file")
    characters = data.get("character_list") if isinstance(data, dict) else None
    if not isinstance(characters, list) or not all(isinstance(item, str) for item in characters):
        return template
    # The first is the blank.
    return replace(template, charset=Charset(tuple(characters[1:]), False, f"{PROCESSOR}: character_list"))


def convert_transformers(folder: Path, template: Template | None = None, *, name: str, source: str = "") -> Converted:
    """Convert a folder in this layout: to training form, of a detector to fused form.

    Raises `FileFormatError` for files that are not sound, `ConversionError` for another class or for tensors that are
    missing, left over or of another shape.
    """
    folder = Path(folder)
    data = read_json(folder / CONFIG, "model's settings file")
    model_type = data.get("model_type") if isinstance(data, dict) else None
    parts = next((parts for parts, family in FAMILIES.items() if family.model_type == model_type), None)
    if parts is None:
        known = ", ".join(family.model_type for family in FAMILIES.values())
        raise ConversionError(f"{show_path(folder / CONFIG)}: {show(model_type)} is none of the classes {known}")
    path = folder / WEIGHTS
    shapes = _shapes(path)
    failures: list[str] = []
    for hint in candidates(template):
        if (hint.backbone.name, hint.neck.name if hint.neck else None, hint.head.name) != parts:
            continue
        try:
            return _convert(hint, shapes, path, template, name, source)
        except ConversionError as error:
            failures.append(str(error))
    raise ConversionError(
        failures[0] if failures else f"{show_path(folder)} is not the network asked for: {model_type}"
    )


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors that Paddle has as well: it counts no batches."""
    try:
        with safe_open(path, framework="pt") as file:
            found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise FileFormatError(f"{show_path(path)} is not a sound safetensors file: {error}") from None
    return {key: shape for key, shape in found.items() if not key.endswith("num_batches_tracked")}


def _convert(
    hint: Architecture,
    shapes: Mapping[str, tuple[int, ...]],
    path: Path,
    template: Template | None,
    name: str,
    source: str,
) -> Converted:
    described = replace(template or Template("", ""), name=name, architecture=_architecture(hint, shapes, path))
    config = replace(described.config(), origin=Origin("transformers folder", source=source or str(path.parent)))
    with torch.device("meta"):
        model = build_model(config)
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    names = transformers_names(config, expected)
    missing = [there for there in names.values() if there not in shapes]
    surplus = set(shapes) - set(names.values())
    wrong = [there for here, there in names.items() if there in shapes and shapes[there] != expected[here]]
    for what, keys in (
        ("missing", missing),
        ("that the network does not have", sorted(surplus)),
        ("of another shape", wrong),
    ):
        if keys:
            raise ConversionError(
                f"{show_path(path)} does not fit the network: {len(keys)} tensors {what}: {show_all(keys)}"
            )
    with safe_open(path, framework="pt") as file:
        state: dict[str, Tensor] = {here: file.get_tensor(there) for here, there in names.items()}
    if any(not tensor.is_floating_point() for tensor in state.values()):
        raise FileFormatError(f"{show_path(path)}: its tensors are not floating-point numbers")
    left = sorted({key.split(".")[1] for key in expected if key not in names})
    notes: tuple[str, ...] = ()
    if left:
        notes = (f"transformers has no {', '.join(left)}: this is the fused form, for training it is not complete",)
        model.load_state_dict(state, strict=False, assign=True)
        fused = fuse(model)
        config, state = fused.config, dict(fused.state_dict())
    elif config.task == "rec":
        notes = ("transformers has no second head (NRTR or SAR): the training form is without it",)
    assert config.origin is not None
    config = replace(config, origin=replace(config.origin, notes=notes))
    return Converted(config, state, tuple(Row(here, there, "same") for here, there in names.items()), notes)


def _architecture(hint: Architecture, shapes: Mapping[str, tuple[int, ...]], path: Path) -> Architecture:
    """The network of the tensors: under the names that they have here, its own reader tells it from their shapes.

    Names here follow from a network of that kind that has more blocks and branches than any file.
    """
    backbone, head = hint.backbone, hint.head
    if backbone.name == "PPLCNetV3":
        backbone = replace(backbone, options={**backbone.options, "conv_kxk_num": MOST})
    if head.name == "MultiHead":
        ctc = {**head.options.get("ctc", {}), "depth": MOST}
        head = replace(head, options={"classes": 2, "ctc": ctc, "nrtr": None})
    described = Template("any", "any", architecture=replace(hint, backbone=backbone, head=head), charset=ANY)
    config = described.config()
    with torch.device("meta"):
        keys = list(build_model(config).state_dict())
    # A layer has an identity branch where its channels stay, which depends on the width.
    norms = [match.groups() for key in keys if (match := re.fullmatch(r"(.+)\.conv_kxk\.0\.bn\.(\w+)", key))]
    keys += [f"{layer}.identity.{name}" for layer, name in norms]
    here = {there: key for key, there in transformers_names(config, keys).items()}
    surplus = [there for there in shapes if there not in here]
    if surplus:
        raise ConversionError(
            f"{show_path(path)} does not fit the network: {len(surplus)} tensors that the network does not have: "
            f"{show_all(surplus)}"
        )
    return infer({here[there]: shape for there, shape in shapes.items()}, hint, show_path(path))[0]

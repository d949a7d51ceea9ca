"""The layout of Hugging Face transformers: one table of names, for the way out and for the way in.

Its PP-OCRv5 classes hold PP-OCRv4's mobile networks too. Names are those of `PaddlePaddle/PP-OCRv5_*_safetensors`. The
way in gives the training form: branches are there as branches. What they have no place for is missing then, and said:
the second head of a recogniser; of a detector the threshold map, without which only its fused form is complete.

The PP-OCRv6 classes have each sum of branches as one convolution, and all other convolutions with their
normalisations: what comes in is the fused form (`fused_layout.py`). PP-LCNet has one form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from paddle2torch.converters.architecture import Architecture, infer
from paddle2torch.converters.characters import Charset
from paddle2torch.converters.convert import Converted, candidates, noted
from paddle2torch.converters.fused_layout import from_there, shapes_there
from paddle2torch.converters.layout import Row
from paddle2torch.converters.refine import any_characters
from paddle2torch.converters.templates import Template
from paddle2torch.model_zoo.config import ClsPostprocess, ClsPreprocess, Form, ModelConfig, Origin
from paddle2torch.model_zoo.errors import ConversionError, FileFormatError
from paddle2torch.model_zoo.network import Network, build_model, fuse
from paddle2torch.model_zoo.show import show, show_all, show_path
from paddle2torch.model_zoo.strict_json import read_json

CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
FILES = (CONFIG, PROCESSOR, WEIGHTS)
"""Of a folder in this layout."""
CLASSIFIER_PROCESSOR = "PPLCNetImageProcessor"
MOST = 9
"""Blocks of a neck and branches of a layer that a file may have."""

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


LCNETV4: Renames = (
    *(
        (rf"^backbone\.blocks_s{stage}\.", f"model.backbone.encoder.blocks.{stage - 1}.blocks.")
        for stage in range(1, 5)
    ),
    *((rf"^backbone\.blocks{stage}\.", f"model.backbone.encoder.blocks.{stage - 2}.blocks.") for stage in range(2, 6)),
    (r"^backbone\.(?:stem|conv1)\.(stem\d\w?)\.conv\.", r"model.backbone.encoder.convolution.\1.convolution."),
    (r"^backbone\.conv1\.0\.", "model.backbone.encoder.convolution.conv1."),
    (r"^backbone\.conv1\.2\.", "model.backbone.encoder.convolution.conv2."),
    (r"\.token_mixer\.rep_dw\.reparam_conv\.", ".token_conv."),
    (r"\.token_mixer\.dw_conv\.", ".token_conv.convolution."),
    (r"\.token_mixer\.se\.conv1\.", ".token_squeeze_excitation.convolutions.0."),
    (r"\.token_mixer\.se\.conv2\.", ".token_squeeze_excitation.convolutions.2."),
    (r"\.channel_mixer\.expand\.", ".channel_conv1.convolution."),
    (r"\.channel_mixer\.compress\.", ".channel_conv2.convolution."),
)
REPLKFPN: Renames = (
    *RSEFPN,
    (r"^neck\.inp_conv_dw\.(\d)\.lk_origin\.", r"model.neck.input_conv.\1.depthwise_convolution."),
    (r"^neck\.inp_conv_pw\.(\d)\.", r"model.neck.input_conv.\1.pointwise_convolution."),
    (r"^neck\.inp_conv_se\.(\d)\.", r"model.neck.input_conv.\1.squeeze_excitation_module."),
)
LIGHT_SVTR: Renames = (
    (r"^head\.ctc_encoder\.encoder\.local_conv\.0\.", "head.encoder.conv_block.2.convolution."),
    (r"^head\.ctc_encoder\.encoder\.local_conv\.1\.", "head.encoder.conv_block.2.normalization."),
    (r"^head\.ctc_encoder\.encoder\.skip_conv\.", "head.encoder.conv_block.0."),
    (r"^head\.ctc_encoder\.encoder\.conv_reduce\.", "head.encoder.conv_block.1."),
)
GUIDED: Renames = (
    (r"^head\.ctc_head\.guide_layer\.0\.", "head.conv1."),
    (r"^head\.ctc_head\.guide_layer\.1\.", "head.norm1."),
    (r"^head\.ctc_head\.guide_layer\.3\.", "head.conv2."),
    (r"^head\.ctc_head\.guide_layer\.4\.", "head.norm2."),
    (r"^head\.ctc_head\.fc(\d)\.", r"head.fc\1."),
)
CLASSIFIER: Renames = (
    (r"^backbone\.conv1\.", "encoder.convolution."),
    *((rf"^backbone\.blocks{stage}\.", f"encoder.blocks.{stage - 2}.layers.") for stage in range(2, 7)),
    (r"\.dw_conv\.", ".depthwise_convolution."),
    (r"\.pw_conv\.", ".pointwise_convolution."),
    (r"\.se\.conv1\.", ".squeeze_excitation_module.convolutions.0."),
    (r"\.se\.conv2\.", ".squeeze_excitation_module.convolutions.2."),
    (r"^head\.last_conv\.", "last_convolution."),
    (r"^head\.fc\.", "head."),
)


@dataclass(frozen=True)
class Family:
    """A class of transformers, and what its tensors are called.

    `fused`: it holds the fused form, most convolutions of which have their normalisation there.
    """

    model_type: str
    class_name: str
    processor: str
    renames: Renames
    fused: bool = False


Parts = tuple[str, str | None, str]
"""Backbone, neck and head; of a recogniser of PP-OCRv6 the kind of its encoder instead of its neck."""
FAMILIES: Mapping[Parts, Family] = {
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
    ("PPLCNetV4", "RepLKFPN", "DBHead"): Family(
        "pp_ocrv6_small_det",
        "PPOCRV6SmallDetForObjectDetection",
        "PPOCRV5ServerDetImageProcessor",
        ((r"^head\.binarize\.", "head."), *DB, *REPLKFPN, *LCNETV4),
        fused=True,
    ),
    ("PPLCNetV4", "RepLKPAN", "DBHead"): Family(
        "pp_ocrv6_medium_det",
        "PPOCRV6MediumDetForObjectDetection",
        "PPOCRV5ServerDetImageProcessor",
        ((r"^head\.binarize\.", "head."), *DB, *LKPAN, *LCNETV4),
        fused=True,
    ),
    ("PPLCNetV4", "lightsvtr", "MultiHead"): Family(
        "pp_ocrv6_small_rec",
        "PPOCRV6SmallRecForTextRecognition",
        "PPOCRV6SmallRecImageProcessor",
        (*LIGHT_SVTR, *SVTR, *LCNETV4, *CONV_NORM),
        fused=True,
    ),
    ("PPLCNetV4", "reshape", "MultiHead"): Family(
        "pp_ocrv6_tiny_rec",
        "PPOCRV6TinyRecForTextRecognition",
        "PPOCRV6SmallRecImageProcessor",
        (*GUIDED, *LCNETV4, *CONV_NORM),
        fused=True,
    ),
    ("PPLCNet", None, "PPLCNetHead"): Family(
        "pp_lcnet",
        "PPLCNetForImageClassification",
        CLASSIFIER_PROCESSOR,
        (*CLASSIFIER, *CONV_NORM),
    ),
}


def transformers_names(config: ModelConfig, keys: Iterable[str]) -> dict[str, str]:
    """{name here: name there} of the tensors that have a place there."""
    renames = family_of(config).renames
    return {key: _renamed(key, renames) for key in keys if not key.startswith(TRAINING_HEADS)}


def family_of(config: ModelConfig) -> Family:
    """The class for a network; raises `ConversionError` where there is none."""
    parts = parts_of(config)
    if parts not in FAMILIES:
        known = "; ".join(" with ".join(filter(None, key)) for key in FAMILIES)
        raise ConversionError(
            f"{config.name}: transformers has no class for {' with '.join(filter(None, parts))}; it has the networks "
            f"of PP-OCRv6, PP-OCRv5, PP-OCRv4 mobile and PP-LCNet: {known}"
        )
    return FAMILIES[parts]


def parts_of(network: ModelConfig | Architecture) -> Parts:
    """By what a class of transformers is found."""
    between = network.neck.name if network.neck else None
    if network.backbone.name == "PPLCNetV4" and network.head.name == "MultiHead":
        between = network.head.options.get("encoder_type", "svtr")
    return network.backbone.name, between, network.head.name


def _renamed(key: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        key = re.sub(pattern, replacement, key)
    return key


def is_transformers(folder: Path) -> bool:
    """Whether `folder` is a model in this layout."""
    return folder.is_dir() and all((folder / name).is_file() for name in (CONFIG, WEIGHTS))


def describe_transformers(folder: Path) -> Template:
    """What the folder says besides its tensors: a recogniser's characters, a classifier's labels and steps.

    Raises as `read_json`.
    """
    template = Template("", show_path(folder))
    if not (folder / PROCESSOR).is_file():
        return template
    data = read_json(folder / PROCESSOR, "processor's settings file")
    if isinstance(data, dict) and data.get("image_processor_type") == CLASSIFIER_PROCESSOR:
        return _describe_classifier(folder, template, data)
    characters = data.get("character_list") if isinstance(data, dict) else None
    if not isinstance(characters, list) or not all(isinstance(item, str) for item in characters):
        return template
    # The first is the blank.
    return replace(template, charset=Charset(tuple(characters[1:]), False, f"{PROCESSOR}: character_list"))


def _describe_classifier(folder: Path, template: Template, data: Mapping[str, Any]) -> Template:
    """Labels and steps of a classifier. Raises `FileFormatError` for values of another kind."""
    settings = read_json(folder / CONFIG, "model's settings file")
    names = settings.get("id2label") if isinstance(settings, dict) else None
    size, short = data.get("size"), data.get("resize_short")
    try:
        labels = tuple(names[str(index)] for index in range(len(names))) if isinstance(names, dict) else ()
        if not isinstance(settings, dict) or not isinstance(size, dict):
            raise TypeError
        crop = data["crop_size"] if short is not None else size
        shape = (3, crop["height"], crop["width"])
        # Its processor turns the channels around at the end.
        mean, std = ([float(value) for value in data[name][::-1]] for name in ("image_mean", "image_std"))
        numbers = (*shape, *(() if short is None else (short,)))
        if not all(type(number) is int for number in numbers) or not all(isinstance(label, str) for label in labels):
            raise TypeError
        preprocess = ClsPreprocess(
            image_shape=shape,
            keep_ratio=short is not None,
            resize_short=short,
            channel_order="RGB",
            scale=float(data.get("rescale_factor", 1 / 255)),
            mean=(mean[0], mean[1], mean[2]),
            std=(std[0], std[1], std[2]),
        )
        postprocess = ClsPostprocess(labels=labels, thresh=None) if labels else None
    except (IndexError, KeyError, TypeError, ValueError):
        raise FileFormatError(
            f"{show_path(folder)}: {PROCESSOR} and {CONFIG} do not say a classifier's size, mean, std and labels"
        ) from None
    return replace(template, task="cls", preprocess=preprocess, postprocess=postprocess)


def _of_settings(hint: Architecture, settings: Mapping[str, Any]) -> Architecture:
    """What leaves no trace in the tensors of a classifier: its strides and its dropout, of the file's own settings."""
    if hint.backbone.name != "PPLCNet":
        return hint
    try:
        stages = settings.get("block_configs") or [[[3, 0, 0, stride]] for stride in (1, 2, 2, 2, 2)]
        strides = [settings.get("stem_stride", 2), *(stage[0][3] for stage in stages[1:])]
        dropout = float(settings.get("hidden_dropout_prob", 0.2))
        flat = [each for stride in strides for each in (stride if isinstance(stride, list) else [stride])]
        if len(strides) != 5 or not all(each in (1, 2) for each in flat) or not 0 <= dropout < 1:
            raise ValueError
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise FileFormatError(
            f"{CONFIG}: block_configs, stem_stride or hidden_dropout_prob are no PP-LCNet's"
        ) from None
    options = {**hint.backbone.options, "stride_list": strides}
    head = {**hint.head.options, "dropout_prob": dropout}
    return replace(hint, backbone=replace(hint.backbone, options=options), head=replace(hint.head, options=head))


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
        if parts_of(hint) != parts:
            continue
        how = _convert_fused if FAMILIES[parts].fused else _convert
        try:
            return how(_of_settings(hint, data), shapes, path, template, name, source)
        except ConversionError as error:
            failures.append(str(error))
    raise ConversionError(
        failures[0] if failures else f"{show_path(folder)} is not the network asked for: {model_type}"
    )


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors that Paddle has as well: it counts no batches."""
    try:
        with safe_open(path, framework="pt") as file:
            found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118, it is not a mapping
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
    config, model, expected, names = _network(described, "training", path, source)
    found = _read(path, shapes, {there: expected[here] for here, there in names.items()})
    state = {here: found[there] for here, there in names.items()}
    left = sorted({key.split(".")[1] for key in expected if key not in names})
    notes: tuple[str, ...] = ()
    if left:
        notes = (f"transformers has no {', '.join(left)}: this is the fused form; fine-tuning makes the rest anew",)
        model.load_state_dict(state, strict=False, assign=True)
        fused = fuse(model)
        config, state = fused.config, dict(fused.state_dict())
    elif config.task == "rec":
        notes = ("transformers has no second head (NRTR or SAR): the training form is without it",)
    return _converted(config, state, names, notes)


def _network(
    described: Template, form: Form, path: Path, source: str
) -> tuple[ModelConfig, Network, dict[str, tuple[int, ...]], dict[str, str]]:
    """The network without values, the shapes of its tensors, and which names they have there."""
    origin = Origin("transformers folder", source=source or path.parent.name)
    config = replace(described.config(form), origin=origin)
    with torch.device("meta"):
        model = build_model(config)
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    return config, model, expected, transformers_names(config, expected)


def _converted(
    config: ModelConfig, state: Mapping[str, Tensor], names: Mapping[str, str], notes: tuple[str, ...]
) -> Converted:
    rows = tuple(Row(here, there, "same") for here, there in names.items())
    return Converted(noted(config, notes), state, rows, notes)


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
    described = Template(
        "any", "any", architecture=replace(hint, backbone=backbone, head=head), charset=any_characters(2)
    )
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


def _read(
    path: Path, shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """The tensors that are expected; raises `ConversionError` where the file has others."""
    missing = [there for there in expected if there not in shapes]
    surplus = sorted(set(shapes) - set(expected))
    wrong = [there for there, shape in expected.items() if there in shapes and shapes[there] != shape]
    for what, keys in (
        ("missing", missing),
        ("that the network does not have", surplus),
        ("of another shape", wrong),
    ):
        if keys:
            raise ConversionError(
                f"{show_path(path)} does not fit the network: {len(keys)} tensors {what}: {show_all(keys)}"
            )
    with safe_open(path, framework="pt") as file:
        state: dict[str, Tensor] = {there: file.get_tensor(there) for there in expected}
    if any(not tensor.is_floating_point() for tensor in state.values()):
        raise FileFormatError(f"{show_path(path)}: its tensors are not floating-point numbers")
    return state


def _convert_fused(
    hint: Architecture,
    shapes: Mapping[str, tuple[int, ...]],
    path: Path,
    template: Template | None,
    name: str,
    source: str,
) -> Converted:
    """Of a class that holds the fused form. Its widths are those of a known network, the number of classes is free."""
    classes = next((shapes[key][0] for key in ("head.head.bias", "head.fc2.bias") if shapes.get(key)), None)
    if classes is not None:
        hint = replace(hint, head=replace(hint.head, options={**hint.head.options, "classes": classes}))
    described = replace(template or Template("", ""), name=name, architecture=hint)
    config, _, expected, names = _network(described, "fused", path, source)
    found = _read(path, shapes, shapes_there(names, expected))
    state, folded = from_there(names, expected, found, show_path(path))
    notes = (
        f"transformers has the fused form: {folded} normalisations were folded into their convolutions; fine-tuning "
        f"makes branches anew",
    )
    return _converted(config, state, names, notes)

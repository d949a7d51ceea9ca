"""Which network a checkpoint belongs to: from PaddleOCR's own settings, from its tensors, or from both.

The tensors win: a name or a yml may be of another release than the file beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from paddle2torch.model_zoo.config import Component, Task
from paddle2torch.model_zoo.errors import ConfigError, ConversionError
from paddle2torch.model_zoo.mobilenetv3 import BLOCKS
from paddle2torch.model_zoo.pplcnet import STAGES as PPLCNET_STAGES
from paddle2torch.model_zoo.pplcnetv3 import DET_OUTPUT_CHANNELS, DET_STAGES, REC_STAGES, make_divisible
from paddle2torch.model_zoo.rec_heads import NRTR_EXTRA_SYMBOLS, SAR_EXTRA_SYMBOLS
from paddle2torch.model_zoo.resnet_vd import BOTTLENECK_FROM, DEPTHS

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Architecture:
    """Backbone, neck and head of a network."""

    backbone: Component
    neck: Component | None
    head: Component


# Keys of PaddleOCR's settings that say how to train or initialise and nothing about the network.
TRAINING_ONLY = frozenset({"lr_mult_list", "lab_lr", "pretrained", "fc_decay", "return_feats"})
# Keys that official settings give to a class which takes no notice of them.
IGNORED: Mapping[str, frozenset[str]] = {"ResNet_vd": frozenset({"disable_se"}), "SVTRv2": frozenset({"local_k"})}
# Keys that official settings give and that have this value here in any case.
FIXED: Mapping[str, Mapping[str, Any]] = {"SVTRv2": {"use_pos_embed": False, "last_stage": False, "use_pool": True}}


def from_paddleocr(architecture: Mapping[str, Any], task: Task, where: str) -> Architecture:
    """Translate the `Architecture` section of a PaddleOCR yml for a model of `task`.

    The class count of a recogniser is not in that section: it comes from the character set or the checkpoint.
    Raises `ConfigError`, led by `where`, for a section that describes no network.
    """
    try:
        backbone = _component(architecture["Backbone"], where)
        head = _component(architecture["Head"], where)
    except KeyError as key:
        raise ConfigError(f"{where}: the Architecture section has no {key}") from None
    neck = None if architecture.get("Neck") is None else _neck(_component(architecture["Neck"], where), where)
    if head.name == "MultiHead":
        head = _multi_head(head, where)
    elif head.name == "ClsHead":
        head = Component("ClsHead", {"classes": head.options.get("class_dim")})
    if backbone.name == "PPLCNet":
        backbone, head = _pplcnet(backbone, head)
    if backbone.name == "ResNet":
        backbone = replace(backbone, name="ResNet_vd")
    if backbone.name in ("MobileNetV3", "ResNet_vd") and task == "det":
        # Paddle has two classes of this name, and picks one by the task.
        backbone = replace(backbone, options={**backbone.options, "det": True})
    ignored = IGNORED.get(backbone.name, frozenset())
    # Images have three channels: yml files say so or leave it out.
    fixed = {"in_channels": 3, **FIXED.get(backbone.name, {})}
    options = {
        key: value
        for key, value in backbone.options.items()
        if key not in ignored and not (key in fixed and fixed[key] == value)
    }
    backbone = replace(backbone, options=options)
    return Architecture(backbone, neck, head)


def _component(data: Any, where: str) -> Component:
    component = Component.from_json(data, where)
    return replace(component, options={k: v for k, v in component.options.items() if k not in TRAINING_ONLY})


def _neck(neck: Component, where: str) -> Component:
    options = dict(neck.options)
    if neck.name == "SequenceEncoder" and options.get("encoder_type") == "svtr":
        svtr = {key: value for key, value in options.items() if key not in ("encoder_type", "hidden_size")}
        return Component("SequenceEncoder", {"encoder_type": "svtr", "svtr": svtr})
    if neck.name == "LKPAN" and options.pop("mode", "large") != "large":
        raise ConfigError(f"{where}: LKPAN's mode {neck.options['mode']!r} is not supported, only large is")
    return Component(neck.name, options)


def _pplcnet(backbone: Component, head: Component) -> tuple[Component, Component]:
    """PaddleClas's one class as the backbone and the head that it is here."""
    options = dict(backbone.options)
    expand, use_last_conv = options.pop("class_expand", 1280), options.pop("use_last_conv", True)
    settings = {
        "classes": head.options.get("class_num"),
        "class_expand": expand if use_last_conv else None,
        "dropout_prob": options.pop("dropout_prob", 0.2),
    }
    return Component("PPLCNet", options), Component("PPLCNetHead", settings)


def _multi_head(head: Component, where: str) -> Component:
    options: dict[str, Any] = {"nrtr": None}
    for entry in head.options.get("head_list", ()):
        for name, settings in entry.items():
            if name == "CTCHead":
                neck = dict(settings["Neck"])
                if neck.pop("name", None) != "svtr":
                    raise ConfigError(f"{where}: the neck of the CTC head is not svtr: {settings['Neck']}")
                options["ctc"] = neck
            elif name == "NRTRHead":
                options["nrtr"] = dict(settings or {})
            elif name == "SARHead":
                options["sar"] = dict(settings or {})
            else:
                raise ConfigError(f"{where}: MultiHead's {name} is not supported")
    if "ctc" not in options:
        raise ConfigError(f"{where}: MultiHead has no CTCHead")
    return Component("MultiHead", options)


# What the keys of a checkpoint say about it, most telling first. Networks that are not supported yet are named too,
# so that the error says what the file is.
SIGNATURES: tuple[tuple[str, str], ...] = (
    ("backbone.blocks2.0.dw_conv.conv_kxk.", "PPLCNetV3"),
    ("backbone.blocks2.0.dw_conv.conv.", "PPLCNet"),
    ("backbone.block_list.", "MobileNetV1Enhance"),
    ("backbone.stem.stem1.", "PPHGNetV2_B4"),
    ("backbone.stem.0.", "PPHGNet_small"),
    ("backbone.stage0.", "MobileNetV3"),
    ("backbone.bb_0_0.", "ResNet_vd"),
    ("backbone.pope.patch_embed.", "SVTRv2"),
    ("backbone.features.1.token_mixer.", "RepSVTR"),
    ("backbone.blocks_s1.", "PPLCNetV4 (PP-OCRv6)"),
    ("backbone.blocks2.0.token_mixer.", "PPLCNetV4 (PP-OCRv6)"),
    ("backbone.blocks.0.expand_conv.", "MobileNetV3"),
)
NECK_SIGNATURES: tuple[tuple[str, str], ...] = (
    ("neck.ins_conv.0.in_conv.", "RSEFPN"),
    ("neck.ins_conv.0.weight", "LKPAN"),
    ("neck.in2_conv.", "DBFPN"),
    ("neck.encoder.", "SequenceEncoder"),
)
HEAD_SIGNATURES: tuple[tuple[str, str], ...] = (
    ("head.ctc_encoder.encoder.", "MultiHead"),
    ("head.cbn_layer.", "PFHeadLocal"),
    ("head.binarize.", "DBHead"),
    # Two heads have nothing but `head.fc`: a recogniser's stands behind a neck, PaddleClas's behind a backbone alone.
    ("neck.encoder.", "CTCHead"),
    ("backbone.blocks2.0.dw_conv.conv.", "PPLCNetHead"),
    ("head.fc.", "ClsHead"),
)
# Heads that read what a neck makes of the backbone's output.
BEHIND_A_NECK = frozenset({"CTCHead", "DBHead", "PFHeadLocal"})


def network_keys(keys: Iterable[str]) -> dict[str, str]:
    """{name of a tensor here: its name in the file}, of a network's tensors without a distillation's prefix.

    The same, but for the classifiers of PaddleClas, which tell no backbone from a head.
    """
    keys = list(keys)
    if not any(key.startswith("blocks2.0.dw_conv.") for key in keys):
        return {key: key for key in keys}
    return {("head." if key.startswith(("last_conv.", "fc.")) else "backbone.") + key: key for key in keys}


def describe(shapes: Shapes) -> str:
    """What a checkpoint looks like, in words: for errors."""
    parts = [_first(table, shapes) for table in (SIGNATURES, NECK_SIGNATURES, HEAD_SIGNATURES)]
    if not any(parts):
        sample = ", ".join(list(shapes)[:3]) or "none"
        return f"no PP-OCR model that is known here (its first tensors: {sample})"
    backbone, neck, head = parts
    if neck is None and head in BEHIND_A_NECK:
        neck = "an unknown neck"
    return f"{backbone or 'an unknown backbone'} with {f'{neck} and ' if neck else ''}{head or 'an unknown head'}"


def _first(signatures: Sequence[tuple[str, str]], shapes: Shapes) -> str | None:
    return next((name for prefix, name in signatures if any(key.startswith(prefix) for key in shapes)), None)


def infer(shapes: Shapes, hint: Architecture | None, source: str) -> tuple[Architecture, tuple[str, ...]]:
    """The network of a training checkpoint, from its tensors' shapes.

    `hint` (a card's or a yml's) supplies what shapes cannot show. Returns the architecture and notes about where the
    checkpoint overruled the hint. Raises `ConversionError` for a checkpoint of another network: it says which one the
    file looks like.
    """
    backbone, neck, head = (_first(table, shapes) for table in (SIGNATURES, NECK_SIGNATURES, HEAD_SIGNATURES))
    known = backbone in BACKBONES and head in HEADS and (neck in NECKS or (neck is None and head not in BEHIND_A_NECK))
    if backbone is None or head is None or not known:
        raise ConversionError(f"{source} cannot be converted: it looks like {describe(shapes)}")
    layout: tuple[str, ...] = ()
    if hint is not None and (hint.head.name, neck, head) == ("MultiHead", "SequenceEncoder", "CTCHead"):
        layout = ("the checkpoint has a CTC head alone, in the layout of older releases",)
        # With the guide no head would train the backbone.
        ctc = {"encoder_type": "svtr", "svtr": {**hint.head.options["ctc"], "use_guide": False}}
        hint = Architecture(hint.backbone, Component("SequenceEncoder", ctc), Component("CTCHead"))
    if hint is not None:
        asked = (hint.backbone.name, hint.neck.name if hint.neck else None, hint.head.name)
        if asked != (backbone, neck, head):
            names = ", ".join(name for name in asked if name)
            raise ConversionError(
                f"{source} is not of the architecture asked for ({names}): it looks like {describe(shapes)}"
            )
    try:
        found = Architecture(
            Component(backbone, BACKBONES[backbone](shapes, hint.backbone.options if hint else {})),
            None if neck is None else Component(neck, NECKS[neck](shapes, _options(hint.neck if hint else None))),
            Component(head, HEADS[head](shapes, hint.head.options if hint else {})),
        )
    except KeyError as key:
        raise ConversionError(f"{source} looks like {describe(shapes)}, but the tensor {key} is missing") from None
    except (IndexError, ValueError) as error:
        raise ConversionError(f"{source} looks like {describe(shapes)}, but {error}") from None
    return found, (*layout, *(_differences(hint, found) if hint else ()))


def _options(component: Component | None) -> Mapping[str, Any]:
    return {} if component is None else component.options


def _differences(hint: Architecture, found: Architecture) -> tuple[str, ...]:
    notes = []
    for part, asked, got in (("backbone", hint.backbone, found.backbone), ("head", hint.head, found.head)):
        before, after = _flat(asked.options), _flat(got.options)
        for key in sorted(before.keys() & after.keys()):
            if before[key] != after[key]:
                notes.append(f"{part} {key}: the checkpoint has {after[key]}, not {before[key]}")
        for key in sorted(after.keys() - before.keys()):
            if key.endswith("last_kernel_size"):
                notes.append(f"{part} {key}: the checkpoint has {after[key]}")
        if any(key.startswith("nrtr.") for key in before) and after.get("nrtr", "") is None:
            notes.append("the checkpoint has no NRTR head")
        if any(key.startswith("sar.") for key in before) and not any(key.startswith("sar.") for key in after):
            notes.append("the checkpoint has no SAR head")
    return tuple(notes)


def _flat(options: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{inner}": item for inner, item in value.items()})
        else:
            flat[key] = value
    return flat


def _count(shapes: Shapes, pattern: str) -> int:
    """How many of `pattern.format(0)`, `pattern.format(1)`, … are there."""
    count = 0
    while any(key.startswith(pattern.format(count)) for key in shapes):
        count += 1
    return count


def pplcnetv3_scale(widths: Sequence[int], expected: Sequence[int], hint: float | None) -> float:
    """The scale at which channels `expected` (at scale 1) become `widths`; `hint` first, then the official ones.

    Many scales give the same channels; any of them builds the same network. Raises ValueError where none does.
    """
    official = (0.95, 0.75, 1.0)
    grid = tuple(round(0.05 * step, 2) for step in range(1, 81))
    for scale in (*(() if hint is None else (hint,)), *official, *grid):
        if [make_divisible(channels * scale) for channels in expected] == list(widths):
            return scale
    raise ValueError(f"its channels {list(widths)} are those of no scale of PPLCNetV3")


def _pplcnetv3_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    det = "backbone.layer_list.0.weight" in shapes
    stages = DET_STAGES if det else REC_STAGES
    widths = [shapes["backbone.conv1.conv.weight"][0]]
    expected = [16]
    for name, blocks in stages.items():
        for index, block in enumerate(blocks):
            widths.append(shapes[f"backbone.{name}.{index}.pw_conv.conv_kxk.0.conv.weight"][0])
            expected.append(block[2])
    options: dict[str, Any] = {"scale": pplcnetv3_scale(widths, expected, hint.get("scale"))}
    if det:
        options["det"] = True
        outputs = [shapes[f"backbone.layer_list.{i}.weight"][0] for i in range(len(DET_OUTPUT_CHANNELS))]
        if outputs != [int(channels * options["scale"]) for channels in DET_OUTPUT_CHANNELS]:
            raise ValueError(f"its output channels {outputs} are not those of scale {options['scale']}")
    branches = _count(shapes, "backbone.blocks2.0.dw_conv.conv_kxk.{}.")
    if branches != 4:
        options["conv_kxk_num"] = branches
    return options


def svtr_options(
    *, conv1: Sequence[int], conv4: Sequence[int], hidden: int, depth: int, mlp: int, dims: int, hint: Mapping[str, Any]
) -> dict[str, Any]:
    """Keywords of `EncoderWithSVTR` from kernel sizes (height, width) and widths; `hint` for what has no shape."""
    options: dict[str, Any] = {"dims": dims, "depth": depth, "hidden_dims": hidden, "kernel_size": list(conv1)}
    if list(conv4) != list(conv1):
        options["last_kernel_size"] = list(conv4)
    # Every official recogniser with this neck is trained with the guide; it changes no number in evaluation.
    options["use_guide"] = bool(hint.get("use_guide", True))
    if mlp != 2 * hidden:
        options["mlp_ratio"] = mlp / hidden
    for key in ("num_heads", "drop_rate", "attn_drop_rate"):
        if key in hint:
            options[key] = hint[key]
    return options


def _svtr_options(shapes: Shapes, encoder: str, hint: Mapping[str, Any]) -> dict[str, Any]:
    hidden = shapes[f"{encoder}.conv2.conv.weight"][0]
    depth = _count(shapes, encoder + ".svtr_block.{}.")
    return svtr_options(
        conv1=shapes[f"{encoder}.conv1.conv.weight"][2:],
        conv4=shapes[f"{encoder}.conv4.conv.weight"][2:],
        hidden=hidden,
        depth=depth,
        mlp=shapes[f"{encoder}.svtr_block.0.mlp.fc1.bias"][0] if depth else 2 * hidden,
        dims=shapes[f"{encoder}.conv1x1.conv.weight"][0],
        hint=hint,
    )


def _multi_head_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    classes = shapes["head.ctc_head.fc.bias"][0]
    ctc = _svtr_options(shapes, "head.ctc_encoder.encoder", hint.get("ctc", {}))
    options: dict[str, Any] = {"classes": classes, "ctc": ctc, "nrtr": None}
    if any(key.startswith("head.gtc_head.") for key in shapes):
        vocabulary, width = shapes["head.gtc_head.embedding.embedding.weight"]
        if vocabulary != classes + NRTR_EXTRA_SYMBOLS:
            raise ValueError(
                f"its NRTR head has {vocabulary} symbols, {classes} CTC classes need {classes + NRTR_EXTRA_SYMBOLS}"
            )
        guide = hint.get("nrtr") or {}
        options["nrtr"] = {
            "nrtr_dim": width,
            "num_decoder_layers": _count(shapes, "head.gtc_head.decoder.{}."),
            "max_text_length": guide.get("max_text_length", 25),
        }
    if any(key.startswith("head.sar_head.") for key in shapes):
        symbols, width = shapes["head.sar_head.decoder.embedding.weight"]
        if symbols != classes + SAR_EXTRA_SYMBOLS:
            raise ValueError(
                f"its SAR head has {symbols} symbols, {classes} CTC classes need {classes + SAR_EXTRA_SYMBOLS}"
            )
        guide = hint.get("sar") or {}
        options["sar"] = {
            "enc_dim": width,
            "d_k": shapes["head.sar_head.decoder.conv3x3_1.bias"][0],
            "max_text_length": guide.get("max_text_length", 25),
        }
    return options


def _mobilenetv3_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    det = "backbone.conv.conv.weight" in shapes
    projections = [
        shape[0]
        for key, shape in shapes.items()
        if key.startswith("backbone.") and key.endswith("linear_conv.conv.weight")
    ]
    scales = (*((hint["scale"],) if "scale" in hint else ()), 0.35, 0.5, 0.75, 1.0, 1.25)
    for name, blocks in BLOCKS.items():
        for scale in scales:
            if [make_divisible(block[2] * scale, 8) for block in blocks] == projections:
                options: dict[str, Any] = {"scale": scale, "model_name": name}
                # Strides leave no trace in the tensors.
                options |= {key: hint[key] for key in ("small_stride", "large_stride") if key in hint}
                if not hint and name == "small" and any(key.startswith("neck.encoder.lstm.") for key in shapes):
                    options["small_stride"] = [1, 2, 2, 2]  # of all official recognisers
                if det:
                    options["det"] = True
                if not any(".mid_se." in key for key in shapes):
                    options["disable_se"] = True
                return options
    raise ValueError(f"its channels {projections} are those of no MobileNetV3")


def _mobilenetv1_enhance_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {"scale": shapes["backbone.conv1._conv.weight"][0] / 32}
    # Stride and pooling leave no trace in the tensors. Both versions are told by their neck.
    v3 = {"last_conv_stride": [1, 2], "last_pool_type": "avg", "last_pool_kernel_size": [2, 2]}
    lstm = any(key.startswith("neck.encoder.lstm.") for key in shapes)
    given = hint if hint else {} if lstm else v3
    return options | {key: given[key] for key in v3 if key in given}


def _pphgnet_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    return {} if "backbone.stages.0.downsample.conv.weight" in shapes else {"det": True}


def _pphgnetv2_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    return {"text_rec" if "backbone.stages.0.downsample.conv.weight" in shapes else "det": True}


def _resnet_vd_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    depths = tuple(_count(shapes, f"backbone.bb_{stage}_{{}}.") for stage in range(4))
    bottleneck = "backbone.bb_0_0.conv2._conv.weight" in shapes
    for layers, official in DEPTHS.items():
        if depths == official and bottleneck == (layers >= BOTTLENECK_FROM):
            det = any(key.startswith("head.binarize.") for key in shapes)
            return {"layers": layers, **({"det": True} if det else {})}
    raise ValueError(f"its stages of {depths} blocks are those of no ResNet_vd")


def _pplcnet_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    widths = [shapes["backbone.conv1.conv.weight"][0]]
    expected = [16]
    for name, blocks in PPLCNET_STAGES.items():
        for index, block in enumerate(blocks):
            widths.append(shapes[f"backbone.{name}.{index}.pw_conv.conv.weight"][0])
            expected.append(block[2])
    # Strides leave no trace in the tensors: the official classifiers of lines have two classes, of documents four.
    lines = [2, [2, 1], [2, 1], [2, 1], [2, 1]]
    strides = hint.get("stride_list", lines if shapes["head.fc.bias"][0] == 2 else [2, 2, 2, 2, 2])
    for scale in (*((hint["scale"],) if "scale" in hint else ()), 0.25, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5):
        if [make_divisible(channels * scale, 8) for channels in expected] == widths:
            return {"scale": scale, "stride_list": strides}
    raise ValueError(f"its channels {widths} are those of no PPLCNet")


def _svtrv2_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    dims: list[int] = []
    mixer: list[list[str]] = []
    heads: list[int] = []
    while (prefix := f"backbone.stages.{len(dims)}.blocks.") + "0.norm1.weight" in shapes:
        dim = shapes[f"{prefix}0.norm1.weight"][0]
        kernels = [shape for key, shape in shapes.items() if key.startswith(prefix) and key.endswith(".mixer.weight")]
        attentions = sum(key.startswith(prefix) and key.endswith(".mixer.qkv.weight") for key in shapes)
        mixer.append(["Conv"] * len(kernels) + ["Global"] * attentions)
        # Attention does not show its heads: those of official models are 32 wide, as their groups are.
        heads.append(dim // max(1, kernels[0][1] if kernels else 32))
        dims.append(dim)
    options: dict[str, Any] = {"dims": dims, "depths": [len(stage) for stage in mixer], "num_heads": heads}
    # Strides leave no trace in the tensors.
    strides = [[2, 1]] * (len(dims) - 1) + [[-1, -1]]
    asked = {key: hint[key] for key in ("num_heads", "sub_k", "drop_path_rate") if key in hint}
    return {**options, "mixer": mixer, "sub_k": strides, **asked}


def _repsvtr_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    return dict(hint)


def _sequence_encoder_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    if "neck.encoder.conv1.conv.weight" in shapes:
        svtr = {"use_guide": False, **(hint.get("svtr") or {})}
        return {"encoder_type": "svtr", "svtr": _svtr_options(shapes, "neck.encoder", svtr)}
    return {"encoder_type": "rnn", "hidden_size": shapes["neck.encoder.lstm.weight_hh_l0"][1]}


def _dbfpn_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    return {"out_channels": shapes["neck.in2_conv.weight"][0]}


def _lkpan_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    intracl = any(key.startswith("neck.incl1.") for key in shapes)
    return {"out_channels": shapes["neck.ins_conv.0.weight"][0], **({"intracl": True} if intracl else {})}


def _rsefpn_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    return {"out_channels": shapes["neck.ins_conv.0.in_conv.weight"][0], "shortcut": hint.get("shortcut", True)}


def _db_head_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    kernels = [shapes[f"head.binarize.conv{i}.weight"][2] for i in (1, 2, 3)]
    return {**hint, **({} if kernels == [3, 2, 2] else {"kernel_list": kernels})}


def _pf_head_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    mid, features = shapes["head.cbn_layer.last_3.conv.weight"][:2]
    return {**_db_head_options(shapes, hint), "mode": "large" if mid == features - 1 else "small"}


def _cls_head_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    return {"classes": shapes["head.fc.bias"][0]}


def _pplcnet_head_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    expand = shapes["head.last_conv.weight"][0] if "head.last_conv.weight" in shapes else None
    dropout = {"dropout_prob": hint["dropout_prob"]} if "dropout_prob" in hint else {}
    return {"classes": shapes["head.fc.bias"][0], "class_expand": expand, **dropout}


def _ctc_head_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    if "head.fc1.bias" in shapes:
        return {"classes": shapes["head.fc2.bias"][0], "mid_channels": shapes["head.fc1.bias"][0]}
    return {"classes": shapes["head.fc.bias"][0]}


Reader = Callable[[Shapes, Mapping[str, Any]], dict[str, Any]]
BACKBONES: Mapping[str, Reader] = {
    "MobileNetV1Enhance": _mobilenetv1_enhance_options,
    "MobileNetV3": _mobilenetv3_options,
    "PPHGNetV2_B4": _pphgnetv2_options,
    "PPHGNet_small": _pphgnet_options,
    "PPLCNet": _pplcnet_options,
    "PPLCNetV3": _pplcnetv3_options,
    "RepSVTR": _repsvtr_options,
    "ResNet_vd": _resnet_vd_options,
    "SVTRv2": _svtrv2_options,
}
NECKS: Mapping[str, Reader] = {
    "DBFPN": _dbfpn_options,
    "LKPAN": _lkpan_options,
    "RSEFPN": _rsefpn_options,
    "SequenceEncoder": _sequence_encoder_options,
}
HEADS: Mapping[str, Reader] = {
    "CTCHead": _ctc_head_options,
    "ClsHead": _cls_head_options,
    "DBHead": _db_head_options,
    "MultiHead": _multi_head_options,
    "PFHeadLocal": _pf_head_options,
    "PPLCNetHead": _pplcnet_head_options,
}

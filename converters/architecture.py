"""Which network a checkpoint belongs to: from PaddleOCR's own settings, from its tensors, or from both.

The tensors win: a name or a yml may be of another release than the file beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from paddle2torch.model_zoo.config import Component, Task
from paddle2torch.model_zoo.errors import ConfigError, ConversionError
from paddle2torch.model_zoo.mobilenetv3 import BLOCKS
from paddle2torch.model_zoo.pplcnetv3 import DET_OUTPUT_CHANNELS, DET_STAGES, REC_STAGES, make_divisible
from paddle2torch.model_zoo.rec_heads import NRTR_EXTRA_SYMBOLS

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Architecture:
    """Backbone, neck and head of a network."""

    backbone: Component
    neck: Component | None
    head: Component


# Keys of PaddleOCR's settings that say how to train or initialise and nothing about the network.
TRAINING_ONLY = frozenset({"lr_mult_list", "lab_lr", "pretrained", "fc_decay", "return_feats"})


def from_paddleocr(architecture: Mapping[str, Any], task: Task, where: str) -> Architecture:
    """Translate the `Architecture` section of a PaddleOCR yml for a model of `task`.

    A MultiHead's class count is not in that section: it comes from the character set or the checkpoint.
    Raises `ConfigError`, led by `where`, for a section that describes no network.
    """
    try:
        backbone = _component(architecture["Backbone"], where)
        head = _component(architecture["Head"], where)
    except KeyError as key:
        raise ConfigError(f"{where}: the Architecture section has no {key}") from None
    neck = architecture.get("Neck")
    if head.name == "MultiHead":
        head = _multi_head(head, where)
    elif head.name == "ClsHead":
        head = Component("ClsHead", {"classes": head.options.get("class_dim")})
    if backbone.name == "MobileNetV3" and task == "det":
        # Paddle has two classes of this name, and picks one by the task.
        backbone = replace(backbone, options={**backbone.options, "det": True})
    return Architecture(backbone, None if neck is None else _component(neck, where), head)


def _component(data: Any, where: str) -> Component:
    component = Component.from_json(data, where)
    return replace(component, options={k: v for k, v in component.options.items() if k not in TRAINING_ONLY})


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
            else:
                raise ConfigError(f"{where}: MultiHead's {name} is not supported")
    if "ctc" not in options:
        raise ConfigError(f"{where}: MultiHead has no CTCHead")
    return Component("MultiHead", options)


# What the keys of a checkpoint say about it, most telling first. Networks that are not supported yet are named too,
# so that the error says what the file is.
SIGNATURES: tuple[tuple[str, str], ...] = (
    ("backbone.blocks2.0.dw_conv.conv_kxk.", "PPLCNetV3"),
    ("backbone.block_list.", "MobileNetV1Enhance (PP-OCRv2/v3 recogniser)"),
    ("backbone.stem.stem1.", "PPHGNetV2_B4 (PP-OCRv5 server)"),
    ("backbone.stem.0.", "PPHGNet_small (PP-OCRv4 server)"),
    ("backbone.stage0.", "MobileNetV3"),
    ("backbone.bb_0_0.", "ResNet_vd (v2.0 server)"),
    ("backbone.blocks_s1.", "PPLCNetV4 (PP-OCRv6)"),
    ("backbone.blocks2.0.token_mixer.", "PPLCNetV4 (PP-OCRv6)"),
    ("backbone.blocks.0.expand_conv.", "MobileNetV3"),
    ("blocks2.0.dw_conv.conv.", "PPLCNet classifier"),
)
NECK_SIGNATURES: tuple[tuple[str, str], ...] = (
    ("neck.ins_conv.0.in_conv.", "RSEFPN"),
    ("neck.ins_conv.0.weight", "LKPAN (server detector)"),
    ("neck.in2_conv.", "DBFPN (v2.0 detector)"),
    ("neck.encoder.lstm.", "BiLSTM (CRNN)"),
)
HEAD_SIGNATURES: tuple[tuple[str, str], ...] = (
    ("head.ctc_encoder.encoder.", "MultiHead"),
    ("head.cbn_layer.", "PFHeadLocal (server detector)"),
    ("head.binarize.", "DBHead"),
    ("head.fc.", "ClsHead"),
)


def describe(shapes: Shapes) -> str:
    """What a checkpoint looks like, in words: for errors."""
    parts = [_first(table, shapes) for table in (SIGNATURES, NECK_SIGNATURES, HEAD_SIGNATURES)]
    if not any(parts):
        sample = ", ".join(list(shapes)[:3]) or "none"
        return f"no PP-OCR model that is known here (its first tensors: {sample})"
    backbone, neck, head = parts
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
    if backbone not in BACKBONES or (neck is not None and neck not in NECKS) or head not in HEADS:
        raise ConversionError(f"{source} cannot be converted: it looks like {describe(shapes)}")
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
    return found, _differences(hint, found) if hint else ()


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


def _multi_head_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    encoder = "head.ctc_encoder.encoder"
    classes = shapes["head.ctc_head.fc.bias"][0]
    hidden = shapes[f"{encoder}.conv2.conv.weight"][0]
    depth = _count(shapes, encoder + ".svtr_block.{}.")
    options: dict[str, Any] = {
        "classes": classes,
        "ctc": svtr_options(
            conv1=shapes[f"{encoder}.conv1.conv.weight"][2:],
            conv4=shapes[f"{encoder}.conv4.conv.weight"][2:],
            hidden=hidden,
            depth=depth,
            mlp=shapes[f"{encoder}.svtr_block.0.mlp.fc1.bias"][0] if depth else 2 * hidden,
            dims=shapes[f"{encoder}.conv1x1.conv.weight"][0],
            hint=hint.get("ctc", {}),
        ),
        "nrtr": None,
    }
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
                if det:
                    options["det"] = True
                if not any(".mid_se." in key for key in shapes):
                    options["disable_se"] = True
                return options
    raise ValueError(f"its channels {projections} are those of no MobileNetV3")


def _rsefpn_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    return {"out_channels": shapes["neck.ins_conv.0.in_conv.weight"][0], "shortcut": hint.get("shortcut", True)}


def _db_head_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    return dict(hint)


def _cls_head_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    return {"classes": shapes["head.fc.bias"][0]}


Reader = Callable[[Shapes, Mapping[str, Any]], dict[str, Any]]
BACKBONES: Mapping[str, Reader] = {"MobileNetV3": _mobilenetv3_options, "PPLCNetV3": _pplcnetv3_options}
NECKS: Mapping[str, Reader] = {"RSEFPN": _rsefpn_options}
HEADS: Mapping[str, Reader] = {
    "ClsHead": _cls_head_options,
    "DBHead": _db_head_options,
    "MultiHead": _multi_head_options,
}

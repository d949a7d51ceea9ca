"""Which network a checkpoint belongs to: from PaddleOCR's own settings, from its tensors, or from both.

The tensors win: a name or a yml may be of another release than the file beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from paddle2torch.converters.unnamed import HEADS, WHAT_TO_DO, unnamed
from paddle2torch.model_zoo.config import Component, Task
from paddle2torch.model_zoo.errors import ConfigError, ConversionError
from paddle2torch.model_zoo.network import check_options
from paddle2torch.model_zoo.registry import Part, Role, Shapes, parts, recognise
from paddle2torch.model_zoo.show import show, show_text

ROLES: tuple[Role, ...] = ("transform", "backbone", "neck", "head")
DIRECTIONS_AT_MOST = 4
"""Labels of PaddleOCR's classifiers: two or four directions. A recogniser has more classes."""


@dataclass(frozen=True)
class Architecture:
    """Backbone, neck and head of a network, and the transform before them where it has one."""

    backbone: Component
    neck: Component | None
    head: Component
    transform: Component | None = None

    @property
    def parts(self) -> tuple[Component | None, ...]:
        """They, in the order of `ROLES`."""
        return self.transform, self.backbone, self.neck, self.head

    @property
    def one_size(self) -> bool:
        """Whether it is trained and exported for images of one size."""
        found = ((role, part) for role, part in zip(ROLES, self.parts, strict=True) if part is not None)
        return any(part.name in parts(role) and parts(role)[part.name].one_size for role, part in found)

    def say(self) -> str:
        """Its parts in words."""
        return " with ".join(part.name for part in self.parts if part is not None)


# Keys of PaddleOCR's settings that say how to train or initialise and nothing about the network.
TRAINING_ONLY = frozenset({"lr_mult_list", "lab_lr", "pretrained", "fc_decay", "return_feats"})
# Names that releases of PP-OCRv6's settings had before the last.
NECK_ALIASES: Mapping[str, str] = {"UniRepLKFPN": "RepLKFPN", "UniRepLKPAN": "RepLKPAN"}


def from_paddleocr(architecture: Mapping[str, Any], task: Task, where: str) -> Architecture:
    """Translate the `Architecture` section of a PaddleOCR yml for a model of `task`.

    The class count of a recogniser is not in that section: it comes from the character set or the checkpoint.
    Raises `ConfigError`, led by `where`, for a section that describes no network.
    """
    for key in ("Backbone", "Head"):
        if key not in architecture:
            raise ConfigError(f"{where}: the Architecture section has no {key!r}")
    backbone = _component(architecture["Backbone"], f"{where}: Architecture.Backbone")
    head = _component(architecture["Head"], f"{where}: Architecture.Head")
    neck = (
        None
        if architecture.get("Neck") is None
        else _neck(_component(architecture["Neck"], f"{where}: Architecture.Neck"), where)
    )
    if head.name in HEADS:
        raise ConfigError(f"{where} describes {HEADS[head.name]}, {WHAT_TO_DO}")
    transform = (
        None
        if architecture.get("Transform") is None
        else _component(architecture["Transform"], f"{where}: Architecture.Transform")
    )
    if head.name == "MultiHead":
        head = _multi_head(head, where)
    elif head.name == "ClsHead":
        head = Component("ClsHead", {"classes": head.options.get("class_dim")})
    if backbone.name == "PPLCNet":
        backbone, head = _pplcnet(backbone, head)
    if head.name in ("DBHead", "PFHeadLocal") and backbone.name == "PPLCNetV4":
        # Exported by the code of its time, which folds the head's normalisations as well.
        head = replace(head, options={**head.options, "fold_norms": True})
    if backbone.name == "RepSVTR_det":
        backbone = Component("RepSVTR", {**backbone.options, "det": True})
    if backbone.name == "ResNet" and not (task == "det" and architecture.get("algorithm") == "DB++"):
        # Paddle has three networks of this name: a ResNet_vd for lines, for pages in old releases another, and a plain
        # one since DB++.
        backbone = replace(backbone, name="ResNet_vd")
    if backbone.name in ("MobileNetV3", "ResNet_vd") and task == "det":
        # Paddle has two classes of this name, and picks one by the task.
        backbone = replace(backbone, options={**backbone.options, "det": True})
    part = parts("backbone").get(backbone.name)
    ignored = part.ignored if part is not None else frozenset()
    # Images have three channels: yml files say so or leave it out.
    fixed = {"in_channels": 3, **(part.fixed if part is not None else {})}
    options = {
        key: value
        for key, value in backbone.options.items()
        if key not in ignored and not (key in fixed and fixed[key] == value)
    }
    backbone = replace(backbone, options=options)
    for role, component in zip(ROLES, (transform, backbone, neck, head), strict=True):
        if component is not None:
            check_options(role, component, f"{where}: Architecture.{role.capitalize()}")
    return Architecture(backbone, neck, head, transform)


def _component(data: Any, where: str) -> Component:
    component = Component.from_json(data, where)
    return replace(component, options={k: v for k, v in component.options.items() if k not in TRAINING_ONLY})


def _neck(neck: Component, where: str) -> Component:
    options = dict(neck.options)
    if neck.name == "SequenceEncoder" and options.get("encoder_type") == "svtr":
        svtr = {key: value for key, value in options.items() if key not in ("encoder_type", "hidden_size")}
        return Component("SequenceEncoder", {"encoder_type": "svtr", "svtr": svtr})
    name = NECK_ALIASES.get(neck.name, neck.name)
    if name in ("LKPAN", "RepLKPAN") and options.pop("mode", "large") != "large":
        raise ConfigError(f"{where}: {name}'s mode {show(neck.options['mode'])} is not supported, only large is")
    return Component(name, options)


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
    options: dict[str, Any] = {"nrtr": None, **{key: True for key in ("use_pool", "use_pos") if head.options.get(key)}}
    entries = head.options.get("head_list") or ()
    if not isinstance(entries, list | tuple) or not all(isinstance(entry, Mapping) for entry in entries):
        raise ConfigError(f"{where}: Architecture.Head.head_list is {show(entries)}, which is not a list of heads")
    for entry in entries:
        for name, settings in entry.items():
            if not isinstance(settings, Mapping | None):
                raise ConfigError(
                    f"{where}: Architecture.Head.head_list: the options of {show_text(str(name))} are no section, but "
                    f"{show(settings)}"
                )
            settings = dict(settings or {})
            if name == "CTCHead":
                neck, own = settings.get("Neck"), settings.get("Head") or {}
                if not isinstance(neck, Mapping) or neck.get("name") not in ("svtr", "lightsvtr", "reshape"):
                    raise ConfigError(
                        f"{where}: Architecture.Head.head_list: the neck of CTCHead is not svtr, lightsvtr or reshape: "
                        f"{show(neck)}"
                    )
                if not isinstance(own, Mapping):
                    raise ConfigError(
                        f"{where}: Architecture.Head.head_list: CTCHead's Head is not a section, but {show(own)}"
                    )
                options["ctc"] = {key: value for key, value in neck.items() if key != "name"}
                if neck["name"] != "svtr":
                    options["encoder_type"] = neck["name"]
                options |= {key: own[key] for key in ("mid_channels", "use_guide") if key in own}
            elif name == "NRTRHead":
                options["nrtr"] = settings
            elif name == "SARHead":
                options["sar"] = settings
            else:
                raise ConfigError(f"{where}: MultiHead's {show_text(str(name))} is not supported")
    if "ctc" not in options:
        raise ConfigError(f"{where}: MultiHead has no CTCHead")
    return Component("MultiHead", options)


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
    _, backbone, neck, head = (recognise(role, shapes) for role in ROLES)
    names = [part.name if part else None for part in (backbone, neck, head)]
    if not any(names):
        sample = ", ".join(list(shapes)[:3]) or "none"
        return f"no PP-OCR model that is known here (its first tensors: {sample})"
    if names[1] is None and head is not None and head.behind_neck:
        names[1] = "an unknown neck"
    between = f"{names[1]} and " if names[1] else ""
    return f"{names[0] or 'an unknown backbone'} with {between}{names[2] or 'an unknown head'}"


def _only_reshapes(neck: Component | None) -> bool:
    return neck is not None and (neck.name, neck.options.get("encoder_type")) == ("SequenceEncoder", "reshape")


def infer(shapes: Shapes, hint: Architecture | None, source: str) -> tuple[Architecture, tuple[str, ...]]:
    """The network of a training checkpoint, from its tensors' shapes.

    `hint` (a card's or a yml's) supplies what shapes cannot show. Returns the architecture and notes about where the
    checkpoint overruled the hint. Raises `ConversionError` for a checkpoint of another network: it says which one the
    file looks like.
    """
    if (other := unnamed(shapes)) is not None:
        raise ConversionError(f"{source} looks like {other}, {WHAT_TO_DO}")
    transform, backbone, neck, head = (recognise(role, shapes) for role in ROLES)
    reshapes = transform is not None if hint is None else hint.head.name == "CTCHead" and _only_reshapes(hint.neck)
    if neck is None and reshapes:
        # Such a neck has no tensors, and without them the head looks like a classifier's, which no transform stands by.
        neck, head = parts("neck")["SequenceEncoder"], parts("head")["CTCHead"]
    elif neck is None and hint is None and backbone is not None and _may_be_rosetta(head, shapes):
        neck, head = _rosetta(backbone, shapes, source)
    if backbone is None or head is None or (neck is None and head.behind_neck):
        raise ConversionError(f"{source} cannot be converted: it looks like {describe(shapes)}")
    layout: tuple[str, ...] = ()
    if hint is not None and (hint.head.name, neck and neck.name, head.name) == (
        "MultiHead",
        "SequenceEncoder",
        "CTCHead",
    ):
        layout = ("the checkpoint has a CTC head alone, in the layout of older releases",)
        # With the guide no head would train the backbone.
        ctc = {"encoder_type": "svtr", "svtr": {**hint.head.options["ctc"], "use_guide": False}}
        hint = replace(hint, neck=Component("SequenceEncoder", ctc), head=Component("CTCHead"))
    if hint is not None and {hint.backbone.name, backbone.name} == {"ResNet", "ResNet_vd"}:
        hint = replace(hint, backbone=Component(backbone.name))  # settings call both ResNet: see `from_paddleocr`
    if hint is not None:
        asked = [part.name if part else None for part in hint.parts]
        if asked != [part.name if part else None for part in (transform, backbone, neck, head)]:
            names = ", ".join(name for name in asked if name)
            raise ConversionError(
                f"{source} is not of the architecture asked for ({names}): it looks like {describe(shapes)}"
            )
    try:
        found = Architecture(
            _read(backbone, shapes, hint.backbone if hint else None),
            None if neck is None else _read(neck, shapes, hint.neck if hint else None),
            _read(head, shapes, hint.head if hint else None),
            None if transform is None else _read(transform, shapes, hint.transform if hint else None),
        )
    except KeyError as key:
        raise ConversionError(f"{source} looks like {describe(shapes)}, but the tensor {key} is missing") from None
    except (IndexError, ValueError) as error:
        raise ConversionError(f"{source} looks like {describe(shapes)}, but {error}") from None
    if hint is None:
        return found, layout
    return found, (*layout, *differences(hint, found, "the checkpoint"), *_missing_heads(hint, found))


def _may_be_rosetta(head: Part | None, shapes: Shapes) -> bool:
    """Whether a CTC head may stand right behind the backbone: by one layer it is like a classifier's."""
    if head is None:
        return "head.fc1.bias" in shapes and "head.fc2.bias" in shapes
    return head.name == "ClsHead" and shapes.get("head.fc.bias", (0,))[0] > DIRECTIONS_AT_MOST


def _rosetta(backbone: Part, shapes: Shapes, source: str) -> tuple[Part, Part]:
    """Neck and head of a recogniser whose neck has no tensors, where it cannot be anything else."""
    if backbone.name == "ResNet_vd":  # PaddleOCR has no classifier with it, and its strides are always the same
        return parts("neck")["SequenceEncoder"], parts("head")["CTCHead"]
    two = "head.fc2.bias" in shapes
    classes = shapes["head.fc2.bias" if two else "head.fc.bias"][0]
    what = "strides leave no trace in its tensors" if two else "tensors are those of a classifier as well"
    raise ConversionError(
        f"{source} has a head of {classes:,} classes right behind {backbone.name}, as a recogniser without a neck has "
        f"(Rosetta), whose {what}: give the settings that it was trained with, --config YML"
    )


def _read(part: Part, shapes: Shapes, hint: Component | None) -> Component:
    return Component(part.name, part.read_options(shapes, {} if hint is None else hint.options))


def differences(hint: Architecture, found: Architecture, what: str) -> tuple[str, ...]:
    """Notes about options of `hint` that a file does not have; `what` it is, in words."""
    notes = []
    for part, asked, got in (("backbone", hint.backbone, found.backbone), ("head", hint.head, found.head)):
        before, after = _flat(asked.options), _flat(got.options)
        for key in sorted(before.keys() & after.keys()):
            if before[key] != after[key]:
                notes.append(f"{part} {key}: {what} has {after[key]}, not {before[key]}")
        for key in sorted(after.keys() - before.keys()):
            if key.endswith("last_kernel_size"):
                notes.append(f"{part} {key}: {what} has {after[key]}")
    return tuple(notes)


def _missing_heads(hint: Architecture, found: Architecture) -> tuple[str, ...]:
    """Notes about heads for training that `hint` has and a checkpoint lacks."""
    before, after = _flat(hint.head.options), _flat(found.head.options)
    notes = []
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

"""Writes `docs/settings.md` from the settings' own dataclasses: `python docs/make_settings.py`.

`tests/test_docs.py` holds the two together.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from paddle2torch.model_zoo.strict_json import to_json
from paddle2torch.training.data import steps as known_steps
from paddle2torch.training.data.sources import SOURCES
from paddle2torch.training.distillation_settings import TERMS, DistillationSettings, TeacherSettings
from paddle2torch.training.settings import (
    ClsLossSettings,
    DatasetSettings,
    DataSettings,
    DBLossSettings,
    EarlyStopping,
    EvaluationSettings,
    LoaderSettings,
    MultiScaleSampler,
    OptimizerSettings,
    OutputSettings,
    RecLossSettings,
    ScheduleSettings,
    Settings,
    Tracker,
    TrainingSettings,
)

TARGET = Path(__file__).with_name("settings.md")

INTRODUCTION = """\
# Settings of a training

`paddle2torch init NAME -o DIR` writes two files, ready to edit: `config.json`, which this page describes, and
`model_config.json`, which says what the model is. `config.json` has what one changes (data, batch, epochs, rate,
freezing) and names an official `recipe`, which has every other value; `init --full` writes all of them. A key that is
added goes over the recipe's, a list as a whole. Without `recipe` a file is whole, and what it leaves out has the
default below. `output/settings` always keeps every value. `docs/make_settings.py` makes this page from the code.

A key that nobody knows is an error which names the nearest one. `--set optimizer.lr=1e-4` changes a value for one run;
values are JSON, or else strings; `--set model_config.KEY=VALUE` is for the other file.

In `model_config.json` these are for training: `freeze_backbone` leaves the backbone as it is, statistics included;
`charset` and `head.classes` (its length and one more) make another character set, in which the characters that the
pretrained model knows keep their rows; `postprocess.labels` and `head.classes` (`init --classes`) make other classes of
a classifier, which keep theirs alike; `head.ctc.use_guide` keeps the gradient of CTC from the backbone, which NRTR
then trains alone, as in the official recipe.
"""

SECTIONS: Sequence[tuple[str, type]] = (
    ("", Settings),
    ("data", DataSettings),
    ("data.train.dataset, data.eval.dataset", DatasetSettings),
    ("data.train.loader, data.eval.loader", LoaderSettings),
    ("data.train.sampler", MultiScaleSampler),
    ("loss of a recogniser", RecLossSettings),
    ("loss of a detector", DBLossSettings),
    ("loss of a classifier", ClsLossSettings),
    ("loss of a recogniser that learns from another", DistillationSettings),
    ("loss.teachers.NAME", TeacherSettings),
    ("optimizer", OptimizerSettings),
    ("schedule", ScheduleSettings),
    ("training", TrainingSettings),
    ("evaluation", EvaluationSettings),
    ("evaluation.early_stopping", EarlyStopping),
    ("output", OutputSettings),
)


def main() -> None:
    """Write the page."""
    TARGET.write_text(page(), encoding="utf-8")


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for title, kind in SECTIONS:
        parts.append((f"## {title}\n\n" if title else "") + section(kind))
    parts.append(
        "## Losses between networks\n\nThe list `losses` has one object for each: "
        '`{"DistillationCTCLoss": {"weight": 1.0}}`. `weight` is what it is multiplied\nby; `dis_head` is a head: CTC '
        "(ctc), NRTR (gtc) or SAR (sar).\n"
    )
    parts += [f"### {name}\n\n{section(kind)}" for name, kind in TERMS.items()]
    parts.append(
        "## Sources\n\nThe list `sources` of a dataset has one object for each: "
        '`{"WebDataset": {"shards": ["lines/*.tar"]}}`.\n'
    )
    parts += [f"### {name}\n\n{section(kind)}" for name, kind in SOURCES.items()]
    parts.append(
        "## Transforms\n\nThe lists under `transforms` have one object for each step: "
        '`{"RecResizeImg": {"image_shape": [3, 48, 320]}}`. Their\norder is that of the recipe.\n'
    )
    steps = {**known_steps.REC_STEPS, **known_steps.DET_STEPS, **known_steps.CLS_STEPS}
    parts += [f"### {name}\n\n{section(kind)}" for name, kind in steps.items()]
    return "\n".join(parts)


def section(kind: type) -> str:
    """What a dataclass says of itself, and its keys."""
    rows = list(keys(kind))
    text = (inspect.getdoc(kind) or "").replace("Args:\n", "Keys:\n\n")
    lines = [listed(text), ""]
    if rows:
        lines += ["| key | values | default |", "| --- | --- | --- |"]
        lines += [f"| `{name}` | {values} | {default} |" for name, values, default in rows]
        lines.append("")
    return "\n".join(lines)


def listed(text: str) -> str:
    """A docstring whose `Args:` are a list."""
    before, found, arguments = text.partition("Keys:\n\n")
    if not found:
        return text
    items = []
    for line in arguments.split("\n"):
        if line.startswith("    ") and not line.startswith("     "):
            name, _, rest = line.strip().partition(": ")
            items.append(f"- `{name}`: {rest}")
        else:
            items.append("  " + line.strip())
    return before + "\n".join(items)


def keys(kind: type) -> Iterator[tuple[str, str, str]]:
    """Name, values and default of each key of a dataclass."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.default is not dataclasses.MISSING:
            default = f"`{json.dumps(to_json(field.default))}`"
        elif field.default_factory is not dataclasses.MISSING:
            default = "see below" if dataclasses.is_dataclass(field.default_factory()) else "none"
        else:
            default = "must be given"
        yield field.name, values_of(hints[field.name]), default


def values_of(hint: Any) -> str:
    """A type in the words of JSON."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin is Mapping:
        return "object"
    if origin is tuple:
        inner = values_of(arguments[0])
        return f"list of {inner}" if arguments[-1] is Ellipsis else f"{len(arguments)} x {inner}"
    if arguments and type(None) in arguments:
        return ", ".join([*(values_of(one) for one in arguments if one is not type(None)), "`null`"])
    if arguments and origin is not None:
        return " or ".join(dict.fromkeys(values_of(one) for one in arguments))
    words = {int: "integer", float: "number", bool: "`true`, `false`", str: "text", Tracker: "text or object"}
    return words.get(hint, "object")


if __name__ == "__main__":
    main()

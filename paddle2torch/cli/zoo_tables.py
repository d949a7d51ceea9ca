"""`paddle2torch list` and `info` on a terminal: tables as wide as it is. Neither torch nor cv2 is imported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from paddle2torch.cli.output import escape, table_of
from paddle2torch.model_zoo.config import CTCDecode
from paddle2torch.model_zoo.languages import LANGUAGES
from paddle2torch.model_zoo.programs.config import ProgramConfig
from paddle2torch.zoo.models import OwnModel, ProgramModel, ZooModel, languages_of
from paddle2torch.zoo.program_info import ProgramInfo

if TYPE_CHECKING:
    from paddle2torch.zoo.info import Info

HEADER = ("name", "task", "version", "parameters", "here", "languages")


def print_models(models: Sequence[ZooModel], console: Console, own: Sequence[OwnModel] = ()) -> None:
    """A table of models; languages are cut where the terminal ends."""
    console.print(
        table_of(
            ("name", "task", "vers.", "param.", "here", "languages"), list(model_rows(models, own)), right=("param.",)
        )
    )
    here = sum(model.folder is not None for model in models)
    more = f", and {len(own)} of your own" if own else ""
    console.print(f"{len(models)} released models, {here} converted here{more}", style="dim")


def model_rows(models: Sequence[ZooModel], own: Sequence[OwnModel] = ()) -> Iterator[tuple[str, ...]]:
    """The cells of a table of models: parameters in the form for reading, and form and size of what is here."""
    for model in models:
        card = model.card
        here = "-" if model.bytes is None else f"{model.form} {_size(model.bytes)}"
        languages = ", ".join(languages_of(card)) if card.task == "rec" else "any"
        yield card.name, card.task, card.version, _millions(card.parameters.fused), here, languages
    for mine in own:
        yield mine.name, mine.task, "own", "-", f"{mine.form} {_size(mine.bytes)}", "-"


def print_programs(programs: Sequence[ProgramModel], console: Console) -> None:
    """A table of the official models that are known as programs."""
    rows = [(row[0], row[1], row[4]) for row in program_rows(programs)]
    console.print(table_of(("program", "task", "here"), rows))
    here = sum(program.folder is not None for program in programs)
    console.print(f"{len(programs)} official models known as programs, {here} converted here", style="dim")


def program_rows(programs: Sequence[ProgramModel]) -> Iterator[tuple[str, ...]]:
    """The cells of a table of models, of programs."""
    for program in programs:
        here = "-" if program.bytes is None else f"program {_size(program.bytes)}"
        yield program.card.name, program.card.task, "program", "-", here, "any"


def print_info(info: Info | ProgramInfo, console: Console) -> None:
    """All there is to say about one model."""
    console.print(Text(escape(info.name, lines=False), style="bold"))
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, value in info_rows(info):
        table.add_row(name, Text(escape(value, lines=False)))
    console.print(table)


def info_rows(info: Info | ProgramInfo) -> Iterator[tuple[str, str]]:
    """What `print_info` prints, as (name, value)."""
    yield from _program_info_rows(info) if isinstance(info, ProgramInfo) else _network_info_rows(info)
    if info.config is None or info.bytes is None:
        yield "converted", f"not here: paddle2torch convert {info.name}"
        return
    form = "program" if isinstance(info.config, ProgramConfig) else f"{info.config.form} form"
    yield "converted", f"{form}, {_size(info.bytes)}: {info.converted}"
    if info.config.origin is not None:
        yield "from", f"{info.config.origin.kind}: {info.config.origin.source}"
        for note in info.config.origin.notes:
            yield "note", note


def _program_info_rows(info: ProgramInfo) -> Iterator[tuple[str, str]]:
    card = info.card
    if card is not None:
        yield "task", card.task
        yield "network", f"{card.network}, known as a program"
        yield "licence", card.licence
    else:
        yield "network", "a program: none that is known here by name"
    for title, values in (("input", info.inputs), ("output", info.outputs)):
        for value in values:
            sizes = ", ".join("free" if size < 0 else str(size) for size in value.shape)
            yield title, f"{value.name}: {value.dtype} ({sizes})"
    if info.operations:
        kinds = ", ".join(f"{count} {kind}" for kind, count in info.operations.items())
        yield "operations", f"{sum(info.operations.values())}: {kinds}"
        yield "control flow", info.control or "none"
        yield "parameters", f"{info.parameters:,} values in {info.tensors} tensors"
    if card is not None:
        yield "takes", "; ".join(card.inputs) + f"; channels {card.channel_order}"
        for title, steps in (("before", card.preprocess), ("behind", card.postprocess)):
            for step in steps:
                settings = ", ".join(f"{name} {value}" for name, value in step.settings.items())
                yield title, step.step + (f": {settings}" if settings else "")
        for source in card.sources.inference:
            yield "inference files", str(source)
        yield "settings from", card.settings
        for note in card.notes:
            yield "note", note


def _network_info_rows(info: Info) -> Iterator[tuple[str, str]]:  # noqa: C901, a row after the other
    card, config, cost = info.card, info.config, info.cost
    if card is not None and card.aliases:
        yield "also called", ", ".join(card.aliases)
    for known in (card, config):
        if known is not None:
            yield "task", {"rec": "recognition", "det": "detection", "cls": "classification"}[known.task]
            break
    if card is not None:
        yield "version", f"{card.version}, {card.tier}"
        if card.task == "rec":
            names = (f"{code} ({LANGUAGES[code]})" if code in LANGUAGES else code for code in languages_of(card))
            yield "languages", ", ".join(names)
        yield "licence", card.licence
    if config is not None:
        yield "network", ", ".join(part.name for part in config.parts)
    else:
        yield "network", "not known"
    if info.parameters.training is not None:
        yield "parameters", f"{info.parameters.training:,} in training form, {info.parameters.fused:,} fused"
    elif info.parameters.fused is not None:
        yield "parameters", f"{info.parameters.fused:,} fused"
    if cost is not None:
        yield "layers", ", ".join(f"{count} {kind}" for kind, count in cost.layers.items())
        size = "x".join(map(str, cost.input))
        yield "multiply-adds", f"{cost.multiply_adds / 1e6:,.1f} million for an input of {size}, fused"
    if info.characters is not None:
        sample = "".join(info.characters[:60])
        appended = " and a space" if info.characters[-1:] == (" ",) else ""
        count = len(info.characters) - bool(appended)
        yield "characters", f"{count}{appended}, {_count_classes(info)} classes: {sample}" + ("…" if count > 60 else "")
    if config is not None and isinstance(config.postprocess, CTCDecode):
        yield "direction", "right to left" if config.postprocess.right_to_left else "left to right"
    if card is not None:
        if card.accuracy is not None:
            accuracy = card.accuracy
            yield "accuracy", f"{accuracy.metric} {accuracy.value} % on {accuracy.dataset} ({accuracy.source})"
        for source in card.sources.training:
            yield "training files", str(source)
        for source in card.sources.inference:
            yield "inference files", str(source)
        for note in card.notes:
            yield "note", note


def _count_classes(info: Info) -> str:
    if info.config is not None:
        return str(info.config.classes)
    return str(info.card.classes) if info.card is not None and info.card.classes is not None else "unknown"


def _millions(values: int | None) -> str:
    return "-" if values is None else f"{values / 1e6:.1f} M"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"

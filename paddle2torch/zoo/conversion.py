"""`convert`: Paddle files, from a source of the zoo or the user's own, to a converted model."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from paddle2torch._version import __version__
from paddle2torch.cache import make_private, zoo_dir
from paddle2torch.converters import templates
from paddle2torch.converters.characters import Charset
from paddle2torch.converters.convert import Converted, convert_files
from paddle2torch.converters.onnx_files.description import describe_onnx
from paddle2torch.converters.paddle_files.exports import find_program
from paddle2torch.converters.programs.convert import convert_program
from paddle2torch.converters.templates import Template
from paddle2torch.converters.transformers import convert_transformers, describe_transformers, is_transformers
from paddle2torch.model_zoo.cards import Card, find_card, load_card
from paddle2torch.model_zoo.charsets import charset_path, read_charset
from paddle2torch.model_zoo.config import ClsPostprocess, ModelConfig
from paddle2torch.model_zoo.errors import CharsetError, ConfigError, ConversionError, FileFormatError, Paddle2TorchError
from paddle2torch.model_zoo.names import check_name, file_in
from paddle2torch.model_zoo.network import build_model, fuse
from paddle2torch.model_zoo.programs.cards import ProgramCard, find_program_card, program_names
from paddle2torch.model_zoo.programs.config import ProgramConfig
from paddle2torch.zoo.folder import save_model
from paddle2torch.zoo.hub_weights import hub_address, obtain_from_hub
from paddle2torch.zoo.programs import save_program, with_digests
from paddle2torch.zoo.published import without_folders
from paddle2torch.zoo.sources import IN_CACHE, Obtained, obtain, obtain_local


@dataclass(frozen=True)
class Conversion:
    """A finished conversion: its folder, its settings, and what should be known about it.

    Those of the `notes` that say which sources did not answer are in `about_sources` as well.
    """

    folder: Path
    config: ModelConfig | ProgramConfig
    tensors: int
    notes: tuple[str, ...]
    about_sources: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What `convert --json` prints."""
        return {
            "name": self.config.name,
            "folder": str(self.folder),
            "form": self.config.form,
            "tensors": self.tensors,
            "origin": self.config.origin.kind if self.config.origin else None,
            "notes": list(self.notes),
        }


def convert(
    name: str,
    *,
    weights: str | Path | None = None,
    config: str | Path | None = None,
    charset: str | Path | None = None,
    use_space_char: bool | None = None,
    output: str | Path | None = None,
    fused: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    as_program: bool = False,
    named_only: bool = False,
    direction: Literal["auto", "ltr", "rtl"] = "auto",
    network: str | None = None,
) -> Conversion:
    """Convert Paddle or ONNX files to PyTorch.

    Args:
        name: a name of the zoo, whose card then says what the files do not, or any name for a model of your own,
            with `weights`.
        weights: a `.pdparams` file, or an export: its folder, its `.pdmodel` or `inference.json`, or an `.onnx`; or
            the folder of one of transformers' classes; or a Hub repository with any of these, "org/repo" (a text, where
            no path is called so) or "hf://org/repo", which takes "@REVISION" and "/PATH" after it.
            Without it the sources of the card are tried.
        config: the PaddleOCR yml that the model was trained or exported with.
        charset: the character set it was trained with, one character a line; or the name of a bundled one.
        use_space_char: whether a space follows the set (PaddleOCR's setting of that name). Without it the number of
            the head's classes tells; what contradicts that number is refused.
        output: the folder to write; without it the local zoo, where `load_pretrained(name)` finds it.
        fused: the form for reading. Of a released model the smaller inference release is taken.
        overwrite: replace a converted model that is there. In the local zoo that is done in any case.
        progress: show downloads on stderr.
        as_program: take the exported program as it is, operation by operation, also where its network is known here.
        direction: in which a recogniser's lines are read: from the left ("ltr"), from the right ("rtl"), or as the
            letters of its set say ("auto").
        network: which network of a distillation: "Student" (without it, too), "Student2", "Teacher".
        named_only: refuse a program of a network that is not known here, in place of taking it as it is.

    An export that is none of the networks known here is converted as a program: a plain module, which
    `load_pretrained`, `verify` and `export` take as they take the others.

    Returns:
        The folder, the settings, the number of tensors, and notes: what should be known, as what an export lacks.

    Raises:
        FileFormatError: for a file that is broken, hostile, or of no format known here.
        ConversionError: for tensors that no network known here has, all of them named.
        CharsetError: where the characters of the classes are not known, or are not those that were given.
        ConfigError: for options that contradict each other, and for a folder that is there.
        SourceError: where no source of a released model answers.

    Nothing was written where one of them is raised.
    """
    card, program = _cards(name, weights is not None)
    if as_program and named_only:
        raise ConfigError("as a program, or named networks only: not both")
    if program is not None and (named_only or config is not None or charset is not None or network is not None):
        raise ConfigError(f"{program.name} is a program, whose network is not known here: it takes no settings")
    name = card.name if card is not None else program.name if program is not None else name
    local = output is None
    folder = zoo_dir() / name if output is None else Path(output)
    place = _Place(folder, overwrite or local, local)
    address = hub_address(weights) if weights is not None else None
    fetched = obtain_from_hub(address) if address is not None else None
    if fetched is not None:
        weights = fetched.path
    if weights is not None and as_program and Path(weights).suffix == ".onnx":
        raise ConfigError(
            f"{weights}: programs are read from Paddle's files; an .onnx converts where its network is known by name. "
            f"Leave --as-program out, or give the Paddle export"
        )
    if weights is not None and (as_program or _without_parameters(Path(weights))):
        # Not `obtain_local`, which looks for weights: such a program may have none.
        export = fetched or Obtained(Path(weights), "inference", f"local file {weights}", None, {})
        return _convert_program(name, export, place, ())
    if program is not None:
        brought = fetched or _obtain(program, weights, True, progress)
        return _convert_program(name, brought, place, _source_notes(brought, True))
    obtained = fetched or _obtain(card, weights, fused or as_program, progress)
    path = obtained.path
    if as_program:
        return _convert_program(name, obtained, place, _source_notes(obtained, True))
    template = _template(card, path, config, charset, use_space_char, network)
    if direction != "auto":
        template = replace(template or Template("", "the command line"), direction=direction)
    try:
        if is_transformers(path):
            converted = convert_transformers(path, template, name=name, source=obtained.origin)
        else:
            converted = convert_files(path, template, name=name, source=obtained.origin, network=network)
    except CharsetError:
        raise  # the network is known
    except (ConversionError, FileFormatError) as error:
        given = template is not None and template.architecture is not None
        if named_only or given or path.suffix in (".pdparams", ".onnx") or is_transformers(path):
            raise
        note = f"no network that is known here by name: converted as a program ({_brief(error)})"
        return _convert_program(name, obtained, place, (*_source_notes(obtained, fused), note))
    notes = (*_source_notes(obtained, fused), *converted.notes)
    if fused:
        converted = _fuse(converted)
    settings = _with_digests(converted.config, obtained)
    if local:
        make_private(zoo_dir())
    save_model(folder, settings, converted.state, overwrite=place.overwrite, private=local)
    return Conversion(folder, settings, len(converted.state), notes, _unanswered(obtained, fused))


def _cards(name: str, own_files: bool) -> tuple[Card | None, ProgramCard | None]:
    """The card of a name, or of a program; neither for a model of one's own, which has files of its own."""
    card = find_card(name)
    program = find_program_card(name) if card is None else None
    if card is None and program is None:
        if not own_files:
            try:
                load_card(name, program_names())
            except ConfigError as error:
                raise ConfigError(f"{error}. For a model of your own say where its files are: --weights PATH") from None
        check_name(name, "the model's name")
    return card, program


@dataclass(frozen=True)
class _Place:
    """Where a converted model is written, and how."""

    folder: Path
    overwrite: bool
    private: bool


def _without_parameters(path: Path) -> bool:
    """Whether `path` is an export that has no `.pdiparams`: none of the named networks is without weights."""
    if not path.exists() or (path.is_file() and path.suffix not in (".json", ".pdmodel")):
        return False
    try:
        return find_program(path)[1] is None
    except Paddle2TorchError:
        return False


def _convert_program(name: str, obtained: Obtained, place: _Place, notes: tuple[str, ...]) -> Conversion:
    path = obtained.path
    if path.suffix == ".pdparams":
        raise ConfigError(f"{path} is a training checkpoint, not a program: give the export that was made of it")
    converted = convert_program(path, name=name, source=obtained.origin)
    config = with_digests(converted, obtained.sha256)
    converted.network.meta["config"] = config
    if place.private:
        make_private(zoo_dir())
    save_program(place.folder, converted.network, converted.file, overwrite=place.overwrite, private=place.private)
    return Conversion(place.folder, config, len(converted.state), (*notes, *converted.notes))


def _brief(error: Exception) -> str:
    """The part of a message that says which network came nearest."""
    text = str(error).split("; ", 1)[-1]
    return text.partition(". Where you know")[0][:300]


def _obtain(card: Card | ProgramCard | None, weights: str | Path | None, fused: bool, progress: bool) -> Obtained:
    if weights is not None:
        return obtain_local(Path(weights))
    assert card is not None
    return obtain(card, fused=fused, progress=progress)


def _template(
    card: Card | None,
    path: Path,
    config: str | Path | None,
    charset: str | Path | None,
    use_space_char: bool | None,
    network: str | None,
) -> Template | None:
    """What is known before the tensors are read: the yml over the export's own over the card.

    An `.onnx` may be in a folder with others: `inference.yml` is that of `inference.onnx`.
    """
    known: list[Template] = []
    if config is not None:
        known.append(templates.from_yml(Path(config), charset_given=charset is not None, network=network))
    beside = (path if path.is_dir() else path.parent) / "inference.yml"
    exported = path.suffix != ".pdparams" if path.suffix != ".onnx" else path.name == "inference.onnx"
    if config is None and exported and file_in(beside.parent, beside.name).is_file():
        known.append(templates.from_yml(beside, charset_given=charset is not None))
    if path.suffix == ".onnx":
        known.append(describe_onnx(path))
    if is_transformers(path):
        known.append(describe_transformers(path))
    if card is not None:
        known.append(templates.from_card(card))
    template = None
    for fallback in known:
        template = fallback if template is None else template.over(fallback)
    if charset is None and path.suffix == ".pdparams":
        beside = dictionary_beside(path)
        charset = beside if file_in(beside.parent, beside.name).is_file() else None
    template = _with_labels(template, path)
    if charset is not None:
        space = use_space_char
        if space is None and template is not None and template.charset is not None:
            space = template.charset.use_space_char
        given = Charset(_characters(charset), space, str(charset), use_space_char is not None)
        template = replace(template or Template("", "the command line"), charset=given)
    elif use_space_char is not None and template is not None and template.charset is not None:
        asked = replace(template.charset, use_space_char=use_space_char, asked=True)
        template = replace(template, charset=asked)
    return template


def dictionary_beside(checkpoint: Path) -> Path:
    """Where `export --to paddle` puts the characters of a `.pdparams`, and where they are looked for."""
    return checkpoint.with_name(f"{checkpoint.stem}_dict.txt")


def _with_labels(template: Template | None, path: Path) -> Template | None:
    """What is known, with the labels that stand beside a classifier's `.pdparams`, where there are any."""
    beside = labels_beside(path)
    if path.suffix != ".pdparams" or not file_in(beside.parent, beside.name).is_file():
        return template
    known = None if template is None else template.postprocess
    thresh = known.thresh if isinstance(known, ClsPostprocess) else None
    postprocess = ClsPostprocess(read_charset(beside, "list of labels"), thresh)
    return replace(template or Template("", str(beside)), task="cls", postprocess=postprocess)


def labels_beside(checkpoint: Path) -> Path:
    """Where `export --to paddle` puts the labels of a classifier, and where they are looked for."""
    return checkpoint.with_name(f"{checkpoint.stem}_labels.txt")


def _characters(charset: str | Path) -> tuple[str, ...]:
    """The characters of a file, or where no file has this name, of the bundled set of this name."""
    path = Path(charset)
    if not path.exists() and path.name == str(charset):
        with contextlib.suppress(ConfigError):
            path = charset_path(path.name)
    return read_charset(path)


def _source_notes(obtained: Obtained, fused: bool) -> tuple[str, ...]:
    """Which sources did not answer and what came instead, in one line; what else is to be known about its source."""
    notes = [*_unanswered(obtained, fused)]
    if not obtained.published:
        notes.append(
            f"not checked against a published digest, as there is none: {obtained.origin} is held to what this machine "
            f"got when it first fetched it"
        )
    return (*notes, *(line for line in obtained.tried if line.startswith(IN_CACHE)))


def _unanswered(obtained: Obtained, fused: bool) -> tuple[str, ...]:
    """One line about all sources that did not answer, where some did not; what each said is in the log."""
    tried = [line for line in obtained.tried if not line.startswith(IN_CACHE)]
    if not tried:
        return ()
    form = ""
    if obtained.source is not None and (obtained.form == "inference") != fused:
        form = "the training checkpoint from " if fused else "the inference release from "
    others = f", and {len(tried) - 1} more sources did not answer (-v says what each said)" if len(tried) > 1 else ""
    return (f"took {form}{obtained.origin}, because of {tried[0]}{others}",)


def _fuse(converted: Converted) -> Converted:
    """The fused form; what only training needs is gone from it."""
    if converted.config.form == "fused":
        return converted
    with torch.device("meta"):
        model = build_model(converted.config)
    model.load_state_dict(dict(converted.state), assign=True)
    network = fuse(model)
    return replace(converted, config=network.config, state=network.state_dict())


def _with_digests(config: ModelConfig, obtained: Obtained) -> ModelConfig:
    """The settings with what a reader of them wants to know about the files behind the weights."""
    assert config.origin is not None
    files = {name: digest for name, digest in obtained.sha256.items() if not name.endswith((".yml", ".yaml", ".info"))}
    # The folder may be published: it says what it was made from, and not where that lay.
    notes = tuple(without_folders(config.origin.notes))
    return replace(
        config, origin=replace(config.origin, files=files, notes=notes, converter=f"paddle2torch {__version__}")
    )

"""`load_pretrained` and `convert`: what the command line and Python share."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import torch

from paddle2torch._version import __version__
from paddle2torch.converters import templates
from paddle2torch.converters.convert import Converted, convert_files
from paddle2torch.converters.templates import Charset, Template
from paddle2torch.model_zoo.cards import Card, load_card
from paddle2torch.model_zoo.charsets import read_charset
from paddle2torch.model_zoo.config import CONFIG_NAME, ModelConfig
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.forms.folding import fold
from paddle2torch.model_zoo.network import Network, build_model, fuse
from paddle2torch.zoo.folder import load_model, load_quantized, save_model
from paddle2torch.zoo.sources import Obtained, is_hub_id, obtain, obtain_local, zoo_dir

if TYPE_CHECKING:
    from paddle2torch.compiled.network import CompiledNetwork


@dataclass(frozen=True)
class Conversion:
    """A finished conversion: where it lies, its settings, and what should be known about it."""

    folder: Path
    config: ModelConfig
    tensors: int
    notes: tuple[str, ...]


@overload
def load_pretrained(
    model: str | Path,
    *,
    revision: str | None = None,
    fused: bool = False,
    quantized: bool = False,
    compiled: Literal[False] = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Network: ...


@overload
def load_pretrained(
    model: str | Path,
    *,
    revision: str | None = None,
    fused: bool = False,
    quantized: bool = False,
    compiled: bool,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Network | CompiledNetwork: ...


def load_pretrained(
    model: str | Path,
    *,
    revision: str | None = None,
    fused: bool = False,
    quantized: bool = False,
    compiled: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Network | CompiledNetwork:
    """A converted model as a plain `nn.Module`, in evaluation mode.

    Args:
        model: a name of the zoo, which is converted first where it is not yet (this may download), the folder of a
            converted model, or a Hugging Face Hub repository, "org/name".
        revision: of a Hub repository: a branch, a tag, or a commit, by which what is loaded is pinned.
        fused: the form for running, which nothing trains: fused and folded (`model_zoo.forms.folding`), so that one
            convolution does its branches, normalisation and activation. Otherwise the model comes in the form it was
            converted in; `fuse(model)` has the structure of Paddle's exports.
        quantized: the form for running, with convolutions in int8. The model must have been quantized first
            (`paddle2torch.quantize`); it gives other results, a little.
        compiled: the form for running, compiled ahead of time for this CPU (`paddle2torch.compiled`). The first use on
            a machine takes up to a minute; where there is no C++ compiler a warning says so, and it is not compiled.
        device: where its tensors go; a quantized or compiled one stays on the CPU.
        dtype: of its floating-point tensors; a quantized one has float32. What a compiled one computes in: float32, or
            bfloat16 where the processor has it; it takes and gives float32 all the same.

    Returns a `Network`, or compiled a module that is called in the same way; `.config` has its settings. A recogniser
    maps float (N, 3, 48, W) to float (N, T, classes) probabilities. Raises `ConfigError` for a name that nobody knows,
    `SourceError` where no source answers.

    >>> model = load_pretrained("en_PP-OCRv4_rec", fused=True)
    >>> model(torch.zeros(1, 3, 48, 320)).shape
    torch.Size([1, 40, 97])
    """
    folder = model_folder(model, revision)
    for form, wanted, dtypes in (("quantized", quantized, "float32"), ("compiled", compiled, "float32 or bfloat16")):
        if wanted and (torch.device(device).type != "cpu" or str(dtype).removeprefix("torch.") not in dtypes.split()):
            raise ConfigError(f"a {form} model is {dtypes} on the CPU, not {dtype} on {device}: leave {form} out")
    if compiled:
        # Not before it is needed: it imports the exporter.
        from paddle2torch.compiled.kernel_library import CompilerError
        from paddle2torch.compiled.network import load_compiled

        try:
            return load_compiled(folder, quantized=quantized, dtype=dtype)
        except CompilerError as error:
            warnings.warn(f"{error}. {ModelConfig.load(folder).name} runs without being compiled", stacklevel=2)
    if quantized:
        return load_quantized(folder)
    network = load_model(folder)
    if fused or compiled:
        network = fold(network)
    return network.to(device=device, dtype=dtype)


def model_folder(model: str | Path, revision: str | None = None) -> Path:
    """The folder of a converted model: `model` itself, that of a zoo name (converted now where it is not yet), or that
    of a Hub repository (fetched now where it is not here).
    """
    if revision is not None:
        return _from_hub(model, revision)
    if isinstance(model, Path) or (Path(model) / CONFIG_NAME).is_file():
        return Path(model)
    try:
        card = load_card(model)
    except ConfigError:
        if Path(model).exists():
            raise ConfigError(f"{model} is not a converted model: it has no {CONFIG_NAME}") from None
        local = zoo_dir() / model
        if (local / CONFIG_NAME).is_file() and local.parent == zoo_dir():
            return local
        if is_hub_id(model):
            return _from_hub(model, None)
        raise
    folder = zoo_dir() / card.name
    if not (folder / CONFIG_NAME).is_file():
        for note in convert(card.name).notes:
            warnings.warn(f"{card.name}: {note}", stacklevel=3)
    return folder


def _from_hub(model: str | Path, revision: str | None) -> Path:
    if isinstance(model, Path) or not is_hub_id(model):
        raise ConfigError(f"{model} is no Hub repository (org/name): it has no revision {revision!r}")
    from paddle2torch.zoo import hub  # half a second that what is local need not wait for

    return hub.fetch(model, revision)


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
) -> Conversion:
    """Convert Paddle files to PyTorch.

    Args:
        name: a name of the zoo, whose card then says what the files do not, or any name for a model of your own,
            with `weights`.
        weights: a `.pdparams` file, or an export: its folder, or its `.pdmodel` or `inference.json`. Without it the
            sources of the card are tried.
        config: the PaddleOCR yml that the model was trained or exported with.
        charset: the character set it was trained with, one character a line.
        use_space_char: whether a space follows the set (PaddleOCR's setting of that name), where neither the yml
            nor the card says so.
        output: the folder to write; without it the local zoo, where `load_pretrained(name)` finds it.
        fused: the form for reading. Of a released model the smaller inference release is taken.
        overwrite: replace a converted model that is there. In the local zoo that is done in any case.
        progress: show downloads on stderr.

    Raises `FileFormatError`, `ConversionError`, `ConfigError` or `SourceError`; then nothing was written.
    """
    card = _card(name, weights is None)
    obtained = _obtain(card, weights, fused, progress)
    path = obtained.path
    template = _template(card, path, config, charset, use_space_char)
    name = card.name if card is not None else name
    converted = convert_files(path, template, name=name, source=obtained.origin)
    notes = (*_source_notes(obtained, fused), *converted.notes)
    if fused:
        converted = _fused(converted)
    settings = _signed(converted.config, obtained)
    folder = zoo_dir() / _plain(name) if output is None else Path(output)
    save_model(folder, settings, converted.state, overwrite=overwrite or output is None)
    return Conversion(folder, settings, len(converted.state), notes)


def _card(name: str, required: bool) -> Card | None:
    try:
        return load_card(name)
    except ConfigError as error:
        if required:
            raise ConfigError(f"{error}. For a model of your own say where its files are: --weights PATH") from None
        return None


def _obtain(card: Card | None, weights: str | Path | None, fused: bool, progress: bool) -> Obtained:
    if weights is not None:
        return obtain_local(Path(weights))
    assert card is not None
    return obtain(card, fused=fused, progress=progress)


def _plain(name: str) -> str:
    if name in ("", ".", "..") or Path(name).name != name:
        raise ConfigError(f"{name!r} is no name for a model of the local zoo; give a folder with -o")
    return name


def _template(
    card: Card | None,
    path: Path,
    config: str | Path | None,
    charset: str | Path | None,
    use_space_char: bool | None,
) -> Template | None:
    """What is known before the tensors are read: the yml over the export's own over the card."""
    known: list[Template] = []
    if config is not None:
        known.append(templates.from_yml(Path(config), charset_given=charset is not None))
    beside = (path if path.is_dir() else path.parent) / "inference.yml"
    if config is None and path.suffix != ".pdparams" and beside.is_file():
        known.append(templates.from_yml(beside, charset_given=charset is not None))
    if card is not None:
        known.append(templates.from_card(card))
    template = None
    for fallback in known:
        template = fallback if template is None else template.over(fallback)
    if charset is not None:
        space = use_space_char
        if space is None and template is not None and template.charset is not None:
            space = template.charset.use_space_char
        given = Charset(read_charset(Path(charset)), space, str(charset))
        template = replace(template or Template("", "the command line"), charset=given)
    elif use_space_char is not None and template is not None and template.charset is not None:
        template = replace(template, charset=replace(template.charset, use_space_char=use_space_char))
    return template


def _source_notes(obtained: Obtained, fused: bool) -> tuple[str, ...]:
    """What came instead of what was asked for, and which sources did not answer."""
    notes = []
    if obtained.source is not None and (obtained.form == "inference") != fused:
        kind = "inference release" if fused else "training checkpoint"
        notes.append(f"no source of the {kind} answered: took {obtained.origin} instead")
    return (*notes, *(f"did not answer: {reason}" for reason in obtained.tried))


def _fused(converted: Converted) -> Converted:
    """The fused form; what only training needs is gone from it."""
    if converted.config.form == "fused":
        return converted
    with torch.device("meta"):
        model = build_model(converted.config)
    model.load_state_dict(dict(converted.state), assign=True)
    network = fuse(model)
    return replace(converted, config=network.config, state=network.state_dict())


def _signed(config: ModelConfig, obtained: Obtained) -> ModelConfig:
    """The settings with what a reader of them wants to know about the files behind the weights."""
    assert config.origin is not None
    files = {name: digest for name, digest in obtained.sha256.items() if not name.endswith((".yml", ".yaml", ".info"))}
    return replace(config, origin=replace(config.origin, files=files, converter=f"paddle2torch {__version__}"))

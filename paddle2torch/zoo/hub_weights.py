"""Weights in a Hugging Face Hub repository that the user names: `convert NAME --weights org/repo` or `hf://…`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from paddle2torch.cache import cache_dir
from paddle2torch.converters.transformers import CONFIG, FILES, WEIGHTS
from paddle2torch.model_zoo.config import CONFIG_NAME
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError, SourceError
from paddle2torch.model_zoo.names import is_hub_id, leads_out
from paddle2torch.model_zoo.show import show, show_all
from paddle2torch.model_zoo.strict_json import read_json
from paddle2torch.zoo.archives import PARAMETERS_NAME, choose_checkpoint, choose_export
from paddle2torch.zoo.sources import Obtained, obtain_local

_ADDRESS = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/@]+))?(/(?P<inside>.*))?")
# "models/best.onnx" has the form of a repository's name.
_SUFFIXES = (".pdparams", ".pdmodel", ".pdiparams", ".onnx", ".json", ".safetensors", ".tar", ".tgz", ".gz")


@dataclass(frozen=True)
class HubAddress:
    """Where weights are on the Hub; `inside` is a file or folder of the repository, or nothing.

    `certain`: the user wrote `hf://`, so that it is not the name of a file that is missing.
    """

    given: str
    repo: str
    revision: str | None = None
    inside: str = ""
    certain: bool = True


def hub_address(weights: str | Path) -> HubAddress | None:
    """`hf://org/repo[@REVISION][/PATH]`, or "org/repo" where nothing on this machine is called so; None for a path.

    Raises `ConfigError` for an `hf:` that is no such address.
    """
    if isinstance(weights, Path):
        return None
    if not weights.startswith("hf:"):
        path = Path(weights).expanduser()
        local = path.exists() or Path(f"{path}.pdparams").exists() or weights.endswith(_SUFFIXES)
        return None if local or not is_hub_id(weights) else HubAddress(weights, weights, certain=False)
    found = _ADDRESS.fullmatch(weights)
    inside = (found["inside"] or "").strip("/") if found else ""
    if found is None or not is_hub_id(found["repo"]) or leads_out(inside):
        raise ConfigError(
            f"{show(weights)} is no address on the Hub: write hf://org/repo or hf://org/repo@REVISION, and after it "
            f"/PATH for one file or folder of the repository"
        )
    return HubAddress(weights, found["repo"], found["revision"], inside)


def obtain_from_hub(address: HubAddress) -> Obtained:
    """The weights of a repository: transformers' layout, a checkpoint, an export, or an `.onnx`.

    They are of one commit, held to the digests that the Hub lists, and kept in the cache. Raises `SourceError` where
    the Hub has no such thing, `FileFormatError` where there are several and nothing says which.
    """
    # Imported here: it takes half a second, and what is local need not wait for it.
    from paddle2torch.zoo.repositories import RECORD_NAME, Wanted, fetch_commit

    def choose(where: str, listed: Sequence[str]) -> Sequence[str]:
        return choose_files(listed, address.inside, where)

    place = hashlib.sha256(address.inside.encode()).hexdigest()[:16] if address.inside else "all"
    home = cache_dir() / "downloads" / "hub" / address.repo.replace("/", "--") / place
    try:
        folder = fetch_commit(home, address.repo, address.revision, Wanted(choose, depth=6))
    except SourceError as error:
        if address.certain:
            raise
        raise SourceError(f"{address.given} is no file or folder here, and on the Hub {error}") from error
    # `fetch_commit` has just held the files to these.
    known = {folder / name: digest for name, digest in read_json(folder / RECORD_NAME)["sha256"].items()}
    main = next(iter(known))
    found = obtain_local(main if main.suffix in (".onnx", ".pdparams") else main.parent, known)
    return replace(found, origin=f"Hugging Face Hub {address.repo} at {folder.name}")


def choose_files(listed: Sequence[str], inside: str, where: str) -> list[str]:
    """Of the paths of a repository those to take, the main one first; `inside` is one of them, a folder, or nothing."""
    if inside in listed:
        if inside.endswith((".onnx", ".pdparams")):
            return [inside, *_companions(inside, listed)]
        inside = inside.rpartition("/")[0]
    names = [name for name in listed if not inside or name.startswith(f"{inside}/")]
    if not names:
        raise SourceError(f"{where} has no {inside}")
    folder = f"{inside}/" if inside else ""
    if {folder + CONFIG, folder + WEIGHTS} <= set(names):
        return [folder + name for name in FILES if folder + name in names]
    if folder + CONFIG_NAME in names:
        raise SourceError(f"{where} is converted already: load_pretrained takes it by its name")
    if any(name.endswith(".pdparams") for name in names):
        checkpoint = choose_checkpoint(names, where)
        return [checkpoint, *_companions(checkpoint, listed)]
    if any(PurePosixPath(name).name == PARAMETERS_NAME for name in names):
        return list(choose_export(names, where).values())
    found = [name for name in names if name.endswith(".onnx")]
    if len(found) == 1:
        return [found[0], *_companions(found[0], listed)]
    if found:
        raise FileFormatError(f"{where} has several .onnx files: {show_all(found)}. Say which: hf://org/repo/PATH")
    raise SourceError(
        f"{where} has no model that is read here: neither {CONFIG} with {WEIGHTS} (transformers), nor a .pdparams, nor "
        f"{PARAMETERS_NAME} with its program, nor an .onnx"
    )


def _companions(name: str, listed: Sequence[str]) -> list[str]:
    """What a conversion reads beside a file: an ONNX file's external data and settings, a checkpoint's characters."""
    path = PurePosixPath(name)
    beside = [f"{name}_data", f"{name}.data", str(path.with_name(f"{path.stem}_dict.txt"))]
    if path.name == "inference.onnx":
        beside.append(str(path.with_name("inference.yml")))
    return [other for other in beside if other in listed]

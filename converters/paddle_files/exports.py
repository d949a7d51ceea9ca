"""An exported model on disk: which file is its program, which its parameters."""

from __future__ import annotations

import os
from pathlib import Path

from paddle2torch.converters.paddle_files.pdmodel import read_pdmodel
from paddle2torch.converters.paddle_files.pir import read_pir
from paddle2torch.converters.paddle_files.program import Program
from paddle2torch.model_zoo.errors import FileFormatError, Paddle2TorchError
from paddle2torch.model_zoo.names import file_in

# Where both formats are side by side, the newer one counts: Paddle 3 can read no other from a folder.
_PROGRAM_SUFFIXES = (".json", ".pdmodel")
_PARAMETERS_SUFFIX = ".pdiparams"


def read_program(path: str | os.PathLike[str]) -> tuple[Program, Path]:
    """The program of an export, and the path of its `.pdiparams`.

    `path` is as for `find_export`. Raises as `find_export`, `read_pir` and `read_pdmodel`.
    """
    program, parameters = find_export(path)
    return (read_pir if program.suffix == ".json" else read_pdmodel)(program), parameters


def find_export(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The program file and the `.pdiparams` of the export at `path`.

    `path` is the folder of the export or one of its files. In a folder `inference.*` counts; without it, the only
    program that has parameters of the same stem beside it (`model.pdmodel`, `model.pdiparams`).

    Raises `Paddle2TorchError` where there is nothing at `path`, `FileFormatError` where a file is missing or is a link
    that leads out of its folder, or where a folder holds several exports.
    """
    path = Path(path)
    if path.is_dir():
        found = _find_in_folder(path)
        return file_in(path, found[0].name), file_in(path, found[1].name)
    if not path.exists():
        raise Paddle2TorchError(f"{path}: there is no such file or folder")
    program = _program_of_stem(path) if path.suffix == _PARAMETERS_SUFFIX else path
    if program is None:
        wanted = " or ".join(path.stem + suffix for suffix in _PROGRAM_SUFFIXES)
        raise FileFormatError(f"{path}: its program is missing: no {wanted} beside it")
    if program.suffix not in _PROGRAM_SUFFIXES:
        raise FileFormatError(f"{path}: is not a file of an export (.json or .pdmodel, with .pdiparams beside it)")
    parameters = path.with_suffix(_PARAMETERS_SUFFIX)
    if not parameters.is_file():
        raise FileFormatError(f"{path}: its parameters are missing: no {parameters.name} beside it")
    return program, file_in(parameters.parent, parameters.name)


def find_program(path: str | os.PathLike[str]) -> tuple[Path, Path | None]:
    """As `find_export`, but a program without parameters, which has no `.pdiparams`, is found as well.

    In a folder without any `.pdiparams` that is `inference.json`, else `inference.pdmodel`, else the only `.pdmodel`.
    """
    path = Path(path)
    if path.is_dir():
        if not any(path.glob(f"*{_PARAMETERS_SUFFIX}")):
            named = [path / f"inference{suffix}" for suffix in _PROGRAM_SUFFIXES]
            found = [file for file in named if file.is_file()] or sorted(path.glob("*.pdmodel"))
            if len(found) == 1 or (found and found[0].stem == "inference"):
                return found[0], None
        return find_export(path)
    if path.suffix in _PROGRAM_SUFFIXES and path.is_file() and not path.with_suffix(_PARAMETERS_SUFFIX).exists():
        return path, None
    return find_export(path)


def _find_in_folder(folder: Path) -> tuple[Path, Path]:
    parameters = sorted(folder.glob(f"*{_PARAMETERS_SUFFIX}"))
    found = [(program, file) for file in parameters if (program := _program_of_stem(file)) is not None]
    found = [pair for pair in found if pair[0].stem == "inference"] or found
    if not found:
        raise FileFormatError(
            f"{folder}: holds no export: no inference.json or inference.pdmodel with its inference.pdiparams"
        )
    if len(found) > 1:
        names = ", ".join(repr(program.name) for program, _ in found)
        raise FileFormatError(f"{folder}: holds several exports ({names}); give the file of one")
    return found[0]


def _program_of_stem(path: Path) -> Path | None:
    return next((p for p in map(path.with_suffix, _PROGRAM_SUFFIXES) if p.is_file()), None)

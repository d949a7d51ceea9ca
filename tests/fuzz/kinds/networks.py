"""Files of networks that are not Paddle's own: ONNX, programs of any network, transformers' folders."""

from __future__ import annotations

import copy
import json
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from fuzz.cases import Case
from fuzz.kinds import Kind, files_of, mutate_json, scratch
from fuzz.mutate import dumps, json_attacks, mutate_bytes, mutate_tree

# What a size, a position or a count may not be.
NUMBERS = (-1, 0, 2**31, 2**40, 2**62, -(2**63), 1.5, None)


def _parts(document: Any) -> tuple[list[list[Any]], list[tuple[Any, Any]], list[tuple[Any, Any]]]:
    """All lists of a document, and the places of its whole numbers and of its texts."""
    lists: list[list[Any]] = [[]]
    numbers: list[tuple[Any, Any]] = []
    texts: list[tuple[Any, Any]] = []
    pending = [document]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            lists.append(item)
        keys: Any = item if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
        for key in keys:
            value = item[key]
            if isinstance(value, int) and not isinstance(value, bool):
                numbers.append((item, key))
            elif isinstance(value, str):
                texts.append((item, key))
            else:
                pending.append(value)
    return lists, numbers, texts


class Onnx(Kind):
    """An ONNX file of a small network, its bytes damaged or its graph saying something else."""

    name = "onnx"
    short = 8

    @cached_property
    def mutations(self) -> Any:
        from onnx_mutations import Mutations

        return Mutations(0)

    def make(self, rng: Random) -> Case:
        self.mutations.random = rng
        task, content = self.mutations.draw()
        return {"model.onnx": content, "task.txt": task.encode()}

    def run(self, folder: Path) -> None:
        from onnx_mutations import template

        from paddle2torch.converters.convert import convert_onnx
        from paddle2torch.converters.onnx_files.description import describe_onnx

        path = folder / "model.onnx"
        describe_onnx(path)
        convert_onnx(path, template((folder / "task.txt").read_text()), name="fuzzed")


class AnyProgram(Kind):
    """A Paddle program of any network, or the `graph.json` of a converted one."""

    name = "program"
    short = 12
    documents = ("control_nested", "networks_tokens", "indexing_set_value", "boxes_proposals", "sorting_topk")

    @cached_property
    def bases(self) -> list[tuple[str, Any, dict[str, bytes]]]:
        import program_cases

        from paddle2torch.converters.programs.convert import convert_program
        from paddle2torch.model_zoo.programs.graph import dump_graph

        found = []
        for name in self.documents:
            source = program_cases.GOLDENS / name
            parameters = source / "inference.pdiparams"
            beside = {parameters.name: parameters.read_bytes()} if parameters.exists() else {}
            found.append(("inference.json", json.loads((source / "inference.json").read_text()), beside))
            found.append(("graph.json", json.loads(dump_graph(convert_program(source, name="whole").graph)), {}))
        return found

    def make(self, rng: Random) -> Case:
        name, document, beside = rng.choice(self.bases)
        match rng.randrange(8):
            case 0:
                content = json_attacks(rng, json.dumps(document).encode())
            case 1:
                content = mutate_bytes(rng, json.dumps(document).encode())
            case 2 | 3:
                content = dumps(self._meant(rng, copy.deepcopy(document)))
            case _:
                content = dumps(mutate_tree(rng, document))
        return {name: content, **beside}

    def _meant(self, rng: Random, document: Any) -> Any:
        """Lists repeated, exchanged or emptied, numbers that no size is, values that stand for one another."""
        repeated = False
        for _ in range(rng.choice((1, 1, 2, 4))):
            lists, numbers, texts = _parts(document)
            chosen = rng.choice(lists)
            match rng.randrange(5):
                case 0 if not repeated and len(json.dumps(chosen)) < 2000:
                    # Once: what is repeated within what was repeated has no end.
                    chosen[:] = chosen * rng.choice((2, 50, 2000))
                    repeated = True
                case 1:
                    rng.shuffle(chosen)
                case 2:
                    del chosen[rng.randrange(len(chosen) + 1) :]
                case 3 if numbers:
                    place, key = rng.choice(numbers)
                    place[key] = rng.choice(NUMBERS)
                case _ if texts:
                    (place, key), (other, name) = rng.choice(texts), rng.choice(texts)
                    place[key] = other[name]
        return document

    def run(self, folder: Path) -> None:
        from paddle2torch.converters.programs.convert import convert_program
        from paddle2torch.model_zoo.programs.build import build
        from paddle2torch.model_zoo.programs.graph import load_graph

        if (folder / "graph.json").exists():
            build(load_graph((folder / "graph.json").read_text(encoding="utf-8", errors="replace"), "graph.json"))
        else:
            convert_program(folder / "inference.json", name="fuzzed")


class Transformers(Kind):
    """A folder in the layout of transformers: settings, processor's settings, tensors."""

    name = "transformers"
    short = 8

    @cached_property
    def files(self) -> list[dict[str, bytes]]:
        from onnx_writer import network
        from safetensors.torch import save_file

        from paddle2torch.exporting.transformers import processor_config, transformers_config, transformers_state

        found = []
        for task in ("rec", "det"):
            model = network(task)
            with scratch() as folder:
                tensors = {key: tensor.contiguous() for key, tensor in transformers_state(model)[0].items()}
                save_file(tensors, folder / "model.safetensors")
                (folder / "config.json").write_text(json.dumps(transformers_config(model)))
                (folder / "preprocessor_config.json").write_text(json.dumps(processor_config(model.config)))
                found.append(files_of(folder))
        return found

    def make(self, rng: Random) -> Case:
        files = dict(rng.choice(self.files))
        name = rng.choice(("config.json", "preprocessor_config.json", "model.safetensors", "model.safetensors"))
        if name == "model.safetensors":
            files[name] = self._tensors(rng, files[name])
        else:
            files[name] = mutate_json(rng, files[name])
        return dict(files)

    def _tensors(self, rng: Random, content: bytes) -> bytes:
        """The header says something else, or bytes are damaged."""
        if rng.random() < 0.3:
            return mutate_bytes(rng, content)
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        names = [name for name in header if name != "__metadata__"]
        for _ in range(rng.choice((1, 1, 3))):
            name, other = rng.choice(names), rng.choice(names)
            entry = header.get(name)
            match rng.randrange(6):
                case 0:
                    header.pop(name, None)
                case 1:
                    header[rng.choice((other, "x" * 900, "\x1b[31m", ""))] = header.pop(name, entry)
                case 2 if isinstance(entry, dict):
                    entry["dtype"] = rng.choice(("F16", "BF16", "I64", "BOOL", "F64", "F8_E4M3", "X"))
                case 3 if isinstance(entry, dict):
                    entry["shape"] = rng.choice(([], [0], [2**40], [2**62, 4], [-1], [1] * 70, "x"))
                case 4 if isinstance(entry, dict) and isinstance(entry.get("shape"), list):
                    entry["shape"] = entry["shape"][::-1]
                case _:
                    header[name] = mutate_tree(rng, entry)
        changed = dumps(header)
        return len(changed).to_bytes(8, "little") + changed + content[8 + size :]

    def run(self, folder: Path) -> None:
        from dataclasses import replace

        from onnx_writer import CONFIGS

        from paddle2torch.converters.architecture import Architecture
        from paddle2torch.converters.transformers import convert_transformers, describe_transformers

        template = describe_transformers(folder)
        task = "det" if b"MobileDet" in (folder / "config.json").read_bytes() else "rec"
        config = CONFIGS[task]
        architecture = Architecture(config.backbone, config.neck, config.head)
        convert_transformers(folder, replace(template, name="fuzzed", architecture=architecture), name="fuzzed")

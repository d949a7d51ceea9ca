"""Prove a converted model equal to Paddle, or to the ONNX file it came from, layer by layer.

Paddle, or ONNX Runtime in its place, runs in a process of its own. Each layer is compared twice: *accumulated*, the
same image through both, and *local*, the torch layer on Paddle's own input to it, so that rounding does not pile up
and the layer that is wrong is the one that shows. Errors are relative to the largest value of the layer.
"""

from __future__ import annotations

import copy
import importlib.util
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from paddle2torch.assets import ASSETS
from paddle2torch.converters.align import align
from paddle2torch.converters.kinds import kind_of
from paddle2torch.converters.onnx_files.lowering import lower
from paddle2torch.converters.onnx_files.model import read_onnx
from paddle2torch.converters.paddle_files.exports import find_export, read_program
from paddle2torch.converters.paddle_files.files import sha256_of
from paddle2torch.device import choose_device, exact_float32, fetch
from paddle2torch.model_zoo.cards import find_card
from paddle2torch.model_zoo.config import ClsPreprocess, CTCDecode, Form, ModelConfig, RecPreprocess, Task
from paddle2torch.model_zoo.errors import SourceError, VerificationError
from paddle2torch.model_zoo.forms.folded import Folded, PushedAffine
from paddle2torch.model_zoo.forms.folding import fold
from paddle2torch.model_zoo.network import Network, fuse
from paddle2torch.model_zoo.programs.config import is_program
from paddle2torch.parity.golden import OUTPUT, Golden, load_golden, sample, shipped_golden
from paddle2torch.parity.programs import verify_program
from paddle2torch.parity.reference import PADDLE, ReferenceRun, Wanted, run_onnx, run_program
from paddle2torch.parity.results import (
    Difference,
    LayerResult,
    LineResult,
    Roundings,
    Verification,
    accumulated_tolerance,
    compare,
    within,
)
from paddle2torch.tasks import detection, orientation
from paddle2torch.tasks.failures import cannot_be_run
from paddle2torch.tasks.images import load_image
from paddle2torch.tasks.recognition import Extent, decode_ctc, padded_width, resize_norm
from paddle2torch.zoo.folder import load_model
from paddle2torch.zoo.resolve import obtain_converted
from paddle2torch.zoo.sources import obtain


def _compare_sample(found: np.ndarray, expected: np.ndarray, largest: float) -> Difference:
    """How far a whole array is from a sample of Paddle's and from Paddle's largest value.

    Equal arrays have equal largest values. Were that not looked at, a stored one that is too large would make every
    difference look small.
    """
    sampled = compare(sample(found, expected.size), expected, largest)
    if not math.isfinite(largest) or not math.isfinite(sampled.relative):
        return Difference(sampled.absolute, math.inf)
    gap = abs(float(np.abs(found).max()) - largest)
    relative = gap / largest if largest > 0 else math.inf if gap > 0 else 0.0
    return Difference(max(sampled.absolute, gap), max(sampled.relative, relative))


def verify(
    model: str | Path,
    *,
    reference: str | Path | None = None,
    folded: bool = False,
    images: Sequence[str | Path] = (),
    inputs: str | Path | None = None,
    device: torch.device | str = "cpu",
    threads: int = 2,
) -> Verification:
    """Compare a converted model with Paddle.

    Args:
        model: a name of the zoo or the folder of a converted model.
        reference: an exported program (its folder or file), which Paddle then runs, an `.onnx`, which ONNX Runtime
            runs, or a stored golden (`.safetensors`). Without it the official export of that name is taken; where
            Paddle is not installed, the golden that the package ships for these weights. Of a model that came as an
            `.onnx` that file is taken, which needs no Paddle.
        folded: compare the form that `load_pretrained(fused=True)` returns, not the one with Paddle's structure. Needs
            an exported program.
        images: line images to compare on, instead of the bundled ones.
        inputs: an `.npz` with the inputs of a program, one array by the name of each, instead of made-up ones.
        device: what our network runs on, in float32; TF32 is off there. A program runs on the CPU.
        threads: of Paddle's process.

    Returns:
        A result for each layer, for the output and for each text; `holds` says whether all hold, `first_failure` which
        layer to look at. Differences are relative to the largest value of the layer.

    Raises:
        VerificationError: where no comparison could be made. A failed one is a result.
    """
    place = choose_device(device)
    folder = obtain_converted(model)
    if is_program(folder):
        if place.type != "cpu":
            raise VerificationError(f"a program is compared on the CPU, not on {place}: leave the device out")
        if folded or images:
            raise VerificationError(
                "a program is compared in its own form, and takes no images: it is run on made-up inputs, or on yours "
                "(--input FILE.npz)"
            )
        given, wanted = (None if path is None else Path(path) for path in (inputs, reference))
        result = verify_program(folder, wanted, inputs=given, threads=threads)
        return result if reference is None else _note_reference_beside(result, folder, reference)
    if inputs is not None:
        raise VerificationError(f"{model} is not a program: it is compared on images (--image), not on arrays")
    network = load_model(folder).to(place)
    with exact_float32(place):
        result = _verify_network(network, reference, folded=folded, images=images, threads=threads)
    result = replace(result, device=str(place))
    return result if reference is None else _note_reference_beside(result, folder, reference)


def _verify_network(
    network: Network, reference: str | Path | None, *, folded: bool, images: Sequence[str | Path], threads: int
) -> Verification:
    if reference is not None and Path(reference).suffix == ".safetensors":
        if folded:
            raise VerificationError("a golden holds layers that the folded form has not: compare it with an export")
        return verify_golden(network, load_golden(Path(reference)))
    if reference is not None:
        if Path(reference).suffix != ".onnx" and importlib.util.find_spec("paddle") is None:
            # Said before the network is run and laid beside the program, which takes half a minute on a small machine.
            raise VerificationError(
                f"{reference} is run by Paddle, and paddlepaddle is not installed: pip install 'paddle2torch[paddle]', "
                f"or verify against a stored golden with --reference"
            )
        return verify_export(network, Path(reference), folded=folded, images=images, threads=threads)
    golden = shipped_golden(network.config)
    from_onnx = network.config.origin is not None and network.config.origin.kind == "ONNX file"
    if importlib.util.find_spec("paddle") is None and not from_onnx:
        if folded:
            raise VerificationError(
                "the folded form is compared with an export that Paddle runs, and paddlepaddle is not installed "
                "(pip install 'paddle2torch[paddle]')"
            )
        if golden is None:
            raise VerificationError(
                "paddlepaddle is not installed, and no stored golden belongs to these weights. "
                "Install it (pip install 'paddle2torch[paddle]') or give a golden with --reference"
            )
        return verify_golden(network, golden)
    export = _official_export(network.config, golden)
    return verify_export(network, export, folded=folded, images=images, threads=threads)


def _note_reference_beside(result: Verification, folder: Path, reference: str | Path) -> Verification:
    """`result` with a word about a reference that came with the model: whoever made the one made the other."""
    if not Path(reference).resolve().is_relative_to(folder.resolve()):
        return result
    word = f"where the reference is from: {reference} came with the model, so this shows that the two agree, no more"
    return replace(result, not_covered=(word, *result.not_covered))


def _official_export(config: ModelConfig, golden: Golden | None) -> Path:
    card = find_card(config.name)
    if card is None:
        raise VerificationError(
            f"{config.name} is not a model of the zoo, so there is no official export to compare with: give its own "
            f"with --reference FOLDER (PaddleOCR's tools/export_model.py makes one)"
        )
    try:
        obtained = obtain(card, fused=True, progress=False)
        if obtained.form != "inference":
            raise SourceError("; ".join(obtained.tried))
        return obtained.path
    except SourceError as error:
        hint = "; a stored golden belongs to these weights: --reference golden" if golden is not None else ""
        raise VerificationError(f"{error}{hint}") from None


def verify_golden(network: Network, golden: Golden) -> Verification:
    """Compare with activations that Paddle left in a file; accumulated only, the file has no inputs of layers."""
    if golden.form == "fused":
        network = fuse(network)
    elif network.config.form == "fused":
        raise VerificationError(f"the golden {golden.source} is of the training form; this model is in fused form")
    taps = _Taps(network)
    x = torch.from_numpy(golden.input)
    try:
        output = fetch(taps.run(x))
    except RuntimeError as error:
        raise VerificationError(f"{golden.source}: {cannot_be_run(network.config.name, x, error)}") from None
    layers = []
    for path, expected in golden.layers.items():
        found = output if path == OUTPUT else taps.array(path)
        if found is None:
            raise VerificationError(f"{golden.source} has a layer {path!r} that this network does not have")
        if found.shape == golden.shapes[path]:
            difference = _compare_sample(found, expected, golden.largest[path])
        else:
            difference = Difference(math.inf, math.inf)
        if path == OUTPUT:
            result = difference
        else:
            module = network.get_submodule(path.split("#")[0])
            leaf = next(module.children(), None) is None
            layers.append(LayerResult(path, _kind(module), found.shape, leaf, None, difference))
    return Verification(
        model=network.config.name,
        form=golden.form,
        reference=golden.source,
        engine=PADDLE,
        engine_version=golden.paddle_version,
        input_shape=golden.input.shape,
        layers=tuple(layers),
        output=result,
        lines=_golden_lines(network.config, golden, output),
        not_covered=(
            "layers on Paddle's own input (a golden has none)",
            *_left_out(network, taps, golden),
            *_uncovered(network.config, golden.form),
        ),
    )


def _left_out(network: Network, taps: _Taps, golden: Golden) -> tuple[str, ...]:
    """The layers with weights that ran and of which the golden holds nothing."""
    ran = {path.partition("#")[0] for path in taps.outputs}
    missing = [
        path
        for path, module in network.named_modules()
        if path in ran and path not in golden.layers and next(module.parameters(recurse=False), None) is not None
    ]
    shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
    return (f"{len(missing)} layers that the golden does not hold ({shown})",) if missing else ()


def verify_export(
    network: Network,
    reference: Path,
    *,
    folded: bool = False,
    images: Sequence[str | Path] = (),
    threads: int = 2,
) -> Verification:
    """Compare the fused or folded form with a program that Paddle or ONNX Runtime runs now; see `verify`."""
    not_covered = _uncovered(network.config, "fused")
    network = fuse(network).float()
    if folded:
        network = fold(network)
    names, x = example_input(network.config, images)
    if reference.suffix == ".onnx":
        names, x, run, values = _run_onnx(network.config, reference, names, x, threads)
        not_covered = (*values.not_covered, *not_covered)
    else:
        run, values = run_export(network.config, reference, x, threads=threads)
    taps = _Taps(network)
    output = fetch(taps.run(torch.from_numpy(x)))
    expected, given = values.around(taps)
    layers = tuple(
        replace(
            _compare_module(path, network, taps.outputs[path], expected[path], given.get(path), path in values.writes),
            accumulated_tolerance=accumulated_tolerance(run.engine),
        )
        for path in expected
    )
    result = compare(output, run.outputs[0])
    drifted = [layer.path for layer in layers if layer.holds_locally and not layer.holds]
    roundings: Mapping[str, Roundings] = {}
    if drifted or not within(result, accumulated_tolerance(run.engine)):
        roundings = _roundings(network, x, {**{path: expected[path] for path in drifted}, OUTPUT: run.outputs[0]}, taps)
        layers = tuple(replace(layer, roundings=roundings.get(layer.path)) for layer in layers)
    return Verification(
        model=network.config.name,
        form="folded" if folded else "fused",
        reference=str(reference),
        engine=run.engine,
        engine_version=run.version,
        input_shape=x.shape,
        layers=layers,
        output=result,
        lines=_lines(network.config, names, x, run.outputs[0], output),
        not_covered=not_covered,
        output_roundings=roundings.get(OUTPUT),
    )


def _roundings(
    network: Network, x: np.ndarray, expected: Mapping[str, np.ndarray], taps: _Taps
) -> dict[str, Roundings]:
    """Both results of the layers `expected`, and of the output, beside `network` computed in float64."""
    exact = _Taps(copy.deepcopy(network).cpu().double())
    truth = {OUTPUT: fetch(exact.run(torch.from_numpy(x).double()))}
    found = {}
    for path, theirs in expected.items():
        ours = taps.result if path == OUTPUT else taps.outputs[path]
        right = truth.get(path, exact.array(path))
        assert ours is not None
        assert right is not None
        found[path] = Roundings(compare(fetch(ours), right), compare(theirs, right))
    return found


def record_golden(
    model: str | Path, reference: Path, *, images: Sequence[str | Path] = (), samples: int = 256, threads: int = 2
) -> Golden:
    """Run an exported program in Paddle and keep a sample of each layer's output, for machines without Paddle.

    `model` is the converted model of that export. The golden belongs to the export's weights, not to `model`'s.
    """
    network = fuse(load_model(obtain_converted(model))).float()
    _, x = example_input(network.config, images)
    run, values = run_export(network.config, reference, x, threads=threads)
    taps = _Taps(network)
    taps.run(torch.from_numpy(x))
    expected = {**values.around(taps)[0], OUTPUT: run.outputs[0]}
    read = run.outputs[0] if network.config.task == "rec" else None
    return Golden(
        source=str(reference),
        form="fused",
        paddle_version=run.version,
        weights={path.name: sha256_of(path) for path in find_export(reference)},
        input=x,
        layers={path: sample(value, samples) for path, value in expected.items()},
        shapes={path: value.shape for path, value in expected.items()},
        largest={path: float(np.abs(value).max()) for path, value in expected.items()},
        ids=None if read is None else read.argmax(2),
        scores=None if read is None else read.max(2),
    )


def run_export(
    config: ModelConfig, reference: Path, x: np.ndarray, *, threads: int = 2
) -> tuple[ReferenceRun, LayerValues]:
    """Run an exported program in Paddle's own process on x, float32 (N, 3, H, W), and match its values with layers."""
    program, parameters = read_program(reference)
    alignment = align(program, config, str(reference))
    needed = {name for layer in alignment.layers for name in (layer.step.reads, layer.step.writes)}
    wanted = [
        Wanted(name, operation.position, index)
        for operation in program.operations
        for index, name in enumerate(operation.outputs)
        if name in needed
    ]
    run = run_program(find_export(reference)[0], parameters, x, wanted, threads=threads)
    values = {**run.values, program.feeds[0]: x, program.fetches[0]: run.outputs[0]}
    return run, LayerValues(
        reads={layer.path: values[layer.step.reads] for layer in alignment.layers},
        writes={layer.path: values[layer.step.writes] for layer in alignment.layers},
        output=run.outputs[0],
    )


def _run_onnx(
    config: ModelConfig, reference: Path, names: list[str], x: np.ndarray, threads: int
) -> tuple[list[str], np.ndarray, ReferenceRun, LayerValues]:
    """As `run_export`, for an `.onnx` that ONNX Runtime runs; the input is made to fit where the file fixes a size."""
    model = read_onnx(reference)
    program = lower(model).program
    alignment = align(program, config, str(reference))
    if len(program.feeds) != 1 or len(program.fetches) != 1:
        raise VerificationError(f"{reference}: has {len(program.feeds)} inputs and {len(program.fetches)} outputs")
    names, x = _as_declared(names, x, model.shapes[program.feeds[0]])
    steps = [layer.step for layer in alignment.layers]
    # Of what an optimiser fused the file has no values in between.
    made = {name for node in model.nodes for name in node.outputs}
    needed = {name for step in steps for name in (step.reads, step.writes)} & made - {*program.feeds, *program.fetches}
    run = run_onnx(reference, x, sorted(needed), model.outputs, threads=threads)
    values = {**run.values, program.feeds[0]: x, program.fetches[0]: run.outputs[0]}
    folded = sum(step.writes not in values for step in steps)
    gap = f"{folded} layers alone (the file has them in one with those behind them; the two together are)"
    return (
        names,
        x,
        run,
        LayerValues(
            reads={layer.path: values[layer.step.reads] for layer in alignment.layers if layer.step.reads in values},
            writes={layer.path: values[layer.step.writes] for layer in alignment.layers if layer.step.writes in values},
            output=run.outputs[0],
            not_covered=(gap,) if folded else (),
        ),
    )


def _as_declared(names: list[str], x: np.ndarray, shape: Sequence[int]) -> tuple[list[str], np.ndarray]:
    """Images in the sizes that a file fixes: as many of them, cut or padded with zeros at the right and below."""
    if len(shape) != x.ndim:
        return names, x
    count, _, height, width = (size if size > 0 else own for size, own in zip(shape, x.shape, strict=True))
    fitting = np.zeros((count, x.shape[1], height, width), x.dtype)
    part = x[:count, :, :height, :width]
    fitting[: part.shape[0], :, : part.shape[2], : part.shape[3]] = part
    return (names * count)[:count], fitting


class _Taps:
    """Outputs of all modules of a network during one run, by path; a module's second run is `path#2`.

    Inputs are kept as well: the identity of a tensor shows which module reads what another one wrote.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.outputs: dict[str, Tensor] = {}
        self.inputs: dict[str, Tensor] = {}
        self.result: Tensor | None = None

    def run(self, x: Tensor) -> Tensor:
        """Run on float32 (N, 3, H, W) and return the network's output, where the network is."""
        runs: Counter[str] = Counter()
        handles = []

        def tap(path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
            def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
                runs[path] += 1
                name = path if runs[path] == 1 else f"{path}#{runs[path]}"
                output = _main(output)
                if isinstance(output, Tensor):
                    self.outputs[name] = output
                if len(inputs) == 1 and isinstance(inputs[0], Tensor):
                    self.inputs[name] = inputs[0]

            return hook

        for path, module in self.network.named_modules():
            if path:
                handles.append(module.register_forward_hook(tap(path)))
        try:
            with torch.inference_mode():
                self.result = output_tensor(self.network(x.to(_device_of(self.network))))
                return self.result
        finally:
            for handle in handles:
                handle.remove()

    def array(self, path: str) -> np.ndarray | None:
        """The output of a module; None where it gave no tensor."""
        output = self.outputs.get(path)
        return None if output is None else fetch(output)


def _device_of(network: nn.Module) -> torch.device:
    parameter = next(network.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def output_tensor(output: Any) -> Tensor:
    """The one tensor that an exported program returns: probabilities, or a detector's map."""
    tensor = output["maps"] if isinstance(output, Mapping) else _main(output)
    assert isinstance(tensor, Tensor)
    return tensor


def _main(output: Any) -> Any:
    """The first of several outputs: an LSTM returns its states as well, a branch of a head its features."""
    return output[0] if isinstance(output, tuple) else output


@dataclass(frozen=True)
class LayerValues:
    """Paddle's values before (`reads`) and after (`writes`) each aligned layer, by its module path, and the output.

    `not_covered` says what it has no values of.
    """

    reads: Mapping[str, np.ndarray]
    writes: Mapping[str, np.ndarray]
    output: np.ndarray
    not_covered: tuple[str, ...] = ()

    def around(self, taps: _Taps) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """What Paddle has for the output and for the input of each module, in order of execution.

        A module around aligned layers is matched where it reads and returns the very tensors that they read or write:
        so the glue inside it (attention, residuals) is compared too.
        """
        modules = dict(taps.network.named_modules())
        known = {id(taps.result): self.output}
        # In order of execution: a folded convolution's output is that of the last layer that it holds.
        # Shapes differ where a folded detector has the pixels of a large map as channels.
        for path, written in self.writes.items():
            if not isinstance(modules[path], PushedAffine) and taps.outputs[path].shape == written.shape:
                known[id(taps.outputs[path])] = written
        for path, read in self.reads.items():
            if taps.inputs[path].shape == read.shape:
                known.setdefault(id(taps.inputs[path]), read)
        expected: dict[str, np.ndarray] = {}
        given: dict[str, np.ndarray] = {}
        for path, output in taps.outputs.items():
            value = known.get(id(output))
            skipped = "#" in path or isinstance(modules[path], Folded | PushedAffine)
            if skipped or value is None or value.shape != tuple(output.shape):
                continue
            expected[path] = value
            before = known.get(id(taps.inputs.get(path)))
            if before is not None:
                given[path] = before
        return expected, given


def _compare_module(
    path: str, network: Network, output: Tensor, expected: np.ndarray, given: np.ndarray | None, leaf: bool
) -> LayerResult:
    module, local = network.get_submodule(path), None
    if given is not None:
        with torch.inference_mode():
            # A copy: Paddle's values are mapped read-only, and a layer must not write into them.
            again = module(torch.from_numpy(np.array(given)).to(output.device))
        local = compare(fetch(output_tensor(again)), expected)
    accumulated = compare(fetch(output), expected)
    return LayerResult(path, _kind(module), tuple(output.shape), leaf, local, accumulated)


def _kind(module: nn.Module) -> str:
    return kind_of(module) or type(module).__name__


def _uncovered(config: ModelConfig, form: Form) -> tuple[str, ...]:
    nrtr = bool(config.head.options.get("nrtr"))
    if form == "training":
        return ("the NRTR head (it runs in training only)",) if nrtr else ()
    notes = []
    if config.form == "training" and config.backbone.name == "PPLCNetV3":
        notes.append("the training branches one by one (their fused sum is)")
    if config.form == "training" and config.head.name == "DBHead":
        notes.append("the threshold branch (an export has none)")
    if nrtr:
        notes.append("the NRTR head (an export has none)")
    return tuple(notes)


def bundled_images(task: Task) -> list[Path]:
    """The images that the package ships, rendered for it: lines, and a page for detectors."""
    pattern = "page_*.png" if task == "det" else "line_*.png"
    return sorted(ASSETS.glob(pattern))


def example_input(config: ModelConfig, images: Sequence[str | Path] = ()) -> tuple[list[str], np.ndarray]:
    """Names of images (the bundled ones where none are given), and one batch of them, float32 (N, 3, H, W).

    Lines are as wide as the widest needs, pages as large as the first: both sides see the same batch, because its
    size changes the numbers.
    """
    paths = [Path(image) for image in images] or bundled_images(config.task)
    pictures = [load_image(path) for path in paths]
    settings = config.preprocess
    if isinstance(settings, RecPreprocess):
        height = settings.image_shape[1]
        width = padded_width(max(picture.shape[1] / picture.shape[0] for picture in pictures), settings)
        batch = [resize_norm(picture, height, width, settings) for picture in pictures]
    elif isinstance(settings, ClsPreprocess):
        batch = [orientation.preprocess(picture, settings) for picture in pictures]
    else:
        height, width = pictures[0].shape[:2]
        pictures = [cv2.resize(picture, (width, height)).astype(np.uint8, copy=False) for picture in pictures]
        batch = [detection.preprocess(picture, settings)[0] for picture in pictures]
    return [path.name for path in paths], np.stack(batch)


def _lines(
    config: ModelConfig, names: Sequence[str], x: np.ndarray, expected: np.ndarray, found: np.ndarray
) -> tuple[LineResult, ...]:
    """The texts in Paddle's and in our probabilities, float32 (N, T, classes), decoded in the same way."""
    if config.charset is None or expected.shape != found.shape:
        return ()
    return _line_results(config, names, x, (expected.argmax(2), expected.max(2)), (found.argmax(2), found.max(2)))


def _golden_lines(config: ModelConfig, golden: Golden, found: np.ndarray) -> tuple[LineResult, ...]:
    if config.task != "rec" or golden.ids is None or golden.scores is None or golden.ids.shape != found.shape[:2]:
        return ()
    if golden.ids.max() >= config.classes:
        raise VerificationError(f"{golden.source} was made of another model: {config.name} has fewer classes")
    names = [f"stored input {i + 1}" for i in range(len(golden.input))]
    return _line_results(config, names, golden.input, (golden.ids, golden.scores), (found.argmax(2), found.max(2)))


def _line_results(
    config: ModelConfig,
    names: Sequence[str],
    x: np.ndarray,
    paddle: tuple[np.ndarray, np.ndarray],
    ours: tuple[np.ndarray, np.ndarray],
) -> tuple[LineResult, ...]:
    assert config.charset is not None
    reverse = isinstance(config.postprocess, CTCDecode) and config.postprocess.right_to_left
    extents = [Extent(1, 1, 1)] * len(names)
    read = [decode_ctc(ids, scores, config.charset, extents, right_to_left=reverse) for ids, scores in (paddle, ours)]
    return tuple(
        LineResult(name, theirs.text, mine.text, theirs.score, mine.score, _picture(line, config))
        for name, line, theirs, mine in zip(names, x, *read, strict=True)
    )


def _picture(line: np.ndarray, config: ModelConfig) -> bytes:
    """PNG of one line of a batch, float32 (3, H, W)."""
    settings = config.preprocess
    assert isinstance(settings, RecPreprocess)
    used = np.flatnonzero(line.any(axis=(0, 1)))  # padding is exactly 0, which no value of a pixel becomes
    pixels = line[:, :, : used[-1] + 1 if used.size else None].transpose(1, 2, 0)
    pixels = np.rint((pixels * settings.std + settings.mean) / settings.scale).clip(0, 255).astype(np.uint8)
    if settings.channel_order == "RGB":
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", pixels)[1].tobytes()

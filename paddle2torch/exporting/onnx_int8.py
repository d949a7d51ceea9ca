"""An `.onnx` in int8, as runtimes know it: QuantizeLinear and DequantizeLinear around convolutions (QDQ).

ONNX Runtime's own quantizer makes it, from what its calibration sees on the user's images. Its scales are one per map
and one per output channel, which loses more than our own int8 form does (`paddle2torch.quantization`), but every
runtime has kernels for them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paddle2torch.atomic import land_file
from paddle2torch.compiled.quiet import quiet
from paddle2torch.compiled.serving import Check, example_images
from paddle2torch.exporting.export import Exported
from paddle2torch.exporting.onnx import INPUT, OUTPUT, export_onnx, open_session
from paddle2torch.model_zoo.errors import ConfigError, ConversionError
from paddle2torch.model_zoo.network import Network, fuse
from paddle2torch.quantization import CHANNELS_AT_LEAST, HELD_BACK, IMAGES_AT_MOST, TOO_FEW, compare, run
from paddle2torch.tasks.images import ImageSource, load_image

AGREES_AT_LEAST = 0.5
"""The least share of lines, pixels or directions that must stay the same: with less, int8 is of no use."""


def export_onnx_int8(
    network: Network, target: Path, *, calibration: Sequence[ImageSource], force: bool = False
) -> Exported:
    """Write the fused form of `network` in int8 to the file `target`, which was agreed to be replaced where it exists.

    calibration: images like those that it will read, fifty or more: lines of a recogniser or classifier, pages of a
    detector. Every fifth is held back, and read in float32 and in int8: how far both agree is in `Exported.notes`.
    `Exported.checks` compares the outputs of ONNX Runtime with those of the network in float32; that they differ is the
    nature of int8. Raises what `export_onnx` raises, `ConfigError` for fewer than two images, and `ConversionError`
    where less than half of what is read stays the same.
    """
    if len(calibration) < 2:
        raise ConfigError(TOO_FEW)
    images = [load_image(image) for image in calibration]
    every = range(len(images))
    kept = every[HELD_BACK - 1 :: HELD_BACK] or every[-1:]
    others = [images[index] for index in every if index not in kept]
    fused = fuse(network)
    with tempfile.TemporaryDirectory() as folder, land_file(target) as temporary:
        exact = export_onnx(network, Path(folder) / "float32.onnx")
        inputs = _inputs(fused, others[:: -(-len(others) // IMAGES_AT_MOST)])
        chosen = _quantize(exact.target, temporary, inputs)
        session = _Session(fused, temporary)
        if session.texts != _Session(fused, exact.target).texts:
            raise ConversionError("ONNX Runtime's quantizer lost what the file says of the model")
        checks = tuple(_check(fused, session, image) for image in example_images(network.config))
        agreement = compare(fused, cast("Network", session), [images[index] for index in kept])
        if agreement.same < AGREES_AT_LEAST * agreement.total:
            raise ConversionError(
                f"in int8 {agreement.same} of {agreement.total} {agreement.what} stay as they are in float32, which is "
                f"of no use: give more images, or use paddle2torch quantize, whose steps are finer"
            )
    note = (
        f"{chosen} convolutions in int8; on {len(kept)} images held back {agreement.same} of {agreement.total} "
        f"{agreement.what}; scores differ by at most {agreement.largest:.3f}"
    )
    return Exported(target, "onnx", exact.checked_by, checks, (*exact.notes, note))


class _Session(nn.Module):
    """An `.onnx` as the module that it was made of."""

    def __init__(self, network: Network, path: Path) -> None:
        super().__init__()
        self.config = network.config
        self.session = open_session(path)
        self.texts: Mapping[str, str] = self.session.get_modelmeta().custom_metadata_map
        self.eval()

    def forward(self, x: Tensor) -> Any:
        """x: float32 (N, 3, H, W); see `Network`."""
        (found,) = self.session.run([OUTPUT], {INPUT: x.numpy()})
        output = torch.from_numpy(np.asarray(found))
        return {"maps": output} if self.config.task == "det" else output


def _inputs(network: Network, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
    """What the network is given for the images, (1, 3, H, W) each."""
    seen: list[NDArray[np.float32]] = []
    hook = network.register_forward_pre_hook(lambda _, given: seen.append(given[0].numpy().copy()))
    try:
        for image in images:
            run(network, image)
    finally:
        hook.remove()
    return seen


def _quantize(source: Path, target: Path, inputs: Sequence[NDArray[np.float32]]) -> int:
    """Write `source` in int8 to `target`, measured on `inputs`; returns the number of convolutions in int8."""
    import onnx
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.rest: Iterator[NDArray[np.float32]] = iter(inputs)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            given = next(self.rest, None)
            return None if given is None else {INPUT: given}

    model = onnx.load(source)
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    # Depthwise ones lose most by it and gain least, and so does the first, which sees the picture itself.
    chosen = [
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and weights.get(node.input[1], (0, 0))[1] >= CHANNELS_AT_LEAST
    ]
    if not chosen:
        raise ConversionError("the network has no convolution that int8 would make faster")
    with quiet():
        quantization.quantize_static(
            source,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            # Processors without VNNI add pairs of products in 16 bits: weights of 7 bits do not overflow them.
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_quantize=chosen,
        )
    made = onnx.load(target)
    # The quantizer leaves them out, and adds its own.
    del made.metadata_props[:]
    made.metadata_props.extend(model.metadata_props)
    onnx.save(made, target)
    return len(chosen)


def _check(network: Network, session: _Session, image: Tensor) -> Check:
    """Run both on an input. Raises `ConversionError` where the shapes differ, or a value is no number."""
    with torch.inference_mode():
        ours, found = (x["maps"] if isinstance(x, dict) else x for x in (network(image), session(image)))
    if found.shape != ours.shape or not bool(found.isfinite().all()):
        raise ConversionError(
            f"ONNX Runtime's output in int8 is {list(found.shape)} for an input of {list(image.shape)}, "
            f"PyTorch's {list(ours.shape)}, or not all of it are numbers. Nothing was written"
        )
    absolute = float((found - ours).abs().max())
    return Check(tuple(image.shape), absolute, absolute / float(ours.abs().max()), 0.0)

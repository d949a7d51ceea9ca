"""An `.onnx` in int8, as runtimes know it: QuantizeLinear and DequantizeLinear around convolutions (QDQ).

It is the int8 form that `paddle2torch quantize` made. Of a convolution's input each channel has a scale of its own
there, which no runtime has: the input is multiplied by the channels' steps first, so that one scale, 1, is right for
all of them. Weights are in the file as int8, with the scale of each output channel.

OpenVINO makes int8 convolutions of such pairs. ONNX Runtime, which does that only where the results are rounded to int8
as well, computes the same numbers in float32.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paddle2torch.atomic import land_file
from paddle2torch.compiled.serving import Served, compare_rounded, example_images
from paddle2torch.exporting.export import Exported
from paddle2torch.exporting.onnx import check_installed, write_served
from paddle2torch.model_zoo.forms.folded import FUNCTIONS
from paddle2torch.model_zoo.forms.folding import fold
from paddle2torch.model_zoo.forms.quantized import QuantizedConv2d
from paddle2torch.model_zoo.network import replace_module
from paddle2torch.zoo.folder import load_model, load_quantized


class QDQConv2d(nn.Module):
    """`QuantizedConv2d` in ONNX's operators: it is exported, and cannot be run."""

    steps: Tensor
    one: Tensor
    zero_point: Tensor
    weight: Tensor
    weight_scale: Tensor
    weight_zeros: Tensor
    bias: Tensor

    def __init__(self, conv: QuantizedConv2d) -> None:
        super().__init__()
        self.geometry = conv.geometry
        self.tail = conv.tail
        self.register_buffer("steps", (1 / conv.input_scale.double()).float().view(1, -1, 1, 1))
        self.register_buffer("one", torch.tensor(1.0))
        self.register_buffer("zero_point", conv.input_zero_point.to(torch.uint8))
        self.register_buffer("weight", conv.weight)
        self.register_buffer("weight_scale", conv.weight_scale)
        self.register_buffer("weight_zeros", torch.zeros(len(conv.weight), dtype=torch.int8))
        self.register_buffer("bias", conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: float32 (N, I, H, W); returns (N, O, H', W')."""
        operator = torch.onnx.ops.symbolic
        input_scale = (self.one, self.zero_point)
        levels = operator("QuantizeLinear", (x * self.steps, *input_scale), dtype=torch.uint8, shape=x.shape)
        x = operator("DequantizeLinear", (levels, *input_scale), dtype=torch.float32, shape=x.shape)
        weight = operator(
            "DequantizeLinear",
            (self.weight, self.weight_scale, self.weight_zeros),
            {"axis": 0},
            dtype=torch.float32,
            shape=self.weight.shape,
        )
        padding, stride, dilation, groups = self.geometry
        y = F.conv2d(x, weight, self.bias, stride, padding, dilation, groups)
        return self.tail.shifted(FUNCTIONS[self.tail.activation](y))


def export_onnx_int8(folder: Path, target: Path, *, force: bool = False) -> Exported:
    """Write the int8 form of the converted model in `folder` to the file `target`, which was agreed to be replaced.

    Batch and image sizes are free. ONNX Runtime loads what was written and runs it beside the int8 form in PyTorch on
    five inputs. A value between two steps may go to the other one there, as everything in int8: what is asked for is
    that the results are no further from the network in float32 than those of PyTorch, by the mean of squares. Raises
    what `export_onnx` raises, and `ConfigError` where the model was not quantized.
    """
    check_installed()
    quantized = load_quantized(folder)
    model = Served(copy.deepcopy(quantized)).eval().requires_grad_(False)
    count = 0
    for path, module in list(model.network.named_modules()):
        if isinstance(module, QuantizedConv2d):
            replace_module(model.network, path, QDQConv2d(module))
            count += 1
    with land_file(target) as temporary:
        written = write_served(model, temporary)
        images = example_images(quantized.config)
        checks = compare_rounded(
            fold(load_model(folder)), Served(quantized), written.run, images, "ONNX Runtime's output"
        )
    return Exported(target, "onnx", written.checked_by, checks, (*written.notes, f"{count} convolutions in int8"))

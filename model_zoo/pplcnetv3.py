"""PPLCNetV3, the backbone of PP-OCRv4 and v5 mobile models.

Source: PaddleOCR `ppocr/modeling/backbones/rec_lcnetv3.py` (Apache-2.0); re-parameterisation after RepVGG
(arXiv:2101.03697). Depthwise-separable blocks whose every convolution is, in training, a sum of branches, and in
the fused form one convolution.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from paddle2torch.model_zoo.depthwise_sum import normalised_depthwise_sum
from paddle2torch.model_zoo.initialisers import kaiming_normal
from paddle2torch.model_zoo.layers import (
    BatchNorm2d,
    Chains,
    ConvBN,
    Reparameterised,
    SELayer,
    Size,
    fold_batch_norm,
    set_batch_norm,
    unfold_batch_norm,
)
from paddle2torch.model_zoo.moments import Branch, has_moments, normalised_sum
from paddle2torch.model_zoo.registry import Part, Shapes, count_items, register

# Per stage: kernel size, input and output channels at scale 1, stride, squeeze-and-excitation.
Stage = tuple[tuple[int, int, int, Size, bool], ...]

REC_STAGES: dict[str, Stage] = {
    "blocks2": ((3, 16, 32, 1, False),),
    "blocks3": ((3, 32, 64, 1, False), (3, 64, 64, 1, False)),
    "blocks4": ((3, 64, 128, (2, 1), False), (3, 128, 128, 1, False)),
    "blocks5": ((3, 128, 256, (1, 2), False), *((5, 256, 256, 1, False),) * 4),
    "blocks6": (
        (5, 256, 512, (2, 1), True),
        (5, 512, 512, 1, True),
        (5, 512, 512, (2, 1), False),
        (5, 512, 512, 1, False),
    ),
}
DET_STAGES: dict[str, Stage] = {
    "blocks2": ((3, 16, 32, 1, False),),
    "blocks3": ((3, 32, 64, 2, False), (3, 64, 64, 1, False)),
    "blocks4": ((3, 64, 128, 2, False), (3, 128, 128, 1, False)),
    "blocks5": ((3, 128, 256, 2, False), *((5, 256, 256, 1, False),) * 4),
    "blocks6": ((5, 256, 512, 2, True), (5, 512, 512, 1, True), (5, 512, 512, 1, False), (5, 512, 512, 1, False)),
}
# Channels of the detector's four outputs at scale 1, before truncation to int.
DET_OUTPUT_CHANNELS = (16, 24, 56, 480)


def make_divisible(value: float, divisor: int = 16) -> int:
    """The multiple of `divisor` nearest to `value`, at least one of them and never below 90 % of `value`."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


class LearnableAffineBlock(nn.Module):
    """y = scale * x + bias with one learnable number each; trained at a tenth of the learning rate."""

    KIND = "affine"
    RATE_SETTING = "lab_lr"
    """The optimiser's setting that is the factor on its learning rate."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """x: float of any shape; returns the same shape."""
        return self.scale * x + self.bias


class Act(nn.Module):
    """Hardswish, then an affine."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Hardswish()
        self.lab = LearnableAffineBlock()

    def forward(self, x: Tensor) -> Tensor:
        """x: float of any shape; returns the same shape."""
        if self.training and x.dtype == self.lab.scale.dtype and not torch.compiler.is_compiling():
            out: Tensor = _ScaledHardswish.apply(x, self.lab.scale, self.lab.bias)
            return out
        return self.lab(self.act(x))


class _ScaledHardswish(torch.autograd.Function):
    """scale * hardswish(x) + bias, which keeps `x` alone and writes each result where the one before was.

    A compiler does so unasked.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        return F.hardswish(x).mul_(scale).add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (grad,) = grads
        x, scale = ctx.saved_tensors
        of_x = torch.ops.aten.hardswish_backward(grad, x).mul_(scale)
        of_scale = F.hardswish(x).mul_(grad).sum().view_as(scale)
        return of_x, of_scale, grad.sum().view_as(scale)


class LearnableRepLayer(Reparameterised):
    """A convolution that trains as a sum of branches: identity, 1x1, and `branches` of the full kernel.

    Each branch ends in its own batch normalisation. `fused=True` has one convolution with bias (`reparam_conv`)
    instead; the affines stay.
    """

    CHAINS: ClassVar[Chains] = (("reparam_conv", "lab", "act.act", "act.lab"),)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: Size = 1,
        groups: int = 1,
        branches: int = 4,
        fused: bool = False,
    ) -> None:
        super().__init__()
        # Paddle compares the stride with the int 1 and the int 2: a tuple is neither, so the recogniser's tuple
        # strides have no identity branch and keep the activation. The detector's stride 2 has no activation.
        self.use_act = stride != 2
        self.fused = fused
        self.pointwise = kernel_size == 1 and groups == 1 and stride == 1
        self.depthwise = kernel_size > 1 and groups == in_channels == out_channels
        self.stride = (stride, stride) if isinstance(stride, int) else stride
        if fused:
            self.reparam_conv = nn.Conv2d(
                in_channels, out_channels, kernel_size, stride, (kernel_size - 1) // 2, groups=groups
            )
        else:
            self.identity = BatchNorm2d(in_channels) if in_channels == out_channels and stride == 1 else None
            self.conv_kxk = nn.ModuleList(
                ConvBN(in_channels, out_channels, kernel_size, stride=stride, groups=groups) for _ in range(branches)
            )
            self.conv_1x1 = (
                ConvBN(in_channels, out_channels, 1, stride=stride, groups=groups) if kernel_size > 1 else None
            )
        self.lab = LearnableAffineBlock()
        # A checkpoint has the affine of an activation that stride 2 never runs; an exported program has not.
        self.act = Act() if self.use_act or not fused else None

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        if self.fused:
            out = self.lab(self.reparam_conv(x))
        elif self.pointwise and has_moments(x, self):
            out = normalised_sum(x, self._matrices(), self.lab.scale, self.lab.bias)
        elif self.depthwise and has_moments(x, self):
            points, wider = self._kernels()
            out = normalised_depthwise_sum(x, points, wider, self.stride, self.lab.scale, self.lab.bias)
        else:
            # In Paddle's order of addition, so that rounding is the same.
            branches = [branch for branch in (self.identity, self.conv_1x1, *self.conv_kxk) if branch is not None]
            out = branches[0](x)
            for branch in branches[1:]:
                out = out + branch(x)
            out = self.lab(out)
        return self.act(out) if self.use_act and self.act is not None else out

    def _identity(self) -> list[Branch]:
        return [] if self.identity is None else [(None, self.identity)]

    def _matrices(self) -> list[Branch]:
        """The branches of a pointwise layer."""
        return [*self._identity(), *((weight.flatten(1), norm) for weight, norm in _convolutions(self.conv_kxk))]

    def _kernels(self) -> tuple[list[Branch], list[Branch]]:
        """The branches of a depthwise layer: those that see one pixel, and all others."""
        points = [] if self.conv_1x1 is None else [self.conv_1x1]
        return [*self._identity(), *_convolutions(points)], [*_convolutions(self.conv_kxk)]

    def folded(self) -> dict[str, Tensor]:
        """The one convolution that equals the sum of the branches."""
        branches = [branch for branch in self.conv_kxk if isinstance(branch, ConvBN)]
        size = branches[0].conv.kernel_size[0]
        folded = [fold_batch_norm(branch.conv.weight, branch.bn) for branch in branches]
        if self.conv_1x1 is not None:
            kernel, bias = fold_batch_norm(self.conv_1x1.conv.weight, self.conv_1x1.bn)
            folded.append((F.pad(kernel, [size // 2] * 4), bias))
        if self.identity is not None:
            delta = torch.zeros_like(branches[0].conv.weight, dtype=torch.float64)
            outputs = torch.arange(delta.shape[0])
            delta[outputs, outputs % delta.shape[1], size // 2, size // 2] = 1.0
            folded.append(fold_batch_norm(delta, self.identity))
        kernels, biases = zip(*folded, strict=True)
        return {
            "reparam_conv.weight": torch.stack(kernels).sum(0),
            "reparam_conv.bias": torch.stack(biases).sum(0),
        }

    @torch.no_grad()
    def unfold(self, fused: Mapping[str, Tensor]) -> None:
        """The branches of the full kernel share it, the other two begin with a gain of 0.

        What differs between the shares are the branches' own new weights, which add up to nothing.
        """
        branches = [branch for branch in self.conv_kxk if isinstance(branch, ConvBN)]
        kernel, bias = (fused[f"reparam_conv.{name}"].double() / len(branches) for name in ("weight", "bias"))
        own = torch.stack([branch.conv.weight.double() for branch in branches])
        # In each channel as large as the kernel there.
        size = kernel.flatten(1).norm(dim=1) / own.flatten(2).norm(dim=2).mean(0)
        own = (own - own.mean(0)) * size.view(-1, 1, 1, 1)
        for branch, difference in zip(branches, own, strict=True):
            unfold_batch_norm(branch.conv, branch.bn, kernel + difference, bias)
        for norm in (self.identity, None if self.conv_1x1 is None else self.conv_1x1.bn):
            if norm is not None:
                set_batch_norm(norm, 0.0, 0.0)


def _convolutions(branches: Iterable[nn.Module]) -> list[tuple[Tensor, BatchNorm2d]]:
    """Weights and normalisation of each."""
    return [(branch.conv.weight, branch.bn) for branch in branches if isinstance(branch, ConvBN)]


class LCNetV3Block(nn.Module):
    """Depthwise convolution, optional squeeze and excitation, pointwise convolution. No residual around it."""

    RECOMPUTED = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: Size,
        se: bool,
        branches: int,
        fused: bool,
    ) -> None:
        super().__init__()
        self.dw_conv = LearnableRepLayer(
            in_channels, in_channels, kernel_size, stride=stride, groups=in_channels, branches=branches, fused=fused
        )
        self.se = SELayer(in_channels) if se else None
        self.pw_conv = LearnableRepLayer(in_channels, out_channels, 1, branches=branches, fused=fused)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        x = self.dw_conv(x)
        if self.se is not None:
            x = self.se(x)
        return self.pw_conv(x)


class PPLCNetV3(nn.Module):
    """The backbone, for lines (`det=False`, one output) or pages (`det=True`, four outputs).

    Args:
        in_channels: channels of the image.
        scale: width multiplier; 0.95 in the recognisers, 0.75 in the detectors.
        det: the detector's strides and its four 1x1 output convolutions.
        conv_kxk_num: full-kernel branches of each convolution in training.
        fused: one convolution for each re-parameterised layer.
    """

    blocks2: nn.Sequential
    blocks3: nn.Sequential
    blocks4: nn.Sequential
    blocks5: nn.Sequential
    blocks6: nn.Sequential

    def __init__(
        self, *, in_channels: int = 3, scale: float = 1.0, det: bool = False, conv_kxk_num: int = 4, fused: bool = False
    ) -> None:
        super().__init__()
        stages = DET_STAGES if det else REC_STAGES
        self.conv1 = ConvBN(in_channels, make_divisible(16 * scale), 3, stride=2)
        for name, blocks in stages.items():
            stage = nn.Sequential(
                *(
                    LCNetV3Block(
                        make_divisible(c_in * scale),
                        make_divisible(c_out * scale),
                        kernel,
                        stride=stride,
                        se=se,
                        branches=conv_kxk_num,
                        fused=fused,
                    )
                    for kernel, c_in, c_out, stride, se in blocks
                )
            )
            self.add_module(name, stage)
        self.out_channels: int | tuple[int, ...] = make_divisible(512 * scale)
        self.layer_list: nn.ModuleList | None = None
        if det:
            self.out_channels = tuple(int(channels * scale) for channels in DET_OUTPUT_CHANNELS)
            ends = [stages[name][-1][2] for name in ("blocks3", "blocks4", "blocks5", "blocks6")]
            self.layer_list = nn.ModuleList(
                nn.Conv2d(make_divisible(end * scale), out, 1) for end, out in zip(ends, self.out_channels, strict=True)
            )

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """x: float (N, in_channels, H, W).

        Lines: (N, C, 1, T) in evaluation, T = max(1, ceil(W / 4) // 2), for H up to 80; (N, C, 1, 40) in training.
        Pages: four maps of strides 4, 8, 16, 32.
        """
        x = self.blocks2(self.conv1(x))
        maps = []
        for stage in (self.blocks3, self.blocks4, self.blocks5, self.blocks6):
            x = stage(x)
            maps.append(x)
        if self.layer_list is not None:
            return [conv(level) for conv, level in zip(self.layer_list, maps, strict=True)]
        return pool_line(x, self.training)

    def init_weights(self) -> None:
        """Branches are drawn by the inputs of one group; the layers' defaults count all groups."""
        for branch in self.modules():
            if isinstance(branch, ConvBN):
                kaiming_normal(branch.conv.weight)

    def parameters_without_decay(self) -> Iterator[nn.Parameter]:
        """Normalisations of branches; the identity branch, which is not a ConvBN, keeps its decay."""
        for branch in self.modules():
            if isinstance(branch, ConvBN):
                yield from branch.bn.parameters()


def pool_line(x: Tensor, training: bool) -> Tensor:
    """The last pooling of the v4 and v5 recognisers: x float (N, C, H, W) to (N, C, 1, T).

    Training pools to T = 40 for every input size, evaluation by 3x2: only for a 48x320 image are both the same.
    """
    if training:
        return F.adaptive_avg_pool2d(x, (1, 40))
    height, width = x.shape[2:]
    if height > 5:
        raise ValueError("the image is too high for a line: this recogniser takes heights up to 80, it was made for 48")
    # Where a map is smaller than the kernel Paddle still returns one cell, the mean of the pixels it covers.
    return F.avg_pool2d(x, (min(3, height), min(2, width)), stride=(3, 2))


def pplcnetv3_scale(widths: Sequence[int], expected: Sequence[int], hint: float | None) -> float:
    """The scale at which channels `expected` (at scale 1) become `widths`; `hint` first, then the official ones.

    Many scales have the same channels; any of them builds the same network. Raises ValueError where none does.
    """
    official = (0.95, 0.75, 1.0)
    grid = tuple(round(0.05 * step, 2) for step in range(1, 81))
    for scale in (*(() if hint is None else (hint,)), *official, *grid):
        if [make_divisible(channels * scale) for channels in expected] == list(widths):
            return scale
    raise ValueError(f"its channels {list(widths)} are those of no scale of PPLCNetV3")


def _pplcnetv3_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    det = "backbone.layer_list.0.weight" in shapes
    stages = DET_STAGES if det else REC_STAGES
    widths = [shapes["backbone.conv1.conv.weight"][0]]
    expected = [16]
    for name, blocks in stages.items():
        for index, block in enumerate(blocks):
            widths.append(shapes[f"backbone.{name}.{index}.pw_conv.conv_kxk.0.conv.weight"][0])
            expected.append(block[2])
    options: dict[str, Any] = {"scale": pplcnetv3_scale(widths, expected, hint.get("scale"))}
    if det:
        options["det"] = True
        outputs = [shapes[f"backbone.layer_list.{i}.weight"][0] for i in range(len(DET_OUTPUT_CHANNELS))]
        if outputs != [int(channels * options["scale"]) for channels in DET_OUTPUT_CHANNELS]:
            raise ValueError(f"its output channels {outputs} are not those of scale {options['scale']}")
    branches = count_items(shapes, "backbone.blocks2.0.dw_conv.conv_kxk.{}.")
    if branches != 4:
        options["conv_kxk_num"] = branches
    return options


register(
    Part(
        "backbone",
        "PPLCNetV3",
        PPLCNetV3,
        signatures=("backbone.blocks2.0.dw_conv.conv_kxk.",),
        read_options=_pplcnetv3_options,
    )
)

"""PPHGNet_small: its names, its two shapes, its block by the formula."""

from __future__ import annotations

import pytest
import torch
from small_models import fill
from structure import image, parameters, patterns
from torch import nn

from paddle2torch.model_zoo.pphgnet import ESEModule, HGBlock, PPHGNetSmall

KEYS = {
    "stem.N.conv.weight": 3,
    "stem.N.bn.BN": 12,
    "stages.N.downsample.conv.weight": 4,
    "stages.N.downsample.bn.BN": 16,
    "stages.N.blocks.N.layers.N.conv.weight": 30,
    "stages.N.blocks.N.layers.N.bn.BN": 120,
    "stages.N.blocks.N.aggregation_conv.conv.weight": 5,
    "stages.N.blocks.N.aggregation_conv.bn.BN": 20,
    "stages.N.blocks.N.att.conv.weight": 5,
    "stages.N.blocks.N.att.conv.bias": 5,
}


def test_names_and_number_of_parameters() -> None:
    with torch.device("meta"):
        rec, det = PPHGNetSmall(), PPHGNetSmall(det=True)
    assert patterns(rec) == KEYS
    # A page is not halved before the first stage.
    fewer = {"stages.N.downsample.conv.weight": 3, "stages.N.downsample.bn.BN": 12}
    assert patterns(det) == KEYS | fewer
    assert set(rec.state_dict()) - set(det.state_dict()) == {
        f"stages.0.downsample.{name}"
        for name in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    }
    assert (parameters(rec), parameters(det)) == (20_216_128, 20_214_720)


def test_shapes_of_lines_and_pages() -> None:
    with torch.inference_mode():
        rec = PPHGNetSmall().eval()
        assert rec(image(1, 3, 48, 72)).shape == (1, rec.out_channels, 1, 9) == (1, 1024, 1, 9)
        assert rec.train()(image(2, 3, 48, 72)).shape == (2, 1024, 1, 40)
        det = PPHGNetSmall(det=True).eval()
        maps = det(image(1, 3, 64, 96))
    assert [tuple(level.shape) for level in maps] == [
        (1, 256, 16, 24),
        (1, 512, 8, 12),
        (1, 768, 4, 6),
        (1, 1024, 2, 3),
    ]
    assert det.out_channels == (256, 512, 768, 1024)


def test_gate_is_one_convolution_of_the_mean_and_a_sigmoid() -> None:
    gate = ESEModule(6)
    fill(gate)
    x = image(2, 6, 5, 7)
    with torch.no_grad():
        expected = torch.sigmoid(x.mean((2, 3)) @ gate.conv.weight[..., 0, 0].T + gate.conv.bias)
        torch.testing.assert_close(gate(x), x * expected[..., None, None])


@pytest.mark.parametrize("residual", [True, False])
def test_block_mixes_its_input_and_all_its_layers(residual: bool) -> None:
    block = HGBlock(8, 4, 8, residual=residual).eval()
    fill(block)
    x = image(1, 8, 6, 5)
    with torch.no_grad():
        seen = [x]
        for layer in block.layers:
            seen.append(torch.relu(layer.bn(layer.conv(seen[-1]))))
        mixed = block.aggregation_conv
        expected = block.att(torch.relu(mixed.bn(mixed.conv(torch.cat(seen, 1)))))
        torch.testing.assert_close(block(x), expected + x if residual else expected)
    assert len(block.layers) == 6


def test_only_blocks_after_the_first_of_a_stage_add_their_input() -> None:
    with torch.device("meta"):
        blocks = [module for module in PPHGNetSmall().modules() if isinstance(module, HGBlock)]
    assert [block.residual for block in blocks] == [False, False, False, True, False]


def test_halving_has_no_activation() -> None:
    with torch.device("meta"):
        stages = PPHGNetSmall().stages
    for stage, stride in zip(stages, ((2, 1), (1, 2), (2, 1), (2, 1)), strict=True):
        assert stage.downsample.conv.stride == stride
        assert not any(isinstance(module, nn.ReLU) for module in stage.downsample.modules())

"""LKPAN: its names, which level reaches which, and its block of three kernel sizes by the formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_models import fill
from structure import image, parameters, patterns

from paddle2torch.model_zoo.lkpan import LKPAN, IntraCLBlock

CHANNELS = (4, 5, 6, 7)


@pytest.mark.parametrize(("intracl", "count"), [(False, 6_751_744), (True, 7_233_024)])
def test_names_and_number_of_parameters(intracl: bool, count: int) -> None:
    with torch.device("meta"):
        neck = LKPAN(CHANNELS, out_channels=256, intracl=intracl)
    kernels = {"ins_conv.N.weight": 4, "inp_conv.N.weight": 4, "pan_head_conv.N.weight": 3, "pan_lat_conv.N.weight": 4}
    found = patterns(neck)
    assert {key: found.pop(key) for key in kernels} == kernels
    assert set(found) == (
        {
            *(f"inclN.conv1xN_{way}_channel.{name}" for way in ("reduce", "return") for name in ("weight", "bias")),
            *(f"inclN.{letter}_layer_NxN.{name}" for letter in "cvq" for name in ("weight", "bias")),
            "inclN.bn.BN",
        }
        if intracl
        else set()
    )
    assert parameters(neck) == count
    if intracl:
        names = {key.split(".")[1] for key in neck.state_dict() if key.startswith("incl1.") and "_layer_" in key}
        sizes = (7, 5, 3)
        assert names == {name for s in sizes for name in (f"c_layer_{s}x{s}", f"v_layer_{s}x1", f"q_layer_1x{s}")}


def pyramid(level: int) -> list[torch.Tensor]:
    """Four maps, all zero but one."""
    maps = [torch.zeros(1, channels, 32 >> i, 64 >> i) for i, channels in enumerate(CHANNELS)]
    maps[level] = image(*maps[level].shape)
    return maps


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_levels_go_down_and_up_again(level: int) -> None:
    """Down, a level reaches the finer ones; up, these reach all coarser ones."""
    neck = LKPAN(CHANNELS, out_channels=16)
    fill(neck)
    with torch.no_grad():
        assert all(part.any() for part in neck(pyramid(level)).split(4, dim=1))
        for conv in neck.pan_head_conv:
            conv.weight.zero_()
        coarse_to_fine = neck(pyramid(level)).split(4, dim=1)
    assert [bool(part.any()) for part in coarse_to_fine] == [i <= level for i in (3, 2, 1, 0)]
    for i, part in zip((3, 2, 1, 0), coarse_to_fine, strict=True):
        cells = part[..., :: 2**i, :: 2**i]
        assert torch.equal(part, cells.repeat_interleave(2**i, -2).repeat_interleave(2**i, -1))


def test_each_level_has_its_own_block_finest_first() -> None:
    plain, related = LKPAN(CHANNELS, out_channels=16).eval(), LKPAN(CHANNELS, out_channels=16, intracl=True).eval()
    fill(related)
    plain.load_state_dict(related.state_dict(), strict=False)
    maps = [image(1, channels, 32 >> i, 64 >> i) for i, channels in enumerate(CHANNELS)]
    with torch.no_grad():
        coarse_to_fine = plain(maps).split(4, dim=1)
        expected = []
        for i, part in zip((3, 2, 1, 0), coarse_to_fine, strict=True):
            block = related.get_submodule(f"incl{i + 1}")
            expected.append(F.interpolate(block(part[..., :: 2**i, :: 2**i]), scale_factor=2**i))
        torch.testing.assert_close(related(maps), torch.cat(expected, 1))


def test_block_sums_square_tall_and_wide() -> None:
    block = IntraCLBlock(8, reduce_factor=2).eval()
    fill(block)
    x = image(1, 8, 9, 10)

    def conv(name: str, x: torch.Tensor) -> torch.Tensor:
        layer = block.get_submodule(name)
        height, width = layer.weight.shape[2:]
        return F.conv2d(x, layer.weight, layer.bias, padding=(height // 2, width // 2))

    with torch.no_grad():
        y = conv("conv1x1_reduce_channel", x)
        for size in (7, 5, 3):
            names = (f"c_layer_{size}x{size}", f"v_layer_{size}x1", f"q_layer_1x{size}")
            y = sum((conv(name, y) for name in names), torch.zeros(()))
        y = block.bn(conv("conv1x1_return_channel", y))
        assert (y < 0).any()
        torch.testing.assert_close(block(x), x + torch.relu(y))

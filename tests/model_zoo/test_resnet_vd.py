"""ResNet_vd for pages and lines: its names, its sizes, where its strides are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_models import fill
from structure import image, parameters, patterns

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.resnet_vd import BasicBlock, BottleneckBlock, ResNetVd, Shortcut


@pytest.mark.parametrize(
    ("options", "convolutions", "count"),
    [
        # The counts are those of timm's resnet18d, 34d and 50d without their classifiers.
        ({"layers": 18, "det": True}, 16, 11_199_968),
        ({"layers": 34}, 32, 21_308_128),
        ({"layers": 50, "det": True}, 48, 23_527_264),
    ],
)
def test_names_and_number_of_parameters(options: dict[str, Any], convolutions: int, count: int) -> None:
    with torch.device("meta"):
        model = ResNetVd(**options)
    assert patterns(model) == {
        "convN_N._conv.weight": 3,
        "convN_N._batch_norm.BN": 12,
        "bb_N_N.convN._conv.weight": convolutions,
        "bb_N_N.convN._batch_norm.BN": 4 * convolutions,
        "bb_N_N.short._conv.weight": 4,
        "bb_N_N.short._batch_norm.BN": 16,
    }
    assert parameters(model) == count


@pytest.mark.parametrize(("layers", "channels"), [(18, (64, 128, 256, 512)), (50, (256, 512, 1024, 2048))])
def test_pages_give_four_maps(layers: int, channels: tuple[int, ...]) -> None:
    model = ResNetVd(layers=layers, det=True).eval()
    with torch.inference_mode():
        maps = model(image(1, 3, 64, 96))
    sizes = [(1, count, 64 // s, 96 // s) for count, s in zip(channels, (4, 8, 16, 32), strict=True)]
    assert [tuple(level.shape) for level in maps] == sizes
    assert model.out_channels == channels


def test_lines_give_one_row_of_a_quarter_of_the_width() -> None:
    model = ResNetVd(layers=34).eval()
    with torch.inference_mode():
        for width, steps in ((101, 25), (97, 24)):
            assert model(image(1, 3, 32, width)).shape == (1, model.out_channels, 1, steps) == (1, 512, 1, steps)


def test_a_strided_shortcut_averages_first() -> None:
    short = Shortcut(3, 5, stride=(2, 1)).eval()
    fill(short)
    x = image(1, 3, 7, 4)
    with torch.no_grad():
        # A last row without a partner is its own mean.
        pooled = torch.cat((x[:, :, 0:6].view(1, 3, 3, 2, 4).mean(3), x[:, :, 6:]), 2)
        torch.testing.assert_close(short(x), short._batch_norm(F.conv2d(pooled, short._conv.weight)))
        plain = Shortcut(3, 5, stride=1).eval()
        plain.load_state_dict(short.state_dict())
        torch.testing.assert_close(plain(x), short._batch_norm(F.conv2d(x, short._conv.weight)))


@pytest.mark.parametrize("kind", [BasicBlock, BottleneckBlock])
def test_blocks_add_before_the_last_activation(kind: type[BasicBlock] | type[BottleneckBlock]) -> None:
    wide = 4 if kind is BottleneckBlock else 1
    x = image(1, 8, 6, 7)
    shortcut = Shortcut(8, 6 * wide, stride=2)
    for block in (kind(8, 8 // wide, stride=1, short=None).eval(), kind(8, 6, stride=2, short=shortcut).eval()):
        fill(block)
        with torch.no_grad():
            out = block.conv1(block.conv0(x))
            out = block.conv2(out) if isinstance(block, BottleneckBlock) else out
            assert (out < 0).any()
            short = x if block.short is None else block.short(x)
            torch.testing.assert_close(block(x), torch.relu(out + short))


def test_a_bottleneck_has_its_stride_in_the_middle() -> None:
    block = BottleneckBlock(8, 4, stride=2, short=None)
    assert [conv._conv.stride for conv in (block.conv0, block.conv1, block.conv2)] == [(1, 1), (2, 2), (1, 1)]
    assert BasicBlock(8, 4, stride=(2, 1), short=None).conv0._conv.stride == (2, 1)


def test_other_depths_are_refused() -> None:
    with pytest.raises(ConfigError, match="not one of 18, 34, 50, 101, 152, 200"):
        ResNetVd(layers=35)

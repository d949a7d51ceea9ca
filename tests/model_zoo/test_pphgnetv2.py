"""PPHGNetV2_B4: its names, its two shapes, the even kernels of its stem, its block by the formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_models import fill
from structure import image, parameters, patterns

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.pphgnetv2 import EvenConvBNAct, HGV2Block, LightConvBNAct, PPHGNetV2B4, StemBlock

KEYS = {
    "stem.stemN.conv.weight": 3,
    "stem.stemN.bn.BN": 12,
    **{f"stem.stem2{letter}.conv.weight": 1 for letter in "ab"},
    **{f"stem.stem2{letter}.bn.BN": 4 for letter in "ab"},
    "stages.N.downsample.conv.weight": 4,
    "stages.N.downsample.bn.BN": 16,
    "stages.N.blocks.N.layers.N.conv.weight": 12,
    "stages.N.blocks.N.layers.N.bn.BN": 48,
    "stages.N.blocks.N.layers.N.convN.conv.weight": 48,
    "stages.N.blocks.N.layers.N.convN.bn.BN": 192,
    "stages.N.blocks.N.aggregation_squeeze_conv.conv.weight": 6,
    "stages.N.blocks.N.aggregation_squeeze_conv.bn.BN": 24,
    "stages.N.blocks.N.aggregation_excitation_conv.conv.weight": 6,
    "stages.N.blocks.N.aggregation_excitation_conv.bn.BN": 24,
}


def test_names_and_number_of_parameters() -> None:
    with torch.device("meta"):
        rec, det = PPHGNetV2B4(text_rec=True), PPHGNetV2B4(det=True)
    assert patterns(rec) == KEYS
    assert patterns(det) == KEYS | {"stages.N.downsample.conv.weight": 3, "stages.N.downsample.bn.BN": 12}
    assert (parameters(rec), parameters(det)) == (13_553_904, 13_553_376)


def test_shapes_of_lines_and_pages() -> None:
    with torch.inference_mode():
        rec = PPHGNetV2B4(text_rec=True).eval()
        assert rec(image(1, 3, 48, 72)).shape == (1, rec.out_channels, 1, 9) == (1, 2048, 1, 9)
        assert rec.train()(image(2, 3, 48, 72)).shape == (2, 2048, 1, 40)
        det = PPHGNetV2B4(det=True).eval()
        maps = det(image(1, 3, 64, 96))
    sizes = [(1, 128, 16, 24), (1, 512, 8, 12), (1, 1024, 4, 6), (1, 2048, 2, 3)]
    assert [tuple(level.shape) for level in maps] == sizes
    assert det.out_channels == (128, 512, 1024, 2048)


@pytest.mark.parametrize("use", [{}, {"det": True, "text_rec": True}])
def test_it_is_for_lines_or_for_pages(use: dict[str, bool]) -> None:
    with pytest.raises(ConfigError, match="either det"):
        PPHGNetV2B4(**use)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_even_kernels_pad_at_the_bottom_and_at_the_right() -> None:
    """As PyTorch's own "same", which Paddle's "SAME" is for the stride 1."""
    layer = EvenConvBNAct(3, 5).eval()
    fill(layer)
    x = image(2, 3, 6, 7)
    with torch.no_grad():
        expected = F.conv2d(x, layer.conv.weight, padding="same")
        torch.testing.assert_close(layer(x), torch.relu(layer.bn(expected)))


def test_stem_joins_a_maximum_and_two_convolutions() -> None:
    stem = StemBlock(3, 8, 12, stride=2).eval()
    fill(stem)
    x = image(1, 3, 20, 28)
    with torch.no_grad():
        first = stem.stem1(x)
        # Paddle's padding of a maximum: it is never the largest.
        pooled = F.max_pool2d(F.pad(first, (0, 1, 0, 1), value=-torch.inf), 2, 1)
        joined = torch.cat((pooled, stem.stem2b(stem.stem2a(first))), 1)
        torch.testing.assert_close(stem(x), stem.stem4(stem.stem3(joined)))
    assert stem(x).shape == (1, 12, 5, 7)


@pytest.mark.parametrize("light", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_block_mixes_its_input_and_all_its_layers(light: bool, residual: bool) -> None:
    block = HGV2Block(8, 4, 8, 5 if light else 3, light=light, residual=residual).eval()
    fill(block)
    x = image(1, 8, 6, 5)
    with torch.no_grad():
        seen = [x]
        for layer in block.layers:
            seen.append(layer(seen[-1]))
        expected = block.aggregation_excitation_conv(block.aggregation_squeeze_conv(torch.cat(seen, 1)))
        torch.testing.assert_close(block(x), expected + x if residual else expected)


def test_light_layer_has_one_activation_at_its_end() -> None:
    layer = LightConvBNAct(3, 6, 5).eval()
    fill(layer)
    x = image(1, 3, 7, 8)
    with torch.no_grad():
        first = layer.conv1.bn(layer.conv1.conv(x))
        assert (first < 0).any()
        second = layer.conv2.bn(layer.conv2.conv(first))
        torch.testing.assert_close(layer(x), torch.relu(second))
    assert layer.conv2.conv.groups == 6

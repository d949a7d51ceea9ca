"""The PP-OCRv4 detector: its names, its two forms, its pyramid and its three maps."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from paddle2torch.converters.layout import layout_table
from paddle2torch.model_zoo.config import Component, DBPostprocess, DetPreprocess, ModelConfig
from paddle2torch.model_zoo.db import DBFPN, RSEFPN, DBHead, PFHeadLocal, RSELayer
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.layers import BatchNorm2d, BatchNormReLU, Hardsigmoid, SEModule
from paddle2torch.model_zoo.network import Network, build_model, fuse

CONFIG = ModelConfig(
    name="det",
    task="det",
    form="training",
    backbone=Component("PPLCNetV3", {"scale": 0.75, "det": True}),
    neck=Component("RSEFPN", {"out_channels": 96, "shortcut": True}),
    head=Component("DBHead", {"k": 50, "fix_nan": True}),
    preprocess=DetPreprocess(),
    postprocess=DBPostprocess(),
)

# Every tensor of ch_PP-OCRv4_det_train: pattern of its name (N is a number, BN the four tensors of one) and how many.
TRAINING_KEYS = {
    "backbone.convN.conv.weight": 1,
    "backbone.convN.bn.BN": 4,
    "backbone.blocksN.N.dw_conv.conv_kxk.N.conv.weight": 56,
    "backbone.blocksN.N.dw_conv.conv_kxk.N.bn.BN": 224,
    "backbone.blocksN.N.dw_conv.conv_1xN.conv.weight": 14,
    "backbone.blocksN.N.dw_conv.conv_1xN.bn.BN": 56,
    "backbone.blocksN.N.dw_conv.identity.BN": 40,
    "backbone.blocksN.N.dw_conv.lab.scale": 14,
    "backbone.blocksN.N.dw_conv.lab.bias": 14,
    "backbone.blocksN.N.dw_conv.act.lab.scale": 14,
    "backbone.blocksN.N.dw_conv.act.lab.bias": 14,
    "backbone.blocksN.N.se.convN.weight": 4,
    "backbone.blocksN.N.se.convN.bias": 4,
    "backbone.blocksN.N.pw_conv.conv_kxk.N.conv.weight": 56,
    "backbone.blocksN.N.pw_conv.conv_kxk.N.bn.BN": 224,
    "backbone.blocksN.N.pw_conv.identity.BN": 36,
    "backbone.blocksN.N.pw_conv.lab.scale": 14,
    "backbone.blocksN.N.pw_conv.lab.bias": 14,
    "backbone.blocksN.N.pw_conv.act.lab.scale": 14,
    "backbone.blocksN.N.pw_conv.act.lab.bias": 14,
    "backbone.layer_list.N.weight": 4,
    "backbone.layer_list.N.bias": 4,
    "neck.ins_conv.N.in_conv.weight": 4,
    "neck.ins_conv.N.se_block.convN.weight": 8,
    "neck.ins_conv.N.se_block.convN.bias": 8,
    "neck.inp_conv.N.in_conv.weight": 4,
    "neck.inp_conv.N.se_block.convN.weight": 8,
    "neck.inp_conv.N.se_block.convN.bias": 8,
    "head.binarize.convN.weight": 3,
    "head.binarize.convN.bias": 2,
    "head.binarize.conv_bnN.BN": 8,
    "head.thresh.convN.weight": 3,
    "head.thresh.convN.bias": 2,
    "head.thresh.conv_bnN.BN": 8,
}


def pattern(key: str) -> str:
    key = re.sub(r"(bn\d?|identity)\.(weight|bias|_mean|_variance)$", r"\1.BN", key)
    return re.sub(r"(?<=[a-z.])\d+(?=\.)", "N", key)


def fill(model: nn.Module, seed: int) -> None:
    """Weights and statistics that hide nothing: no gain is 1, no mean 0, no variance 1."""
    generator = torch.Generator().manual_seed(seed)
    for key, tensor in model.state_dict().items():
        if key.endswith("running_var"):
            values = torch.rand(tensor.shape, generator=generator) + 0.5
        elif key.endswith(".scale") or (tensor.ndim == 1 and key.endswith("weight")):
            values = torch.rand(tensor.shape, generator=generator) * 0.3 + 0.35
        elif tensor.ndim == 1:
            values = torch.randn(tensor.shape, generator=generator) * 0.1
        else:
            values = torch.randn(tensor.shape, generator=generator) * tensor[0].numel() ** -0.5
        tensor.copy_(values)


@pytest.fixture(scope="module")
def detector() -> Network:
    model = build_model(CONFIG)
    fill(model, seed=1)
    return model.eval()


def image(height: int, width: int, count: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(2)) * 2 - 1


def test_training_form_has_the_checkpoints_tensors(detector: Network) -> None:
    keys = [row.paddle_key for row in layout_table(detector)]
    assert Counter(pattern(key) for key in keys) == TRAINING_KEYS
    assert len(keys) == 905
    assert sum(parameter.numel() for parameter in detector.parameters()) == 3_515_290


def test_fused_form_has_the_exports_tensors(detector: Network) -> None:
    fused = fuse(detector)
    assert len(fused.state_dict()) == 234
    # 4.7 MB of float32, the size that PaddleOCR's model list gives.
    assert sum(parameter.numel() for parameter in fused.parameters()) == 1_171_593
    assert not any(key.startswith("head.thresh.") for key in fused.state_dict())


@pytest.mark.parametrize(("height", "width"), [(32, 32), (96, 32), (160, 352)])
def test_fused_form_gives_the_same_map(detector: Network, height: int, width: int) -> None:
    x = image(height, width, count=2)
    with torch.no_grad():
        expected, found = detector(x)["maps"], fuse(detector)(x)["maps"]
    assert expected.shape == (2, 1, height, width)
    assert expected.std() > 0.01  # else equality would show nothing
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_layers_run_coarsest_first_as_in_an_export(detector: Network) -> None:
    order: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda module, inputs, path=path: order.append(path))
        for path, module in detector.named_modules()
        if re.fullmatch(r"(backbone\.layer_list|neck\.in._conv)\.\d", path)
    ]
    with torch.no_grad():
        detector(image(32, 32))
    for handle in handles:
        handle.remove()
    assert order == [
        *(f"backbone.layer_list.{i}" for i in (0, 1, 2, 3)),
        *(f"neck.ins_conv.{i}" for i in (3, 2, 1, 0)),
        *(f"neck.inp_conv.{i}" for i in (3, 2, 1, 0)),
    ]


@pytest.mark.parametrize("kind", ["plain", "gated", "shortcut"])
@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_pyramid_goes_from_coarse_to_fine(level: int, kind: str) -> None:
    """A level reaches itself and the finer ones; in the result the coarsest comes first, enlarged to the finest."""
    channels = (4, 5, 6, 7)
    plain = DBFPN(channels, out_channels=16)
    neck = plain if kind == "plain" else RSEFPN(channels, out_channels=16, shortcut=kind == "shortcut")
    fill(neck, seed=3)
    maps = [torch.zeros(1, channels, 16 >> i, 24 >> i) for i, channels in enumerate((4, 5, 6, 7))]
    maps[level] = torch.randn(maps[level].shape, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        out = neck(maps)
    assert out.shape == (1, 16, 16, 24)
    coarse_to_fine = out.split(4, dim=1)
    assert [bool(part.any()) for part in coarse_to_fine] == [i <= level for i in (3, 2, 1, 0)]
    for i, part in zip((3, 2, 1, 0), coarse_to_fine, strict=True):
        cells = part[..., :: 2**i, :: 2**i]
        assert torch.equal(part, cells.repeat_interleave(2**i, -2).repeat_interleave(2**i, -1))


def test_plain_pyramid_numbers_its_levels_by_their_stride() -> None:
    neck = DBFPN((4, 5, 6, 7), out_channels=16)
    shapes = {key: tuple(tensor.shape) for key, tensor in neck.state_dict().items()}
    assert shapes == {
        **{f"in{i}_conv.weight": (16, i + 2, 1, 1) for i in (2, 3, 4, 5)},
        **{f"p{i}_conv.weight": (4, 16, 3, 3) for i in (2, 3, 4, 5)},
    }
    order: list[str] = []
    for path, module in neck.named_modules():
        module.register_forward_pre_hook(lambda module, inputs, path=path: order.append(path))
    with torch.no_grad():
        neck([torch.zeros(1, channels, 16 >> i, 16 >> i) for i, channels in enumerate((4, 5, 6, 7))])
    assert order == ["", *(f"{kind}{i}_conv" for kind in ("in", "p") for i in (5, 4, 3, 2))]


def test_squeeze_and_excitation_gates_by_the_mean() -> None:
    se = SEModule(8)
    fill(se, seed=10)
    x = torch.randn(2, 8, 5, 7, generator=torch.Generator().manual_seed(11))
    with torch.no_grad():
        hidden = (x.mean((2, 3)) @ se.conv1.weight[..., 0, 0].T + se.conv1.bias).clamp(min=0)
        gate = (0.2 * (hidden @ se.conv2.weight[..., 0, 0].T + se.conv2.bias) + 0.5).clamp(0, 1)
        torch.testing.assert_close(se(x), x * gate[..., None, None])


def test_shortcut_adds_the_convolution_to_its_gated_self() -> None:
    layer = RSELayer(3, 8, 3, shortcut=True)
    fill(layer, seed=12)
    gated = RSELayer(3, 8, 3, shortcut=False)
    gated.load_state_dict(layer.state_dict())
    x = image(6, 9)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), layer.in_conv(x) + gated(x))


def test_training_gives_region_threshold_and_binary_map() -> None:
    head = DBHead(16, k=50)
    fill(head, seed=5)
    x = torch.randn(2, 16, 8, 12, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        # Evaluation reads the statistics that training moves, so it goes first.
        evaluated = head.eval()(x)["maps"]
        maps = head.train()(x)["maps"]
    assert evaluated.shape == (2, 1, 32, 48)
    assert maps.shape == (2, 3, 32, 48)
    shrink, threshold, binary = maps.double().unbind(1)
    torch.testing.assert_close(binary, 1 / (1 + torch.exp(-50 * (shrink - threshold))), rtol=0, atol=1e-5)
    assert (shrink - threshold).abs().max() > 0.05
    with torch.no_grad():
        torch.testing.assert_close(maps[:, :1], head.binarize(x))
        torch.testing.assert_close(maps[:, 1:2], head.thresh(x))


@pytest.mark.parametrize("head", [DBHead, PFHeadLocal])
def test_fused_form_cannot_train(head: type[DBHead]) -> None:
    with pytest.raises(ValueError, match="no threshold branch"):
        head(16, fused=True).train()(torch.zeros(1, 16, 2, 2))


def test_first_kernel_is_an_option() -> None:
    head = DBHead(16, kernel_list=[7, 2, 2]).eval()
    assert head.binarize.conv1.weight.shape == (4, 16, 7, 7)
    assert head(torch.zeros(1, 16, 3, 5))["maps"].shape == (1, 1, 12, 20)


@pytest.mark.parametrize(("mode", "width"), [("large", 4), ("small", 2)])
def test_local_head_refines_the_first_map(mode: str, width: int) -> None:
    head = PFHeadLocal(16, k=50, mode=mode)
    fill(head, seed=13)
    x = torch.randn(2, 16, 8, 12, generator=torch.Generator().manual_seed(14))
    local = head.cbn_layer
    assert local.last_3.conv.weight.shape == (width, 5, 3, 3)

    def refined() -> tuple[Tensor, Tensor]:
        first, features = head.binarize(x, return_features=True)
        doubled = features.repeat_interleave(2, -1).repeat_interleave(2, -2)
        inner = local.last_3.bn(local.last_3.conv(torch.cat((first, doubled), 1))).clamp(min=0)
        return first, torch.sigmoid(local.last_1(inner))

    with torch.no_grad():
        head.eval()
        first, second = refined()
        torch.testing.assert_close(head(x)["maps"], (first + second) / 2)
        # In training by the batch's statistics, which the first pass moves and no pass reads.
        out = head.train()(x)
        first, second = refined()
        assert out["maps"].shape == (2, 3, 32, 48)
        torch.testing.assert_close(out["maps"][:, :1], second)
        torch.testing.assert_close(out["maps"][:, 1:2], head.thresh(x))
        torch.testing.assert_close(out["distance_maps"], second)
        torch.testing.assert_close(out["cbn_maps"], out["maps"][:, 2:])
        binary = 1 / (1 + torch.exp(-50 * (first - head.thresh(x)).double()))
        torch.testing.assert_close(out["cbn_maps"].double(), binary, rtol=0, atol=1e-5)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="not large or small"):
        PFHeadLocal(16, mode="medium")


def test_fix_nan_replaces_nan_in_training_only() -> None:
    x = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(7))
    x[0, 0, 1, 1] = torch.nan
    with torch.no_grad():
        assert DBHead(16, fix_nan=True).train()(x)["maps"].isfinite().all()
        assert DBHead(16, fix_nan=False).train()(x)["maps"].isnan().any()
        assert DBHead(16, fix_nan=True).eval()(x)["maps"].isnan().any()


def test_norm_and_relu_are_one_module_under_the_norms_names() -> None:
    plain, rectified = BatchNorm2d(4), BatchNormReLU(4)
    fill(plain, seed=8)
    rectified.load_state_dict(plain.state_dict())
    x = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(9))
    for model in (plain.eval(), rectified.eval(), plain.train(), rectified.train()):
        assert model(x).shape == x.shape
    assert torch.equal(rectified.running_var, plain.running_var)
    plain.eval()
    rectified.eval()
    assert (plain(x) < 0).any()
    assert torch.equal(rectified(x), plain(x).clamp(min=0))


def test_hardsigmoid_of_another_slope() -> None:
    x = torch.tensor([-4.0, -2.5, -1.0, 0.0, 1.0, 2.5, 4.0])
    expected = torch.tensor([0.0, 0.0, 0.3, 0.5, 0.7, 1.0, 1.0])
    torch.testing.assert_close(Hardsigmoid(slope=0.2)(x), expected)
    torch.testing.assert_close(Hardsigmoid(slope=1 / 6)(x), nn.Hardsigmoid()(x))
    torch.testing.assert_close(Hardsigmoid(slope=1.0, offset=0.25)(torch.tensor([-0.5, 0.5])), torch.tensor([0, 0.75]))

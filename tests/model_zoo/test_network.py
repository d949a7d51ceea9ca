"""The recogniser's two forms, its options, and the second head as a reader."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from small_models import fill, small_config

from paddle2torch.model_zoo.config import Component
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.layers import BatchNorm2d, Embedding
from paddle2torch.model_zoo.network import Network, build_model, fuse
from paddle2torch.model_zoo.nrtr import END, START


def close(found: torch.Tensor, expected: torch.Tensor, relative: float = 1e-5) -> bool:
    return bool((found - expected).abs().max() <= relative * expected.abs().max())


@pytest.mark.parametrize("width", [32, 75, 320])
def test_fusing_changes_no_result(small: Network, width: int) -> None:
    x = torch.rand(2, 3, 48, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    fused = fuse(small)
    with torch.inference_mode():
        assert close(fused(x), small(x))
    assert fused.config.form == "fused"
    assert not fused.training
    assert not any("conv_kxk" in key or "gtc" in key for key in fused.state_dict())
    assert fuse(fused) is fused


def test_a_fused_model_keeps_its_dtype(small: Network) -> None:
    half = fuse(copy.deepcopy(small).to(torch.bfloat16))
    assert {tensor.dtype for tensor in half.state_dict().values()} == {torch.bfloat16}


def test_training_gives_both_heads_and_stops_ctc_at_the_neck(small: Network) -> None:
    model = build_model(small_config()).train()
    x = torch.rand(2, 3, 48, 64)
    targets = {"label_gtc": torch.tensor([[2, 4, 5, 3, 0, 0], [2, 4, 3, 0, 0, 0]]), "length": torch.tensor([2, 1])}
    out = model(x, targets)
    assert {key: tuple(value.shape) for key, value in out.items()} == {"ctc": (2, 40, 8), "gtc": (2, 3, 12)}
    out["ctc"].sum().backward(retain_graph=True)
    assert all(p.grad is None for p in model.backbone.parameters())
    out["gtc"].sum().backward()
    assert all(p.grad is not None for name, p in model.backbone.named_parameters())


def test_training_without_targets_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"model\(x, targets\)"):
        build_model(small_config()).train()(torch.rand(1, 3, 48, 64))
    assert set(build_model(small_config(nrtr=False)).train()(torch.rand(1, 3, 48, 64))) == {"ctc"}


def test_cached_decoding_is_teacher_forcing_step_by_step(small: Network) -> None:
    x = torch.rand(5, 3, 48, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    symbols, probabilities = small.decode_nrtr(x)
    with torch.inference_mode():
        memory = small.head.before_gtc(small.backbone(x))
        start = torch.full((5, 1), START)
        logits = small.head.gtc_head(memory, torch.cat((start, symbols[:, :-1]), 1))
    expected_probability, expected = logits.softmax(-1).max(-1)
    for row in range(5):
        ends = (symbols[row] == END).nonzero()
        length = int(ends[0]) + 1 if len(ends) else symbols.shape[1]
        assert torch.equal(symbols[row, :length], expected[row, :length])
        assert torch.allclose(probabilities[row, :length], expected_probability[row, :length], atol=1e-6)
        assert not symbols[row, length:].any()


def test_decoding_one_by_one_is_decoding_together(small: Network) -> None:
    x = torch.rand(4, 3, 48, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1
    together, _ = small.decode_nrtr(x)
    for row in range(4):
        alone, _ = small.decode_nrtr(x[row : row + 1])
        assert torch.equal(together[row, : alone.shape[1]], alone[0])


def test_decoding_needs_the_head_and_evaluation(small: Network) -> None:
    with pytest.raises(ValueError, match="no NRTR head"):
        fuse(small).decode_nrtr(torch.rand(1, 3, 48, 64))
    model = build_model(small_config()).train()
    with pytest.raises(RuntimeError, match="eval"):
        model.decode_nrtr(torch.rand(1, 3, 48, 64))


def test_the_padding_symbol_is_zero_whatever_its_row_holds() -> None:
    embedding = Embedding(4, 8, padding_idx=0)
    torch.nn.init.ones_(embedding.weight)
    assert embedding(torch.tensor([0, 1])).sum(-1).tolist() == [0.0, 8.0]


def test_running_variance_moves_by_the_biased_variance() -> None:
    bn = BatchNorm2d(2).train()
    x = torch.rand(3, 2, 1, 2, generator=torch.Generator().manual_seed(3))
    bn(x)
    expected = 0.9 + 0.1 * x.var((0, 2, 3), unbiased=False)
    assert torch.allclose(bn.running_var, expected, rtol=1e-6)
    assert torch.allclose(bn.running_mean, 0.1 * x.mean((0, 2, 3)), rtol=1e-6)
    assert set(bn.state_dict()) == {"weight", "bias", "running_mean", "running_var"}


@pytest.mark.parametrize("kernels", [([1, 3], None), ([3, 3], None), ([1, 3], [3, 3])])
def test_kernels_of_the_neck(kernels: tuple[list[int], list[int] | None]) -> None:
    config = small_config(nrtr=False)
    ctc = {**config.head.options["ctc"], "kernel_size": kernels[0]}
    if kernels[1]:
        ctc["last_kernel_size"] = kernels[1]
    model = build_model(replace(config, head=Component("MultiHead", {**config.head.options, "ctc": ctc}))).eval()
    fill(model)
    encoder = model.head.ctc_encoder.encoder
    assert list(encoder.conv1.conv.kernel_size) == kernels[0]
    assert list(encoder.conv4.conv.kernel_size) == (kernels[1] or kernels[0])
    with torch.inference_mode():
        assert model(torch.rand(1, 3, 48, 100)).shape == (1, 12, 8)


@pytest.mark.parametrize(
    ("part", "component", "message"),
    [
        ("backbone", Component("PPLCNetV9"), "'PPLCNetV9' is not supported; known: .*PPLCNetV3"),
        ("backbone", Component("PPLCNetV3", {"scle": 1.0}), "unknown key 'scle'; did you mean 'scale'"),
        ("backbone", Component("PPLCNetV3", {"fused": True}), "unknown key 'fused'"),
        ("head", Component("MultiHead", {"classes": 8, "ctc": {"dimms": 3}}), "dimms"),
    ],
)
def test_an_option_that_no_network_has(part: str, component: Component, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(replace(small_config(), **{part: component}))


@pytest.mark.parametrize(
    ("part", "path", "key"),
    [
        ("backbone", (), "conv_kxk_num"),
        ("head", ("ctc",), "depth"),
        ("head", ("nrtr",), "num_decoder_layers"),
        ("head", ("ctc",), "hidden_dims"),
    ],
)
def test_sizes_that_would_build_for_hours_are_refused(part: str, path: tuple[str, ...], key: str) -> None:
    config = small_config()
    component: Component = getattr(config, part)
    options = copy.deepcopy(dict(component.options))
    place = options
    for step in path:
        place = place[step]
    place[key] = 10**9
    with pytest.raises(ConfigError, match=f"{key} is 1000000000: it must be a number from"):
        build_model(replace(config, **{part: Component(component.name, options)}))

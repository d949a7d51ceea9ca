"""A new architecture is one file: a network that the package does not have is converted, folded, taken back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import fill, write_pdparams

from paddle2torch import convert, load_pretrained
from paddle2torch.converters.architecture import describe
from paddle2torch.converters.layout import layout_table, to_paddle
from paddle2torch.converters.paddle_files.pdparams import read_pdparams
from paddle2torch.exporting.export import export
from paddle2torch.model_zoo import registry
from paddle2torch.model_zoo.config import Component, CTCDecode, ModelConfig, RecPreprocess
from paddle2torch.model_zoo.forms.folded import FoldedConv2d
from paddle2torch.model_zoo.network import Network, build_model
from paddle2torch.training.initialisation import initialise
from paddle2torch.zoo.info import describe as info


@pytest.fixture
def mynet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The file of the new architecture, imported as a user's own module would be."""
    monkeypatch.syspath_prepend(str(Path(__file__).with_name("adding")))
    __import__("mynet")
    yield
    del registry._PARTS["backbone", "MyNet"]
    del sys.modules["mynet"]


@pytest.fixture
def network(mynet: None) -> Network:
    """It, with an LSTM and a CTC head, filled."""
    config = ModelConfig(
        name="mine",
        task="rec",
        form="training",
        backbone=Component("MyNet", {"width": 12}),
        neck=Component("SequenceEncoder", {"encoder_type": "rnn", "hidden_size": 4}),
        head=Component("CTCHead", {"classes": 4}),
        preprocess=RecPreprocess(image_shape=(3, 32, 100)),
        postprocess=CTCDecode(),
        charset=("a", "b", "c"),
    )
    model = build_model(config).eval()
    fill(model)
    return model


@pytest.mark.slow
def test_a_network_of_ones_own_is_one_file(network: Network, tmp_path: Path) -> None:
    tensors = to_paddle(layout_table(network), network.state_dict())
    checkpoint = write_pdparams(tmp_path / "mine.pdparams", tensors)
    (tmp_path / "abc.txt").write_text("a\nb\nc\n")
    found = convert("mine", weights=checkpoint, charset=tmp_path / "abc.txt", use_space_char=False)
    assert found.config.backbone == Component("MyNet", {"width": 12})  # read off the tensors

    x = torch.rand(2, 3, 32, 100, generator=torch.Generator().manual_seed(0))
    loaded, folded = load_pretrained("mine"), load_pretrained("mine", fused=True)
    with torch.inference_mode():
        assert torch.equal(loaded(x), network(x))
        assert torch.allclose(folded(x), network(x), atol=1e-6)
    assert isinstance(folded.get_submodule("backbone.my_blocks.0.conv"), FoldedConv2d)
    assert info("mine").parameters.training == sum(p.numel() for p in network.parameters())

    back = read_pdparams(export("mine", "paddle", tmp_path / "back.pdparams").target).tensors
    # An LSTM's tensors are there under a second name as well, as Paddle writes them.
    assert all(np.array_equal(back[key], tensors[key]) for key in tensors)


def test_its_layers_start_as_they_say(network: Network) -> None:
    torch.manual_seed(0)
    initialise(network)
    weight = network.get_parameter("backbone.my_blocks.1.conv.weight")
    assert float(weight.detach().std()) == pytest.approx(0.5 * (2 / weight[0].numel()) ** 0.5, rel=0.05)


def test_errors_name_it(mynet: None) -> None:
    shapes = {"backbone.my_blocks.0.conv.weight": (8, 3, 3, 3), "head.fc.bias": (4,)}
    assert describe(shapes) == "MyNet with ClsHead"

"""Weights to start from: new ones as Paddle draws them, and those of a pretrained model, whatever its character set.

Sources: the layers' initialisers in PaddleOCR `ppocr/modeling/` and the defaults of `paddle.nn` (Apache-2.0).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paddle2torch.converters.transformers import TRAINING_HEADS
from paddle2torch.model_zoo.config import ClsPostprocess, ModelConfig
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.layers import BatchNorm2d, DrawsItsWeights
from paddle2torch.model_zoo.network import Network, build_model, unfuse
from paddle2torch.model_zoo.rec_heads import NRTR_EXTRA_SYMBOLS
from paddle2torch.training.settings import is_guided

# Rows of classes: the tensor, the row of the first character of the set in it, and how many rows there are behind the
# characters.
CLASS_ROWS: Mapping[str, tuple[int, int]] = {
    **{
        f"{head}.{kind}": (1, 0)
        for head in ("head.ctc_head.fc", "head.ctc_head.fc2", "head.fc", "head.fc2")
        for kind in ("weight", "bias")
    },
    "head.gtc_head.embedding.embedding.weight": (NRTR_EXTRA_SYMBOLS, 1),
    "head.gtc_head.tgt_word_prj.weight": (NRTR_EXTRA_SYMBOLS, 1),
    # Unknown, start and end in one, and padding, which is never predicted.
    "head.sar_head.decoder.embedding.weight": (0, 3),
    "head.sar_head.decoder.prediction.weight": (0, 2),
    "head.sar_head.decoder.prediction.bias": (0, 2),
}


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Draw all weights anew, from the distributions that Paddle draws them from, by PyTorch's generator.

    Layers start from the defaults of Paddle's layers; a module with `init_weights` then draws what differs.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)):
            # Paddle counts all input channels here, those of other groups too.
            fan_in = module.in_channels * math.prod(module.kernel_size)
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_in))
            _zero(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            _zero(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
        elif isinstance(module, BatchNorm2d):
            for tensor, value in ((module.running_mean, 0), (module.running_var, 1)):
                assert tensor is not None
                tensor.fill_(value)
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    for module in network.modules():
        if isinstance(module, DrawsItsWeights):
            module.init_weights()


def _zero(bias: Tensor | None) -> None:
    if bias is not None:
        nn.init.zeros_(bias)


@dataclass(frozen=True)
class Adopted:
    """What came from the pretrained model.

    `new` names the tensors that it does not have; `shared` and `added` are the characters of the new set whose rows
    were taken over, and those that start anew; `left_out` those of the old set alone. Of a classifier they are classes.
    `made`: the normalisations of training branches that were made anew for a model in fused form. guided: CTC takes no
    gradient to the backbone, another head does.
    """

    new: tuple[str, ...]
    shared: tuple[str, ...]
    added: tuple[str, ...]
    left_out: tuple[str, ...]
    what: str = "characters"
    made: tuple[str, ...] = ()
    guided: bool = False

    def lines(self) -> list[str]:
        """The report, a line per fact; empty where all was taken over."""
        lines = []
        if self.made:
            lines.append("the pretrained model has no training branches: they are made anew, and compute the same")
        if self.new:
            lines.append(f"{len(self.new)} tensors are not in the pretrained model and start anew: {self.new[0]}, …")
        if self.new and self.guided:
            lines.append(
                "they alone train the backbone (head.ctc.use_guide), and know nothing yet: where there is little data, "
                "let CTC train it (use_guide false, head.nrtr and head.sar null), as `init` of a converted release does"
            )
        if self.added or self.left_out:
            where = "character set" if self.what == "characters" else "labels"
            named = f": {' '.join(self.added[:20])}{' …' if len(self.added) > 20 else ''}" if self.added else ""
            lines.append(
                f"{where}: {len(self.shared)} {self.what} keep their rows, {len(self.left_out)} are left out, "
                f"{len(self.added)} start anew{named}"
            )
        return lines


@torch.no_grad()
def adopt(network: Network, source: Network) -> Adopted:
    """Take over the weights of `source`. Characters or classes that both have keep their rows in the heads.

    What the source does not have (rows of other characters, the heads that only training needs) stays as it is in
    `network`, freshly initialised. The branches of one in fused form are made anew (`unfuse`), and their statistics are
    to be measured (`measure_statistics`). Raises `ConfigError` where the source is of another architecture.
    """
    state, (given, made) = network.state_dict(), _training_state(source)
    rows = _rows(network.config, source.config)
    new: list[str] = []
    wrong: list[str] = []
    for key, tensor in state.items():
        if key not in given:
            (new if key.startswith(TRAINING_HEADS) else wrong).append(key)
        elif key in CLASS_ROWS and rows is not None and tensor[0].shape == given[key][0].shape:
            around = CLASS_ROWS[key] if network.config.task == "rec" else (0, 0)
            _copy_rows(tensor, given[key], rows, *around)
        elif tensor.shape == given[key].shape:
            tensor.copy_(given[key])
        else:
            wrong.append(key)
    if wrong:
        raise ConfigError(
            f"{network.config.name} cannot start from {source.config.name}: {len(wrong)} tensors are missing there or "
            f"of another shape ({', '.join(wrong[:4])}{', …' if len(wrong) > 4 else ''}). Use the architecture of the "
            f"pretrained model in model_config.json, or set pretrained to null"
        )
    own, others = _names(network.config), _names(source.config)
    known = frozenset(own)
    taken = set(range(len(own))) if rows is None else {target for target, _ in rows}
    return Adopted(
        tuple(new),
        tuple(name for place, name in enumerate(own) if place in taken),
        tuple(name for place, name in enumerate(own) if place not in taken),
        tuple(name for name in dict.fromkeys(others) if name not in known),
        "classes" if network.config.task == "cls" else "characters",
        made,
        is_guided(network.config),
    )


def _training_state(source: Network) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of a model in training form, and which of its normalisations were made anew for that."""
    if source.config.form == "training":
        return source.state_dict(), ()
    training = build_model(source.config.with_form("training"))
    initialise(training)
    made = unfuse(source, training)
    state = training.state_dict()
    return {key: tensor for key, tensor in state.items() if not key.startswith(TRAINING_HEADS)}, made


@torch.no_grad()
def measure_statistics(network: nn.Module, names: Sequence[str], images: Iterable[Tensor]) -> None:
    """Give normalisations the mean and variance of what they see of `images`, batches of floats (N, 3, H, W).

    Weights and shifts make up for it: in evaluation the network computes the same as before, but for rounding. In
    training, which normalises by each batch, it then computes nearly that.
    """
    norms = {name: network.get_submodule(name) for name in names}
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
    handles = [
        norm.register_forward_pre_hook(
            lambda _, inputs, rows=seen[name]: rows.append(torch.var_mean(inputs[0].float(), (0, 2, 3), correction=0))
        )
        for name, norm in norms.items()
    ]
    network.eval()
    try:
        for image in images:
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    for name, norm in norms.items():
        assert isinstance(norm, BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        if not seen[name]:
            continue
        variances, means = (torch.stack(column) for column in zip(*seen[name], strict=True))
        mean = means.mean(0)
        var = variances.mean(0) + means.var(0, correction=0)
        gain = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        norm.bias.add_(gain * (mean - norm.running_mean))
        norm.weight.copy_(gain * torch.sqrt(var + norm.eps))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)


def _names(config: ModelConfig) -> tuple[str, ...]:
    """What a model's classes mean: characters, or labels; empty for a detector."""
    return config.postprocess.labels if isinstance(config.postprocess, ClsPostprocess) else config.charset or ()


def _rows(config: ModelConfig, source: ModelConfig) -> list[tuple[int, int]] | None:
    """Which place of the new character set takes which place of the old one; None where the sets are the same."""
    own, others = _names(config), _names(source)
    if own == others or config.task != source.task:
        return None
    places = _places(others)
    # A character that is in the set twice is encoded as its last place: that row is the trained one.
    return sorted(
        (target, origin)
        for character, targets in _places(own).items()
        for target, origin in zip(reversed(targets), reversed(places[character]), strict=False)
    )


def _places(charset: Sequence[str]) -> defaultdict[str, list[int]]:
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, character in enumerate(charset):
        places[character].append(place)
    return places


def _copy_rows(tensor: Tensor, given: Tensor, rows: Sequence[tuple[int, int]], first: int, behind: int) -> None:
    """Rows of characters by character; the `first` before them and those `behind` them by place."""
    tensor[:first] = given[:first]
    if rows:
        targets, origins = (torch.tensor(column) + first for column in zip(*rows, strict=True))
        tensor[targets] = given[origins]
    if behind:
        tensor[-behind:] = given[-behind:]

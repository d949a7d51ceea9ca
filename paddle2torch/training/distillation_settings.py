"""How a recogniser learns from another: the networks beside it, and PaddleOCR's losses between them, by their names.

Source: PaddleOCR `ppocr/losses/distillation_loss.py`, `basic_loss.py`, `combined_loss.py` (Apache-2.0).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.show import show, show_text
from paddle2torch.model_zoo.strict_json import from_json, to_json, unknown_key, within

STUDENT = "Student"
"""The network that is trained, evaluated and kept: that of model_config.json."""

MOST_TEACHERS, MOST_LOSSES = 8, 64
MOST_WEIGHT = 1e38
MOST_TEMPERATURE = 1000.0

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")

Head = Literal["ctc", "gtc", "sar"]
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class TeacherSettings:
    """A network that the student learns from.

    `pretrained` is a converted model as for the student; null: new weights, of the student's own network. With
    `freeze` it stays as it is: its statistics too, and it drops nothing out (PaddleOCR's frozen teachers normalise by
    the batch and do drop out). Else it learns as well, and is kept in the checkpoint alone. `digest` is that of
    the weights: training notes it in `output/settings`, and refuses others where it is given.
    """

    pretrained: str | None = None
    freeze: bool = True
    digest: str | None = None

    def __post_init__(self) -> None:
        if self.freeze and self.pretrained is None:
            raise ConfigError("a frozen teacher needs weights: say in `pretrained` which converted model it is")


@dataclass(frozen=True)
class _Weighed:
    weight: float = 1.0

    def __post_init__(self) -> None:
        within(self, weight=(0, MOST_WEIGHT))


@dataclass(frozen=True)
class _OfNetworks(_Weighed):
    model_name_list: tuple[str, ...] = (STUDENT,)

    @property
    def networks(self) -> tuple[str, ...]:
        """Those that it looks at."""
        return self.model_name_list

    @property
    def terms(self) -> tuple[tuple[str, ...], ...]:
        """What each of its terms looks at."""
        return tuple((name,) for name in self.model_name_list)


@dataclass(frozen=True)
class _OfPairs(_Weighed):
    model_name_pairs: Pairs = ((STUDENT, "Teacher"),)

    @property
    def networks(self) -> tuple[str, ...]:
        """Those that it looks at."""
        return tuple(name for pair in self.model_name_pairs for name in pair)

    @property
    def terms(self) -> tuple[tuple[str, ...], ...]:
        """What each of its terms looks at."""
        return self.model_name_pairs


@dataclass(frozen=True)
class DistillationCTCLoss(_OfNetworks):
    """CTC of each network of `model_name_list`."""

    dis_head = "ctc"


@dataclass(frozen=True)
class DistillationNRTRLoss(_OfNetworks):
    """Cross-entropy of the NRTR head of each network: smoothed, or over the padding behind the labels as well."""

    smoothing: bool = True

    dis_head = "gtc"


@dataclass(frozen=True)
class DistillationSARLoss(_OfNetworks):
    """Cross-entropy of the SAR head of each network."""

    dis_head = "sar"


@dataclass(frozen=True)
class DistillationDMLLoss(_OfPairs):
    """Deep mutual learning: the mean of both KL divergences between the probabilities of a head, summed over the steps.

    Both networks of a pair learn from it, but one that is frozen.
    """

    act: Literal["softmax"] = "softmax"
    use_log: Literal[True] = True
    dis_head: Head = "ctc"


@dataclass(frozen=True)
class DistillationKLDivLoss(_OfPairs):
    """KL divergence of the second network's probabilities from the first one's: plain distillation of logits.

    Of the NRTR head the mean over all symbols of labels, else the sum over the steps.
    """

    dis_head: Head = "ctc"


@dataclass(frozen=True)
class DistillationDKDLoss(_OfPairs):
    """Decoupled distillation of the NRTR head: `alpha` times how sure both are of the label, `beta` times the rest.

    Source: arXiv:2203.08679.
    """

    alpha: float = 1.0
    beta: float = 1.0
    temperature: float = 1.0
    dis_head: Literal["gtc"] = "gtc"

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, alpha=(0, MOST_WEIGHT), beta=(0, MOST_WEIGHT), temperature=(1e-3, MOST_TEMPERATURE))


@dataclass(frozen=True)
class DistillationDistanceLoss(_OfPairs):
    """The mean distance between what the backbones of both networks give: squared, absolute, or one below 1."""

    mode: Literal["l2", "l1", "smooth_l1"] = "l2"

    dis_head = None


@dataclass(frozen=True)
class DistillCTCLogits(_OfPairs):
    """KL divergence of CTC's probabilities averaged over the steps, at a temperature of 0.5, the blank's logit negated.

    Both networks may have different numbers of steps.
    """

    dis_head = "ctc"


Term = (
    DistillationCTCLoss
    | DistillationNRTRLoss
    | DistillationSARLoss
    | DistillationDMLLoss
    | DistillationKLDivLoss
    | DistillationDKDLoss
    | DistillationDistanceLoss
    | DistillCTCLogits
)

TERMS: Mapping[str, type[Any]] = {kind.__name__: kind for kind in get_args(Term)}


@dataclass(frozen=True)
class LossTerm:
    """One of the losses, in JSON an object with one key: `{"DistillationCTCLoss": {"weight": 1.0}}`."""

    loss: Term

    @classmethod
    def from_json(cls, data: Any, where: str) -> LossTerm:
        """Read the object; raises `ConfigError` for a loss that nobody knows and for options that it does not have."""
        if not isinstance(data, dict) or len(data) != 1:
            raise ConfigError(f'{where}: a loss is an object with one key, {{"NAME": {{…}}}}, not {show(data)}')
        ((name, options),) = data.items()
        if name not in TERMS:
            raise unknown_key(str(name), TERMS, where)
        return cls(from_json(TERMS[name], {} if options is None else options, f"{where}: {name}"))

    def to_json(self) -> dict[str, Any]:
        """The object with one key."""
        return {type(self.loss).__name__: to_json(self.loss)}


@dataclass(frozen=True)
class DistillationSettings:
    """The loss of a recogniser that learns from others: the sum of PaddleOCR's `losses`, each times its weight.

    `teachers` are the networks beside the one that is trained, by name; that one is called Student. Only it is
    evaluated, kept as `best`, and exported.
    """

    teachers: Mapping[str, TeacherSettings]
    losses: tuple[LossTerm, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.teachers) <= MOST_TEACHERS:
            raise ConfigError(f"distillation takes 1 to {MOST_TEACHERS} teachers, not {len(self.teachers)}")
        for name in self.teachers:
            if not _NAME.fullmatch(name) or name == STUDENT:
                raise ConfigError(f"teachers: {show(name)} is no name of one: letters, digits and _, but not {STUDENT}")
        known = (STUDENT, *self.teachers)
        for loss in (term.loss for term in self.losses):
            for name in loss.networks:
                if name not in known:
                    raise ConfigError(
                        f"{type(loss).__name__}: there is no network {show_text(name)}: known: {', '.join(known)}"
                    )
        terms = Counter(name for name, _, _ in self.terms())
        if terms.total() > MOST_LOSSES:
            raise ConfigError(f"losses: they are of {terms.total():,} networks and pairs, at most {MOST_LOSSES}")
        if twice := sorted(name for name, count in terms.items() if count > 1):
            raise ConfigError(f"losses: {', '.join(twice)} stands there twice")
        if not any(STUDENT in loss.networks and loss.weight > 0 for loss in (term.loss for term in self.losses)):
            raise ConfigError(f"losses: none of them has a weight and looks at the {STUDENT}: nothing would be learnt")

    def terms(self) -> list[tuple[str, Term, tuple[str, ...]]]:
        """Each term of the loss: its name in the log, its options, and the networks that it looks at."""
        return [
            ("_".join((type(loss).__name__, *([loss.dis_head] if loss.dis_head else []), *networks)), loss, networks)
            for loss in (term.loss for term in self.losses)
            for networks in loss.terms
        ]

    def heads(self, network: str) -> frozenset[str]:
        """The heads of a network that a loss looks at."""
        found = (term.loss.dis_head for term in self.losses if network in term.loss.networks)
        return frozenset(head for head in found if head is not None)

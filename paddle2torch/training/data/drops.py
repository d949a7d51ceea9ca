"""What training data loses on its way to the network, by reason: nothing is dropped without being counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from paddle2torch.model_zoo.errors import Paddle2TorchError


class DataError(Paddle2TorchError):
    """Training or evaluation data is missing, malformed, or has nothing that can be used."""


class Reason(Enum):
    """Why a sample was not used as it is."""

    EMPTY = "empty label"
    TOO_LONG = "label too long"
    OUTSIDE = "no character of the label is in the set"
    NO_CLASS = "label that is no class of the model"
    UNREADABLE = "unreadable image"
    MALFORMED = "malformed label"
    LACKING = "label with characters that are not in the set"
    JOINED = "too long once RecConAug had joined other lines to it"
    SQUEEZED = "far too wide: squeezed"


OF_THE_SAMPLE = (
    *(Reason.EMPTY, Reason.TOO_LONG, Reason.OUTSIDE, Reason.NO_CLASS),
    *(Reason.UNREADABLE, Reason.MALFORMED),
)
"""These hold at every request; a line that was joined too long once is used another time, a squeezed one always, and a
label without some of its characters, too."""

CHARACTERS_SHOWN = 20


@dataclass(frozen=True)
class Event:
    """One sample, one reason. It travels from the process that loaded the sample to the one that trains."""

    index: int
    reason: Reason
    message: str


class Rejected(Exception):  # noqa: N818 - not an error: the next sample takes this one's place
    """A sample that cannot be used; the dataset turns it into an `Event`."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass
class DropReport:
    """The counts of one dataset: what its labels told at once, and what reading the images showed since.

    `indices` has the samples of each reason and `first` its first message; `replaced` counts requests that were
    answered with another sample; `outside` counts the characters that labels lost because the set lacks them; `unseen`
    the samples of which it was not yet looked whether their image is there. `digest` tells the labels from others.
    """

    samples: int
    indices: dict[Reason, set[int]] = field(default_factory=dict)
    first: dict[Reason, str] = field(default_factory=dict)
    replaced: int = 0
    outside: Counter[str] = field(default_factory=Counter)
    unseen: int = 0
    digest: str = ""

    def add(self, event: Event) -> None:
        """Note a sample under a reason; saying it again changes nothing."""
        self.indices.setdefault(event.reason, set()).add(event.index)
        self.first.setdefault(event.reason, event.message)

    @classmethod
    def together(cls, reports: Sequence[DropReport]) -> DropReport:
        """What the processes that share a dataset report, as one."""
        whole = cls(reports[0].samples, outside=reports[0].outside)
        for report in reports:
            whole.replaced += report.replaced
            for reason, indices in report.indices.items():
                whole.indices.setdefault(reason, set()).update(indices)
                whole.first.setdefault(reason, report.first[reason])
        return whole

    def count(self, reason: Reason) -> int:
        """How many samples this happened to."""
        return len(self.indices.get(reason, ()))

    @property
    def dropped(self) -> int:
        """How many samples are known to be unusable."""
        return sum(self.count(reason) for reason in OF_THE_SAMPLE)

    def lines(self) -> list[str]:
        """The report, a line per reason; its first line sums up."""
        lines = [
            f"{self.samples:,} samples, {self.dropped:,} dropped; {self.replaced:,} requests took another sample"
            + (f"; of {self.unseen:,} images it was not looked yet whether they are there" if self.unseen else "")
        ]
        lines += [
            f"  {self.count(reason):,} x {reason.value}, first: {self.first[reason]}"
            for reason in Reason
            if reason in self.indices and reason is not Reason.LACKING
        ]
        if Reason.LACKING in self.indices:
            shown = ", ".join(f"{char!r} {count:,}x" for char, count in self.outside.most_common(CHARACTERS_SHOWN))
            more = len(self.outside) - CHARACTERS_SHOWN
            lines.append(
                f"  {self.count(Reason.LACKING):,} x label without characters that are not in the set: {shown}"
                + (f" and {more:,} more" if more > 0 else "")
                + f"; first: {self.first[Reason.LACKING]}"
            )
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())

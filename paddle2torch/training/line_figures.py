"""Figures of a recogniser's answers: where its mistakes are, which characters it takes for which, how sure it is.

Lines are compared as the accuracy is measured (`evaluation.ignore_space`, `is_filter`); the error rates CER and WER are
of the texts as they are.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from fontTools import unicodedata as scripts
from rapidfuzz.distance import Levenshtein

from paddle2torch.training.answers import LineAnswer
from paddle2torch.training.calibration import Calibration, calibrate

LENGTHS = (0, 1, 3, 5, 8, 12, 16, 24, 32, 48, 64)
"""The shortest length of each row of the accuracy by length."""

EXAMPLES = 3
PAIRS = 100
"""Confusions that are told, of all that are counted."""

SURE = 0.9
"""A line that is wrong with this confidence is worth a look at its label, where few lines are:"""

SURE_AND_WRONG = 0.2
"""of those that the model is sure of not more than this share."""

PAIRS_ADVISED = 5
LEAST_OF_A_GROUP, MUCH_WORSE = 5, 0.15
"""A group of so many lines is told whose accuracy is by so much less than that of all."""

_CATEGORIES: Mapping[str, str] = {
    "Lu": "capital letters",
    "Ll": "small letters",
    "L": "letters",
    "Nd": "digits",
    "N": "numbers",
    "P": "punctuation",
    "S": "symbols",
    "Z": "spaces",
    "M": "marks",
}


@dataclass(frozen=True)
class Group:
    """Lines, or characters of labels, that belong together: how many there are, and how many are right."""

    name: str
    count: int
    right: int

    @property
    def accuracy(self) -> float:
        """The share that is right."""
        return self.right / self.count

    def to_json(self) -> dict[str, Any]:
        """As a row of the report."""
        return {**asdict(self), "accuracy": self.accuracy}


@dataclass(frozen=True)
class Confusion:
    """A character of labels that is read as another one: how often, in how many lines, and in how many of them alone.

    An empty `label` is a character too many, an empty `read` one too few. examples: samples with it, those first in
    which it is the only mistake.
    """

    label: str
    read: str
    count: int
    lines: int
    alone: int
    examples: tuple[int, ...]

    def __str__(self) -> str:
        if not self.label:
            return f"{self.read!r} is read where nothing is"
        return f"{self.label!r} is {f'read as {self.read!r}' if self.read else 'not read'}"


@dataclass(frozen=True)
class Advice:
    """Something that keeps lines from being right: of how many, and what it is."""

    lines: int
    text: str


@dataclass(frozen=True)
class LineFigures:
    """The figures of an evaluation.

    confusions: the most frequent ones, of `different_confusions`. worst: the samples that are wrong, worst first: by
    the share of their characters, then by how sure the model was. advice: what keeps most lines from being right.
    """

    lines: int
    right: int
    cer: float
    wer: float
    by_length: tuple[Group, ...]
    by_class: tuple[Group, ...]
    by_source: tuple[Group, ...]
    confusions: tuple[Confusion, ...]
    different_confusions: int
    calibration: Calibration
    worst: tuple[int, ...]
    advice: tuple[Advice, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As `eval --json` prints it; of the worst lines the first fifty."""
        return {
            "lines": self.lines,
            "right": self.right,
            "cer": self.cer,
            "wer": self.wer,
            **{
                name: [group.to_json() for group in getattr(self, name)]
                for name in ("by_length", "by_class", "by_source")
            },
            "confusions": [asdict(confusion) for confusion in self.confusions],
            "different_confusions": self.different_confusions,
            "calibration": self.calibration.to_json(),
            "worst": list(self.worst[:50]),
            "advice": [asdict(advice) for advice in self.advice],
        }


@dataclass(frozen=True)
class _Compared:
    """A line as it is compared, and its mistakes as pairs of a character of the label and one that was read."""

    answer: LineAnswer
    label: str
    text: str
    mistakes: tuple[tuple[str, str], ...]
    missing: tuple[int, ...]
    """Places in the label of characters that nothing was read for."""

    @property
    def right(self) -> bool:
        return not self.mistakes and not self.answer.unread

    @property
    def wrong_share(self) -> float:
        return len(self.mistakes) / max(len(self.label), len(self.text), 1)


def line_figures(
    answers: Sequence[LineAnswer],
    *,
    source: Callable[[int], str],
    normalised: Callable[[str], str],
    charset: Iterable[str],
) -> LineFigures:
    """The figures of at least one answer.

    source: which label file or database a sample is of. normalised: what is compared of a text.
    """
    compared = [_compare(answer, normalised) for answer in answers]
    wrong = [line for line in compared if not line.right]
    counts = Counter(pair for line in wrong for pair in line.mistakes)
    figures = LineFigures(
        lines=len(compared),
        right=len(compared) - len(wrong),
        cer=_error_rate(answers, list),
        wer=_error_rate(answers, str.split),
        by_length=_groups(compared, lambda line: _length_row(len(line.label)), in_order=True),
        by_class=_by_class(compared),
        by_source=_groups(compared, lambda line: source(line.answer.index)),
        confusions=_confusions(wrong, counts),
        different_confusions=len(counts),
        calibration=calibrate([(line.answer.score, line.right) for line in compared]),
        worst=tuple(
            line.answer.index
            for line in sorted(wrong, key=lambda line: (-line.wrong_share, -line.answer.score, line.answer.index))
        ),
    )
    return replace(figures, advice=_advice(figures, compared, frozenset(charset)))


def character_class(character: str) -> str:
    """What a character is, by Unicode: its script, where it is of one, and its kind ("Latin capital letters")."""
    category = unicodedata.category(character)
    kind = _CATEGORIES.get(category) or _CATEGORIES.get(category[0], "other characters")
    script = scripts.script_name(scripts.script(character))
    return kind if script in ("Common", "Inherited", "Unknown") else f"{script} {kind}"


def _compare(answer: LineAnswer, normalised: Callable[[str], str]) -> _Compared:
    label, text = normalised(answer.label), normalised(answer.text)
    mistakes, missing = [], []
    for edit in Levenshtein.editops(label, text):
        lost = "" if edit.tag == "insert" else label[edit.src_pos]
        mistakes.append((lost, "" if edit.tag == "delete" else text[edit.dest_pos]))
        if edit.tag == "delete":
            missing.append(edit.src_pos)
    return _Compared(answer, label, text, tuple(mistakes), tuple(missing))


def _error_rate(answers: Sequence[LineAnswer], parts: Callable[[str], Sequence[str]]) -> float:
    """Edits between labels and texts in so many parts of all labels together."""
    pairs = [(parts(answer.label), parts(answer.text)) for answer in answers]
    edits = sum(Levenshtein.distance(label, text) for label, text in pairs)
    return edits / max(sum(len(label) for label, _ in pairs), 1)


def _length_row(length: int) -> str:
    for first, following in pairwise(LENGTHS):
        if length < following:
            return str(first) if following == first + 1 else f"{first} to {following - 1}"
    return f"{LENGTHS[-1]} and more"


def _groups(
    compared: Sequence[_Compared], name: Callable[[_Compared], str], *, in_order: bool = False
) -> tuple[Group, ...]:
    """Lines by a name of theirs; by the length of their labels, or the largest groups first."""
    lines = sorted(compared, key=lambda line: len(line.label)) if in_order else compared
    groups = grouped((name(line), line.right) for line in lines)
    return tuple(groups if in_order else sorted(groups, key=lambda group: -group.count))


def grouped(answers: Iterable[tuple[str, bool]]) -> list[Group]:
    """Groups in the order in which their names come. answers: the name of each one's group, and whether it is right."""
    found: defaultdict[str, list[bool]] = defaultdict(list)
    for name, right in answers:
        found[name].append(right)
    return [Group(name, len(values), sum(values)) for name, values in found.items()]


def _by_class(compared: Sequence[_Compared]) -> tuple[Group, ...]:
    there, lost = Counter[str](), Counter[str]()
    for line in compared:
        there.update(line.label)
        lost.update(label for label, _ in line.mistakes if label)
    counts, right = Counter[str](), Counter[str]()
    for character, count in there.items():
        kind = character_class(character)
        counts[kind] += count
        right[kind] += count - lost[character]
    return tuple(Group(kind, count, right[kind]) for kind, count in counts.most_common())


def _confusions(wrong: Sequence[_Compared], counts: Counter[tuple[str, str]]) -> tuple[Confusion, ...]:
    shown = {pair for pair, _ in counts.most_common(PAIRS)}
    alone: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    among: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for line in wrong:
        pairs = set(line.mistakes)
        for pair in pairs & shown:
            (alone if len(pairs) == 1 else among)[pair].append(line.answer.index)
    confusions = []
    for pair, count in counts.most_common(PAIRS):
        only, others = alone[pair], among[pair]
        examples = (*only, *others)[:EXAMPLES]
        confusions.append(Confusion(*pair, count, len(only) + len(others), len(only), examples))
    return tuple(confusions)


def _advice(figures: LineFigures, compared: Sequence[_Compared], charset: frozenset[str]) -> tuple[Advice, ...]:
    """What keeps lines from being right, most lines first. A line may be counted under several."""
    wrong = [line for line in compared if not line.right]
    unread = sum(line.answer.unread for line in wrong)
    advice = [Advice(unread, "their images cannot be read: `paddle2torch data check` names them")] if unread else []
    read = [line for line in wrong if not line.answer.unread]
    lacking = [sorted(set(line.label) - charset) for line in read]
    if any(lacking):
        counts = Counter(character for characters in lacking for character in characters)
        shown = ", ".join(f"{character!r} ({count:,})" for character, count in counts.most_common(8))
        text = f"their labels have characters that the model's set lacks, {shown}: train with --charset"
        advice.append(Advice(sum(map(bool, lacking)), text))
    signs = Counter(text for line in read for holds, text in _signs(line) if holds)
    advice += [Advice(count, text) for text, count in signs.items()]
    advice += [
        Advice(one.lines, f"{one}, in {one.alone:,} of them this is the only mistake")
        for one in figures.confusions[:PAIRS_ADVISED]
        if one.lines > 1 and one.label + one.read != " "
    ]
    share = figures.right / figures.lines
    advice += [
        *of_groups(figures.by_length, share, lambda name: f"lines {name} characters long"),
        *of_groups(figures.by_source, share, lambda name: f"lines of {name}"),
    ]
    # What the model's confidence says comes last: it is no mistake of its own.
    wrong_scores, scores = ([line.answer.score for line in lines] for lines in (read, compared))
    return (*sorted(advice, key=lambda one: -one.lines), *of_the_sure(wrong_scores, scores, "lines"))


def of_the_sure(wrong: Sequence[float], every: Sequence[float], what: str) -> Iterator[Advice]:
    """What it means that a model is sure of what is wrong: of a few, or of many. wrong, every: confidences."""
    count, sure = (sum(score >= SURE for score in scores) for scores in (wrong, every))
    if count and count <= SURE_AND_WRONG * sure:
        yield Advice(
            count, f"the model is sure ({SURE:.0%} and more) of what it read: look whether the labels are right"
        )
    elif count:
        text = (
            f"the model is sure ({SURE:.0%} and more) and still wrong, as is a model that was not trained on such "
            f"{what}"
        )
        yield Advice(count, f"{text}: its confidence says little here")


def of_groups(groups: Sequence[Group], share: float, named: Callable[[str], str]) -> Iterator[Advice]:
    """Groups that are read far worse than all, of which a `share` is right. named: what a group has, by its name."""
    for group in groups:
        if len(groups) > 1 and group.count >= LEAST_OF_A_GROUP and group.accuracy < share - MUCH_WORSE:
            text = f"{group.accuracy:.0%} of the {named(group.name)} are right, {share:.0%} of all"
            yield Advice(group.count - group.right, text)


def _signs(line: _Compared) -> Iterable[tuple[bool, str]]:
    """Kinds of lines that have a cause of their own, and whether a wrong line is one of them."""
    label, text = line.label, line.text
    yield not text, "nothing was read: look whether they are upright, not blank, and not far longer than the others"
    yield (
        label.casefold() == text.casefold(),
        "only capital and small letters are mixed up: if case does not matter, set evaluation.is_filter",
    )
    yield (
        label.replace(" ", "") == text.replace(" ", ""),
        "only spaces differ: if they do not matter, set evaluation.ignore_space",
    )
    ends = line.missing and len(line.missing) == len(line.mistakes) and bool(text)
    yield (
        bool(ends) and (label.startswith(text) or label.endswith(text)),
        "they are read but for their first or last characters: cut lines with some room around them",
    )
    yield (
        any(place and label[place - 1] == label[place] for place in line.missing),
        "one of two equal neighbours is lost (CTC needs a gap between them): wider input, or more such lines",
    )

"""The models of a language brought to this machine, or those that stand in for them where they cannot be had."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from paddle2torch.model_zoo.config import EXPORT_LACKS
from paddle2torch.model_zoo.errors import NoSourceError, SourceError, say_by_hand
from paddle2torch.zoo.absent import is_absent, note_absent
from paddle2torch.zoo.hosts import AS_FOUND
from paddle2torch.zoo.models import Pipeline
from paddle2torch.zoo.resolve import resolve

Part = Literal["det", "rec", "cls"]

logger = logging.getLogger("paddle2torch")


def obtain_pipeline(chosen: Pipeline, wanted: Sequence[Part]) -> Pipeline:
    """`chosen` with its wanted models fetched and converted; where no source has them, its `stand_in` in their place.

    Detector and recogniser are replaced together, the classifier where it is missing itself. A warning says what was
    taken. What no source had is not asked for again within a day, where its stand-in is on this machine.

    Raises `SourceError`, with the files that can be put into the cache by hand, where neither can be had.
    """
    if chosen.note is not None and {"det", "rec"} & set(wanted):
        warnings.warn(chosen.note, stacklevel=3)
    missing = _obtain(chosen, wanted)
    if not missing:
        return chosen
    stand_in = chosen.stand_in
    if stand_in is None:
        raise _all_of(list(missing.values()))
    together = ("det", "rec") if {"det", "rec"} & set(missing) else ()
    replaced = [part for part in wanted if part in missing or part in together]
    still_missing = _obtain(stand_in, replaced)
    if still_missing:
        raise _all_of(list(still_missing.values()), instead_of=list(missing.values()))
    taken = [getattr(stand_in, part) for part in replaced]
    answers = [line for error in missing.values() for line in error.tried]
    more = "-v says what each source answered" if answers else "as was found within the last day; `convert` asks again"
    warnings.warn(
        f"{_names([error.model for error in missing.values()])} cannot be had from here: {_names(taken)} "
        f"{'is' if len(taken) == 1 else 'are'} taken in place of PaddleOCR's own choice, which reads a little better "
        f"({more}; --version {chosen.version} takes no others)",
        stacklevel=3,
    )
    return replace(chosen, **{part: getattr(stand_in, part) for part in replaced}, stand_in=None)


def _obtain(chosen: Pipeline, wanted: Sequence[Part]) -> dict[Part, NoSourceError]:
    """What no source has of the wanted models; the others are converted, and one line says which did not answer."""
    missing: dict[Part, NoSourceError] = {}
    unanswered: list[str] = []
    # The recogniser first, which is missing more often: a detector that is not used then is not fetched.
    for part in sorted(wanted, key=("rec", "det", "cls").index):
        if missing and chosen.stand_in is not None and part == "det":
            continue
        name = getattr(chosen, part)
        if resolve(name).converted is not None:
            continue
        stand_in = None if chosen.stand_in is None else getattr(chosen.stand_in, part)
        if stand_in is not None and resolve(stand_in).converted is not None and is_absent(name):
            missing[part] = NoSourceError(name, (), ())
            continue
        from paddle2torch.zoo.conversion import convert  # imports torch, which a folder that is there need not wait for

        try:
            conversion = convert(name)
        except NoSourceError as error:
            missing[part] = error
            if stand_in is not None:
                note_absent(name)
            continue
        for note in conversion.notes:
            # Who reads needs nothing of what only training does.
            if note in conversion.about_sources or note.startswith(EXPORT_LACKS):
                logger.info("%s: %s", conversion.config.name, note)
            else:
                warnings.warn(f"{conversion.config.name}: {note}", stacklevel=4)
        unanswered += conversion.about_sources[:1]
    if unanswered and not missing and chosen.stand_in is not None:
        warnings.warn(f"{unanswered[0]}{' (-v says more)' if len(unanswered) > 1 else ''}", stacklevel=4)
    return missing


def _all_of(errors: Sequence[NoSourceError], instead_of: Sequence[NoSourceError] = ()) -> SourceError:
    """One error about all the models of a pipeline, with the files that would do for each of them."""
    if instead_of:
        without = f"{_names([error.model for error in instead_of])} cannot be had from here, and in their place "
    else:
        without = ""
    tried = [line for error in (*instead_of, *errors) for line in error.tried if AS_FOUND not in line]
    ways = [f"for {error.model}: {error.by_hand[0]}" for error in errors if error.by_hand]
    return SourceError(
        f"{without}no source of {_names([error.model for error in errors])} answered:\n"
        + "".join(f"  - {line}\n" for line in tried)
        + say_by_hand(ways)
    )


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

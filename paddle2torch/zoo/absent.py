"""Models that no source had a short time ago: who has others to take does not ask for them in every run."""

from __future__ import annotations

import time
from pathlib import Path

from paddle2torch.cache import cache_dir, make_private
from paddle2torch.model_zoo.cards import load_card
from paddle2torch.zoo.by_hand import files_by_hand

FORGET_SECONDS = 24 * 3600.0


def note_absent(model: str) -> None:
    """Record that no source has the model at present."""
    path = _path(model)
    make_private(path.parent)
    path.touch()


def is_absent(model: str) -> bool:
    """Whether no source had the model within the last day, and the user has put no file of it into the cache since."""
    try:
        age = time.time() - _path(model).stat().st_mtime
    except OSError:
        return False
    sources = load_card(model).sources
    by_hand = any(files_by_hand(source) for source in (*sources.training, *sources.inference))
    return 0 <= age < FORGET_SECONDS and not by_hand


def _path(model: str) -> Path:
    return cache_dir() / "absent" / load_card(model).name

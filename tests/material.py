"""Where tests find what they compare with."""

from __future__ import annotations

import importlib.util
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
GOLDENS = TESTS / "goldens"
# The project's material, beside the checkout. A fresh clone does not have it: tests that need it are skipped there.
SHARED = ROOT.parent / "shared"
# A font that is installed with the tests' own requirements.
_MATPLOTLIB = importlib.util.find_spec("matplotlib")
FONT = str(Path(str(_MATPLOTLIB and _MATPLOTLIB.origin)).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")

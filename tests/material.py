"""Where tests find what they compare with."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
GOLDENS = TESTS / "goldens"
# The project's material, beside the checkout. A fresh clone does not have it: tests that need it are skipped there.
SHARED = ROOT.parent / "shared"

"""Pages made from the code say what the code says."""

from __future__ import annotations

import importlib.util

from material import ROOT

DOCS = ROOT / "docs"


def test_the_page_of_settings_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_settings", DOCS / "make_settings.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    page = made.page()
    assert "| `lr` | number | must be given |" in page
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == page, "run: python docs/make_settings.py"

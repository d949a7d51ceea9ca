"""The card of a model on the Hub: what a model says of itself is text in it."""

from __future__ import annotations

from dataclasses import replace

from small_models import small_config

from paddle2torch.model_zoo.config import Origin
from paddle2torch.zoo.hub_card import hub_card


def test_nothing_of_a_model_is_markup_in_its_card() -> None:
    origin = Origin("PIR export", files={"a`](http://x)": "<b>"}, notes=("# title\n\x1b[2J",))
    card = hub_card(replace(small_config(), origin=origin), "org/name", "mit", None)
    assert "a\\`\\](http://x)" in card
    assert "\\<b\\>" in card
    assert "\x1b" not in card
    assert "\n# title" not in card

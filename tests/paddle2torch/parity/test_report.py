"""The page and the JSON of `verify`: what is on them, that nothing from outside gets loose, and a real browser."""

from __future__ import annotations

import base64
import errno
import hashlib
import html
import json
import math
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from paddle2torch.model_zoo.errors import Paddle2TorchError
from paddle2torch.parity.report import TEMPLATE, as_data, write_report
from paddle2torch.parity.results import (
    ACCUMULATED_TOLERANCE,
    LOCAL_TOLERANCE,
    Difference,
    LayerResult,
    LineResult,
    Roundings,
    Verification,
)

EVIL = """"'><script>document.evil = 1</script><img src=x onerror="document.evil = 2">{{ engine }}{%&amp;\x00\udcff"""
SHOWN = EVIL.replace("\x00", "\\x00").replace("\udcff", "\\udcff")
VOID = {"meta", "link", "img", "input", "br", "wbr"}
PNG = cv2.imencode(".png", np.full((48, 700, 3), 200, np.uint8))[1].tobytes()


def difference(relative: float) -> Difference:
    return Difference(10 * relative, relative)


def layer(path: str, local: float | None, accumulated: float | None, leaf: bool = True) -> LayerResult:
    return LayerResult(
        path,
        "conv",
        (2, 16, 24, 160),
        leaf,
        None if local is None else difference(local),
        None if accumulated is None else difference(accumulated),
    )


GOOD = (
    layer("backbone.conv1.conv", 2e-7, 2e-7),
    layer("backbone.conv1.act", 0.0, 3e-6),
    layer("backbone.conv1", 2e-5, 4e-6, leaf=False),  # more than one layer may
    layer("backbone.blocks2.0.dw_conv.reparam_conv", 3e-6, 1e-5),
    layer("head.ctc_head.fc", 4e-7, None),
)
# What an epsilon of 1e-3 does: one layer is wrong, those after it drift off; one that was wrong from NaN on.
BAD = (
    GOOD[0],
    layer("backbone.conv1.bn", 3e-2, 3e-2),
    layer("backbone.conv1.act", 0.0, 4e-2),
    layer("backbone.blocks2.0.dw_conv.reparam_conv", math.inf, math.inf),
    layer("head.ctc_head.fc", 4e-7, math.nan),
)


def verification(layers: tuple[LayerResult, ...] = GOOD) -> Verification:
    return Verification(
        model="en_PP-OCRv4_rec",
        form="fused",
        reference="models/en_PP-OCRv4_rec_infer",
        engine="Paddle",
        engine_version="3.3.1",
        input_shape=(2, 3, 48, 320),
        layers=layers,
        output=difference(5e-7),
        lines=(
            LineResult("line_1.png", " JOINT ", " JOINT ", 0.99392, 0.99393, PNG),
            LineResult("line_2.png", "48.21", "48.21", 0.9, 0.9, PNG),
        ),
        not_covered=("the NRTR head (an export has none)",),
    )


class Element:
    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag = tag
        self.attributes = attributes
        self.children: list[Element | str] = []

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Descendants of that tag, in order; `class_` is one of the classes."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                if child.tag == tag and all(child.has(name, value) for name, value in attributes.items()):
                    found.append(child)
                found += child.all(tag, **attributes)
        return found

    def one(self, tag: str, **attributes: str) -> Element:
        (found,) = self.all(tag, **attributes)
        return found

    def has(self, name: str, value: str) -> bool:
        if name == "class_":
            return value in self.attributes.get("class", "").split()
        return self.attributes.get(name) == value


class Tree(HTMLParser):
    """The page as elements; fails where a tag is not closed by its own."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]
        self.feed(page)
        self.close()
        assert self.open == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        assert len(element.attributes) == len(attrs)
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def page_of(result: Verification, folder: Path) -> tuple[str, Element]:
    path = folder / "report.html"
    write_report(result, path)
    page = path.read_bytes().decode("utf-8")
    return page, Tree(page).root


def places(root: Element, kind: str) -> list[tuple[float, float]]:
    """Where the marks of one kind are, percent of the height from the top."""
    found = []
    for mark in root.one("div", class_="area").all("path", class_=kind):
        if mark.has("class_", "mark"):
            x, y = re.fullmatch(r"M([\d.]+) ([\d.]+)h.001", mark.attributes["d"]).groups()
            found.append((float(x), float(y)))
    return found


def tolerance(root: Element, kind: str) -> float:
    (line,) = (path for path in root.all("path", class_="tolerance") if path.has("class_", kind))
    return float(re.fullmatch(r"M0 ([\d.]+)H5", line.attributes["d"]).group(1))


def test_page_asks_for_nothing_from_outside(tmp_path: Path) -> None:
    page, root = page_of(verification(), tmp_path)
    assert "//" not in re.sub(r"base64,[^\"]*", "", page.partition("<script>")[0])
    for element in root.all("img") + root.all("link"):
        assert element.attributes.get("src", element.attributes.get("href")).startswith("data:")
    assert all(link.attributes["href"].startswith("#") for link in root.all("a"))
    assert "src" not in root.one("script").attributes
    policy = root.one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    assert "default-src 'none'" in policy


def test_page_says_what_was_compared(tmp_path: Path) -> None:
    result = verification()
    _, root = page_of(result, tmp_path)
    assert root.one("h1").text == "en_PP-OCRv4_rec"
    assert root.one("section", class_="verdict").text.strip().startswith("✓ Equal\nAll 5 layers hold.")
    facts = {
        term.text: value.text
        for term, value in zip(*map(root.one("dl", class_="facts").all, ("dt", "dd")), strict=True)
    }
    assert facts["Reference"] == "models/en_PP-OCRv4_rec_infer"
    assert facts["Paddle"] == "3.3.1"
    assert facts["Input shape"] == "2 x 3 x 48 x 320"
    assert facts["Not covered"] == "the NRTR head (an export has none)"
    assert facts["Largest local error of a layer"] == "3.0e-6 in backbone.blocks2.0.dw_conv.reparam_conv"
    assert {"PyTorch", "paddle2torch", "Date", "Form", "Output"} <= set(facts)


def test_table_has_every_value(tmp_path: Path) -> None:
    _, root = page_of(verification(), tmp_path)
    table = root.one("table")
    assert table.one("th", **{"aria-sort": "ascending"}).text == "#"
    rows = table.one("tbody").all("tr")
    assert [[cell.text for cell in row.all("td")][2:] for row in rows[1:3]] == [
        ["backbone.conv1.act", "conv", "2 x 16 x 24 x 160", "0", "0", "3.0e-6", "3.0e-5"],
        ["backbone.conv1", "conv", "2 x 16 x 24 x 160", "2.0e-5", "2.0e-4", "4.0e-6", "4.0e-5"],
    ]
    assert [cell.text for cell in rows[4].all("td")][-2:] == ["-", "-"]  # not measured
    assert not table.all("tr", class_="fails")
    assert not table.all("td", class_="over")


def test_plot_has_one_mark_per_layer_and_error(tmp_path: Path) -> None:
    _, root = page_of(verification(), tmp_path)
    assert [group.one("title").text.split(":")[0] for group in root.all("g", class_="layer")] == [
        result.path for result in GOOD
    ]
    assert [x for x, _ in places(root, "local")] == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert [x for x, _ in places(root, "accumulated")] == [0.5, 1.5, 2.5, 3.5]
    heights = [y for _, y in places(root, "local")]
    # By error: the exact layer lowest, then in the order of the errors.
    assert sorted(range(5), key=lambda index: heights[index]) == [2, 3, 4, 0, 1]
    assert all(0 < y < 100 for y in heights)
    # Logarithmic: a decade is as high everywhere.
    decade = tolerance(root, "local") - tolerance(root, "accumulated")
    decade /= math.log10(ACCUMULATED_TOLERANCE / LOCAL_TOLERANCE)
    assert heights[3] - tolerance(root, "local") == pytest.approx(decade * math.log10(LOCAL_TOLERANCE / 3e-6), abs=0.02)
    assert [group.has("class_", "module") for group in root.all("g")] == [False, False, True, False, False]
    assert not root.all("path", class_="first")


def test_the_tolerance_of_every_engine_lies_in_the_plot(tmp_path: Path) -> None:
    _, root = page_of(replace(verification(), engine="ONNX Runtime"), tmp_path)
    assert 0 < tolerance(root, "accumulated") < tolerance(root, "local") < 100


def test_failing_layer_is_named_and_marked(tmp_path: Path) -> None:
    _, root = page_of(verification(BAD), tmp_path)
    verdict = root.one("section", class_="verdict")
    assert verdict.text.strip().startswith("✗ Not equal\n4 of 5 layers fail, 2 of them on Paddle's own input.")
    assert "Look at backbone.conv1.bn (conv) first: on Paddle's own input it is off by 3.0e-2" in verdict.text
    row = root.one("tr", id=verdict.one("a").attributes["href"][1:])
    assert row.has("class_", "first")
    assert row.one("td", class_="path").text == "backbone.conv1.bn"
    assert root.one("div", class_="flag").text == "first failing: backbone.conv1.bn"
    assert root.one("path", class_="first").attributes["d"] == "M1.5 0V100"
    results = [row.all("td")[1].text for row in root.one("tbody").all("tr")]
    assert results == ["✓ holds", "✗ fails", "✗ drifts", "✗ fails", "✗ drifts"]


def test_what_is_not_finite_is_shown_above_all(tmp_path: Path) -> None:
    _, root = page_of(verification(BAD), tmp_path)
    cells = [[cell.text for cell in row.all("td")][5:] for row in root.one("tbody").all("tr")]
    assert cells[3] == ["∞", "∞", "∞", "∞"]
    assert cells[4] == ["4.0e-7", "4.0e-6", "NaN", "NaN"]
    heights = [y for _, y in places(root, "accumulated")]
    assert 0 < heights[3] == heights[4] < min(heights[:3])


def test_failure_of_the_accumulated_error_alone(tmp_path: Path) -> None:
    """As against a stored golden, which knows no inputs of layers."""
    layers = tuple(replace(result, local=None) for result in BAD)
    _, root = page_of(verification(layers), tmp_path)
    text = root.one("section", class_="verdict").text
    assert "4 of 5 layers fail, 0 of them" in text
    assert "there the accumulated error, 3.0e-2 of its largest value, leaves the tolerance of 5.0e-5" in text
    assert "not measured" in root.one("dl", class_="facts").text
    assert places(root, "local") == []
    assert len(places(root, "accumulated")) == 5


def test_texts_that_differ_are_marked(tmp_path: Path) -> None:
    result = verification()
    lines = (
        replace(result.lines[0], torch_text=" J0INTS "),
        replace(result.lines[1], torch_text="", torch_score=math.nan),
    )
    _, root = page_of(replace(result, lines=lines), tmp_path)
    cards = root.one("ul", class_="lines").all("li")
    assert [[mark.text for mark in text.all("mark")] for text in cards[0].all("dd", class_="text")] == [
        ["O"],
        ["0", "S"],
    ]
    assert [text.text for text in cards[0].all("dd", class_="text")] == [" JOINT ", " J0INTS "]
    assert [text.text for text in cards[1].all("dd")] == ["48.21", "0.90000", "nothing", "NaN"]
    assert all(card.has("class_", "fails") for card in cards)
    assert "0 of 2 texts are the same" in root.one("section", class_="verdict").text


def test_page_without_layers_and_lines(tmp_path: Path) -> None:
    _, root = page_of(replace(verification(()), lines=(), not_covered=()), tmp_path)
    assert "No layer was compared." in root.text
    assert "No texts were compared." in root.text


def evil(result: Verification) -> Verification:
    """Everything that is text comes from outside."""
    return replace(
        result,
        model=EVIL,
        form=EVIL,
        reference=EVIL,
        engine_version=EVIL,
        layers=tuple(replace(found, path=f"{EVIL}.{found.path}", kind=EVIL) for found in result.layers),
        lines=tuple(replace(line, image=EVIL, reference_text=EVIL, torch_text=f"{EVIL} ") for line in result.lines),
        not_covered=(EVIL,),
    )


@pytest.mark.parametrize("layers", [GOOD, BAD], ids=["good", "bad"])
def test_text_from_outside_stays_text(tmp_path: Path, layers: tuple[LayerResult, ...]) -> None:
    result = verification(layers)
    _, plain = page_of(result, tmp_path)
    page, root = page_of(evil(result), tmp_path)
    assert "\x00" not in page
    for tag in ("script", "img", "a", "section", "tr", "g", "li"):
        assert len(root.all(tag)) == len(plain.all(tag)), tag
    assert root.one("script").text == plain.one("script").text
    assert [image.attributes["alt"] for image in root.all("img")] == [SHOWN, SHOWN]
    assert root.one("h1").text == SHOWN
    assert [bdi.text for bdi in root.all("li")[-1].all("bdi")] == [SHOWN, SHOWN, f"{SHOWN} "]
    assert root.one("tbody").all("td", class_="path")[0].text == f"{SHOWN}.backbone.conv1.conv"


@pytest.mark.parametrize("result", [verification(), evil(verification(BAD))], ids=["good", "evil"])
def test_json_is_json(result: Verification) -> None:
    text = json.dumps(as_data(result), allow_nan=False, ensure_ascii=False)
    data = json.loads(text.encode("utf-8"))
    assert data == as_data(result)
    assert data["holds"] is result.holds
    assert len(data["layers"]) == len(result.layers)


def test_json_has_roundings_that_are_not_finite() -> None:
    roundings = Roundings(Difference(math.inf, math.inf), Difference(1e-6, math.nan))
    data = as_data(verification((replace(GOOD[0], roundings=roundings, local_roundings=roundings),)))
    json.dumps(data, allow_nan=False)
    expected = {
        "ours": {"absolute": "Infinity", "relative": "Infinity"},
        "paddle": {"absolute": 1e-6, "relative": "NaN"},
    }
    assert data["layers"][0]["roundings"] == data["layers"][0]["local_roundings"] == expected


def test_json_has_every_value() -> None:
    data = as_data(verification(BAD))
    assert data["first_failure"] == "backbone.conv1.bn"
    assert data["tolerances"] == {"local": LOCAL_TOLERANCE, "accumulated": ACCUMULATED_TOLERANCE}
    assert data["layers"][1] == {
        "path": "backbone.conv1.bn",
        "kind": "conv",
        "shape": [2, 16, 24, 160],
        "leaf": True,
        "holds": False,
        "local": {"absolute": 0.3, "relative": 0.03},
        "accumulated": {"absolute": 0.3, "relative": 0.03},
        "roundings": None,
        "local_roundings": None,
    }
    assert data["layers"][3]["local"] == {"absolute": "Infinity", "relative": "Infinity"}
    assert math.isnan(float(data["layers"][4]["accumulated"]["relative"]))
    assert as_data(verification())["layers"][4]["accumulated"] is None
    assert data["lines"][0] == {
        "image": "line_1.png",
        "holds": True,
        "reference_text": " JOINT ",
        "torch_text": " JOINT ",
        "reference_score": 0.99392,
        "torch_score": 0.99393,
    }


def test_report_lands_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("older")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:1000])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(Paddle2TorchError, match="full"):
            write_report(verification(), path)
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]
    write_report(verification(), path)
    assert path.read_text(encoding="utf-8").endswith("</html>\n")


# Runs in a page around the report, whose own script must have run under the report's own policy.
CHECK = """
const view = frame.contentWindow, page = frame.contentDocument, seen = {};
const each = (where, what) => [...page.querySelectorAll(where)].map(what);
const order = () => each("tbody tr:not([hidden])", row => row.cells[0].textContent).join(" ");
const sorted = () => each("th[aria-sort]", th => th.textContent + " " + th.getAttribute("aria-sort")).join();
const buttons = page.querySelectorAll("th button");
seen.width = [page.documentElement.scrollWidth, view.innerWidth];
seen.scrolls = page.querySelector(".box").scrollWidth > page.querySelector(".box").clientWidth;
seen.evil = page.evil === undefined;
seen.sorts = [[buttons[5]], [buttons[5]], [buttons[7]], [buttons[7]], [buttons[2]], [buttons[0]]].map(([button]) => {
  button.click();
  return order() + " by " + sorted();
});
const show = page.getElementById("show");
show.value = "2";
show.dispatchEvent(new view.Event("change"));
seen.filter = order() + ": " + page.getElementById("count").textContent;
const area = page.querySelector(".area");
seen.start = area.getAttribute("aria-valuetext");
area.dispatchEvent(new view.KeyboardEvent("keydown", { key: "End" }));
seen.end = page.querySelector(".readout").textContent;
page.querySelector(".readout a").click();
seen.shown = order();
const place = area.getBoundingClientRect();
area.dispatchEvent(new view.PointerEvent("pointerdown", { clientX: place.left + 0.5 * place.width }));
seen.pointed = page.querySelector(".readout a").textContent;
document.getElementById("seen").textContent = JSON.stringify(seen);
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_in_a_browser_at_phone_width(tmp_path: Path) -> None:
    layers = (*BAD, layer("head." + "a_name_without_any_place_to_break" * 4, None, None))
    result = verification(layers)
    lines = (*result.lines, replace(result.lines[0], image=EVIL, reference_text=EVIL, torch_text="n" * 200))
    page, _ = page_of(replace(result, lines=lines, reference="/folder" * 30), tmp_path)
    around = tmp_path / "around.html"
    around.write_text(
        f'<!DOCTYPE html><meta charset="utf-8"><pre id="seen"></pre>'
        f'<iframe id="frame" width="390" height="844" srcdoc="{html.escape(page)}"></iframe>'
        f'<script>const frame = document.getElementById("frame"); frame.onload = () => {{{CHECK}}};</script>',
        encoding="utf-8",
    )
    # Its own background traffic finds no server, and waiting for that takes longer than the test.
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", *quiet]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", around.as_uri()]
    dump = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60, check=True).stdout
    found = re.search('<pre id="seen">(.+?)</pre>', dump)
    assert found is not None, "the script of the page or of this test did not run"
    seen = json.loads(html.unescape(found[1]))
    assert seen["evil"]
    assert seen["width"][0] <= seen["width"][1] <= 390
    assert seen["scrolls"]
    assert seen["sorts"] == [
        "4 2 5 1 3 6 by relative descending",
        "3 1 5 2 4 6 by relative ascending",
        "5 4 3 2 1 6 by relative descending",
        "1 2 3 4 5 6 by relative ascending",
        "4 3 2 1 6 5 by Layer ascending",
        "1 2 3 4 5 6 by # ascending",
    ]
    assert seen["filter"] == "2 4: 2 of 6 shown"
    assert seen["start"].startswith("backbone.conv1.bn conv, 2 x 16 x 24 x 160. Local 3.0e-2, accumulated 3.0e-2.")
    assert seen["end"].endswith("Local -, accumulated -. ✓ holds")
    assert seen["shown"] == "1 2 3 4 5 6"
    assert seen["pointed"] == "backbone.blocks2.0.dw_conv.reparam_conv"


def test_only_the_script_of_the_template_may_run(tmp_path: Path) -> None:
    """The policy names the digest of the page's script, into which nothing is put."""
    page, root = page_of(evil(verification(BAD)), tmp_path)
    script = re.search("<script>(.*)</script>", page, re.DOTALL)[1]
    policy = root.one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert script in TEMPLATE.read_text(encoding="utf-8")

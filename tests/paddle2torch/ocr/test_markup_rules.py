"""ALTO 4.4 and hOCR 1.2 by the rules of their specifications: the schema itself is on no registry that tests may ask.

Sources: https://www.loc.gov/standards/alto/ (elements in their order, required attributes) and
http://kba.github.io/hocr-spec/1.2/ (classes, metadata, properties).
"""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import pytest
from result_pages import box, line, page, right_to_left_line

from paddle2torch.ocr.formats import write_stream
from paddle2torch.ocr.results import PageText, TextLine
from paddle2torch.tasks.images import ImageError

ALTO = "{http://www.loc.gov/standards/alto/ns-v4#}"
XHTML = "{http://www.w3.org/1999/xhtml}"

CHILDREN = {
    "alto": "Description?,Layout",
    "Description": "MeasurementUnit,sourceImageInformation?,Processing*",
    "sourceImageInformation": "fileName?",
    "Processing": "processingSoftware?",
    "processingSoftware": "softwareName?",
    "Layout": "Page+",
    "Page": "PrintSpace?",
    "PrintSpace": "TextBlock*",
    "TextBlock": "TextLine+",
}
"""What an element holds, in order; a line has words, with spaces in between."""

REQUIRED = {"Page": {"ID", "PHYSICAL_IMG_NR"}, "TextBlock": {"ID"}, "String": {"CONTENT"}, "Processing": {"ID"}}
PLACE = {"HPOS", "VPOS", "WIDTH", "HEIGHT"}
ALLOWED = {
    "alto": {"SCHEMAVERSION"},
    "Processing": {"ID"},
    "Page": {"ID", "PHYSICAL_IMG_NR", "WIDTH", "HEIGHT"},
    "PrintSpace": PLACE,
    "TextBlock": {"ID", *PLACE},
    "TextLine": {"ID", *PLACE},
    "String": {"ID", "CONTENT", "WC", *PLACE},
}

NOTHING = TextLine("", 0.0, box(10, 130, 60, 150), ())
"""A line in which nothing was read, which PaddleOCR 3 keeps."""

PAGES = {
    "texts": [
        page(line("one, two", 10, 10), line("Total 12.90", 200, 12), NOTHING, right_to_left_line("שלום", 390, 50))
    ],
    "nothing": [page(), page(NOTHING, number=2, count=2)],
    "hostile": [page(line("<a> & \"b\" ']]>' \x00\x0b\u202e", 10, 10), source='a "b" <c>&.png')],
    "outside": [page(line("far", -50, -50), line("away", 5000, 5000))],
}


def written(format: str, pages: list[PageText]) -> ElementTree.Element:
    stream = io.StringIO()
    write_stream(iter(pages), format, stream)
    return ElementTree.fromstring(stream.getvalue())


@pytest.mark.parametrize("name", PAGES)
def test_alto_keeps_the_rules_of_its_schema(name: str) -> None:
    root = written("alto", PAGES[name])
    ids = [element.get("ID") for element in root.iter() if element.get("ID")]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[A-Za-z_][\w.-]*", key) for key in ids), "names of XML"
    for element in root.iter():
        kind = element.tag.removeprefix(ALTO)
        inside = ",".join(child.tag.removeprefix(ALTO) for child in element)
        if kind == "TextLine":
            assert re.fullmatch(r"String(,SP,String|,String)*", inside)
        else:
            order = [re.fullmatch(r"(\w+)([?*+]?)", part) for part in CHILDREN.get(kind, "").split(",") if part]
            rule = "".join(f"(?:{part[1]},){part[2]}" for part in order if part)
            assert re.fullmatch(rule, inside + "," if inside else ""), f"{kind}: {inside}"
        assert REQUIRED.get(kind, set()) <= set(element.keys()) <= ALLOWED.get(kind, set())
        assert all(float(element.get(key, "0")) >= 0 for key in PLACE)
        assert 0 <= float(element.get("WC", "0")) <= 1


HOCR_PARENTS = {
    "ocr_page": None,
    "ocr_carea": "ocr_page",
    "ocr_par": "ocr_carea",
    "ocr_line": "ocr_par",
    "ocrx_word": "ocr_line",
}
PROPERTIES = {
    "bbox": r"\d+ \d+ \d+ \d+",
    "image": r'"(?:[^"\\]|\\.)*"',
    "ppageno": r"\d+",
    "x_wconf": r"\d+",
    "x_confs": r"\d+( \d+)*",
}


@pytest.mark.parametrize("name", PAGES)
def test_hocr_keeps_the_rules_of_its_specification(name: str) -> None:
    root = written("hocr", PAGES[name])
    meta = {entry.get("name"): entry.get("content") or "" for entry in root.iter(f"{XHTML}meta")}
    assert meta["ocr-system"]
    assert set(meta["ocr-capabilities"].split()) == set(HOCR_PARENTS)
    parents = {child: parent for parent in root.iter() for child in parent}
    found = [element for element in root.iter() if element.get("class")]
    assert any(element.get("class") == "ocr_page" for element in found)
    for element in found:
        kind = str(element.get("class"))
        assert parents[element].get("class") == HOCR_PARENTS[kind]
        rest = str(element.get("title"))
        boxes = []
        while rest:
            part = re.match(rf"({'|'.join(f'{key} {value}' for key, value in PROPERTIES.items())})(?:; |$)", rest)
            assert part, rest
            boxes += re.findall(r"^bbox (\d+) (\d+) (\d+) (\d+)$", part[1])
            rest = rest[part.end() :]
        (left, top, right, bottom), *others = [tuple(map(int, numbers)) for numbers in boxes]
        assert not others
        assert left <= right <= 400
        assert top <= bottom <= 200


@pytest.mark.parametrize("format", ["alto", "hocr"])
def test_a_document_without_a_page_is_refused(format: str) -> None:
    with pytest.raises(ImageError, match=r"no page was read, and (ALTO|hOCR) has at least one"):
        written(format, [])


def test_a_line_without_text_is_in_no_reading_order() -> None:
    found = page(line("a", 10, 10), NOTHING)
    assert (len(found), found.text) == (2, "a")

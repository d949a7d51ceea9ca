"""hOCR and ALTO."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.ocr.writers.shared import Extent, extent_of, pages_read, words_of, xml_text
from paddle2torch.tasks.images import ImageError

if TYPE_CHECKING:
    from paddle2torch.ocr.writers.shared import Results


def hocr(results: Results) -> Iterator[str]:
    yield (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" '
        '"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">\n'
        '<html xmlns="http://www.w3.org/1999/xhtml">\n<head>\n<title></title>\n'
        '<meta http-equiv="Content-Type" content="text/html;charset=utf-8"/>\n'
        '<meta name="ocr-system" content="paddle2torch"/>\n'
        '<meta name="ocr-capabilities" content="ocr_page ocr_carea ocr_par ocr_line ocrx_word"/>\n</head>\n<body>\n'
    )
    p = 0
    for p, page in pages_read(results):
        image = page.source.replace("\\", "\\\\").replace('"', '\\"')
        title = quoteattr(xml_text(f'image "{image}"; bbox 0 0 {page.width} {page.height}; ppageno {p - 1}'))
        out = [f'<div class="ocr_page" id="page_{p}" title={title}>\n']
        for b, block in enumerate(page.blocks, 1):
            bbox = _bbox(extent_of([line.box for lines in block for line in lines], page))
            out.append(f'<div class="ocr_carea" id="block_{p}_{b}" title="{bbox}">\n')
            out.append(f'<p class="ocr_par" id="par_{p}_{b}" title="{bbox}">\n')
            for n, lines in enumerate(block, 1):
                bbox = _bbox(extent_of([line.box for line in lines], page))
                out.append(f'<span class="ocr_line" id="line_{p}_{b}_{n}" title="{bbox}">')
                for w, (word, space) in enumerate(words_of(lines), 1):
                    confidence = " ".join(f"{100 * score:.0f}" for score in word.char_scores)
                    title = (
                        f"{_bbox(extent_of([word.box], page))}; x_wconf {100 * word.score:.0f}; x_confs {confidence}"
                    )
                    out.append(
                        f'<span class="ocrx_word" id="word_{p}_{b}_{n}_{w}" title="{title}">'
                        f"{escape(xml_text(word.text))}</span>{' ' if space else ''}"
                    )
                out.append("</span>\n")
            out.append("</p>\n</div>\n")
        out.append("</div>\n")
        yield "".join(out)
    if p == 0:
        raise ImageError("no page was read, and hOCR has at least one")
    yield "</body>\n</html>\n"


def alto(results: Results) -> Iterator[str]:
    source: str | None = None
    yield (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<alto xmlns="http://www.loc.gov/standards/alto/ns-v4#" SCHEMAVERSION="4.4">\n'
        "<Description>\n<MeasurementUnit>pixel</MeasurementUnit>\n"
    )
    processing = (
        '<Processing ID="OCR_1">\n<processingSoftware>\n<softwareName>paddle2torch</softwareName>\n'
        "</processingSoftware>\n</Processing>\n</Description>\n<Layout>\n"
    )
    for p, page in pages_read(results):
        if source is None:
            source = page.source
            name = escape(xml_text(source))
            yield f"<sourceImageInformation>\n<fileName>{name}</fileName>\n</sourceImageInformation>\n{processing}"
        elif page.source != source:
            raise ConfigError(
                f"an ALTO document is about one file, not {source} and {page.source}: give a folder as the output, and "
                "each file gets its own"
            )
        place = _place((0, 0, page.width, page.height))
        size = f'WIDTH="{page.width}" HEIGHT="{page.height}"'
        out = [f'<Page ID="page_{p}" PHYSICAL_IMG_NR="{page.number}" {size}>\n<PrintSpace {place}>\n']
        for b, block in enumerate(page.blocks, 1):
            place = _place(extent_of([line.box for lines in block for line in lines], page))
            out.append(f'<TextBlock ID="block_{p}_{b}" {place}>\n')
            for n, lines in enumerate(block, 1):
                place = _place(extent_of([line.box for line in lines], page))
                out.append(f'<TextLine ID="line_{p}_{b}_{n}" {place}>\n')
                for w, (word, space) in enumerate(words_of(lines), 1):
                    place = _place(extent_of([word.box], page))
                    content = quoteattr(xml_text(word.text))
                    out.append(f'<String ID="word_{p}_{b}_{n}_{w}" CONTENT={content} {place} WC="{word.score:.4f}"/>')
                    out.append("<SP/>\n" if space else "\n")
                out.append("</TextLine>\n")
            out.append("</TextBlock>\n")
        out.append("</PrintSpace>\n</Page>\n")
        yield "".join(out)
    if source is None:
        raise ImageError("no page was read, and ALTO has at least one")
    yield "</Layout>\n</alto>\n"


def _bbox(extent: Extent) -> str:
    left, top, width, height = extent
    return f"bbox {left} {top} {left + width} {top + height}"


def _place(extent: Extent) -> str:
    left, top, width, height = extent
    return f'HPOS="{left}" VPOS="{top}" WIDTH="{width}" HEIGHT="{height}"'

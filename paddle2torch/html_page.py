"""HTML pages of one file, which ask the network for nothing, from the templates in `assets`.

Every value that a template puts out is escaped, and control characters are shown. A page's policy lets only the script
run that its template has, and takes pictures from the page itself alone.
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from paddle2torch._version import __version__
from paddle2torch.assets import ASSETS
from paddle2torch.atomic import land_file
from paddle2torch.model_zoo.show import as_text

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SCRIPT = re.compile(r"<script>(.*)</script>", re.DOTALL)


def render_page(template: str, filters: Mapping[str, Callable[..., Any]], **values: Any) -> str:
    """The page that a template of `assets` makes of `values`; besides those it has `date` and `package_version`."""
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(base64=lambda data: base64.b64encode(data).decode(), **filters)
    script = _SCRIPT.search((ASSETS / template).read_text(encoding="utf-8"))
    digest = hashlib.sha256(script[1].encode("utf-8")).digest() if script else b""
    return environment.get_template(template).render(
        # Only the script that the template has may run, should anything from outside ever get past the escaping.
        script_hash=base64.b64encode(digest).decode(),
        package_version=__version__,
        date=datetime.now(timezone.utc),
        **values,
    )


def write_page(path: Path, page: str) -> None:
    """Write a page; it lands whole or not at all."""
    with land_file(path) as temporary:
        temporary.write_bytes(page.encode("utf-8"))


def differing(one: str, other: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Both texts in pieces, each with whether the other text lacks it."""
    pieces: tuple[list[tuple[str, bool]], list[tuple[str, bool]]] = ([], [])
    for kind, *ends in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        pieces[0].append((one[slice(*ends[:2])], kind != "equal"))
        pieces[1].append((other[slice(*ends[2:])], kind != "equal"))
    first, second = ([(text, differs) for text, differs in found if text] for found in pieces)
    return first, second


def _shown(value: Any) -> Any:
    """What jinja2 escapes and puts into the page: control characters of a text are shown as `\\x00`, not sent."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", as_text(value))

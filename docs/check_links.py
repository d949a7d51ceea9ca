"""The links of all pages to other hosts, each asked once: `python docs/check_links.py`, `make links`.

A host that cannot be reached from this machine is named and is no error: only an answer can say that a page is gone.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import requests

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.ipynb")]
LINK = re.compile(r"\]\((https?://[^)\s]+)\)|<(https?://[^>\s]+)>")
SECONDS = 15
GONE = (404, 410)


def links() -> dict[str, list[str]]:
    """The pages that each address is linked from."""
    found = defaultdict(list)
    for page in sorted(PAGES):
        for match in LINK.finditer(page.read_text(encoding="utf-8")):
            found[match[1] or match[2]].append(str(page.relative_to(ROOT)))
    return dict(sorted(found.items()))


def ask(address: str) -> int | str:
    """The status of the answer, or why there is none."""
    try:
        with requests.get(
            address, timeout=SECONDS, stream=True, headers={"User-Agent": "paddle2torch-links"}
        ) as answer:
            return answer.status_code
    except requests.RequestException as error:
        return type(error).__name__


def main() -> int:
    """1 where a page that is linked to is gone."""
    found = links()
    with ThreadPoolExecutor(8) as pool:
        answers = dict(zip(found, pool.map(ask, found), strict=True))
    for address, answer in answers.items():
        if answer in GONE:
            print(f"gone ({answer}): {address}, linked from {', '.join(sorted(set(found[address])))}")
    unreached = defaultdict(list)
    for address, answer in answers.items():
        if isinstance(answer, str):
            unreached[urlsplit(address).hostname].append(answer)
    for host, reasons in sorted(unreached.items(), key=str):
        print(f"not reached from here: {host}, {len(reasons)} link(s) ({reasons[0]})")
    answered = sum(isinstance(answer, int) for answer in answers.values())
    print(f"{len(answers)} links, {answered} answered")
    return 1 if any(answer in GONE for answer in answers.values()) else 0


if __name__ == "__main__":
    sys.exit(main())

"""What mkdocs does besides: pages of the repository that lie beside `docs/`, and links that lead out of it.

A link is written for whoever reads the file in the repository: `../BENCHMARKS.md`, `../tests/README.md`. On the site
the first leads to a page of its own, the second into the repository, where its address is known (`REPO_URL`), and is
plain text where it is not.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent

OUTSIDE = {name: f"{Path(name).stem.lower()}.md" for name in (
    "BENCHMARKS.md", "CHANGELOG.md", "CONTRIBUTING.md", "PARITY.md", "SECURITY.md"
)}  # fmt: skip
"""Files of the repository's root that are pages of the site, by name: the page's."""

_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in `docs/`."""
    for name, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a page that lead out of `docs/`, or come from out of it, into those of the site."""
    outside = {page_name: name for name, page_name in OUTSIDE.items()}
    source = outside.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def turn(link: re.Match[str]) -> str:
        text, target = link.groups()
        if "://" in target or target.startswith(("#", "mailto:")):
            return link[0]
        path, hash_mark, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if path.startswith("docs/") and path.endswith((".md", ".ipynb", ".png", ".webp")):
            path = path.removeprefix("docs/")
        elif path in OUTSIDE:
            path = OUTSIDE[path]
        elif not (ROOT / path).exists():
            raise PluginError(f"{source} has a link to {target}, which is not in the repository")
        elif config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path}{hash_mark}{anchor})"
        else:
            return text
        path = posixpath.relpath(path, posixpath.dirname(page.file.src_uri) or ".")
        return f"[{text}]({path}{hash_mark}{anchor})"

    return _LINK.sub(turn, markdown)


_SCRIPT = re.compile(r"<script\b.*?</script>", re.DOTALL)
_NOTEBOOK_LINK = re.compile(r'href="([^":#]+)\.md(#[^"]*)?"')


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links of a notebook to pages, which mkdocs-jupyter leaves as they are, and drop scripts that load others.

    nbconvert brings one that fetches mermaid from another host.
    """
    if not page.file.src_uri.endswith(".ipynb"):
        return html

    def turn(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), f"{link[1]}.md"))
        if files.get_file_from_path(target) is None:
            raise PluginError(f"docs/{page.file.src_uri} has a link to {link[1]}.md, which is no page")
        return f'href="{link[1]}.html{link[2] or ""}"'

    html = _SCRIPT.sub(lambda script: "" if "https://" in script[0] else script[0], html)
    return _NOTEBOOK_LINK.sub(turn, html)

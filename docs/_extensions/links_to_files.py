"""Relative links out of docs/, which lead to files on a code-hosting page, lead to pages that show the files here."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
PAGES = {ROOT / "README.md": "reference/overview.md", ROOT / "CHANGELOG.md": "reference/changelog.md"}
LINK = re.compile(r"\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")


def outside(page: Path) -> set[Path]:
    """Files and folders of the repository, but not of docs/, to which a page links."""
    linked = {(page.parent / match[1]).resolve() for match in LINK.finditer(page.read_text())}
    return {path for path in linked if path.exists() and DOCS not in path.parents and path not in PAGES}


def page_of(path: Path) -> str:
    """The page that shows a file or folder, from docs/."""
    return f"reference/files/{path.relative_to(ROOT).as_posix().replace('/', '-')}.md"


def relinked(text: str, source: Path, page: Path) -> str:
    """A page's text with its links out of docs/ led to pages of the site.

    Args:
        text: of the file.
        source: where it lies, from which its links lead.
        page: where the page of the site lies, a file below docs/.
    """

    def led(match: re.Match[str]) -> str:
        path = (source.parent / match[1]).resolve()
        if not path.exists():
            return match[0]
        if path in PAGES:
            goal = DOCS / PAGES[path]
        elif DOCS in path.parents:
            goal = path
        else:
            goal = DOCS / page_of(path)
        return f"]({Path(os.path.relpath(goal, page.parent)).as_posix()}{match[2] or ''})"

    return LINK.sub(led, text)


def read(app: Sphinx, name: str, content: list[str]) -> None:
    """Lead the links of a page that is read."""
    page = Path(app.env.doc2path(name))
    if page.suffix == ".md" and "reference" not in page.parts:
        content[0] = relinked(content[0], page, page)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to the reading of pages."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

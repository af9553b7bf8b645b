"""The tree of pages beside each page shows what is under the open branch alone, not the names of every room.

The whole tree, 350 entries, would be most of every page's size and of the time that the site takes to build.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx


def shorten(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: nodes.document | None) -> None:
    """Have the theme's tree collapsed, whatever the theme asks for."""
    whole = context.get("toctree")
    if whole is not None:
        context["toctree"] = lambda **options: whole(**(options | {"collapse": True}))


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect before the theme."""
    app.connect("html-page-context", shorten, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

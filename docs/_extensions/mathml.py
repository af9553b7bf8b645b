"""Formulas as MathML, which browsers draw by themselves: no script, no fonts and nothing from other machines.

The LaTeX is converted by docutils when the site is built, so that a formula which is not understood is a warning here,
and not a red text at a reader's. MathJax and KaTeX would be megabytes to ship, or loaded from elsewhere.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


SPELLED = (  # what TeX knows and docutils does not, in words of both
    (re.compile(r"\\dots\b"), r"\\ldots"),
    (re.compile(r"\\([bB]igg?)m?(?![a-zA-Z])"), r"\\\1l"),
    (re.compile(r"\\textstyle\b"), ""),
    # an index of a letter with an accent stands beside it, not below it
    (re.compile(r"\\(?:hat|tilde|bar|vec|dot)\s*(?:\{[^{}]*\}|\\[a-zA-Z]+|\w)(?=\s*[_^])"), r"{\g<0>{}}"),
)


def spelled(formula: str) -> str:
    """A formula in commands that docutils knows."""
    for pattern, other in SPELLED:
        formula = pattern.sub(other, formula)
    return formula


def converted(node: nodes.Node, block: bool) -> str:
    """The MathML of a formula; its LaTeX, and a warning, where docutils does not know it."""
    try:
        return str(tex2mathml(spelled(node.astext()), as_block=block))
    except MathError as error:
        logger.warning("formula %r: %s", node.astext(), error, location=node)
        return f"<code>{nodes.Text(node.astext()).astext()}</code>"


def visit_math(writer: Any, node: nodes.Node) -> None:
    """A formula in a line."""
    writer.body.append(converted(node, False))
    raise nodes.SkipNode


def visit_display(writer: Any, node: Any) -> None:
    """A formula by itself, numbered if it has a label."""
    number = f'<span class="eqno">({node["number"]})</span>' if node.get("number") else ""
    writer.body.append(writer.starttag(node, "div", CLASS="math") + number + converted(node, True) + "</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer by its name, for ``html_math_renderer``."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

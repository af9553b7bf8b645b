"""The parts of a page in HTML: text, numbers, tables, pictures. All text is escaped here, wherever it comes from."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

from pyro_vae.errors import printable

NOTHING = "–"  # in a table, where there is no value


def number(value: Any, digits: int = 2) -> str:
    """A number for people: fixed decimals, thousands apart, a dash where there is none; anything else as it is."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NOTHING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{round(value, digits) + 0.0:,.{digits}f}"  # + 0.0: no -0.00


def with_error(value: Any, error: Any, digits: int = 2) -> str:
    """A mean and its standard error, to two figures of a small error; the mean alone where there is no error."""
    if not all(isinstance(each, int | float) and number(each) != NOTHING for each in (value, error)):
        return number(value, digits)
    if 0 < error < 1:
        digits = max(digits, min(8, 1 - math.floor(math.log10(error))))
    return f"{number(value, digits)} ± {number(float(error), digits)}"


def text(words: str) -> str:
    """A paragraph."""
    return f"<p>{escape(words)}</p>"


def note(words: str) -> str:
    """A paragraph in small print."""
    return f'<p class="note">{escape(words)}</p>'


def warning(words: str) -> str:
    """A paragraph that is not to be overlooked."""
    return f'<p class="warning"><strong>Note.</strong> {escape(words)}</p>'


def code(lines: str) -> str:
    """Text as it was typed."""
    return f"<pre>{escape(lines)}</pre>"


def folded(summary: str, inner: str) -> str:
    """A part of the page that opens at a click."""
    return f"<details><summary>{escape(summary)}</summary>{inner}</details>"


def tiles(facts: Mapping[str, str]) -> str:
    """The few numbers that are looked for first, by what they are."""
    cells = [f'<div class="tile"><b>{escape(v)}</b><span>{escape(k)}</span></div>' for k, v in facts.items()]
    return f'<div class="tiles">{"".join(cells)}</div>'


def facts(rows: Mapping[str, Any]) -> str:
    """A table of names and values."""
    cells = [f'<tr><th scope="row">{escape(name)}</th><td>{escape(number(v))}</td></tr>' for name, v in rows.items()]
    return f'<div class="scroll"><table class="facts"><tbody>{"".join(cells)}</tbody></table></div>'


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], words: Iterable[int] = (0,), caption: str = "") -> str:
    """A table: numbers at the right, words at the left.

    Args:
        columns: the heads.
        rows: their cells, numbers or text; None is a dash.
        words: which columns hold words.
        caption: said above.
    """
    left = set(words)

    def cell(tag: str, place: int, value: Any) -> str:
        kind = "" if place in left else ' class="number"'
        return f"<{tag}{kind}>{escape(number(value))}</{tag}>"

    head = "".join(cell("th", i, name) for i, name in enumerate(columns))
    body = "".join(f"<tr>{''.join(cell('td', i, v) for i, v in enumerate(row))}</tr>" for row in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def picture(name: str, png: bytes, caption: str = "") -> str:
    """A picture within the page.

    Args:
        name: of the figure; underscores become spaces in what is read to those who cannot see it.
        png: the file's bytes.
        caption: said below.
    """
    data = base64.b64encode(png).decode()
    said = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    alt = escape(caption or name.replace("_", " "))
    return f'<figure id="figure-{anchor(name)}"><img alt="{alt}" src="data:image/png;base64,{data}">{said}</figure>'


def texts(name: str, columns: Mapping[str, Sequence[str]], rows: Sequence[str], title: str, caption: str = "") -> str:
    """A table of texts in the place of a picture, long ones over several lines.

    Args:
        name: of the figure.
        columns: the texts by what is said above.
        rows: what is said at the left of each row; nothing, or as many.
        title: said above.
        caption: said below.
    """
    said = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    heads = [*([""] if rows else []), *columns]
    cells = zip(*([rows] if rows else []), *[map(printable, some) for some in columns.values()], strict=True)
    inner = table(heads, cells, words=range(len(heads)), caption=title)
    return f'<figure class="texts" id="figure-{anchor(name)}">{inner}{said}</figure>'


def anchor(title: str) -> str:
    """A title as the name of a place in the page."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "part"


def page(title: str, lead: str, opening: str, sections: Mapping[str, str], footer: str) -> str:
    """The whole page, which needs nothing from anywhere else.

    Args:
        title, lead, footer: text.
        opening: HTML before the first section.
        sections: HTML by title, in order; they are listed at the top.
    """
    from pyro_vae import __version__

    folder = resources.files("pyro_vae.reports")
    links = "".join(f'<a href="#{anchor(name)}">{escape(name)}</a>' for name in sections)
    parts = [
        f'<section id="{anchor(name)}"><h2>{escape(name)}</h2>{inner}</section>' for name, inner in sections.items()
    ]
    return Template((folder / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        lead=escape(lead),
        style=(folder / "page.css").read_text(encoding="utf-8"),
        generator=f"pyro-vae {__version__}",
        contents=f"<nav>{links}</nav>",
        body="\n".join([opening, *parts]),
        footer=escape(footer),
    )

"""Things that tokens stand for, side by side: how they are drawn is a matter of their kind."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from functools import cache, singledispatch

from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font
from torch import Tensor

from pyro_vae.data import Melody
from pyro_vae.data.tokens import Tokens
from pyro_vae.errors import printable
from pyro_vae.plots.drawing import Figure
from pyro_vae.plots.piano_roll import piano_rolls

WIDE = 110  # characters across all columns
MOST_LINES = 6  # of one text; what is longer ends with an ellipsis
SIZE = 8.0  # of the font, points
LINE = 0.15  # inches between two lines
GAP = 0.07  # inches between two rows


class TextTable(Figure):
    """A figure that is a table of texts, which a page shows as such.

    Attributes:
        columns: the texts by what is said above.
        rows: what is said at the left of each row; nothing, or as many as there are rows.
        title: of the whole.
    """

    columns: dict[str, list[str]]
    rows: list[str]
    title: str


@singledispatch
def token_table(tokens: Tokens, columns: Mapping[str, Tensor], title: str, rows: Sequence[str] = ()) -> Figure:
    """Things in columns, those that belong together in one row: as texts, if their kind has no picture of its own.

    Melodies are drawn as piano rolls. Another kind with a picture of its own registers it: ``@token_table.register`` on
    a function with these arguments.

    Args:
        tokens: what the integers stand for.
        columns: tokens ``(n, T)`` by what is said above.
        title: of the figure.
        rows: what is said at the left of each row.

    Returns:
        the figure.
    """
    texts = {name: tokens.decode(values) for name, values in columns.items()}
    return text_table(texts, title, rows)


token_table.register(Melody, piano_rolls)


def text_table(columns: Mapping[str, Sequence[str]], title: str, rows: Sequence[str] = ()) -> TextTable:
    """Texts in columns, long ones over several lines.

    Args:
        columns: the texts by what is said above.
        title: of the figure.
        rows: what is said at the left of each row.

    Example:
        >>> from pyro_vae.plots.tables import text_table
        >>> drawn = text_table({"data": ["a red circle ."], "reconstruction": ["a red square ."]}, "one")
        >>> [text.get_text() for text in drawn.axes[0].texts]
        ['data', 'reconstruction', 'a red circle .', 'a red square .']
    """
    width = max(12, WIDE // len(columns))  # characters
    cells = [[_wrapped(text, width) for text in texts] for texts in zip(*columns.values(), strict=True)]
    heights = [max(text.count("\n") + 1 for text in row) for row in cells]
    labels = [*rows, *[""] * (len(cells) - len(rows))]
    margin = 0.075 * max(map(len, labels), default=0) + 0.15  # inches
    across = 0.075 * width  # inches of a column
    head = LINE + 2 * GAP if any(columns) else GAP
    height = head + LINE * sum(heights) + GAP * len(cells)
    figure = TextTable(figsize=(margin + across * len(columns), height + 0.5), layout="constrained")
    figure.columns = {name: list(texts) for name, texts in columns.items()}
    figure.rows, figure.title = list(rows), title
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(0, margin + across * len(columns))
    axes.set_ylim(height, 0)
    style = {"fontsize": SIZE, "va": "top", "parse_math": False}
    for i, name in enumerate(columns):
        axes.text(margin + i * across, 0, _drawable(name), weight="bold", **style)
    top = head
    for row, label, lines in zip(cells, labels, heights, strict=True):
        axes.axhline(top - GAP / 2, color="0.85", linewidth=0.5)
        if label:
            axes.text(0, top, _drawable(label), color="0.4", **style)
        for i, text in enumerate(row):
            axes.text(margin + i * across, top, text, **style)
        top += LINE * lines + GAP
    figure.suptitle(_drawable(title).replace("$", r"\$"), fontsize="medium")
    return figure


def _wrapped(text: str, width: int) -> str:
    """A text over lines of so many characters."""
    lines = textwrap.wrap(_drawable(text), width) or [""]
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], f"{lines[MOST_LINES - 1][: width - 2]} …"]
    return "\n".join(lines)


def _drawable(text: str) -> str:
    """A text without what would drive a terminal, and with an empty box for every character that the font lacks."""
    known = _characters()
    return "".join(c if ord(c) in known or c == "\n" else "\u25a1" for c in printable(text))


@cache
def _characters() -> frozenset[int]:
    return frozenset(FT2Font(findfont(FontProperties())).get_charmap())

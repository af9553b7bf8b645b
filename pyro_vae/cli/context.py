"""The context y on the command line: labels, or vectors of attributes."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.context import Context, num_attributes
from pyro_vae.errors import InputError


def parse_y(text: str, context: Context | None, num: int | None = None) -> Tensor:
    """The values that a text says, checked against what the program declares.

    Args:
        text: labels (``7``, or ``0,1,2``), or attribute vectors (``0.5,1,0``, or several, with ``;`` between them).
        context: what the program accepts; labels, if it does not say.
        num: repeat the values in turns until there are so many.

    Returns:
        labels ``(n,)`` int64, or attribute vectors ``(n, A)``.

    Raises:
        InputError: if the text cannot be read so, or the program does not accept the values.
    """
    values = _parsed(text, context)
    if context is not None:
        context.check("y", values)
    return values if num is None else values[torch.arange(num) % len(values)]


def describe_y(context: Context | None) -> str:
    """What y is, for people."""
    return context.what if context is not None else "class labels"


def example_y(context: Context | None) -> str:
    """What could be said of y, for people."""
    size = num_attributes(context) if context is not None else None
    return "7 or --y 0,1,2" if size is None else ",".join(["0.5"] * min(size, 4)) + (",…" if size > 4 else "")


def _parsed(text: str, context: Context | None) -> Tensor:
    try:
        if context is not None and num_attributes(context) is not None:
            rows = [[float(number) for number in row.split(",")] for row in text.split(";")]
            if len({len(row) for row in rows}) > 1:
                raise ValueError("the vectors differ in length")
            return torch.tensor(rows)
        return torch.tensor([int(number) for number in text.split(",")])
    except (ValueError, RuntimeError) as error:
        example = example_y(context)
        raise InputError(f"--y takes {describe_y(context)}, e.g. --y {example}; got '{text}' ({error})") from error

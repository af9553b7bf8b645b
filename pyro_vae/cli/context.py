"""The context y on the command line: labels by number or name, or vectors of attributes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_vae.data.images import shown
from pyro_vae.errors import InputError, unknown
from pyro_vae.programs.context import (
    Context,
    accepted_arguments,
    declared_context,
    needed_to_generate,
    num_attributes,
    num_classes,
    required_arguments,
)
from pyro_vae.runs import Run
from pyro_vae.runs.learned_priors import PRIORS

logger = logging.getLogger(__name__)
USUAL = 10  # labels, where nobody says how many there are


def parse_y(text: str, context: Context | None, num: int | None = None, classes: Sequence[str] | None = None) -> Tensor:
    """The values that a text says, checked against what the program declares.

    Args:
        text: labels (``7``, or ``0,1,2``), or the names of classes (``dog``, or ``cat,dog``), or attribute vectors
            (``0.5,1,0``, or several, with ``;`` between them).
        context: what the program accepts; labels, if it does not say.
        num: repeat the values in turns until there are so many.
        classes: the names of the labels, if they have names. What is a name is taken as one, even if it is a number.

    Returns:
        labels ``(n,)`` int64, or attribute vectors ``(n, A)``.

    Raises:
        InputError: if the text cannot be read so, or the program does not accept the values.
    """
    values = _parsed(text, context, classes)
    if context is not None:
        context.check("y", values)
    return values if num is None else values[torch.arange(num) % len(values)]


def describe_y(context: Context | None) -> str:
    """What y is, for people."""
    return context.what if context is not None else "class labels"


def example_y(context: Context | None, classes: Sequence[str] | None = None) -> str:
    """What could be said of y, for people: values that the program accepts."""
    size = num_attributes(context) if context is not None else None
    if size is not None:
        return ",".join(["0.5"] * min(size, 4)) + (",…" if size > 4 else "")
    if classes:
        return f"{classes[-1]} or --y {','.join(classes[:3])}"
    count = (num_classes(context) if context is not None else None) or USUAL
    return f"{min(7, count - 1)} or --y {','.join(str(i) for i in range(min(3, count)))}"


def said_context(
    run: Run,
    model: nn.Module,
    guide: nn.Module,
    keys: Sequence[str],
    count: int,
    y: str | None,
    *,
    in_turns: bool = True,
) -> dict[str, Tensor]:
    """y as it is said for data, or nothing.

    Args:
        run: whose classes may be named.
        model, guide: its programs.
        keys: the names of what a batch of the data holds.
        count: number of data.
        y: what is said, or None.
        in_turns: several values take turns; False: there must be one for all data, or one for each.

    Raises:
        InputError: if y must be said and is not, cannot be said, or is not accepted.
    """
    declared = declared_context(model) | declared_context(guide)
    context = declared.get("y")
    sayable = "mask" not in keys and (context is None or len(context.shape) < 2)
    if y is None:
        needed = {*required_arguments(model, keys), *required_arguments(guide, keys)}
        needed |= {*needed_to_generate(model, keys)} if (run.path / PRIORS).is_dir() else set()  # by its learned prior
        if "y" in needed and "y" not in keys and sayable:
            what, example = describe_y(context), example_y(context, run.classes)
            raise InputError(f"the model needs y ({what}), which is not in the data: say it, e.g. --y {example}")
        return {}
    if context is None and (run.path / PRIORS).is_dir() and "y" in declared_context(run.programs()[0]):
        logging.info("--y is passed over: only the prior takes it, which is not asked")
        return {}
    accepted = [accepted_arguments(program) for program in (model, guide)]
    if not sayable or not any(names is None or "y" in names for names in accepted):
        why = "it is made from the data" if not sayable else "it is not conditional"
        raise InputError(f"--y is not for this model: {why}; leave it out")
    values = parse_y(y, context, classes=run.classes)
    if not in_turns and len(values) not in (1, count):
        raise InputError(f"--y says {len(values)} values for {count} data: say one for all, or one for each")
    return {"y": values[torch.arange(count) % len(values)]}


def _parsed(text: str, context: Context | None, classes: Sequence[str] | None) -> Tensor:
    try:
        if context is not None and num_attributes(context) is not None:
            rows = [[float(number) for number in row.split(",")] for row in text.split(";")]
            if len({len(row) for row in rows}) > 1:
                raise InputError(f"--y '{text}': the vectors differ in length")
            return torch.tensor(rows)
        if classes:
            return torch.tensor(_labels(text, classes))
        return torch.tensor([int(number) for number in text.split(",")])
    except InputError:
        raise
    except (ValueError, RuntimeError) as error:
        example = example_y(context, classes)
        raise InputError(f"--y takes {describe_y(context)}, e.g. --y {example}; got '{text}'") from error


def _labels(text: str, classes: Sequence[str]) -> list[int]:
    """Labels by name or number; a name may itself have commas in it."""
    if text in classes:
        return [_label(text, classes)]
    return [_label(word.strip(), classes) for word in text.split(",")]


def _label(word: str, classes: Sequence[str]) -> int:
    if word in classes:
        place = classes.index(word)
        if word.isdecimal() and place != int(word):
            logging.info("--y: '%s' is the name of a class, whose label is %d", word, place)
        return place
    try:
        return int(word)
    except ValueError:
        raise unknown("class", word, classes) from None


def labels_of(run: Run, words: Sequence[str], classes: Sequence[str], label: str) -> Tensor | None:
    """The run's labels of classes by name, ``(N,)``; None, and a line in the log, if it does not know all of them."""
    known = run.classes or ()
    strangers = [name for name in classes if shown(name) not in known]
    if strangers:
        logger.info("%s: its classes are passed over: the run knows no '%s'", label, shown(strangers[0]))
        return None
    return torch.tensor([known.index(shown(word)) for word in words])

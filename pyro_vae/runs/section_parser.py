"""The parser of sections, to which classes need not be told what the data know."""

from __future__ import annotations

from argparse import SUPPRESS
from typing import Any

from jsonargparse import ArgumentParser

SHAPE = "_shape"  # ends the names of arguments that are shapes of the batch's entries: image_shape, of image
NUM_ACTIONS = "num_actions"  # how many actions the data have (data.Actions)


def known_by_data(name: str) -> bool:
    """Whether an argument may be left unsaid, since the data know it."""
    return name.endswith(SHAPE) or name.rpartition(".")[2] == NUM_ACTIONS


class SectionParser(ArgumentParser):
    """A parser to which a class need not be told the shapes that data know, and how many actions they have.

    An argument ``NAME_shape`` without a default may be left unsaid of any class, also of those that a class is made of:
    :func:`~pyro_vae.runs.sections.instantiate` hands it the shape of the batch's entry NAME. So may ``num_actions``.
    """

    def add_class_arguments(self, theclass: Any, *args: Any, **kwargs: Any) -> list[str]:
        """Add a class's arguments, of which those that the data know are not required."""
        added: list[str] = super().add_class_arguments(theclass, *args, **kwargs)
        for action in self._actions:
            if action.required and known_by_data(action.dest):
                action.required, action.default = False, SUPPRESS
                getattr(self, "required_args", set()).discard(action.dest)  # where older versions keep them
        return added

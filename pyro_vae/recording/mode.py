"""How a function is run."""

from __future__ import annotations

from typing import Literal, cast, get_args

from pyro_vae.errors import unknown

Mode = Literal["off", "graph", "full"]  # how a function is run: as it is, as a recorded graph, as a compiled one
Compile = Literal["auto", "off", "graph", "full"]


def choose_mode(compile: str, calls: int, *, graph_from: int, full_from: int) -> Mode:
    """What ``auto`` means for so many calls.

    Recording costs some tenths of a second, the compiler 10 to 30 seconds more. The choice depends on nothing that is
    measured, so that a resumed run makes the same one.

    Raises:
        InputError: for an unknown mode.
    """
    if compile not in get_args(Compile):
        raise unknown("compile", compile, get_args(Compile))
    if compile != "auto":
        return cast(Mode, compile)
    return "full" if calls >= full_from else "graph" if calls >= graph_from else "off"

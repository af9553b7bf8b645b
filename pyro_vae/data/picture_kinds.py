"""What a run's configuration says of how its data are looked at, read without trust."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pyro_vae.data.clips import Clips
from pyro_vae.data.colours import LabPictures
from pyro_vae.data.motions import Motions
from pyro_vae.data.pictures import Pictures
from pyro_vae.errors import InputError

Kind = TypeVar("Kind", bound=type[Pictures])

KINDS: dict[str, type[Pictures]] = {cls.kind: cls for cls in (Clips, LabPictures, Motions)}


def picture_kind(cls: Kind) -> Kind:
    """Make pictures of one's own known, so that runs can keep them: a decorator of a class of :class:`Pictures`.

    The module must be imported before such a run is read.

    Raises:
        InputError: if another class has that kind.

    Example:
        >>> import pyro_vae
        >>> @pyro_vae.data.picture_kind
        ... class Beside(pyro_vae.data.Pictures):  # what is given, and x at its right
        ...     kind = "beside"
        ...     def images(self, x, batch):
        ...         import torch
        ...         given = batch["image"].expand(*x.shape[:-3], *batch["image"].shape[-3:])
        ...         return torch.cat([given, x], -1)
        ...     def plain(self):
        ...         return {}
        ...     @classmethod
        ...     def from_plain(cls, values):
        ...         return cls()
    """
    known = KINDS.setdefault(cls.kind, cls)
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise InputError(f"{cls.__name__}: {known.__name__} is of the kind '{cls.kind}' already; choose another name")
    KINDS[cls.kind] = cls  # of a module that is run anew
    return cls


def picture_facts(pictures: Pictures) -> dict[str, Any]:
    """What a configuration says of pictures: their kind, and all that they know.

    Raises:
        InputError: for pictures of a class that no configuration can be of.
    """
    if KINDS.get(pictures.kind) is not type(pictures):
        raise InputError(
            f"{type(pictures).__name__}: a run keeps pictures of these kinds alone: {', '.join(KINDS) or 'none'}; put "
            "@pyro_vae.data.picture_kind before the class"
        )
    return {"kind": pictures.kind, **pictures.plain()}


def pictures_of(facts: Any) -> Pictures:
    """The pictures that :func:`picture_facts` gave, made anew of values that are not trusted.

    Raises:
        ValueError, KeyError, TypeError: if they are not such.
    """
    if not isinstance(facts, Mapping) or not isinstance(facts.get("kind"), str):
        raise ValueError("pictures have a kind")
    if facts["kind"] not in KINDS:
        raise ValueError(
            f"pictures of the kind '{facts['kind'][:80]}', which is none of {', '.join(KINDS) or 'those known'}: if it "
            "is one of your own, import its module first"
        )
    return KINDS[facts["kind"]].from_plain({name: value for name, value in facts.items() if name != "kind"})

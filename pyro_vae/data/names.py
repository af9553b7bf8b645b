"""Names of files and classes as text that figures, pages and archives can hold."""

from __future__ import annotations

from pathlib import Path

from pyro_vae.data.layout import Labelled


def shown(name: object) -> str:
    """A name as text: what in it is not UTF-8 (a lone surrogate to Python) is written out, ``\\udcff``."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def file_names(root: Path, splits: dict[str, Labelled]) -> dict[str, tuple[str, ...]]:
    """The names of a dataset's files by split: their paths from its folder."""
    return {
        part: tuple(shown(file.relative_to(root).as_posix()) for file, _ in members) for part, members in splits.items()
    }

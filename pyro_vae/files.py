"""Writing files so that a kill at any moment leaves the old or the new one, whole."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pyro_vae.errors import InputError

TEMPORARY = ".pyro_vae-"  # how the names of temporary files begin


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a temporary file beside ``path``, then rename it into place; a link there is replaced.

    Raises:
        InputError: if the file cannot be written (full disk, no permission); an old one is left as it was.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{path.name}")
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # as the umask allows
        temporary = name
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"cannot write {path}: {error}. The file that was there before is unharmed; free some disk space "
            "or choose another directory, then resume"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file, atomically.

    Raises:
        InputError: if it cannot be written.
    """
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove the temporary files that a kill in the middle of :func:`write_atomically` of these paths left.

    Nobody else may be writing the paths.
    """
    for path in paths:
        for left in path.parent.glob(f"{TEMPORARY}????????-{path.name}"):
            left.unlink(missing_ok=True)


def check_no_links(root: Path, names: Iterable[str]) -> None:
    """Check that nothing below a directory is written, or removed, through a link.

    Args:
        root: the directory; may itself be reached through a link.
        names: paths below it, ``"checkpoints/last.pt"``, there or not.

    Raises:
        InputError: names the link.
    """
    for name in names:
        at = root
        for part in Path(name).parts:
            at = at / part
            if at.is_symlink():
                raise InputError(
                    f"{at} is a link to {os.readlink(at)}: nothing is written through links inside {root}; put what it "
                    "points to in its place, or work on a copy of the directory"
                )

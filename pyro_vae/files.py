"""Writing files so that a kill at any moment leaves the old or the new one, whole."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pyro_vae.errors import InputError


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a temporary file beside ``path``, then rename it into place.

    Raises:
        InputError: if the file cannot be written (full disk, no permission); an old one is left as it was.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
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


def remove_leftovers(*directories: Path) -> None:
    """Remove the temporary files that a kill in the middle of :func:`write_atomically` left in directories."""
    for directory in directories:
        for path in directory.glob(".*.????????.*"):
            if path.is_file():
                path.unlink(missing_ok=True)

"""The two files of a measurement, its summary and the numbers of each datum, which carry one id."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import write_atomically, write_json
from pyro_vae.recipes.known import check_shape
from pyro_vae.recipes.plain import plain

ID = "measurement_id"  # in the summary; of the numbers the archive's comment, so that they are arrays and nothing else


def with_id(result: Mapping[str, Any], per_datum: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A measurement's summary with its id: a digest of it and of the numbers of each datum, but for the seconds taken.

    Args:
        result: the summary.
        per_datum: arrays ``(num_data,)`` by name.
    """
    found = hashlib.sha256(json.dumps({k: v for k, v in plain(result).items() if k != "seconds"}).encode())
    for key, value in per_datum.items():
        found.update(f"/{key} {value.dtype} {value.shape}/".encode() + np.ascontiguousarray(value).tobytes())
    return {**result, ID: found.hexdigest()[:32]}


def write_measurement(folder: Path, name: str, result: Mapping[str, Any], per_datum: Mapping[str, np.ndarray]) -> None:
    """Write ``name.npz`` and ``name.json``, each whole or not at all; the id tells when only one of them was written.

    Args:
        folder: the run directory.
        name: such as "evaluation-test".
        result: the summary, :func:`with_id`.
        per_datum: arrays ``(num_data,)`` by name.

    Raises:
        InputError: if they cannot be written.
    """

    def write(path: Path) -> None:
        np.savez(path, **per_datum)
        with zipfile.ZipFile(path, "a") as archive:
            archive.comment = str(result[ID]).encode()

    write_atomically(folder / f"{name}.npz", write)
    write_json(folder / f"{name}.json", plain(result))


def told_then_written(text: str, write: Callable[[], object]) -> None:
    """Print a result, then write it: neither a full disk nor a closed pipe loses the number."""
    try:
        print(text, flush=True)
    finally:
        write()


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CorruptFileError: if the file is not one.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        told = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise CorruptFileError(f"{file} cannot be read: {told}; remove it, or measure again") from error
    check_shape(value, str(file))
    return value


def read_per_datum(file: Path) -> tuple[dict[str, np.ndarray], str | None]:
    """The numbers of each datum by name, float64, and the id that they carry (None: they carry none).

    Raises:
        CorruptFileError: if the file is damaged.
    """
    try:
        with file.open("rb") as opened, zipfile.ZipFile(opened) as archive:
            number = archive.comment.decode()
            opened.seek(0)
            with np.load(opened, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # damaged bytes make the reader fail in many ways
        raise CorruptFileError(f"{file} cannot be read: {error}; measure again, with pyro-vae evaluate") from error
    return {
        name: value.astype(np.float64) for name, value in found.items() if value.dtype.kind in "fiu"
    }, number or None


def not_together(folder: Path, name: str, result: Mapping[str, Any] | None = None) -> str | None:
    """Why the two files of a measurement are not those of one, in a sentence; None if they are.

    Args:
        folder: the run directory.
        name: such as "evaluation-test".
        result: what ``name.json`` holds, if it has been read.

    Raises:
        CorruptFileError: if a file is damaged.
    """
    summary, numbers = folder / f"{name}.json", folder / f"{name}.npz"
    for there, missing in ((summary, numbers), (numbers, summary)):
        if there.is_file() and not missing.is_file():
            return f"{there} is there, but {missing.name}, its other half, is missing"
    if not summary.is_file():
        return None
    said = (read_json(summary) if result is None else result).get(ID)
    number = read_per_datum(numbers)[1]
    if said is None and number is None:
        return (
            f"{summary} and {numbers.name} carry no id that says that they belong together (an older version of "
            "pyro_vae wrote them)"
        )
    if said != number:
        return f"{summary} and {numbers.name} are of different measurements: one of the two was not written to its end"
    return None


def read_together(folder: Path, name: str, again: str) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Both files of a measurement; None if neither is there.

    Args:
        folder: the run directory.
        name: such as "evaluation-test".
        again: the command that measures again.

    Raises:
        InputError: if they do not belong together, or one is missing.
        CorruptFileError: if a file is damaged.
    """
    why = not_together(folder, name)
    if why is not None:
        raise InputError(f"{why}. Measure again: {again}")
    if not (folder / f"{name}.json").is_file():
        return None
    return read_json(folder / f"{name}.json"), read_per_datum(folder / f"{name}.npz")[0]

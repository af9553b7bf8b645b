"""Files of numbers that commands write: arrays, or tables, by the suffix that they are told."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.errors import InputError
from pyro_vae.files import user_path, write_atomically

ID = "id"  # the column of what the data are called
TABLES = ("pandas", "pyarrow")  # what a .parquet file is written by


def check_output(name: str, suffixes: Sequence[str], force: bool) -> Path:
    """A file to write, checked before any work is done.

    Args:
        name: as it was given.
        suffixes: of the kinds of files that there can be.
        force: replace a file that is there.

    Raises:
        InputError: for another suffix, a file that is there already, and a table whose packages are not installed.
    """
    path = user_path(name)
    if path.suffix.lower() not in suffixes:
        raise InputError(f"--out {name}: must end in {' or '.join(suffixes)}")
    if path.is_dir() or (path.exists() and not force):
        raise InputError(f"--out {name}: is there already; give another name, or --force to replace it")
    if path.suffix.lower() == ".parquet":
        missing = [package for package in TABLES if find_spec(package) is None]
        if missing:
            raise InputError(f"--out {name}: needs {' and '.join(missing)}: pip install {' '.join(missing)}; or a .npz")
    return path


def write_numbers(path: Path, ids: Sequence[str] | Sequence[int], arrays: Mapping[str, np.ndarray]) -> None:
    """Write the numbers of each datum with their ids, whole or not at all.

    Args:
        path: ``.npz``: arrays ``id`` and those given, in their shapes; ``.csv``, ``.parquet``: one row a datum, of
            which every number has a column, ``z[0,1]``.
        ids: one a datum, names or places.
        arrays: ``(num_data, ...)`` by name.

    Raises:
        InputError: if the file cannot be written.
    """
    kind = path.suffix.lower()
    if ID in arrays:
        raise InputError(f"a site is called '{ID}', which is the name of what the data are called: rename the site")
    if kind == ".npz":
        write_atomically(path, lambda file: _write_npz(file, {ID: np.array(ids), **arrays}))
    elif kind == ".csv":
        columns = _columns(ids, arrays)
        write_atomically(path, lambda file: _write_csv(file, columns))
    else:
        import pandas

        table = pandas.DataFrame(_columns(ids, arrays))
        write_atomically(path, lambda file: table.to_parquet(file, engine="pyarrow", index=False))


def savez(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays into an ``.npz`` file and print where it is.

    Raises:
        InputError: if it cannot be written.
    """
    write_atomically(path, lambda file: _write_npz(file, arrays))
    print(path)


def _columns(ids: Sequence[str] | Sequence[int], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """One column for every number of a datum, by name."""
    found: dict[str, Any] = {ID: list(ids)}
    for name, array in arrays.items():
        for place in np.ndindex(array.shape[1:]):
            column = f"{name}[{','.join(map(str, place))}]" if place else name
            found[column] = array[(slice(None), *place)]
    return found


def _write_npz(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """As ``numpy.savez_compressed`` does, for arrays of any name, such as a site called ``file``."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)


def _write_csv(file: Path, columns: Mapping[str, Any]) -> None:
    """Numbers with all their digits."""
    values = [value.tolist() if isinstance(value, np.ndarray) else value for value in columns.values()]
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*values, strict=True))

"""Files: written so that a kill leaves the old or the new one, read without trust; directories locked by a training."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from pyro_vae.errors import CorruptFileError, InputError

DEEPEST, LARGEST = 40, 100_000  # nesting and entries of a configuration
MOST_CHARACTERS, MOST_DIGITS = 1 << 20, 1000  # of its text, and of a number there
LONGEST_TEXT = 10_000  # characters of an entry
LARGEST_NUMBER = 2**64  # of whole ones; a seed is below it
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
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


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

_held: dict[tuple[int, int], int] = {}  # directory, by device and inode -> the thread that trains in it


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other trainings out of a directory for the length of a block; it is made if it is not there.

    The lock is the operating system's, on the directory itself: it ends with the process, however that ends, and no
    file is left. A block inside another one of the same thread changes nothing.

    Raises:
        InputError: if another training, of this or another process, has the directory.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"cannot write {directory}, the directory to train in: {error.strerror}") from error
    found = os.fstat(handle)
    key, me = (found.st_dev, found.st_ino), threading.get_ident()
    try:
        if _held.get(key) == me:
            yield
            return
        if key in _held or not _acquired(handle):
            raise InputError(
                f"another training is at work in {directory}: wait until it has ended, or stop it and resume"
            )
        _held[key] = me
        try:
            yield
        finally:
            del _held[key]
    finally:
        os.close(handle)


def _acquired(handle: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def user_path(name: str | Path) -> Path:
    """A path as it was given; ``~`` is a home directory.

    Raises:
        InputError: if there is no such user.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise InputError(f"{name}: there is no such user; write ./{name} if it is a file's name") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """A file that holds a YAML mapping.

    Raises:
        InputError: if it cannot be read.
        CorruptFileError: if it is not one, or is too long for one.
    """
    try:
        with path.open(encoding="utf-8") as file:
            return parse_yaml(file.read(MOST_CHARACTERS + 1), str(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{path} is not a text file: {error}") from error


class _Loader(yaml.SafeLoader):
    """The safe loader, without long numbers: one by sixties, 1:1:1:…, takes it time with the square of its length."""

    def construct_scalar(self, node: Any) -> Any:
        """The text of a node, of which a number is made."""
        text = super().construct_scalar(node)
        if node.tag in NUMBERS and len(text) > MOST_DIGITS:
            raise yaml.YAMLError(f"a number of {len(text):,} digits")
        return text


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """A YAML mapping; nothing in it is executed.

    Raises:
        CorruptFileError: names the source if it is not one, or one that :func:`check_shape`
            refuses, so that whatever is made of it ends.
    """
    if len(text) > MOST_CHARACTERS:
        raise CorruptFileError(f"{source} is longer than {MOST_CHARACTERS:,} characters, which no configuration is")
    try:
        value = yaml.load(text, _Loader)  # a safe one
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a date with a 13th month
        words = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise CorruptFileError(f"{source} is not valid YAML: {words}") from error
    if not isinstance(value, dict):
        raise CorruptFileError(f"{source} should hold a YAML mapping with keys data, model, guide, …")
    check_shape(value, source)
    return value


def check_shape(config: Any, source: str) -> None:
    """Check that what was read from a file, whether trusted or not, is neither deep nor huge, and holds plain values.

    Aliases count as often as they are met, so that what is printed, copied or compared of it is not huge either.

    Raises:
        CorruptFileError: if it is not.
    """
    count = 0
    waiting: list[tuple[Any, int]] = [(config, 0)]
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if depth > DEEPEST or count > LARGEST:
            raise CorruptFileError(f"{source} is nested deeper than {DEEPEST} levels, or has over {LARGEST:,} entries")
        if isinstance(value, Mapping):
            odd = [key for key in value if not isinstance(key, str)]
            if odd:
                raise CorruptFileError(f"{source}: key {odd[0]!r} is no text")
            waiting.extend((each, depth + 1) for each in value.values())
        elif isinstance(value, list | tuple):
            waiting.extend((each, depth + 1) for each in value)
        elif isinstance(value, str):
            if len(value) > LONGEST_TEXT:
                raise CorruptFileError(
                    f"{source} holds a text of {len(value):,} characters; {LONGEST_TEXT:,} are the most"
                )
        elif not isinstance(value, int | float | bool | None):
            raise CorruptFileError(f"{source}: {str(value)[:80]!r} is neither text, number, list nor mapping")
        elif value != value:
            raise CorruptFileError(f"{source} holds .nan, which is no number to set anything to")
        elif isinstance(value, int) and abs(value) > LARGEST_NUMBER:
            raise CorruptFileError(f"{source} holds a whole number of {value.bit_length()} bits; 64 are the most")

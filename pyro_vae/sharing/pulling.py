"""``pull``: a run from a repository of a hub, read without trust, in place when it is whole."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import TEMPORARY, digest_of, locked, read_yaml
from pyro_vae.runs.directory import CONFIG, WEIGHTS
from pyro_vae.runs.known import foreign_names
from pyro_vae.runs.measurements import SPLITS, not_together
from pyro_vae.runs.run import HEAD, Run
from pyro_vae.sharing.client import check_repository, hub_client, reaching
from pyro_vae.sharing.names import CARD, OF_HUBS, is_shared

logger = logging.getLogger(__name__)

MOST_FILES = 1000
NOT_SECTIONS = ("version", *HEAD, "trained_on", "num_classes", "tokenizer", "shape")  # of configurations


def pull(
    repository: str, out: str | Path, *, revision: str | None = None, everything: bool = False, figures: bool = False
) -> Path:
    """Get a run from a repository of a hub into a new directory.

    Nothing that it holds is run. Only files that a run has are taken, others are named and left; their sizes, and
    digests where the hub tells them, are compared; the pair is built and its weights are read before the directory is
    there, unless its configuration names code outside ``pyro_vae``, which the log then says.

    Args:
        repository: ``USER/NAME``.
        out: the directory to make.
        revision: a branch, tag or commit; None: the newest.
        everything: also checkpoints, with which training is gone on with, and ``first/``.
        figures: also figures and the report.

    Returns:
        the directory.

    Raises:
        InputError: if the directory holds anything, the repository is no run, or the hub refuses.
        CorruptFileError: if a file of it is damaged.
    """
    check_repository(repository)
    out = Path(out)
    _check_free(out)
    client = hub_client()
    with reaching(repository, client):
        info = client.repo_info(repository, revision=revision, files_metadata=True)
    listed = {each.rfilename: each for each in info.siblings or []}
    wanted = [name for name in listed if name == CARD or is_shared(name, everything=everything, figures=figures)]
    if CONFIG not in wanted or WEIGHTS not in wanted:
        raise InputError(f"{repository} is no run of pyro_vae: it has no {CONFIG} and {WEIGHTS}")
    left = [name for name in listed if name not in wanted and name not in OF_HUBS]
    if left:
        logger.warning("left out, since loading a run needs no such files: %s", ", ".join(sorted(left))[:500])
    sizes = [listed[name].size for name in wanted]
    if len(wanted) > MOST_FILES or not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise InputError(f"{repository} holds over {MOST_FILES:,} files of a run, or does not say their sizes")
    with _beside(out) as temporary:
        free = shutil.disk_usage(temporary).free
        if sum(sizes) > free:
            raise InputError(f"{repository} has {sum(sizes):,} bytes, and {out.parent} has {free:,} left")
        logger.info("%d files, %.1f MB, of %s at %s", len(wanted), sum(sizes) / 1e6, repository, str(info.sha)[:12])
        for name in sorted(wanted):
            with reaching(repository, client):
                client.hf_hub_download(repository, name, revision=info.sha, local_dir=temporary)
            _check_file(temporary / name, name, listed[name])
        shutil.rmtree(temporary / ".cache", ignore_errors=True)
        try:
            _check_run(temporary)
        except InputError as error:
            raise type(error)(f"{repository}: {str(error).replace(str(temporary), str(out))}") from error
        try:
            os.rename(temporary, out)  # of a directory onto an empty one, or none
        except OSError as error:
            raise InputError(f"{out} cannot be made: {error.strerror}") from error
    return out


def _check_free(out: Path) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()) or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"{out} is there already, and nothing is replaced: choose another directory")


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A new directory beside another one, which is gone afterwards, unless it has become that."""
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        temporary = out.absolute().with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{out.name}")
        for left in temporary.parent.glob(f"{TEMPORARY}????????-{out.name}"):
            _remove_left(left)
        temporary.mkdir()
    except OSError as error:
        raise InputError(f"cannot write {out.parent}: {error.strerror}") from error
    try:
        with locked(temporary):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_left(folder: Path) -> None:
    """Remove what a pull that was killed has left, unless another one is at work in it."""
    if folder.is_dir() and not folder.is_symlink():
        with suppress(InputError), locked(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _check_file(path: Path, name: str, listed: Any) -> None:
    """Check that a file is as the hub lists it."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size != listed.size:
        raise CorruptFileError(f"{name} did not come whole: {listed.size:,} bytes are listed. Pull again")
    digest = getattr(listed.lfs, "sha256", None)
    if digest is not None and digest_of(path) != digest:
        raise CorruptFileError(f"{name} is not the file that the hub lists: its SHA-256 differs. Pull again")


def _check_run(folder: Path) -> None:
    """Check that what was pulled can be read; and say so, if it needs code that is not here."""
    foreign = []
    for file in folder.rglob(CONFIG):
        config = read_yaml(file)
        foreign += foreign_names({key: value for key, value in config.items() if key not in NOT_SECTIONS})
    for split in SPLITS:
        why = not_together(folder, f"evaluation-{split}")
        if why is not None:
            raise CorruptFileError(why)
    if foreign:
        logger.warning(
            "this run names code outside pyro_vae (%s), which did not come with it: read that code, and use the run "
            "with --trust if you trust it",
            ", ".join(foreign)[:200],
        )
    else:
        Run(folder).programs()

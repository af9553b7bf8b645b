"""``push``: a run's files into a repository of a hub, in one commit."""

from __future__ import annotations

import logging
from pathlib import Path

from pyro_vae.errors import InputError
from pyro_vae.files import locked
from pyro_vae.reports.stored import stored_evaluations
from pyro_vae.runs.directory import CONFIG, WEIGHTS
from pyro_vae.runs.measurements import not_together
from pyro_vae.runs.run import Run
from pyro_vae.sharing.card import is_current, model_card
from pyro_vae.sharing.client import check_repository, hub_client, reaching
from pyro_vae.sharing.names import CARD, OF_HUBS, is_shared, shared_files

logger = logging.getLogger(__name__)


def push(
    run: str | Path,
    repository: str,
    *,
    private: bool = False,
    everything: bool = False,
    figures: bool = False,
    trust: bool = False,
) -> str:
    """Put a run into a repository of a hub, with a card; the repository is made if it is not there.

    What loading needs, the log of training, and measurements of the weights as they are. Files of a run that lie there
    from before and do not belong to this one are removed in the same commit, so that no number is of other weights.
    The token is whatever huggingface_hub finds (HF_TOKEN, ``hf auth login``).

    Args:
        run: the run directory.
        repository: ``USER/NAME``.
        private: make it private, if it is made.
        everything: also checkpoints, with which training is gone on with, and ``first/``.
        figures: also figures and the report.
        trust: allow class paths outside ``pyro_vae`` in the configuration; their code is run.

    Returns:
        where it is.

    Raises:
        InputError: if there is no run, a training is at work in it, the repository holds something else, or the hub
            refuses.
        CorruptFileError: if a file of the run is damaged.
    """
    path = Path(run)
    check_repository(repository)
    client = hub_client()
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    opened = Run(path, trust=trust)
    with locked(path):
        if not (path / WEIGHTS).is_file():
            raise InputError(f"{path} has no {WEIGHTS}: there is nothing to share yet")
        files = shared_files(path, everything=everything, figures=figures)
        for split, evaluation in stored_evaluations(path).items():
            name = f"evaluation-{split}"
            if not_together(path, name) is not None or not is_current(opened, evaluation):
                logger.warning("%s is left out: it is not of the weights that %s has now", name, path)
                files = {key: file for key, file in files.items() if not key.startswith(f"{name}.")}
        _warn_of_paths(opened)
        card = model_card(opened, repository)
        with reaching(repository, client):
            url = client.create_repo(repository, private=private or None, exist_ok=True)
            there = {each.rfilename for each in client.repo_info(repository).siblings or []}
            if there - {*OF_HUBS} and CONFIG not in there:
                raise InputError(f"{repository} holds something else than a run ({min(there)}): choose another one")
            every = [name for name in there if is_shared(name, everything=True, figures=True)]
            gone = [CommitOperationDelete(name) for name in sorted(every) if name not in files]
            new = [CommitOperationAdd(name, str(file)) for name, file in files.items()]
            new.append(CommitOperationAdd(CARD, card.encode()))
            client.create_commit(repository, [*gone, *new], commit_message="A run of pyro_vae")
    logger.info("%d files and a card are in %s", len(files), repository)
    return str(url)


def _warn_of_paths(run: Run) -> None:
    paths = [str(value) for value in (run.config.data.name, run.config.data.root) if value and "/" in str(value)]
    if paths:
        logger.warning("config.yaml tells where the data were on this machine: %s", ", ".join(paths))

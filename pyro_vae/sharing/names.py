"""Which files of a run are shared, and which of a repository are taken."""

from __future__ import annotations

import re
from pathlib import Path

CARD = "README.md"
SITE = r"[A-Za-z0-9_][\w.\[\]-]*"  # of a prior's directory
MEASUREMENT = r"(evaluation|ais|bidirectional|gap|parzen|feature-error)(-[\w-]+)?\.(json|npz)"
TRAINED = r"(config\.yaml|model\.safetensors|summary\.json|metrics\.jsonl)"
LOADED = re.compile(
    rf"{TRAINED}|tokens\.json|{MEASUREMENT}|priors/tokenizer\.json|priors/{SITE}/{TRAINED}|ranker/{TRAINED}"
)
CHECKPOINTS = re.compile(rf"((priors/{SITE}|ranker|first)/)?checkpoints/(last|previous)\.pt|first/{TRAINED}")
FIGURES = re.compile(r"figures/[A-Za-z0-9_][\w.-]*\.png|report\.(html|json)")
OF_HUBS = (CARD, ".gitattributes")  # which every repository may have


def is_shared(name: str, *, everything: bool = False, figures: bool = False) -> bool:
    """Whether a file of a run, by its path in it, is one that is shared.

    Args:
        name: ``priors/z/model.safetensors``.
        everything: with what training is gone on with.
        figures: with figures and the report.
    """
    patterns = [LOADED, *([CHECKPOINTS] if everything else []), *([FIGURES] if figures else [])]
    return any(pattern.fullmatch(name) for pattern in patterns)


def shared_files(run: Path, *, everything: bool = False, figures: bool = False) -> dict[str, Path]:
    """The files of a run that are shared, by their paths in it; links are none."""
    found = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        inside = [run.joinpath(*path.relative_to(run).parts[: i + 1]) for i in range(len(path.relative_to(run).parts))]
        if path.is_file() and not any(p.is_symlink() for p in inside):
            if is_shared(name, everything=everything, figures=figures):
                found[name] = path
    return found

"""Folders in which local copies of datasets are looked for."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "PYRO_VAE_DATA"
SYSTEM = Path("/usr/share/datasets")  # Debian's dataset-* packages


def cache_folder() -> Path:
    """Return the folder that downloads go to: ~/.cache/pyro_vae."""
    return Path.home() / ".cache" / "pyro_vae"


def data_folders(root: Path | None) -> list[Path]:
    """Return the folders to search, in order: root, $PYRO_VAE_DATA, ~/.cache/pyro_vae."""
    folders = [] if root is None else [root]
    if os.environ.get(VARIABLE):
        folders.append(Path(os.environ[VARIABLE]).expanduser())
    return [*folders, cache_folder()]

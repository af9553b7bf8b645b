"""torchvision's readers of datasets, which the package does without until one is asked for."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from pyro_vae.errors import InputError


def torchvision_datasets(wanted: str) -> ModuleType:
    """Return the module ``torchvision.datasets``.

    Args:
        wanted: the dataset that it is needed for, as an error names it.

    Raises:
        InputError: if torchvision is not installed, or is not the one that was built for the torch that is.

    Example:
        >>> torchvision_datasets("svhn").__name__
        'torchvision.datasets'
    """
    try:
        return import_module("torchvision.datasets")
    except ImportError as error:
        raise InputError(
            f"{wanted} is downloaded and read by torchvision, which is not installed ({error}): "
            "pip install 'pyro-vae[datasets]'"
        ) from error
    except RuntimeError as error:  # its operators are not those of this torch
        import torch

        raise InputError(
            f"{wanted} is downloaded and read by torchvision, and the one that is installed is not built for torch "
            f"{torch.__version__} ({error}): install both in one command and from one index (docs/installation.md)"
        ) from error

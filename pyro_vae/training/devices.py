"""Where training runs: devices, precision, processes."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException

from pyro_vae.errors import InputError, unknown

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")


def make_fabric(device: str, precision: Any, num_devices: int) -> Fabric:
    """Lightning's Fabric for a training.

    Args:
        device: "auto", "cpu", "cuda", "cuda:1", …
        precision: one of ``PRECISIONS``.
        num_devices: data-parallel processes.

    Raises:
        InputError: for what is not known, or is not here.
    """
    if num_devices < 1:
        raise InputError(f"num_devices must be a positive integer, got {num_devices}")
    most = max(os.cpu_count() or 1, torch.cuda.device_count())
    if num_devices > most:
        raise InputError(f"num_devices is {num_devices}, and this machine has {most}: each takes a process of its own")
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    kind, _, index = device.partition(":")
    if index and not index.isdigit():
        raise InputError(f"device must be like 'auto', 'cpu', 'cuda' or 'cuda:1', got '{device}'")
    try:
        return Fabric(
            accelerator=kind,
            devices=[int(index)] if index and kind != "cpu" else num_devices,
            strategy="ddp" if num_devices > 1 else "auto",
            precision=precision,
        )
    except (ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
        raise InputError(
            f"cannot train with device '{device}', num_devices {num_devices}, precision '{precision}': {error}"
        ) from error

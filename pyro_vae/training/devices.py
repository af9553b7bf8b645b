"""Where training runs: devices, precision, processes."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException

from pyro_vae.errors import InputError, unknown

STARTED_BY = {"TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "GROUP_RANK"}  # variables of what starts processes
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")


def make_fabric(device: str, precision: Any, num_devices: int, num_nodes: int = 1) -> Fabric:
    """Lightning's Fabric for a training.

    Args:
        device: "auto", "cpu", "cuda", "cuda:1", …
        precision: one of ``PRECISIONS``.
        num_devices: data-parallel processes of every machine.
        num_nodes: machines, on each of which the same command was started (torchrun, SLURM).

    Raises:
        InputError: for what is not known, or is not here.
    """
    for name, count in (("num_devices", num_devices), ("num_nodes", num_nodes)):
        if count < 1:
            raise InputError(f"{name} must be a positive integer, got {count}")
    if num_nodes > 1 and not STARTED_BY & os.environ.keys():
        raise InputError(
            f"num_nodes is {num_nodes}, and nothing says which of them this is: start the same command on every "
            f"machine by torchrun --nnodes {num_nodes} … or by srun"
        )
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
            num_nodes=num_nodes,
            strategy="ddp" if num_devices * num_nodes > 1 else "auto",
            precision=precision,
        )
    except (ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
        raise InputError(
            f"cannot train with device '{device}', num_devices {num_devices}, precision '{precision}': {error}"
        ) from error

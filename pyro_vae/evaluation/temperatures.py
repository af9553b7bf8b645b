"""Schedules of annealing: the exponents beta_0 = 0 < ... < beta_T = 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from pyro_vae.errors import InputError, unknown
from pyro_vae.evaluation.session import positive

Schedule = Literal["sigmoid", "linear"]


def temperatures(num_temperatures: int, schedule: Schedule | Sequence[float] = "sigmoid", slope: float = 4.0) -> Tensor:
    r"""Exponents (T + 1,) float64, rising from 0 to 1.

    .. math:: \beta_t = \frac{\sigma_t - \sigma_0}{\sigma_T - \sigma_0}, \quad
              \sigma_t = \mathrm{sigmoid}(s (2 t / T - 1)) \quad\text{or}\quad \beta_t = t / T

    Args:
        num_temperatures: T, steps from one density to the next.
        schedule: "sigmoid" has smaller steps near both ends, "linear" equal ones; or the exponents themselves.
        slope: s.

    Raises:
        InputError: if T is not positive, or exponents do not rise from 0 to 1.

    Source: Wu et al. 2017, arXiv:1611.04273, section 4.
    """
    positive("num_temperatures", num_temperatures)
    if not isinstance(schedule, str):
        beta = torch.as_tensor(schedule, dtype=torch.float64)
        rises = beta.dim() == 1 and len(beta) > 1 and bool((beta.diff() >= 0).all())
        if not (rises and beta[0] == 0 and beta[-1] == 1 and len(beta) == num_temperatures + 1):
            raise InputError(
                f"schedule must be num_temperatures + 1 = {num_temperatures + 1} exponents that rise from 0 to 1"
            )
        return beta
    if schedule not in get_args(Schedule):
        raise unknown("schedule", schedule, get_args(Schedule))
    t = torch.linspace(0, 1, num_temperatures + 1, dtype=torch.float64)
    if schedule == "linear":
        return t
    s = (slope * (2 * t - 1)).sigmoid()
    return (s - s[0]) / (s[-1] - s[0])

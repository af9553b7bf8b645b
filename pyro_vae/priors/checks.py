"""Sizes that the networks of priors cannot have."""

from __future__ import annotations

from pyro_vae.errors import InputError


def check_layers(who: str, dropout: float, **sizes: int) -> None:
    """Check what all the networks have: sizes, by argument, and dropout.

    Raises:
        InputError: names the prior and the argument.
    """
    for name, value in sizes.items():
        if value < 1:
            raise InputError(f"{who}: {name} must be a positive integer, got {value}")
    if not 0 <= dropout < 1:
        raise InputError(f"{who}: dropout must be a probability below 1, got {dropout}")

"""Encoders and decoders of others, read as mean and deviation, and as features of a likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae.errors import InputError, first_line, unknown
from pyro_vae.programs.program import as_program

Spread = Literal["log_variance", "log_deviation", "deviation", "variance", "softplus"]
DEVIATIONS: dict[str, Callable[[Tensor], Tensor]] = {  # what each makes a standard deviation of
    "log_variance": lambda s: (0.5 * s).exp(),
    "log_deviation": torch.exp,
    "deviation": lambda s: s,
    "variance": torch.sqrt,
    "softplus": softplus,
}
POSITIVE = ("deviation", "variance")  # which must be
assert set(DEVIATIONS) == set(get_args(Spread))


class Network(nn.Module):
    """A network of others: a module, a method of one, or a function that uses some, which are owned.

    Args:
        function: the network.
        who: what errors call it.

    Raises:
        InputError: if it cannot be called.
    """

    def __init__(self, function: Callable[..., Any], who: str) -> None:
        super().__init__()
        if not callable(function):
            raise InputError(f"{who} must be a module or a function, got {type(function).__name__}")
        self.who, self.call = who, function
        if not isinstance(function, nn.Module):
            self.owned = as_program(function).modules_used

    def called(self, value: Tensor) -> Any:
        """What it gives of a batch; what goes wrong is told with the shape.

        Raises:
            InputError: if it cannot be run on that.
        """
        try:
            return self.call(value)
        except (ValueError, RuntimeError, TypeError, IndexError) as error:
            line = first_line(error)
            raise InputError(
                f"the {self.who} cannot be run on a batch of shape {tuple(value.shape)}: {type(error).__name__}: {line}"
            ) from error


class Encoder(Network):
    """x ``(N, *data_shape)`` to mean and deviation of q(z | x), ``(N, *latent_shape)`` each.

    Args:
        function: gives (mean, s), or one tensor ``(N, 2 d)`` of both, the mean first.
        spread: what s is.

    Raises:
        InputError: for another ``spread``; where it is called, for anything but two tensors of one shape.
    """

    def __init__(self, function: Callable[..., Any], spread: Spread) -> None:
        super().__init__(function, "encoder")
        if spread not in DEVIATIONS:
            raise unknown("spread", spread, DEVIATIONS)
        self.spread = spread

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and s, as the network gives them."""
        found = self.called(x)
        if isinstance(found, Tensor) and found.dim() == 2 and found.shape[1] % 2 == 0:
            found = found.chunk(2, -1)
        if not (isinstance(found, (tuple, list)) and len(found) == 2 and all(isinstance(v, Tensor) for v in found)):
            raise InputError(
                f"the encoder must give (mean, {self.spread}), two tensors, or both in one of shape (N, 2 d); it gave "
                f"{_described(found)}. Wrap it: encoder=lambda x: (….mean, ….logvar)"
            )
        mean, s = found
        if mean.shape != s.shape or mean.dim() < 2 or len(mean) != len(x):
            raise InputError(
                f"the encoder gave shapes {tuple(mean.shape)} and {tuple(s.shape)} of {len(x)} data; both must be "
                f"({len(x)}, *shape of z)"
            )
        return mean, s

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation."""
        mean, s = self.both(x)
        return mean, DEVIATIONS[self.spread](s)


class Decoder(Network):
    """z ``(..., *latent_shape)`` to features of a likelihood, ``(..., *feature_shape)``.

    The network sees one dimension of data, whatever the number of particles.

    Args:
        function: z ``(n, *latent_shape)`` to a tensor ``(n, *feature_shape)``, or flat.
        latent_shape: of one z.
        feature_shape: of the features of one datum.
        probabilities: the network gives probabilities, which are made logits: exactly above the least float; in
            single precision none that is less than 1 is above 1 - 2^-24, and 1 is taken as that.

    Raises:
        InputError: where it is called, for anything but one tensor of so many numbers.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        latent_shape: Sequence[int],
        feature_shape: Sequence[int],
        probabilities: bool,
    ) -> None:
        super().__init__(function, "decoder")
        self.latent_shape, self.feature_shape = tuple(latent_shape), tuple(feature_shape)
        self.probabilities = probabilities

    def raw(self, z: Tensor) -> Tensor:
        """What the network gives, in the features' shape."""
        leading = z.shape[: z.dim() - len(self.latent_shape)]
        flat = z.reshape(-1, *self.latent_shape)
        found, count = self.called(flat), math.prod(self.feature_shape)
        shapes = {(len(flat), *self.feature_shape), (len(flat), count)}
        if not isinstance(found, Tensor) or tuple(found.shape) not in shapes:
            wanted = (len(flat), *self.feature_shape)
            raise InputError(
                f"for z {tuple(flat.shape)} the decoder must give one tensor of shape {wanted}, as data and likelihood "
                f"want it, or that flat; it gave {_described(found)}"
            )
        return found.reshape(*leading, *self.feature_shape)

    def forward(self, z: Tensor) -> Tensor:
        """Features of the likelihood."""
        found = self.raw(z)
        if not self.probabilities:
            return found
        kind = torch.finfo(found.dtype)
        clipped = found.clamp(kind.tiny, 1 - kind.eps / 2)
        return clipped.log() - (-clipped).log1p()


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"{len(value)} things ({', '.join(map(_described, value))})"
    return f"a {type(value).__name__}"

"""Base class of learned priors over real latents."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from pyro.distributions import TorchDistribution
from torch import Size, Tensor, nn

from pyro_vae.errors import InputError
from pyro_vae.programs.context import Context


def checked_sizes(what: str, sizes: Any) -> tuple[int, ...]:
    """A shape of one or more positive whole sizes, as a tuple.

    Raises:
        InputError: for anything else.
    """
    found = tuple(sizes) if isinstance(sizes, Sequence) and not isinstance(sizes, str) else ()
    if not found or any(isinstance(size, bool) or not isinstance(size, Integral) or size < 1 for size in found):
        single = ""
        if found == () and isinstance(sizes, tuple | list | Size):
            single = (
                ". A site of single numbers needs an event dimension: fn.expand([1]).to_event(1) in model and guide"
            )
        raise InputError(f"{what} must be one or more positive sizes, such as (20,), got {sizes!r}{single}")
    return tuple(map(int, found))


class LatentPrior(nn.Module):
    """p(z), a distribution over a latent site of real numbers, as a module that gives it.

    ``prior(**context)`` is a distribution with event shape ``shape``. A model that takes a prior draws its latent from
    it, so that it is trained with the model.

    Args:
        shape: of the latent site's event. None: in a configuration, that of the model whose argument the prior is.

    Attributes:
        shape: of the latent site's event.
        context: what it is given, by argument name; empty, if it is conditional on nothing.
        site: name of the latent site; a model says it when it takes the prior.

    Raises:
        InputError: for no shape, or a size that is not positive.

    Example:
        >>> import pyro.distributions as dist, pyro_vae, torch
        >>> from pyro_vae.priors import LatentPrior
        >>> class Wide(LatentPrior):  # one scale for all dimensions, learned
        ...     def __init__(self, shape):
        ...         super().__init__(shape)
        ...         self.log_scale = torch.nn.Parameter(torch.zeros(()))
        ...     def forward(self, **context):
        ...         return dist.Normal(torch.zeros(self.shape), self.log_scale.exp()).to_event(len(self.shape))
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, prior=Wide((2,)))
        >>> pyro_vae.sample(model, 5)["z"].shape
        torch.Size([5, 2])
    """

    shape: tuple[int, ...]
    context: dict[str, Context]
    site: str

    def __init__(self, shape: Sequence[int] | None) -> None:
        super().__init__()
        if shape is None:
            raise InputError(f"{type(self).__name__} needs shape, that of the latent site's event: shape=(20,)")
        self.shape = checked_sizes(f"{type(self).__name__}: shape", shape)
        self.context, self.site = {}, "z"

    @property
    def size(self) -> int:
        """How many numbers an event has."""
        return math.prod(self.shape)

    @abstractmethod
    def forward(self, **context: Tensor) -> TorchDistribution:
        """p(z | context), of batch shape () or the context's."""

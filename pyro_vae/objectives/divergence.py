"""Base class of divergences between the aggregated posterior and the prior, and what they are given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pyro_vae.errors import InputError
from pyro_vae.objectives.base import NetworkTraining
from pyro_vae.programs.traces import TracePair


@dataclass(frozen=True)
class Draws:
    """Draws of the guide and of the prior for one batch; K particles, N data, all matched sites side by side.

    Attributes:
        posterior: z ~ q(z | x_i), one for each datum, with gradient, ``(K, N, size)``.
        prior: z ~ p(z), ``(K, N, size)``; of a prior with context, that of the datum.
        condition: a unit vector for each datum's label, the last place for one that is not known, ``(N, classes + 1)``;
            None: there are no labels.
        pair: the traces of the batch.
        sites: names of the matched sites.
    """

    posterior: Tensor
    prior: Tensor
    condition: Tensor | None
    pair: TracePair
    sites: tuple[str, ...]

    def with_condition(self, z: Tensor) -> Tensor:
        """z and the data's labels side by side, ``(K, N, size + classes + 1)``; z itself if there are none."""
        if self.condition is None:
            return z
        return torch.cat([z, self.condition.to(z.dtype).expand(*z.shape[:-1], -1)], -1)


class Divergence(ABC):
    """D(q(z), p(z)) of the aggregated posterior q(z) = E_data q(z | x) from the prior, in a form that is minimized.

    It may be told by a network, which is trained beside the pair. One of your own is a subclass with :meth:`value`.

    Attributes:
        name: what its value is called in metrics.
        takes_labels: whether it can compare the joint distributions of z and a label.
        fewest_data: how many data a batch must have.

    Example:
        >>> from pyro_vae.objectives import Divergence, Matching
        >>> class Means(Divergence):  # the squared distance of the means
        ...     name = "means"
        ...     def value(self, draws, network):
        ...         return (draws.posterior.mean((0, 1)) - draws.prior.mean((0, 1))).square().sum()
        >>> objective = Matching(Means(), weight=10.0)
    """

    name: str
    takes_labels: bool = False
    fewest_data: int = 1

    @abstractmethod
    def value(self, draws: Draws, network: Any) -> Tensor:
        """D, a scalar with gradient in ``draws.posterior``.

        Args:
            draws: of one batch.
            network: a function of ``(..., size)`` that is constant here; None if there is none.
        """

    def network(self, size: int, classes: int) -> nn.Module | None:
        """The network, made anew; None: it needs none.

        Args:
            size: numbers of z.
            classes: numbers of the condition beside it, 0 if there is none.
        """
        return None

    def network_loss(self, draws: Draws, network: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the network, a scalar, and what is reported of it; ``draws`` have no gradient here."""
        raise NotImplementedError

    @property
    def training(self) -> NetworkTraining:
        """How the network is trained."""
        return NetworkTraining()

    def check(self, draws: Draws) -> None:  # noqa: B027
        """Look at the draws of a few data before training.

        Raises:
            InputError: if they cannot be compared.
        """

    def remark(self, means: Mapping[str, float]) -> str:
        """What is to be said of an epoch in the log; "" if nothing is."""
        return ""


def held(network: nn.Module) -> Any:
    """A network as a function in which its parameters are constants: a gradient goes to what it is given alone."""
    values = {name: parameter.detach() for name, parameter in network.named_parameters()}

    def run(z: Tensor) -> Tensor:
        return functional_call(network, values, (z,))

    return run


def factorized(draws: Draws) -> None:
    """Check that z has more than one number.

    Raises:
        InputError: if it has one.
    """
    if draws.posterior.shape[-1] < 2:
        raise InputError(
            f"total correlation is of two or more latent numbers, and {', '.join(draws.sites)} has one: take a larger "
            "latent"
        )

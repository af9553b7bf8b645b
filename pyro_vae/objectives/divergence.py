"""Base class of divergences between the aggregated posterior and the prior, and what they are given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pyro_vae.errors import InputError
from pyro_vae.objectives.base import NetworkTraining
from pyro_vae.programs.parameters import leaves_of
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

    def detached(self) -> Draws:
        """The same draws with no gradient, for the loss of a network."""
        return replace(self, posterior=self.posterior.detach())

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
        takes_densities: whether it looks at the guide's densities of z given other data: these must be densities that
            no other draw of the guide decides.
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
    takes_densities: bool = False
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
        raise InputError(
            f"{type(self).__name__} has a network and no network_loss(draws, network), which trains it: define it, or "
            "freeze the network by requires_grad_(False) and give a loss of 0"
        )

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


def constant(network: nn.Module) -> Any:
    """A network as a function in which its parameters are constants: a gradient goes to what it is given alone."""
    values = {name: parameter.detach() for name, parameter in network.named_parameters()}

    def run(z: Tensor) -> Tensor:
        return functional_call(network, values, (z,))

    return run


def check_own(divergence: Divergence, draws: Draws, network: nn.Module | None, programs: Sequence[nn.Module]) -> None:
    """Check at a few data that a divergence and its network's loss are numbers, each with a gradient of its own.

    Args:
        divergence: D.
        draws: with gradient.
        network: of the divergence, or None.
        programs: model and guide.

    Raises:
        InputError: says what is wrong with which of the two.
    """
    kind = type(divergence).__name__
    if not isinstance(getattr(divergence, "name", None), str):
        raise InputError(f"{kind} has no name, by which metrics call its value: say name = '…' in the class")
    value = divergence.value(draws, None if network is None else constant(network))
    _check_number(f"{kind}: value", value)
    if draws.posterior.requires_grad and not value.requires_grad:
        raise InputError(
            f"{kind}: value has no gradient in draws.posterior, so that the guide would learn nothing of it"
        )
    if network is None:
        return
    told = divergence.network_loss(draws.detached(), network)
    if not isinstance(told, tuple) or len(told) != 2 or not isinstance(told[1], Mapping):
        raise InputError(
            f"{kind}: network_loss must give the loss and a dict of what is reported, such as (loss, {{}})"
        )
    loss, report = told
    _check_number(f"{kind}: network_loss", loss)
    for name, number in report.items():
        _check_number(f"{kind}: what network_loss reports as '{name}'", number)
    own, theirs = ({id(p) for module in modules for p in module.parameters()} for modules in ([network], programs))
    if {id(leaf) for leaf in leaves_of([value])} & own:
        raise InputError(f"{kind}: value has a gradient in the network's weights: use the network that it is given")
    leaves = {id(leaf) for leaf in leaves_of([loss])}
    if leaves & theirs:
        raise InputError(
            f"{kind}: network_loss has a gradient in the weights of model or guide, which would be trained by it: use "
            "draws.posterior and draws.prior, or detach what it takes of draws.pair"
        )
    if not leaves & own and any(parameter.requires_grad for parameter in network.parameters()):
        raise InputError(f"{kind}: network_loss has no gradient in the network's weights, which would not be trained")


def _check_number(what: str, value: Any) -> None:
    """Check that something is a tensor of one number.

    Raises:
        InputError: says what it is instead.
    """
    if not isinstance(value, Tensor) or value.dim():
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"{what} must be a tensor of one number, of shape (), got {got}")


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

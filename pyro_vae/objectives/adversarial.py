"""Divergences that a discriminator tells: adversarial, by density ratios, and total correlation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae.errors import InputError, positive
from pyro_vae.objectives.base import NetworkTraining
from pyro_vae.objectives.divergence import Divergence, Draws, factorized
from pyro_vae.programs.program import evaluation_mode

WINS, COLLAPSED = 0.98, 1e-3  # of an epoch: its mean accuracy; how far apart its logits are

__all__ = ["GAN", "DensityRatio", "Discriminator", "TotalCorrelation"]


class Discriminator(nn.Module):
    """A multilayer perceptron with one output, and Gaussian noise on what it is given while it is trained.

    Args:
        size: numbers that it is given.
        hidden_dims: widths of its layers.
        slope: of its leaky ReLUs below zero.
        noise: standard deviation.
    """

    def __init__(self, size: int, hidden_dims: Sequence[int], slope: float = 0.0, noise: float = 0.0) -> None:
        super().__init__()
        widths = [size, *hidden_dims]
        hidden: list[nn.Module] = []
        for before, after in pairwise(widths):
            hidden += [nn.Linear(before, after), nn.LeakyReLU(slope) if slope else nn.ReLU()]
        self.layers = nn.Sequential(*hidden, nn.Linear(widths[-1], 1))
        self.noise = noise

    def forward(self, z: Tensor) -> Tensor:
        """Logits ``(...)`` of z ``(..., size)``."""
        if self.noise and self.training:
            z = z + self.noise * torch.randn_like(z)
        return self.layers(z).squeeze(-1)


class _Adversarial(Divergence):
    r"""A divergence told by a discriminator that is trained to tell reference draws r from codes z by logits T.

    .. math:: \min_T \; E_r\, \mathrm{softplus}(-T(r)) + E_{q(z)}\, \mathrm{softplus}(T(z)),
              \quad \text{for which } T \to \log r(z) / q(z)
    """

    def __init__(
        self,
        hidden_dims: Sequence[int] = (1000, 1000),
        slope: float = 0.0,
        noise: float = 0.0,
        learning_rate: float = 1e-4,
        optimizer: str = "adam",
        optimizer_options: dict[str, bool | int | float | str | list[float] | None] | None = None,
        updates: int = 1,
        discriminator: nn.Module | None = None,
    ) -> None:
        kind = type(self).__name__
        self.hidden_dims = [positive(f"{kind}: hidden_dims", width) for width in hidden_dims]
        if not noise >= 0:
            raise InputError(f"{kind}: noise is a standard deviation, 0 or more, got {noise}")
        if not learning_rate > 0:
            raise InputError(f"{kind}: learning_rate must be positive, got {learning_rate}")
        self.slope, self.noise, self.learning_rate = slope, noise, learning_rate
        self.optimizer, self.optimizer_options = optimizer, dict(optimizer_options or {})
        self.updates = positive(f"{kind}: updates", updates)
        self.discriminator = discriminator

    @property
    def training(self) -> NetworkTraining:
        """As its arguments say."""
        return NetworkTraining(self.optimizer, self.learning_rate, self.optimizer_options, self.updates)

    def network(self, size: int, classes: int) -> nn.Module:
        """A discriminator of z, and of a label beside it."""
        if self.discriminator is not None:
            return self.discriminator
        return Discriminator(size + classes, self.hidden_dims, self.slope, self.noise)

    def check(self, draws: Draws) -> None:
        """The discriminator gives a number for each draw."""
        z = draws.with_condition(draws.posterior)
        network = self.network(draws.posterior.shape[-1], z.shape[-1] - draws.posterior.shape[-1]).to(z)
        try:
            with torch.no_grad(), evaluation_mode(network):
                shape = network(z).shape
        except RuntimeError as error:
            raise InputError(
                f"the discriminator does not take codes of {z.shape[-1]} numbers (latent "
                f"{' + '.join(draws.sites)}{' and a label' if draws.condition is not None else ''}): {error}"
            ) from error
        if shape != z.shape[:-1]:
            raise InputError(
                f"the discriminator must give one number for each code, {tuple(z.shape)} to {tuple(z.shape[:-1])}, and "
                f"gives {tuple(shape)}"
            )

    def reference(self, draws: Draws) -> Tensor:
        """Draws from what q(z) is compared with, ``(K, N, size)``."""
        return draws.prior

    def network_loss(self, draws: Draws, network: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's loss, nats, how often it is right, and how far apart two of its logits are."""
        real = network(draws.with_condition(self.reference(draws)))
        fake = network(draws.with_condition(draws.posterior))
        loss = softplus(-real).mean() + softplus(fake).mean()
        right = ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
        spread = (real.detach() - fake.detach()).abs().mean()
        return loss, {"discriminator/accuracy": right, "discriminator/spread": spread}

    def remark(self, means: Mapping[str, float]) -> str:
        """A discriminator that always wins, or gives the same whatever it sees."""
        if means.get("discriminator/accuracy", 0.0) > WINS:
            return (
                "the discriminator wins: it tells more than 98% of codes from draws of what they are to match, and its "
                "gradient says little; lower its learning_rate, raise its noise, or raise weight"
            )
        if means.get("discriminator/spread", 1.0) < COLLAPSED:
            return "the discriminator has collapsed: it gives the same number whatever it sees; lower its learning_rate"
        return ""


class GAN(_Adversarial):
    r"""Adversarial matching: the guide is trained to be taken for the prior by a discriminator T.

    .. math:: D = E_{q(z)}\, \mathrm{softplus}(-T(z))

    the non-saturating loss of the generator, which the guide is here. It is no estimate of a divergence in nats: log 2
    where the discriminator sees no difference.

    Args:
        hidden_dims: widths of the discriminator's layers.
        slope: of its leaky ReLUs below zero.
        noise: standard deviation of Gaussian noise on its input while it is trained.
        learning_rate: its own; a schedule of the pair's scales both alike.
        optimizer: its own, a name of ``torch.optim``'s.
        optimizer_options: further arguments of it.
        updates: of the discriminator for each of the pair.
        discriminator: a module of one's own in the place of the perceptron, ``(..., size)`` to ``(...)`` logits; with
            labels, size + classes + 1.

    Raises:
        InputError: for numbers out of range.

    Source: Makhzani et al. 2015, arXiv:1511.05644; Tolstikhin et al. 2018, arXiv:1711.01558 (WAE-GAN).

    Example:
        >>> import pyro_vae, torch
        >>> from pyro_vae.objectives import GAN, Matching
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = (torch.rand(40, 1, 8, 8) > 0.5).float()
        >>> objective = Matching(GAN((16,), noise=0.3), weight=10.0)
        >>> result = pyro_vae.fit(model, guide, x, objective=objective, epochs=1, device="cpu", progress=False)
        >>> result.networks["discriminator"](torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    name, takes_labels = "generator", True

    def value(self, draws: Draws, network: Any) -> Tensor:
        """softplus(-T(z)), the mean over draws."""
        return softplus(-network(draws.with_condition(draws.posterior))).mean()


class DensityRatio(_Adversarial):
    r"""KL of the aggregated posterior from the prior, by the density ratio that a discriminator T learns.

    .. math:: D = KL(q(z) \,\|\, p(z)) = E_{q(z)} \log \frac{q(z)}{p(z)} \approx E_{q(z)} [-T(z)]

    in nats, as good as the discriminator is.

    Args:
        hidden_dims, slope, noise, learning_rate, optimizer, optimizer_options, updates, discriminator: as of
            :class:`GAN`.

    Source: Zhao et al. 2017, arXiv:1706.02262 (InfoVAE); Sugiyama et al. 2012, Density ratio estimation.

    Example:
        >>> import pyro_vae, torch
        >>> from pyro_vae.objectives import DensityRatio, Matching
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = (torch.rand(40, 1, 8, 8) > 0.5).float()
        >>> objective = Matching(DensityRatio((16,), updates=3))
        >>> result = pyro_vae.fit(model, guide, x, objective=objective, epochs=1, device="cpu", progress=False)
        >>> "train/divergence/kl" in result.records[0]
        True
    """

    name, takes_labels = "kl", True

    def value(self, draws: Draws, network: Any) -> Tensor:
        """-T(z), the mean over draws, nats."""
        return -network(draws.with_condition(draws.posterior)).mean()


class TotalCorrelation(_Adversarial):
    r"""Total correlation of the aggregated posterior, by the density ratio that a discriminator T learns.

    .. math:: D = KL\bigl(q(z) \,\big\|\, \textstyle\prod_d q(z_d)\bigr) \approx E_{q(z)} [-T(z)]

    T tells codes from codes in which every unit comes from another datum of the batch. In nats; together with the
    per-datum KL of weight 1 it is FactorVAE's objective.

    Args:
        hidden_dims, slope, noise, learning_rate, optimizer, optimizer_options, updates, discriminator: as of
            :class:`GAN`; sizes of the paper.

    Source: Kim & Mnih 2018, arXiv:1802.05983.

    Example:
        >>> import pyro_vae, torch
        >>> from pyro_vae.objectives import Matching, TotalCorrelation
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = (torch.rand(40, 1, 8, 8) > 0.5).float()
        >>> objective = Matching(TotalCorrelation((16,)), weight=20.0, kl=1.0)  # FactorVAE
        >>> result = pyro_vae.fit(model, guide, x, objective=objective, epochs=1, device="cpu", progress=False)
        >>> "train/divergence/total_correlation" in result.records[0]
        True
    """

    name, fewest_data = "total_correlation", 2

    def __init__(
        self,
        hidden_dims: Sequence[int] = (1000, 1000, 1000, 1000, 1000, 1000),
        slope: float = 0.2,
        noise: float = 0.0,
        learning_rate: float = 1e-4,
        optimizer: str = "adam",
        optimizer_options: dict[str, bool | int | float | str | list[float] | None] | None = None,
        updates: int = 1,
        discriminator: nn.Module | None = None,
    ) -> None:
        options = {"betas": [0.5, 0.9]} if optimizer_options is None and optimizer == "adam" else optimizer_options
        super().__init__(hidden_dims, slope, noise, learning_rate, optimizer, options, updates, discriminator)

    def check(self, draws: Draws) -> None:
        """There are two numbers or more."""
        factorized(draws)
        super().check(draws)

    def reference(self, draws: Draws) -> Tensor:
        """The codes of the batch, each unit of another datum."""
        z = draws.posterior.detach()
        return z.gather(1, torch.rand_like(z, dtype=torch.float32).argsort(1))

    def value(self, draws: Draws, network: Any) -> Tensor:
        """-T(z), the mean over draws, nats."""
        return -network(draws.posterior).mean()

"""Objectives that match the aggregated posterior to the prior: adversarial, Wasserstein and factor autoencoders."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.objectives.base import NetworkTraining, Terms
from pyro_vae.objectives.divergence import Divergence, Draws, check_own, constant
from pyro_vae.objectives.evidence_bound import ELBO
from pyro_vae.objectives.score_function import drawn_sites
from pyro_vae.programs.context import accepted_arguments
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.parameters import leaves_of
from pyro_vae.programs.program import evaluation_mode
from pyro_vae.programs.session import in_evaluation
from pyro_vae.programs.site_priors import ROWS, depends_on_draws, site_to_replace
from pyro_vae.programs.traces import TracePair

DISCRIMINATOR = "discriminator"

logger = logging.getLogger(__name__)


class Matching(ELBO):
    r"""Reconstruction, and a divergence of the aggregated posterior from the prior.

    .. math:: -E_{q(z|x)}[\log p(x|z)] + \kappa\, KL(q(z|x) \,\|\, p(z)) + \lambda\, D\bigl(q(z), p(z)\bigr),
              \quad q(z) = E_{data}\, q(z | x)

    in nats per datum, D apart, which has the unit of its divergence. With kappa = 0 it is an adversarial autoencoder
    (``GAN()``), a Wasserstein autoencoder (``MMD()``, ``GAN()``); with kappa = 1 FactorVAE (``TotalCorrelation()``) or
    beta-TCVAE (``WeightedTotalCorrelation()``, lambda = beta - 1); InfoVAE has kappa = 1 - alpha and
    lambda = alpha + its lambda - 1. It is no bound on log p(x) but for kappa = 1 and D >= 0, and a guide trained
    without a KL is no good one to measure log p(x) with: see docs/matching.md.

    A discriminator is a network of the objective: its gradient is of its own loss alone, and the guide's is of the
    discriminator as it is. Both are taken at the same draws, in one step.

    Args:
        divergence: D.
        weight: lambda, 0 or more.
        kl: kappa, 0 or more.
        sites: latent sites whose draws are matched together, side by side; each must have a prior that depends on no
            other draw. None: the first such site in the model's order.
        labels: name of an entry of the data, integers from 0, -1 where a label is not known: q(z, label) is matched to
            p(z, label), p(z | label) being the model's prior given that datum's context. None: no labels.
        num_particles, analytic_kl: as of :class:`ELBO`.

    Raises:
        InputError: for a negative weight or kl; before training for sites that cannot be matched, a prior that cannot
            be sampled, labels that are not there, and what the divergence refuses.

    Source: Makhzani et al. 2015, arXiv:1511.05644; Tolstikhin et al. 2018, arXiv:1711.01558; Zhao et al. 2017,
    arXiv:1706.02262; Kim & Mnih 2018, arXiv:1802.05983; Chen et al. 2018, arXiv:1802.04942.

    Example:
        >>> import pyro_vae, torch
        >>> from pyro_vae.objectives import MMD, Matching
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = (torch.rand(40, 1, 8, 8) > 0.5).float()
        >>> objective = Matching(MMD(), weight=10.0)
        >>> result = pyro_vae.fit(model, guide, x, objective=objective, epochs=2, device="cpu", progress=False)
        >>> sorted(name for name in result.records[0] if "divergence" in name)
        ['train/divergence/mmd']
    """

    def __init__(
        self,
        divergence: Divergence,
        weight: float = 1.0,
        kl: float = 0.0,
        sites: Sequence[str] | None = None,
        labels: str | None = None,
        num_particles: int = 1,
        analytic_kl: bool = True,
    ) -> None:
        super().__init__(num_particles, analytic_kl)
        if not isinstance(divergence, Divergence):
            raise InputError(
                f"divergence must be one of pyro_vae.objectives' (GAN(), MMD(), …), got {type(divergence).__name__}"
            )
        for name, value in (("weight", weight), ("kl", kl)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise InputError(f"Matching: {name} must be a number, 0 or more, got {value!r}")
        if sites is not None and (isinstance(sites, str) or not sites):
            raise InputError(f"Matching: sites are names of latent sites, such as ['z'], got {sites!r}")
        if sites is not None and len({*sites}) < len(sites):
            raise InputError(f"Matching: sites are each matched once, got {list(sites)}")
        if labels is not None and not divergence.takes_labels:
            raise InputError(f"Matching: a {type(divergence).__name__} takes no labels; GAN, DensityRatio and MMD do")
        self.divergence, self.weight, self.kl, self.labels = divergence, float(weight), float(kl), labels
        self.sites = None if sites is None else list(sites)
        self._share = self.kl
        self._matched: tuple[str, ...] = ()
        self._classes = 0

    @property
    def network_training(self) -> NetworkTraining:
        """As the divergence says."""
        return self.divergence.training

    @property
    def phases(self) -> dict[str, str]:
        """Reconstruction, the divergence, and the discriminator's loss."""
        name = self.divergence.name
        parts = {"reconstruction": "log_likelihood/*", name: f"divergence/{name}"}
        return {**parts, DISCRIMINATOR: f"network_loss/{DISCRIMINATOR}"}

    @property
    def fewest_data(self) -> int:
        """As the divergence says."""
        return self.divergence.fewest_data

    def remark(self, means: Mapping[str, float]) -> str:
        """What the divergence says of its network."""
        return self.divergence.remark(means)

    def prepare(self, pair: Pair, split: Split) -> Self:
        """The same objective with a discriminator for this pair, made anew unless it was given; sites are checked."""
        other = self.on(pair)
        other._networks = nn.ModuleDict()
        if self.labels is not None:
            other._classes = 1 + _classes(split, self.labels)
            taken = accepted_arguments(pair.model)
            if taken is not None and self.labels not in taken:
                logger.warning(
                    "Matching: the model does not take '%s': the codes of each label are matched to its one p(z)",
                    self.labels,
                )
        rows = split.batch(slice(0, ROWS))
        with in_evaluation([pair.model, pair.guide], rows, seed=0) as batch:
            of = [_site(pair, batch, name, self.divergence.takes_densities) for name in self.sites or [None]]
            other._matched = tuple(of)
            draws = other.draws(pair.traces(batch, self.num_particles))
            self.divergence.check(draws)
        made = self.divergence.network(draws.posterior.shape[-1], other._classes)
        if made is not None:
            other._networks[DISCRIMINATOR] = made.to(draws.posterior)
        if draws.posterior.shape[1] >= self.fewest_data:
            programs = [pair.model, pair.guide]
            with in_evaluation(programs, rows, seed=0) as batch, evaluation_mode(other._networks), torch.enable_grad():
                traces = pair.traces(batch, self.num_particles)
                check_own(self.divergence, other.draws(traces), made, programs)
                other._say_untrained(traces)
        return other

    def check_held_out(self, split: Split) -> None:
        """They have labels, if these are matched, and no others than the training data."""
        if self.labels is not None and _classes(split, self.labels) > self._classes - 1:
            raise InputError(
                f"Matching: labels '{self.labels}' of the validation data go up to {_classes(split, self.labels) - 1}, "
                f"and those of the training data to {self._classes - 2}: give training data with every label"
            )

    def _say_untrained(self, traces: TracePair) -> None:
        """Say of which priors the loss does not train the weights: draws of them carry no gradient."""
        for name in self._matched if self.kl == 0 else ():
            node = traces.model.nodes[name]
            if any(True for _ in leaves_of([node["fn"].log_prob(node["value"].detach())])):
                logger.warning(
                    "Matching: the prior of '%s' has weights, which only a KL would train, and kl is 0: they stay as "
                    "they are",
                    name,
                )

    def pair_terms(self, pair: TracePair) -> Terms:
        """The loss and its parts from one pair of traces."""
        if not self._matched:
            raise InputError(
                "Matching has to see the programs and the data first: train with pyro_vae.fit, or take "
                "objective.prepare(pyro_vae.programs.pair.examine(model, guide, batch), split)"
            )
        terms = super().pair_terms(pair)
        draws = self.draws(pair)
        network = self._networks[DISCRIMINATOR] if self._networks else None
        value = self.divergence.value(draws, None if network is None else constant(network))
        terms.loss = terms.loss + self.weight * value
        terms.divergence[self.divergence.name] = value.detach()
        if network is not None:
            told = self.divergence.network_loss(draws.detached(), network)
            terms.network_loss[DISCRIMINATOR], terms.report = told
        return terms

    def draws(self, pair: TracePair) -> Draws:
        """Codes of the data, and draws of the prior."""
        posterior = torch.cat([_rows(pair, name, pair.guide.nodes[name]["value"]) for name in self._matched], -1)
        prior = torch.cat([_rows(pair, name, self._prior(pair, name)) for name in self._matched], -1)
        condition = None
        if self.labels is not None:
            if self.labels not in pair.batch:
                raise InputError(f"Matching: the batch has no labels '{self.labels}'")
            y = pair.batch[self.labels].long()
            y = torch.where(y < 0, self._classes - 1, y)
            condition = (y[:, None] == torch.arange(self._classes, device=y.device)).float()
        return Draws(posterior, prior, condition, pair, self._matched)

    def _prior(self, pair: TracePair, name: str) -> Tensor:
        """As many draws of a site's prior as there are codes."""
        fn = pair.model.nodes[name]["fn"]
        try:
            with torch.no_grad():
                rank, world = self._process
                return fn.sample() if world == 1 else fn.expand((world, *fn.batch_shape)).sample()[rank]
        except NotImplementedError as error:
            raise InputError(
                f"latent site '{name}': the prior {type(fn).__name__} cannot be sampled, and matching needs draws of it"
            ) from error


def _site(pair: Pair, batch: Mapping[str, Tensor], name: str | None, densities: bool) -> str:
    """The site that is matched, if it can be.

    Args:
        pair, batch: programs in evaluation mode, and a few data.
        name: of the site; None: the first one that can be.
        densities: whether the guide's densities of other data's draws are looked at.

    Raises:
        InputError: says why it cannot.
    """
    try:
        name, _ = site_to_replace(pair.model, pair.guide, batch, name, with_density=densities)
    except NotImplementedError as error:
        raise InputError(f"the model's prior cannot be sampled, and matching needs draws of it: {error!r}") from error
    except InputError as error:
        raise InputError(f"Matching: the draws of no such site can be matched to its prior: {error}") from error
    traces = pair.traces(batch)
    fn, order = traces.guide.nodes[name]["fn"], list(traces.guide.nodes)
    if not fn.has_rsample:
        raise InputError(
            f"Matching: the guide draws '{name}' from a {type(fn).__name__} without reparameterized samples, and "
            "matching has no gradient through these"
        )
    drawn = [f"'{each}'" for each in drawn_sites(traces) if order.index(each) < order.index(name)]
    if (drawn or densities) and depends_on_draws(pair.guide, batch, name):
        raise InputError(
            f"Matching: the guide's distribution at '{name}' depends on what else it draws"
            + (
                f", {', '.join(drawn)} without reparameterized samples, and the divergence has no gradient in these: "
                f"give them relaxed distributions, or draw '{name}' from the data alone"
                if drawn
                else ", so that it is not q(z | x): take a divergence that looks at draws alone (GAN, MMD, "
                f"TotalCorrelation), or a guide that draws '{name}' from the data alone"
            )
        )
    return name


def _rows(pair: TracePair, name: str, value: Tensor) -> Tensor:
    """Values of a site, ``(..., rows, *event)``, as ``(K, N, size)``."""
    event = pair.guide.nodes[name]["fn"].event_dim
    flat = value.flatten(value.dim() - event) if event else value.unsqueeze(-1)
    if flat.shape[:-1].numel() != pair.num_particles * pair.size:
        raise InputError(
            f"Matching: site '{name}' has values of shape {tuple(value.shape)}, which are not {pair.num_particles} "
            f"draws of each of {pair.size} data: it is in another plate, or drawn for all values of a discrete latent"
        )
    if pair.copies > 1:
        return flat.reshape(pair.size, pair.copies, -1).transpose(0, 1)
    return flat.reshape(-1, pair.size, flat.shape[-1])


def _classes(split: Split, labels: str) -> int:
    """How many labels there are.

    Raises:
        InputError: if the data have none, or they are no whole numbers from -1.
    """
    if labels not in split.keys:
        raise InputError(
            f"Matching: labels '{labels}' are to be matched with the latents, and the data have none of that name "
            f"(they have {', '.join(split.keys)}): give labelled data, with -1 where a label is not known, or drop "
            "labels"
        )
    y = split.column(labels)
    whole = not y.dtype.is_floating_point and not y.dtype.is_complex and y.dim() == 1
    if not whole or bool((y.long() < -1).any()) or bool((y.long() < 0).all()):
        raise InputError(
            f"Matching: labels '{labels}' must be whole numbers from 0, one a datum, -1 where one is not known, got "
            f"{y.dtype} of shape {tuple(y.shape)}" + (f" from {y.min()} to {y.max()}" if whole else "")
        )
    return int(y.max()) + 1

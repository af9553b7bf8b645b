"""The base class of objectives: Pyro ELBOs that stay on the device and report their terms by site."""

from __future__ import annotations

import copy
import logging
from abc import abstractmethod
from collections import UserDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import pyro.infer
import torch
from pyro.poutine import Trace
from torch import Tensor, nn

from pyro_vae.data import Split
from pyro_vae.errors import InputError, positive
from pyro_vae.objectives.score_function import Averages, drawn_sites, score_terms
from pyro_vae.programs import baselines
from pyro_vae.programs.densities import log_prob, told_together
from pyro_vae.programs.pair import Pair, tried
from pyro_vae.programs.parameters import module_parameters
from pyro_vae.programs.sites import innermost
from pyro_vae.programs.traces import TracePair

logger = logging.getLogger(__name__)


@dataclass
class Terms:
    """A loss and what it is made of.

    Attributes:
        loss: scalar with gradient, nats per datum.
        log_likelihood: mean log p(x | z) of each data site, nats per datum, detached.
        kl: mean KL of each latent site, nats per datum, detached; raw: neither weighted nor clamped.
        kl_clamped: max(free bits, KL) of each latent site that has free bits, nats per datum, detached.
        penalty: mean of each of the guide's penalties, nats per datum, detached.
        divergence: what the objective adds beside the bound, by name, unweighted and detached.
        network_loss: loss of each of the objective's own networks that are trained, by its name: a scalar whose
            gradient is in that network alone. It is no part of ``loss``.
        report: what sites report of themselves, by metric name.
        signals: of each guide site without reparameterized samples, the part of the bound that it may have an influence
            on, ``(num_particles, size)``, nats, detached.
    """

    loss: Tensor
    log_likelihood: dict[str, Tensor] = field(default_factory=dict)
    kl: dict[str, Tensor] = field(default_factory=dict)
    kl_clamped: dict[str, Tensor] = field(default_factory=dict)
    penalty: dict[str, Tensor] = field(default_factory=dict)
    divergence: dict[str, Tensor] = field(default_factory=dict)
    network_loss: dict[str, Tensor] = field(default_factory=dict)
    report: dict[str, Tensor] = field(default_factory=dict)
    signals: dict[str, Tensor] = field(default_factory=dict)

    def named(self) -> dict[str, Tensor]:
        """All terms by metric name: ``loss``, ``log_likelihood/<site>``, ``kl/<site>``, ``kl_clamped/<site>``, …

        Raises:
            InputError: if a report has the name of one of them.
        """
        own = (
            {"loss": self.loss.detach()}
            | {f"log_likelihood/{k}": v for k, v in self.log_likelihood.items()}
            | {f"kl/{k}": v for k, v in self.kl.items()}
            | {f"kl_clamped/{k}": v for k, v in self.kl_clamped.items()}
            | {f"penalty/{k}": v for k, v in self.penalty.items()}
            | {f"divergence/{k}": v for k, v in self.divergence.items()}
            | {f"network_loss/{k}": v.detach() for k, v in self.network_loss.items()}
        )
        twice = sorted(own.keys() & self.report.keys())
        if twice:
            raise InputError(f"what is reported as '{twice[0]}' has the name of a term of the loss: call it otherwise")
        return own | {name: value.detach() for name, value in self.report.items()}


@dataclass(frozen=True)
class NetworkTraining:
    """How an objective's own networks are trained: by an optimizer that no other weights have.

    Attributes:
        optimizer: adam, adamw, sgd, RAdam, … of ``torch.optim``.
        learning_rate: its rate, where the pair's learning rate is at its largest; a schedule scales both alike. An
            ``lr_scheduler`` is of the pair's alone.
        options: further arguments of it.
        updates: how many of its updates there are in a step of the pair.
    """

    optimizer: str = "adam"
    learning_rate: float = 1e-4
    options: Mapping[str, Any] = field(default_factory=dict)
    updates: int = 1


class Objective(pyro.infer.ELBO):
    """An objective for a model/guide pair, in nats, summed over event dimensions and averaged over data.

    ``objective(model, guide)`` is an ``nn.Module`` whose call with a batch is the differentiable loss. It
    also serves as the loss of plain ``pyro.infer.SVI``. Nothing in it leaves the device or looks at a value,
    so that a step can be recorded as a graph.

    A guide site without reparameterized samples (a discrete one, say) gets a score-function gradient, if the objective
    says what the site has an influence on (:attr:`Terms.signals`); ELBO and IWAE do.

    An objective may own networks (:attr:`networks`): frozen ones, such as features of images, and trained ones, such as
    a discriminator, whose losses it gives apart (:attr:`Terms.network_loss`). ``fit`` trains these beside the pair as
    :attr:`network_training` says, and saves them in its checkpoints.

    Args:
        num_particles: draws of the latents per datum, in one vectorized plate.

    Raises:
        InputError: if num_particles is not a positive integer.

    Example:
        >>> import pyro_vae, torch
        >>> from pyro_vae.objectives import Objective, Terms
        >>> class Squared(Objective):  # of the error of x alone, for a model with the site x
        ...     def pair_terms(self, pair):
        ...         x = pair.model.nodes["x"]
        ...         return Terms((x["value"] - x["fn"].mean).square().flatten(1).sum(1).mean())
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> Squared().differentiable_loss(model, guide, torch.ones(5, 1, 8, 8)).shape
        torch.Size([])
    """

    _apart = True  # whether a particle's learning signal is made of that particle alone

    def __init__(self, num_particles: int = 1) -> None:
        super().__init__(num_particles=positive("num_particles", num_particles), vectorize_particles=True)
        self.penalized = True
        self._process = (0, 1)
        self._networks = nn.ModuleDict()
        self._pair: Pair | None = None  # as it was examined
        self._averages = Averages()
        self._said: UserDict[str, bool] = UserDict()  # a cache: no state that recording would put back
        self._tried: UserDict[tuple[int, int], Pair] = UserDict()  # a cache, of programs used directly
        self._validating = False

    @property
    def averages(self) -> Averages:
        """The decaying averages that are baselines of the guide's sites."""
        return self._averages

    @property
    def networks(self) -> nn.ModuleDict:
        """The objective's own networks, by name; frozen ones stay as they are."""
        return self._networks

    @property
    def network_training(self) -> NetworkTraining:
        """How the networks that have parameters with gradients are trained."""
        return NetworkTraining()

    @property
    def fewest_data(self) -> int:
        """How many data a batch must have."""
        return 1

    @property
    def phases(self) -> dict[str, str]:
        """What a progress bar shows beside the loss: patterns of terms, whose sum it is, by what they are called."""
        return {}

    def of_process(self, rank: int, world: int) -> None:
        """Say which of how many data-parallel processes this is: all have the same random state, and other data."""
        self._process = rank, world

    def prepare(self, pair: Pair, split: Split) -> Self:
        """The same objective with the networks that these programs and data need, made anew; ``fit`` asks for it.

        Args:
            pair: that has been examined.
            split: training data.

        Raises:
            InputError: if it cannot be used with them.
        """
        return self.on(pair)

    def check_held_out(self, split: Split) -> None:
        """Look at validation data before training.

        Raises:
            InputError: if it cannot be measured on them.
        """

    def remark(self, means: Mapping[str, float]) -> str:
        """What is to be said of an epoch in the log ("" if nothing is): a discriminator that always wins, say.

        Args:
            means: of the epoch's terms, by their names.
        """
        return ""

    @property
    def nesting(self) -> int:
        """Batch dimensions of the plates of the pair that it is for (:meth:`on`)."""
        return 1 if self._pair is None else self._pair.nesting

    @abstractmethod
    def pair_terms(self, pair: TracePair) -> Terms:
        """The loss and its parts from one pair of traces."""

    def for_validation(self) -> Self:
        """The same objective as it is measured on held-out data: without what is for training only."""
        other = copy.copy(self)
        other.penalized, other._validating = False, True
        return other

    def on(self, pair: Pair) -> Self:
        """The same objective for a pair that has been examined: how it is run, and how many data there are in all."""
        other = copy.copy(self)
        other._pair, other._said, other._averages = pair, UserDict(), Averages(pair.averaged)
        return other

    def terms(self, model: Callable[..., Any], guide: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Terms:
        """Run both programs on a batch and return the loss and its parts.

        Called directly it follows Pyro's rules, by which PyroModules enter their parameters in Pyro's global store;
        :meth:`differentiable_loss` and ``fit`` keep them out of it.
        """
        pair = self._traces(model, guide, args, kwargs)
        terms = self.with_penalties(self.pair_terms(pair), pair)
        drawn = drawn_sites(pair)
        if drawn and torch.is_grad_enabled():
            self._say(drawn, pair)
            if terms.signals.keys() != set(drawn):
                raise InputError(
                    f"{type(self).__name__} does not say what guide site {', '.join(drawn)} has an influence on, which "
                    "has no reparameterized samples: train with ELBO or IWAE, or give the site a relaxed distribution"
                )
            terms.loss = terms.loss + score_terms(pair, terms.signals, self.averages, apart=self._apart)
        return terms

    def with_penalties(self, terms: Terms, pair: TracePair) -> Terms:
        """Add the guide's penalties to the loss, and what its sites report to the terms; KLs in the model's order."""
        for name, site in pair.penalties().items() if self.penalized else ():
            value = pair.per_datum(log_prob(site), site)
            terms.loss, terms.penalty[name] = terms.loss + value.mean(), value.detach().mean()
            part = value.detach() / (1 if self._apart else self.num_particles)
            terms.signals = {site: signal - part for site, signal in terms.signals.items()}
        kl, told = pair.in_model_order(terms.kl), told_together(pair)
        terms.kl, terms.kl_clamped = {}, pair.in_model_order(terms.kl_clamped)
        for name, value in kl.items():
            name = told.get(name, name)
            terms.kl[name] = terms.kl[name] + value if name in terms.kl else value
        terms.report = {**terms.report, **pair.reports()}
        return terms

    def _traces(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        rewrite: Callable[[Trace], Trace] | None = None,
    ) -> TracePair:
        pair = self._pair_of(model, guide, args, kwargs)
        return pair.traces(kwargs, self.num_particles, rewrite, args)

    def _pair_of(
        self, model: Callable[..., Any], guide: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Pair:
        """How the pair is run: as it was examined, or, of programs used directly, as the first call finds them."""
        if self._pair is not None:  # in training a factor counts, as it does with plain SVI
            left_out = self._pair.left_out if self._validating else frozenset()
            return replace(self._pair, model=model, guide=guide, left_out=left_out)
        key = id(model), id(guide)
        if key not in self._tried:  # it holds them, so that no other object has their ids
            self._tried[key] = tried(model, guide, args, kwargs, self.num_particles > 1)
        return self._tried[key]

    def _say(self, drawn: list[str], pair: TracePair) -> None:
        """Say once which sites have score-function gradients."""
        if (key := ", ".join(drawn)) not in self._said:
            self._said[key] = True
            latent = pair.latent()
            logger.warning(
                "%s: guide site %s has no reparameterized samples: its gradient is a score-function estimate%s",
                type(self).__name__,
                ", ".join(f"'{n}' ({type(innermost(latent[n][0]['fn'])).__name__})" for n in drawn),
                ""
                if self.num_particles > 1 or all(baselines.options(latent[n][0]) for n in drawn)
                else "; a baseline (infer={'baseline': …}) or several particles make it less noisy",
            )

    # ----------------------------------------------------------------- Pyro's interface
    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """The loss of a batch with gradient, nats per datum; PyroModules use their own parameters."""
        with module_parameters(model, guide):
            return self.terms(model, guide, *args, **kwargs).loss

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss of a batch as a number, for ``pyro.infer.SVI.evaluate_loss``."""
        with torch.no_grad():
            return self.terms(model, guide, *args, **kwargs).loss.item()

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss of a batch as a number, its gradient being accumulated, for ``pyro.infer.SVI.step``."""
        terms = self.terms(model, guide, *args, **kwargs)
        if terms.network_loss:
            raise InputError(
                f"{type(self).__name__} trains networks of its own ({', '.join(terms.network_loss)}), which "
                "pyro.infer.SVI would not do: train with pyro_vae.fit"
            )
        loss = terms.loss
        if loss.requires_grad:
            loss.backward()
        return loss.item()

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        pair = self._traces(model, guide, args, kwargs)
        return pair.model, pair.guide

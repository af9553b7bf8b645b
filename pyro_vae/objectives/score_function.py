"""Gradients through what a guide draws without reparameterized samples: score functions and their baselines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from pyro_vae.errors import InputError
from pyro_vae.objectives.relaxed_control import of_site, relaxed_control
from pyro_vae.programs import baselines
from pyro_vae.programs.densities import Term, log_prob, total
from pyro_vae.programs.traces import TracePair


def drawn_sites(pair: TracePair) -> list[str]:
    """The guide's latent sites that have no reparameterized samples, in its order."""
    return [name for name, (q, _) in pair.latent().items() if not q["fn"].has_rsample]


class Averages(nn.Module):
    """Decaying averages of learning signals, by site: buffers, which training saves in its checkpoints.

    Args:
        sites: names.
    """

    def __init__(self, sites: Iterable[str] = ()) -> None:
        super().__init__()
        self.keys: dict[str, str] = {}  # name of a site -> of its buffer, which has no dots
        for name in sorted(sites):
            self.add(name)

    def add(self, name: str) -> None:
        """Begin the average of a site, with zero."""
        self.keys[name] = f"average_{len(self.keys)}"
        self.register_buffer(self.keys[name], torch.zeros(()))

    def of(self, name: str) -> Tensor:
        """The average of a site as it is now, nats."""
        return self.get_buffer(self.keys[name])

    @torch.no_grad()
    def update(self, name: str, signal: Tensor, decay: float) -> None:
        """Move a site's average towards the mean of a new signal."""
        average = self.of(name)
        average.copy_(decay * average + (1 - decay) * signal.mean())


def learning_signals(pair: TracePair, sites: Iterable[str], gains: Iterable[tuple[Term, Tensor]]) -> dict[str, Tensor]:
    """What of an ELBO each drawn site may have an influence on, ``(num_particles, size)``, nats, detached.

    Args:
        pair: traces of one batch.
        sites: those that are drawn without reparameterized samples.
        gains: the ELBO's terms, and how much each adds to every datum's bound, ``(num_particles, size)``.
    """
    gains = list(gains)
    return {site: total([gain.detach() for term, gain in gains if may_depend(pair, term, site)]) for site in sites}


def may_depend(pair: TracePair, term: Term, site: str) -> bool:
    """Whether a term of an ELBO may depend on what is drawn at a site: as far as the programs' order tells.

    Args:
        pair: traces of one batch.
        term: of :func:`~pyro_vae.programs.densities.bound_terms`.
        site: that the guide draws.
    """
    guide, model, name = list(pair.guide.nodes), list(pair.model.nodes), term.site["name"]
    if term.kind != "latent" or term.how == "summed":
        return True
    if name == site:
        return term.how == "sampled"
    if guide.index(site) < guide.index(name):
        return True
    known = term.how == "sampled" and name in model and site in model
    return known and model.index(site) < model.index(name)


def score_terms(pair: TracePair, signals: Mapping[str, Tensor], averages: Averages, *, apart: bool) -> Tensor:
    r"""A scalar of value zero that has the gradient which the loss lacks at drawn sites, nats per datum.

    .. math:: -\sum_i (L_i - b_i)\, \nabla \log q(z_i \mid \cdot)

    for every datum: L_i is the site's learning signal, b_i its baselines (``infer={"baseline": ...}``) and, of several
    particles, the mean of the others' L_i - b_i. What a network gives as a baseline is fitted to L_i by squared errors.
    A site with ``nn_relax`` has a control variate of its relaxed draw as well, for every particle
    (:class:`~pyro_vae.objectives.relaxed_control.Control`).

    Args:
        pair: traces of one batch.
        signals: L_i by site, ``(num_particles, size)``, nats, detached.
        averages: the decaying averages, which are moved.
        apart: whether a particle's signal is made of that particle alone; else it is a bound of all of them together,
            which has its own control variate.

    Raises:
        InputError: names a site whose score is not defined by particle and datum.

    Source: Mnih & Gregor 2014, arXiv:1402.0030 (signals by site and datum, baselines); Mnih & Rezende 2016,
    arXiv:1602.06725 (the other particles).
    """
    found: list[Tensor] = []
    latent = pair.latent()
    for name, signal in signals.items():
        q = latent[name][0]
        score = _score(pair, name)
        if name in pair.shared:  # it has its part in the bound of every datum of all
            signal = signal.mean(1, keepdim=True)
        baseline = torch.zeros_like(signal)
        if baselines.averaged(q):
            if name not in averages.keys:
                averages.add(name)
                averages.to(signal.device, signal.dtype)
            baseline = baseline + averages.of(name)
            averages.update(name, signal, baselines.decay(q))
        value = baselines.learned(q)
        if value is not None:
            baseline = baseline + of_site(pair, name, value)
            error = (signal - baseline).square().mean()
            found.append(error - error.detach())
        signal = signal - baseline.detach()
        control = relaxed_control(pair, name) if baselines.relaxes(q) else None
        if control is not None:
            signal = signal - control.value
        alike = name in pair.shared and pair.copies > 1  # one draw for all particles
        if apart and pair.num_particles > 1 and not alike:
            signal = signal - (signal.sum(0) - signal) / (pair.num_particles - 1)
        gain = signal.detach() * score
        if control is not None:
            error = control.variance(signal)
            found.append(error - error.detach())
            gain = gain + control.pathwise
        gain = gain.mean(1)
        gain = gain.mean() if apart else gain.sum()
        found.append(gain.detach() - gain)
    return total(found)


def _score(pair: TracePair, name: str) -> Tensor:
    """log q of a site, ``(num_particles, size)``; of one that all data share ``(num_particles, 1)``."""
    q = pair.latent()[name][0]
    raw = log_prob(q)
    if pair.sums and raw.dim() > -pair.particle_dim:
        raise InputError(
            f"guide site '{name}' is drawn anew for every value of {', '.join(sorted(pair.sums.guide))}, which the "
            "guide enumerates: draw it first, mark it infer={'enumerate': 'parallel'} as well, or take the other "
            "mark away"
        )
    if name in pair.shared:
        return of_site(pair, name, raw)
    later = list(pair.guide.nodes)
    after = [other for other in later[later.index(name) + 1 :] if other in pair.shared and other in pair.latent()]
    if after:
        raise InputError(
            f"the guide draws '{name}' of each datum before '{after[0]}', which all data share: a score function of "
            "it would have to look at all data; draw what is shared first"
        )
    return of_site(pair, name, raw)

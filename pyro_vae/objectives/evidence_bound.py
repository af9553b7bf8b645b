"""The evidence lower bound, with closed-form KL terms and free bits per site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch

from pyro_vae.errors import InputError, unknown
from pyro_vae.objectives.base import Objective, Terms
from pyro_vae.objectives.score_function import drawn_sites, learning_signals
from pyro_vae.programs.densities import bound_terms, told_together, total
from pyro_vae.programs.traces import TracePair


class ELBO(Objective):
    r"""Evidence lower bound, averaged over data.

    .. math:: -E_{q(z|x)}[\log p(x|z)] + \sum_i \max(\lambda_i, KL(q(z_i|\cdot) \,\|\, p(z_i|\cdot)))

    with z_i the latent sites and lambda_i the free bits of site i (0 if not given). The maximum is taken over the mean
    over the batch (Kingma et al. 2016, arXiv:1606.04934, eq. 15); below it a site's KL gives no gradient. The terms
    hold every site's KL raw, and clamped beside it where there are free bits. Guide sites without reparameterized
    samples get score functions (:func:`pyro_vae.objectives.score_function.score_terms`).

    Args:
        num_particles: draws per datum for the expectation.
        analytic_kl: take a site's KL in closed form where one is registered with
            ``torch.distributions.kl`` and where that is the same expectation (see
            :func:`pyro_vae.programs.densities.analytic_sites`); otherwise at the drawn value.
        free_bits: lambda in **nats** (the literature's name notwithstanding), for every latent site or by site
            name. For training; evaluation reports the raw KL.

    Raises:
        InputError: for non-positive particles, negative free bits, free bits for a site that is not there.

    Source: Kingma & Welling 2014, arXiv:1312.6114.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> objective = pyro_vae.ELBO(num_particles=2, free_bits={"z": 0.5})
        >>> loss = objective.differentiable_loss(model, guide, torch.ones(5, 1, 8, 8))
        >>> loss.shape, loss.requires_grad
        (torch.Size([]), True)
    """

    def __init__(
        self,
        num_particles: int = 1,
        analytic_kl: bool = True,
        free_bits: float | dict[str, float] = 0.0,
    ) -> None:
        super().__init__(num_particles)
        values = free_bits.values() if isinstance(free_bits, Mapping) else [free_bits]
        if any(v < 0 for v in values):
            raise InputError(f"free_bits must not be negative (nats per site), got {free_bits}")
        self.analytic_kl = analytic_kl
        self.free_bits = free_bits
        self._share = 1.0  # of the KL that is in the loss

    def for_validation(self) -> Self:
        """The ELBO without free bits and penalties."""
        other = super().for_validation()
        other.free_bits = 0.0
        return other

    def pair_terms(self, pair: TracePair) -> Terms:
        """The loss and its parts from one pair of traces."""
        log_likelihood, kl, kl_clamped, loss, gains = {}, {}, {}, [], []
        told = told_together(pair)
        for part in bound_terms(pair, analytic=self.analytic_kl):
            kind, site, raw, weighted, _ = part
            name = site["name"]
            # a subsampled plate scales its sites by full_size / size; the mean over data takes that back
            subsample = 1.0 if name in pair.shared else pair.subsample_scale
            term = weighted.mean() / subsample
            gain = (weighted if kind == "data" else -weighted) / subsample
            if kind == "data":
                term, log_likelihood[name] = -term, raw.detach().mean()
            elif kind == "latent":
                if self._share != 1:  # a KL that does not count may be infinite
                    term, gain = (self._share * t if self._share else torch.zeros_like(t) for t in (term, gain))
                raw_mean = raw.mean()
                kl[name] = raw_mean.detach()
                free = self.free_bits.get(name, 0.0) if isinstance(self.free_bits, Mapping) else self.free_bits
                if free > 0.0 and list(told.values()).count(told.get(name, name)) > 1:
                    raise InputError(
                        f"free bits of site '{name}': it is a function of a draw of the guide's own, or that draw, and "
                        "has no KL by itself; give free_bits by name to other sites"
                    )
                if free > 0.0:  # weight * (lambda - KL) lifts a KL below its free bits up to them, without its gradient
                    weight = torch.as_tensor(site["scale"], device=raw_mean.device).mean() / subsample
                    term = term + weight * (free - raw_mean).clamp(min=0)
                    kl_clamped[name] = kl[name].clamp(min=free)
                    gain = gain * (raw_mean > free)
            loss.append(term)
            gains.append((part, gain))
        self._check_free_bits(kl)
        signals = learning_signals(pair, drawn_sites(pair), gains)
        return Terms(total(loss), log_likelihood, kl, kl_clamped, signals=signals)

    def _check_free_bits(self, kl: Mapping[str, torch.Tensor]) -> None:
        if isinstance(self.free_bits, Mapping):
            for name in self.free_bits:
                if name not in kl:
                    raise unknown("latent site in free_bits", name, kl)

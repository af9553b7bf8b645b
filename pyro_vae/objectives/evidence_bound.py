"""The evidence lower bound, with closed-form KL terms and free bits per site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import torch
from torch import Tensor

from pyro_vae.errors import InputError, unknown
from pyro_vae.objectives.base import Objective, Terms
from pyro_vae.objectives.score_function import drawn_sites, learning_signals, may_depend
from pyro_vae.programs.densities import Term, bound_terms, told_together, total
from pyro_vae.programs.traces import TracePair


class ELBO(Objective):
    r"""Evidence lower bound, averaged over data.

    .. math:: -E_{q(z|x)}[\log p(x|z)] + \sum_i \max(\lambda_i, KL(q(z_i|\cdot) \,\|\, p(z_i|\cdot)))

    with z_i the latent sites and lambda_i the free bits of site i (0 if not given). The KL in the maximum is the mean
    over the batch (Kingma et al. 2016, arXiv:1606.04934, eq. 15), or with ``free_bits_of="datum"`` that of each datum,
    the mean over its particles, so that no datum pays for another's information (MusicVAE: Roberts et al. 2018,
    arXiv:1803.05428, section 3.1, there as max(KL - lambda, 0), which is the same but for a constant):

    .. math:: \frac{1}{N} \sum_n \max(\lambda_i, KL(q(z_i|x_n) \,\|\, p(z_i)))

    Below its free bits a KL gives no gradient. The terms hold every site's KL raw, and clamped beside it where there
    are free bits. Guide sites without reparameterized samples get score functions
    (:func:`pyro_vae.objectives.score_function.score_terms`).

    Args:
        num_particles: draws per datum for the expectation.
        analytic_kl: take a site's KL in closed form where one is registered with
            ``torch.distributions.kl`` and where that is the same expectation (see
            :func:`pyro_vae.programs.densities.analytic_sites`); otherwise at the drawn value.
        free_bits: lambda in **nats** (the literature's name notwithstanding), for every latent site or by site
            name. For training; evaluation reports the raw KL.
        free_bits_of: whose KL they are compared with, the mean of a ``"batch"`` or that of each ``"datum"``.

    Raises:
        InputError: for non-positive particles, negative free bits, free bits for a site that is not there; of each
            datum, for a site that all data share, for KL weights that differ between data, and where a KL depends on
            what is drawn without reparameterized samples.

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

    free_bits_of: Literal["batch", "datum"] = "batch"

    def __init__(
        self,
        num_particles: int = 1,
        analytic_kl: bool = True,
        free_bits: float | dict[str, float] = 0.0,
        free_bits_of: Literal["batch", "datum"] = "batch",
    ) -> None:
        super().__init__(num_particles)
        if free_bits_of not in ("batch", "datum"):
            raise unknown("free_bits_of", free_bits_of, ("batch", "datum"))
        values = free_bits.values() if isinstance(free_bits, Mapping) else [free_bits]
        if any(v < 0 for v in values):
            raise InputError(f"free_bits must not be negative (nats per site), got {free_bits}")
        self.analytic_kl = analytic_kl
        self.free_bits = free_bits
        if free_bits_of != self.free_bits_of:  # else experiments of before, which did not have it, would be others
            self.free_bits_of = free_bits_of
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
                if free > 0.0 and self.free_bits_of == "datum":
                    self._check_of_datum(pair, part)
                    missing = (free - raw.mean(0)).clamp(min=0)  # (N,)
                    weight = torch.as_tensor(site["scale"], device=raw.device).mean() / subsample
                    term = term + weight * missing.mean()
                    kl_clamped[name] = (raw.detach().mean(0) + missing.detach()).mean()
                elif free > 0.0:  # weight * (lambda - KL) lifts a KL below its free bits to them, without its gradient
                    weight = torch.as_tensor(site["scale"], device=raw_mean.device).mean() / subsample
                    term = term + weight * (free - raw_mean).clamp(min=0)
                    kl_clamped[name] = kl[name].clamp(min=free)
                    gain = gain * (raw_mean > free)
            loss.append(term)
            gains.append((part, gain))
        self._check_free_bits(kl)
        signals = learning_signals(pair, drawn_sites(pair), gains)
        return Terms(total(loss), log_likelihood, kl, kl_clamped, signals=signals)

    def _check_of_datum(self, pair: TracePair, part: Term) -> None:
        """Refuse free bits of each datum where a site has none."""
        name, scale = part.site["name"], part.site["scale"]
        if name in pair.shared:
            raise InputError(
                f"free bits of site '{name}': all data share it, so that it has no KL of each datum; give free_bits by "
                "name to other sites, or take free_bits_of='batch'"
            )
        if isinstance(scale, Tensor) and scale.numel() > 1:
            raise InputError(
                f"free bits of site '{name}': its KL has a weight for each element, and those of a datum need one for "
                "all (poutine.scale with a number)"
            )
        after = next((site for site in drawn_sites(pair) if may_depend(pair, part, site)), None)
        if after is not None:  # where the KL counts depends on the draw too: E[grad log q] is not 0 there
            raise InputError(
                f"free bits of site '{name}': its KL of a datum depends on what the guide draws at '{after}' without "
                "reparameterized samples, and the maximum has no score function: take free_bits_of='batch'"
            )

    def _check_free_bits(self, kl: Mapping[str, torch.Tensor]) -> None:
        if isinstance(self.free_bits, Mapping):
            for name in self.free_bits:
                if name not in kl:
                    raise unknown("latent site in free_bits", name, kl)

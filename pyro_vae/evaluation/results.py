"""What evaluation returns: per-datum tensors with their means, errors and units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from pyro_vae.evaluation.dimensions import DataSite
from pyro_vae.evaluation.pareto import UNRELIABLE

NAMED = 5  # data that a sentence names, at most


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean of per-datum values and its standard error over data (nan for one datum)."""
    values = values.double()
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return values.mean().item() + 0.0, error  # + 0.0: no -0.0


def not_finite(values: Tensor, what: str) -> list[str]:
    """A sentence if values of some data are infinite or not numbers: which data, and what the others' mean is."""
    bad = (~values.isfinite()).nonzero().flatten().tolist()
    if not bad:
        return []
    named = ", ".join(f"datum {i}: {values[i].item()}" for i in bad[:NAMED]) + (", …" if len(bad) > NAMED else "")
    others = values[values.isfinite()]
    left = f" (the mean over the other {len(others)}: {mean_and_error(others)[0]:.2f} nats)" if len(others) else ""
    return [
        f"the {what} of {len(bad)} of {len(values)} data is not finite ({named}), and so is the mean over all "
        f"{len(values)}{left}"
    ]


class PerDatum:
    """Values of each datum, ``per_datum`` (num_data,) in nats, with their mean."""

    per_datum: Tensor

    @property
    def mean(self) -> float:
        """Mean over data, nats."""
        return mean_and_error(self.per_datum)[0]

    @property
    def standard_error(self) -> float:
        """Standard error of the mean over data, nats."""
        return mean_and_error(self.per_datum)[1]


class PerDimension(PerDatum):
    """Estimates of log p of data sites, ``sites`` by name, with what they are per dimension."""

    sites: Mapping[str, DataSite]

    @property
    def num_dimensions(self) -> float:
        """Values in one datum that bits per dimension are of, a mean over the data."""
        return sum(self.sites[name].dimensions for name in self._counted)

    @property
    def density(self) -> bool | None:
        """Whether any of what is measured is a density, whose nats depend on the data's units; None: not known."""
        kinds = {site.density for site in self.sites.values()}
        return True if True in kinds else None if None in kinds else False

    @property
    def bits_per_dim(self) -> float:
        """-log p / (dimensions * ln 2), of all data sites if all are densities or all are probabilities.

        A text beside an image is another matter than its pixels: where sites of the two kinds are there, bits are of
        the kind with more dimensions, given the others, whose nats are taken out (if they depend on no latents); else
        nan. :attr:`bits_of` says of what.
        """
        others = [self.sites[name].nats for name in self.sites if name not in self._counted]
        if not self.num_dimensions or None in others:
            return math.nan
        return -(self.mean - sum(others)) / (self.num_dimensions * math.log(2))

    @property
    def bits_of(self) -> str:
        """What bits per dimension are of: "x", "x given text"."""
        given = [name for name in self.sites if name not in self._counted]
        return ", ".join(self._counted) + (f" given {', '.join(given)}" if given else "")

    @property
    def _counted(self) -> list[str]:
        """The sites whose dimensions are counted together."""
        by_kind: dict[bool | None, list[str]] = {}
        for name, site in self.sites.items():
            by_kind.setdefault(site.density, []).append(name)
        return max(by_kind.values(), key=lambda names: sum(self.sites[n].dimensions for n in names), default=[])


@dataclass
class LogLikelihood(PerDimension):
    """Importance-weighted estimates of log p(x).

    Attributes:
        per_datum: log (1/K) sum_k w_k, nats, ``(num_data,)``, float64 on the CPU.
        effective_sample_size: (sum w)^2 / sum w^2 of each datum, between 1 and K, ``(num_data,)``.
        pareto_k: k-hat of each datum's weights (:mod:`pyro_vae.evaluation.pareto`), ``(num_data,)``; NaN where there is
            no tail to fit (fewer than 21 particles, equal weights).
        num_particles: K, the particles that were drawn and used.
        sites: what the estimates are of, data sites by name (:class:`~pyro_vae.evaluation.dimensions.DataSite`).
        split: the name of the data.
        doubts: what was found when the pair was examined, in sentences.
    """

    per_datum: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor
    num_particles: int
    sites: Mapping[str, DataSite] = field(default_factory=dict)
    split: str = "data"
    doubts: tuple[str, ...] = ()

    @property
    def pareto_k_max(self) -> float | None:
        """The largest k-hat; None where it is undefined for every datum."""
        defined = self.pareto_k[~self.pareto_k.isnan()]
        return defined.max().item() if len(defined) else None

    @property
    def pareto_k_above(self) -> float | None:
        """Share of data with k-hat above 0.7, of those for which it is defined; None if there are none."""
        defined = self.pareto_k[~self.pareto_k.isnan()]
        return (defined > UNRELIABLE).double().mean().item() if len(defined) else None

    @property
    def warnings(self) -> list[str]:
        """What makes the estimates doubtful, in sentences."""
        told = [*self.doubts, *not_finite(self.per_datum, "log-likelihood")]
        above = int((self.pareto_k > UNRELIABLE).sum())
        if not above:
            return told
        largest = self.pareto_k[self.pareto_k > UNRELIABLE].max().item()
        return [
            *told,
            f"Pareto k-hat is above {UNRELIABLE} for {above} of {len(self.per_datum)} data (up to {largest:.2f}): "
            "a few particles decide these bounds, which may lie far below log p(x), and their standard error is not to "
            "be trusted",
        ]

    def to_dict(self) -> dict[str, float | int | str | list[str] | None]:
        """The summary as plain values (nats unless the name says otherwise)."""
        return {
            "log_likelihood": self.mean,
            "standard_error": self.standard_error,
            "bits_per_dim": self.bits_per_dim,
            "bits_of": self.bits_of,
            "density": self.density,
            "num_particles": self.num_particles,
            "num_data": len(self.per_datum),
            "effective_sample_size": mean_and_error(self.effective_sample_size)[0],
            "pareto_k_max": self.pareto_k_max,
            "pareto_k_above": self.pareto_k_above,
            "warnings": self.warnings,
            "split": self.split,
        }


@dataclass
class EvidenceBound(PerDatum):
    """The ELBO and its parts.

    Attributes:
        per_datum: ELBO, nats, ``(num_data,)``, float64 on the CPU.
        log_likelihood: E_q log p(x | z) of each data site, nats, ``(num_data,)`` each.
        kl: KL of each latent site, raw (not weighted, not clamped), nats, ``(num_data,)`` each.
        num_particles: draws per datum.
        split: the name of the data.
    """

    per_datum: Tensor
    log_likelihood: dict[str, Tensor] = field(default_factory=dict)
    kl: dict[str, Tensor] = field(default_factory=dict)
    num_particles: int = 1
    split: str = "data"
    doubts: tuple[str, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """What makes the bound doubtful, in sentences."""
        return [*self.doubts, *not_finite(self.per_datum, "ELBO")]

    def to_dict(self) -> dict[str, object]:
        """The summary as plain values, nats."""
        return {
            "elbo": self.mean,
            "standard_error": self.standard_error,
            "reconstruction": {k: mean_and_error(v)[0] for k, v in self.log_likelihood.items()},
            "kl": {k: mean_and_error(v)[0] for k, v in self.kl.items()},
            "num_particles": self.num_particles,
            "num_data": len(self.per_datum),
            "warnings": self.warnings,
            "split": self.split,
        }

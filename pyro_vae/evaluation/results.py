"""What evaluation returns: the protocol of every result, those of likelihoods, and the metrics that are registered."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from pyro_vae.evaluation.dimensions import DataSite
from pyro_vae.programs.sites import of_functions

if TYPE_CHECKING:
    from pyro_vae.evaluation.shared import SharedLatents

UNRELIABLE = 0.7  # k-hat above this: not even a smoothed estimate is to be trusted


class Result(ABC):
    """What was measured: for people (``rows``), for files (``to_dict``, ``arrays``), and what speaks against it."""

    @property
    @abstractmethod
    def rows(self) -> dict[str, str]:
        """What people read: numbers with their units, by label."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values, nats unless the name says otherwise."""

    def arrays(self) -> dict[str, Tensor]:
        """The numbers of each datum by name, ``(num_data,)`` each, nats unless the name says otherwise."""
        return {}

    @property
    def warnings(self) -> list[str]:
        """What speaks against these numbers, in sentences; empty if nothing does."""
        return []

    def __str__(self) -> str:
        """The rows as a table of text, and the warnings; ``repr`` has the tensors."""
        width = max(map(len, self.rows), default=0)
        lines = [f"{label:<{width}}  {text}" for label, text in self.rows.items()]
        return "\n".join([*lines, *(f"warning: {sentence}" for sentence in self.warnings)])

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in self.rows.items())
        return f"<table>{rows}</table>" + "".join(f"<p>{escape(sentence)}</p>" for sentence in self.warnings)


Registered = TypeVar("Registered", bound=Callable[..., Result])
_metrics: dict[str, Callable[..., Result]] = {}


def metric(function: Registered) -> Registered:
    """Register a function that measures a pair: ``pyro-vae evaluate``, ``report`` and ``compare`` show it by its name.

    Of ``model``, ``guide``, ``split`` (on the device, nothing left to draw), ``memory_budget`` (bytes), ``seed`` and
    ``device`` it takes those that it names, and returns a :class:`Result`. It is run in evaluation mode, without
    gradients, with a random state of its own. It raises :class:`~pyro_vae.errors.NotApplicable` where there is nothing
    to measure. A file of this folder is found by itself; one of your own registers when it is imported.

    Example:
        >>> import pyro_vae
        >>> from pyro_vae.evaluation import Scores, metric
        >>> @metric
        ... def squared_error(model, guide, split, seed):
        ...     x = split.batch(slice(None))["x"].cpu()
        ...     error = (pyro_vae.reconstruct(model, guide, split, seed=seed) - x).square().flatten(1).sum(1)
        ...     return Scores(error, "squared error of a reconstruction", unit="")
    """
    _metrics[function.__name__] = function
    return function


def metrics() -> dict[str, Callable[..., Result]]:
    """All registered metrics, by name."""
    for module in iter_modules([str(Path(__file__).parent)]):
        import_module(f"{__package__}.{module.name}")
    return dict(sorted(_metrics.items()))


NAMED = 5  # data that a sentence names, at most


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean of per-datum values and its standard error over data (nan for one datum)."""
    values = values.double()
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return values.mean().item() + 0.0, error  # + 0.0: no -0.0


def not_finite(values: Tensor, what: str, unit: str = "nats") -> list[str]:
    """A sentence if values of some data are infinite or not numbers: which data, and what the others' mean is."""
    bad = (~values.isfinite()).nonzero().flatten().tolist()
    if not bad:
        return []
    named = ", ".join(f"datum {i}: {values[i].item()}" for i in bad[:NAMED]) + (", …" if len(bad) > NAMED else "")
    others = values[values.isfinite()]
    mean = f"{mean_and_error(others)[0]:.2f} {unit}".rstrip()
    left = f" (the mean over the other {len(others)}: {mean})" if len(others) else ""
    return [
        f"the {what} of {len(bad)} of {len(values)} data is not finite ({named}), and so is the mean over all "
        f"{len(values)}{left}"
    ]


def nats(value: tuple[float, float], digits: int = 2) -> str:
    """A mean and its standard error for people."""
    return f"{value[0]:.{digits}f} +- {value[1]:.{digits}f} nats"


class PerDatum(Result):
    """Values of each datum, ``per_datum`` (num_data,) in nats unless said, with their mean."""

    per_datum: Tensor

    @property
    def mean(self) -> float:
        """Mean over data."""
        return mean_and_error(self.per_datum)[0]

    @property
    def standard_error(self) -> float:
        """Standard error of the mean over data."""
        return mean_and_error(self.per_datum)[1]


@dataclass
class Scores(PerDatum):
    """A number of each datum with its mean: what most metrics return.

    Attributes:
        per_datum: the numbers, ``(num_data,)``.
        label: what they are, for people.
        unit: of the numbers; "" if they have none.
    """

    per_datum: Tensor
    label: str
    unit: str = "nats"

    @property
    def rows(self) -> dict[str, str]:
        """The mean over data and its standard error."""
        mean, error = mean_and_error(self.per_datum)
        digits = max(0, 1 - math.floor(math.log10(error))) if 0 < error < math.inf else 2  # two figures of the error
        return {self.label: f"{mean:.{digits}f} +- {error:.{digits}f} {self.unit}".rstrip()}

    def arrays(self) -> dict[str, Tensor]:
        """The numbers of each datum."""
        return {"per_datum": self.per_datum}

    @property
    def warnings(self) -> list[str]:
        """Which data have no finite number."""
        return not_finite(self.per_datum, self.label, self.unit)

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values."""
        mean, error = mean_and_error(self.per_datum)
        return {"mean": mean, "standard_error": error, "unit": self.unit, "num_data": len(self.per_datum)}


def what_is_bounded(result: Mapping[str, Any]) -> str:
    """What a result's nats are of: "log p(x)", "log p(x | y)", "log p(features conv1 of x)".

    Args:
        result: of a measurement, as it is written.
    """
    given = result.get("given") or []
    return f"log p({result.get('density_of') or 'x'}{' | ' + ', '.join(given) if given else ''})"


def bits_are(result: Mapping[str, Any]) -> str:
    """What a result's bits per dimension are of, where that is more than all levels of the data: "of a density, …".

    Args:
        result: of a measurement, as it is written; an older one may lack some of it.
    """
    if functions := result.get("density_of"):
        return f"of a density of {functions}"
    found = ["of a density"] if result.get("bits_density", result.get("density")) else []
    of = str(result.get("bits_of") or "")
    return ", ".join([*found, *([f"of {of}"] if " given " in of else [])])


def bits_in_words(result: Mapping[str, Any]) -> str:
    """A result's bits per dimension with what they are of."""
    bits = result["bits_per_dim"]
    if functions := result.get("density_of"):
        return f"none: the nats are of a density of {functions}"
    if bits is None or math.isnan(bits):
        return "none: the data have sites of different kinds"
    return f"{bits:.4f} {bits_are(result)}".rstrip()


def per_dimension(result: Mapping[str, Any]) -> dict[str, str]:
    """A result's bits per dimension, or of tokens their nats and the perplexity, as rows."""
    if "perplexity" in result:
        return {"nats per token": f"{result['nats_per_token']:.4f}", "perplexity": f"{result['perplexity']:.2f}"}
    return {"bits per dimension": bits_in_words(result)}


def perplexity(nats_per_token: float) -> float:
    """exp of -log p per token: as uncertain as among so many tokens that are equally probable."""
    return math.exp(nats_per_token) if nats_per_token < 700 else math.inf


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
    def density_of(self) -> str:
        """The functions of the data that the nats are of a density of, "features conv1 of x"; "": of the data."""
        return ", ".join(site.of for site in self.sites.values() if site.of)

    @property
    def bits_density(self) -> bool | None:
        """Whether what bits per dimension are of is a density; None: not known."""
        return next((self.sites[name].density for name in self._counted), None)

    @property
    def bits_per_dim(self) -> float:
        """-log p / (dimensions * ln 2), of all data sites if all are densities or all are probabilities.

        A text beside an image is another matter than its pixels: where sites of the two kinds are there, bits are of
        the kind with more dimensions, given the others, whose nats are taken out (if they depend on no latents); else
        nan. :attr:`bits_of` says of what. A density of functions of the data has none: nan.
        """
        if self.density_of:
            return math.nan
        others = [self.sites[name].nats for name in self.sites if name not in self._counted]
        if not self.num_dimensions or None in others:
            return math.nan
        return -(self.mean - sum(others)) / (self.num_dimensions * math.log(2))

    @property
    def nats_per_token(self) -> float | None:
        """-(sum of log p) / (number of tokens and ends) of all data; None if the data are no sequences of tokens."""
        found = self.sites.values()
        if not self.num_dimensions or self.density_of or not all(site.tokens for site in found):
            return None
        return -self.mean / self.num_dimensions

    @property
    def perplexity(self) -> float | None:
        """exp of :attr:`nats_per_token`; of a bound on log p an upper bound. None if the data are no sequences."""
        return None if self.nats_per_token is None else perplexity(self.nats_per_token)

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

    def to_dict(self) -> dict[str, Any]:
        """The mean over data as plain values."""
        return {
            "log_likelihood": self.mean,
            "standard_error": self.standard_error,
            "bits_per_dim": self.bits_per_dim,
            "bits_of": self.bits_of,
            "bits_density": self.bits_density,
            **(
                {}
                if self.nats_per_token is None
                else {"nats_per_token": self.nats_per_token, "perplexity": self.perplexity}
            ),
            "density": self.density,
            **({"density_of": self.density_of} if self.density_of else {}),
        }


@dataclass
class LogLikelihood(PerDimension):
    """Importance-weighted estimates of log p(x).

    Attributes:
        per_datum: log (1/K) sum_k w_k, nats, ``(num_data,)``, float64 on the CPU.
        effective_sample_size: (sum w)^2 / sum w^2 of each datum, between 1 and K, ``(num_data,)``.
        pareto_k: k-hat of each datum's weights (:func:`~pyro_vae.evaluation.importance.pareto_k`), ``(num_data,)``;
            NaN where there is no tail to fit (fewer than 21 particles, equal weights).
        num_particles: K, the particles that were drawn and used.
        sites: what the estimates are of, data sites by name (:class:`~pyro_vae.evaluation.results.DataSite`).
        split: the name of the data.
        doubts: what was found when the pair was examined, in sentences.
        shared: latents that all data share, given draws of which the numbers are, on average (k-hat: at most); or None.
    """

    per_datum: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor
    num_particles: int
    sites: Mapping[str, DataSite] = field(default_factory=dict)
    split: str = "data"
    doubts: tuple[str, ...] = ()
    shared: SharedLatents | None = None

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
        given = [self.shared.sentence] if self.shared else []
        found = [*dict.fromkeys([*self.doubts, *of_functions(s.of for s in self.sites.values())]), *given]
        found += not_finite(self.per_datum, "log-likelihood")
        if above := int((self.pareto_k > UNRELIABLE).sum()):
            largest = self.pareto_k[self.pareto_k > UNRELIABLE].max().item()
            found += [
                f"Pareto k-hat is above {UNRELIABLE} for {above} of {len(self.per_datum)} data (up to {largest:.2f}): "
                "a few particles decide these bounds, which may lie far below log p(x), and their standard error is "
                "not to be trusted. What does not need this guide's weights: annealing from the prior (pyro-vae ais "
                "DIR --start prior, pyro_vae.ais(..., start='prior')), or a guide refitted to the model (pyro-vae "
                "refit-guide DIR --out NEW, pyro_vae.refit_guide)"
            ]
        return found

    @property
    def rows(self) -> dict[str, str]:
        """The bound, and what its weights are like."""
        pareto_k = "none: it takes 21 particles or more, whose weights differ"
        if self.pareto_k_max is not None and self.pareto_k_above is not None:
            share = f"{100 * self.pareto_k_above:.1f}% of the data"
            pareto_k = f"{self.pareto_k_max:.2f} at most, above {UNRELIABLE} for {share}"
        given = f" given {self.shared.names}" if self.shared else ""
        of = f" of {self.density_of}" if self.density_of else ""
        return {
            f"log-likelihood{of}{given} (K = {self.num_particles})": nats((self.mean, self.standard_error)),
            **(self.shared.rows if self.shared else {}),
            **per_dimension(super().to_dict()),
            "effective sample size": f"{mean_and_error(self.effective_sample_size)[0]:.1f}",
            "Pareto k-hat": pareto_k,
        }

    def arrays(self) -> dict[str, Tensor]:
        """The numbers of each datum, ``(num_data,)`` each, nats unless the name says otherwise."""
        return {
            "log_likelihood": self.per_datum,
            "effective_sample_size": self.effective_sample_size,
            "pareto_k": self.pareto_k,
        }

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values (nats unless the name says otherwise)."""
        return {
            **super().to_dict(),
            "num_particles": self.num_particles,
            "num_data": len(self.per_datum),
            "effective_sample_size": mean_and_error(self.effective_sample_size)[0],
            "pareto_k_max": self.pareto_k_max,
            "pareto_k_above": self.pareto_k_above,
            **({"shared": self.shared.to_dict()} if self.shared else {}),
            "warnings": self.warnings,
            "split": self.split,
        }

"""``compare_seeds``: is one way of training better than another, with the spread over seeds and that over data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.evaluation.results import Result, nats
from pyro_vae.evaluation.student import t_p_value, t_quantile

LEVEL = 0.95  # of intervals


@dataclass(frozen=True)
class Tested:
    """A difference against one standard error.

    Attributes:
        mean: the difference, nats.
        standard_error: nats; nan if it is not known.
        freedom: degrees of freedom of its t distribution; nan likewise.
    """

    mean: float
    standard_error: float
    freedom: float

    @property
    def p_value(self) -> float:
        """Two-sided, of no difference."""
        if self.standard_error == 0:
            return 1.0 if self.mean == 0 else 0.0
        return t_p_value(self.mean / self.standard_error, self.freedom)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval, nats."""
        half = self.standard_error * t_quantile(LEVEL, self.freedom)
        return self.mean - half, self.mean + half

    def to_dict(self) -> dict[str, float]:
        """Plain values."""
        low, high = self.interval
        found = {"standard_error": self.standard_error, "freedom": self.freedom, "p_value": self.p_value}
        return found | {"low": low, "high": high}


@dataclass(frozen=True)
class SeedComparison(Result):
    """A mean difference between two ways of training, and what is known of it; see :func:`compare_seeds`.

    Attributes:
        mean: nats per datum, over data and trainings; positive: the first is better.
        trainings: how many there are of each.
        paired: whether they were compared seed by seed.
        data: the error over data, of these very trainings.
        seeds: the error over trainings, on these very data.
        both: the error over both.
    """

    mean: float
    trainings: tuple[int, int]
    paired: bool
    data: Tested
    seeds: Tested
    both: Tested

    @property
    def rows(self) -> dict[str, str]:
        """The difference against each of its errors."""
        of = {"new data, these trainings": self.data, "new trainings, these data": self.seeds}
        of["new trainings and new data"] = self.both
        found = {"difference": f"{self.mean:.3f} nats"}
        for label, tested in of.items():
            if math.isnan(tested.standard_error):
                found[label] = "not known: one training is not enough"
            else:
                by = f"p = {tested.p_value:.2g} (t, {tested.freedom:.1f} df)"
                found[label] = f"{nats((self.mean, tested.standard_error), 3)}, {by}"
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values; those of an error that is not known are nan."""
        found: dict[str, Any] = {"mean": self.mean, "trainings": list(self.trainings), "paired": self.paired}
        return found | {name: getattr(self, name).to_dict() for name in ("data", "seeds", "both")}

    @property
    def warnings(self) -> list[str]:
        """That the variation between trainings is not known, where it is not."""
        if not math.isnan(self.seeds.standard_error):
            return []
        return [
            "with one training of a kind, how much another seed would differ is not known: the error over data says "
            "which of these trained pairs is better, not which way of training"
        ]


def compare_seeds(ours: Tensor, theirs: Tensor, *, paired: bool = False) -> SeedComparison:
    r"""Is one way of training better than another? Three questions have three standard errors.

    With :math:`y_{si}` the log-likelihood of datum i under training s, trainings and data are crossed random effects:
    :math:`y_{si} = \mu + a_s + v_i + w_{si}`. The difference of the means over all S trainings and n data has

    - ``data``, :math:`\mathrm{sd}_i(\bar d_i) / \sqrt n`: are *these* trained pairs better on new data? Trainings are
      held; a hundred times the data makes it ten times smaller, whatever the seeds do.
    - ``seeds``, :math:`\mathrm{sd}_s(\bar y_s) / \sqrt S` of both, a Welch test of the trainings' means, or, paired by
      seed, a t test of their differences: would *new trainings* be better on these data?
    - ``both``: would new trainings be better on new data, :math:`\sigma_a^2/S + \sigma_v^2/n + \sigma_w^2/(S n)`? It is
      the sum of the two variances before, less the interaction :math:`\sigma_w^2/(S n)` that both hold, and never below
      either of them; degrees of freedom are Satterthwaite's.

    That a recipe beats another is a claim of ``seeds`` or ``both``. Trainings of one seed may be alike (the order of
    data, the noise, initial weights of equal shapes); paired, that is allowed for, and it stays valid where they
    are not, at fewer degrees of freedom. By simulation with 3 to 10 trainings, 3 to 6 % of true null hypotheses are
    rejected at 5 % (``tests/evaluation/test_seeds.py``).

    Args:
        ours, theirs: log-likelihoods, nats, ``(trainings, num_data)`` each, of the same data in the same order.
        paired: whether training s of both has the same seed.

    Returns:
        the mean difference, ours less theirs, with the three errors; of one training a kind, ``data`` alone.

    Raises:
        InputError: if the shapes do not fit, or a number is not finite.

    Source: Searle, Casella, McCulloch, Variance Components (1992); Satterthwaite (1946); Welch (1947).

    Example:
        >>> import torch
        >>> from pyro_vae.evaluation import compare_seeds
        >>> ours, theirs = torch.randn(5, 1000) + 0.2, torch.randn(5, 1000)
        >>> compare_seeds(ours, theirs).seeds.freedom > 4
        True
    """
    a, b = ours.double(), theirs.double()
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1] or min(a.shape + b.shape[:1]) < 1:
        raise InputError(f"needs (trainings, num_data) of the same data twice, got {tuple(a.shape)}, {tuple(b.shape)}")
    if paired and len(a) != len(b):
        raise InputError(f"paired trainings are equally many, got {len(a)} and {len(b)}")
    if not bool(a.isfinite().all() and b.isfinite().all()):
        raise InputError("log-likelihoods of some data are infinite or NaN: their means cannot be compared")
    n, counts = a.shape[1], (len(a), len(b))
    mean = (a.mean() - b.mean()).item() + 0.0
    of_data, data_freedom = _variance(a.mean(0) - b.mean(0)), n - 1
    groups = [a - b] if paired else [a, b]
    parts = [(_variance(group.mean(1)), len(group) - 1) for group in groups]
    data = Tested(mean, math.sqrt(of_data), data_freedom if n > 1 else math.nan)
    if any(freedom < 1 for _, freedom in parts):
        unknown = Tested(mean, math.nan, math.nan)
        return SeedComparison(mean, counts, paired, data, unknown, unknown)
    of_seeds = sum(variance for variance, _ in parts)
    seeds = Tested(mean, math.sqrt(of_seeds), _freedom(of_seeds, parts))
    if n < 2:
        return SeedComparison(mean, counts, paired, data, seeds, Tested(mean, math.nan, math.nan))
    shared = [(_interaction(group), (len(group) - 1) * data_freedom) for group in groups]
    total = max(of_seeds + of_data - sum(variance for variance, _ in shared), of_seeds, of_data)
    freedom = _freedom(total, [*parts, (of_data, data_freedom), *shared])
    return SeedComparison(mean, counts, paired, data, seeds, Tested(mean, math.sqrt(total), freedom))


def _variance(values: Tensor) -> float:
    """Of the mean of independent values."""
    return values.var().item() / len(values) if len(values) > 1 else math.nan


def _interaction(values: Tensor) -> float:
    """What of the variance of a mean over trainings and data is of both together: the residual mean square by S n."""
    rest = values - values.mean(0) - values.mean(1, keepdim=True) + values.mean()
    trainings, n = values.shape
    return rest.square().sum().item() / ((trainings - 1) * (n - 1)) / (trainings * n)


def _freedom(total: float, parts: list[tuple[float, int]]) -> float:
    """Satterthwaite's degrees of freedom of a sum of estimated variances; at least those of the part with fewest."""
    least = float(min(freedom for _, freedom in parts))
    spread = sum(variance**2 / freedom for variance, freedom in parts)
    return max(least, total**2 / spread) if spread > 0 else least

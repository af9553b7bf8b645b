"""Student's t distribution, of any number of degrees of freedom, and Holm's adjustment of several p-values."""

from __future__ import annotations

import math
from collections.abc import Sequence

MOST_TERMS, SMALL = 100_000, 1e-300


def t_p_value(t: float, freedom: float) -> float:
    r"""P(|T| > |t|) of Student's t: :math:`I_{\nu / (\nu + t^2)}(\nu / 2, 1 / 2)`.

    Args:
        t: the statistic.
        freedom: degrees of freedom, a positive number, whole or not.

    Example:
        >>> from pyro_vae.evaluation.student import t_p_value
        >>> round(t_p_value(4.3027, 2), 4)
        0.05
    """
    if math.isnan(t) or math.isnan(freedom):
        return math.nan
    if math.isinf(t):
        return 0.0
    return _incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def t_quantile(level: float, freedom: float) -> float:
    """The t with P(|T| <= t) = level, by bisection.

    Args:
        level: between 0 and 1.
        freedom: degrees of freedom.

    Example:
        >>> from pyro_vae.evaluation.student import t_quantile
        >>> round(t_quantile(0.95, 4), 3)
        2.776
    """
    if math.isnan(freedom):
        return math.nan
    low, high = 0.0, 1.0
    while t_p_value(high, freedom) > 1 - level:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_p_value(middle, freedom) > 1 - level else (low, middle)
    return (low + high) / 2


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several tests, adjusted so that the chance of any false rejection stays below the level (Holm 1979).

    Example:
        >>> from pyro_vae.evaluation.student import holm
        >>> holm([0.01, 0.5, 0.02])
        [0.03, 0.5, 0.04]
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    found, largest = [math.nan] * len(p_values), 0.0
    for place, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * p))
        found[i] = largest
    return found


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function, by its continued fraction (DLMF 8.17.22), where that is quick."""
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, MOST_TERMS):  # Lentz's way
        before = fraction
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _not_zero(1 + term * d)
            c = _not_zero(1 + term / c)
            fraction *= c * d
        if abs(fraction - before) <= 1e-15 * abs(fraction):
            break
    return math.exp(front) * fraction / a


def _not_zero(value: float) -> float:
    return value if abs(value) > SMALL else SMALL

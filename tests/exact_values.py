"""Truth for small programs: sums over states and grids of latents, in float64, without the package's code.

Latents are integrated over their prior: a node is a value of all latents of a datum, with the logarithm of its prior
probability (density times spacing). A grid is equidistant in coordinates without bounds, where integrands are smooth
and vanish at both ends, so that the plain sum converges faster than any power of the spacing.
"""

from __future__ import annotations

import math

import pyro
import torch
import torch.distributions as td
from pyro import poutine
from torch import Tensor

ONE, TWO = 601, 111  # nodes of an axis, for one and for two continuous numbers
REACH = 24.0  # of prior mass, exp(-REACH) is left out at the ends of an axis at most

Axis = tuple[Tensor, Tensor]  # values (R,), log prior weights (R,)


def normal_axis(loc: Tensor, scale: Tensor, num: int) -> Axis:
    """Nodes of Normal(loc, scale), by its standardized value."""
    noise = torch.linspace(-8.0, 8.0, num, dtype=torch.float64)
    spacing = math.log(16.0 / (num - 1))
    return loc + scale * noise, -0.5 * noise**2 - 0.5 * math.log(2 * math.pi) + spacing


def lognormal_axis(loc: Tensor, scale: Tensor, num: int) -> Axis:
    """Nodes of LogNormal(loc, scale)."""
    value, weight = normal_axis(loc, scale, num)
    return value.exp(), weight


def gamma_axis(shape: Tensor, rate: Tensor, num: int) -> Axis:
    """Nodes of Gamma(shape, rate), by its logarithm u: density z^shape exp(-rate z) of u, but for a constant."""
    low = -REACH / float(shape) - 1.0
    high = math.log(float(shape + 7 * shape.sqrt() + REACH))
    u = torch.linspace(low, high, num, dtype=torch.float64)
    weight = shape * u - u.exp() - torch.lgamma(shape) + math.log((high - low) / (num - 1))
    return u.exp() / rate, weight


def exponential_axis(rate: Tensor, num: int) -> Axis:
    """Nodes of Exponential(rate)."""
    return gamma_axis(torch.ones_like(rate), rate, num)


def beta_axis(a: Tensor, b: Tensor, num: int) -> Axis:
    """Nodes of Beta(a, b), by its logit u: density z^a (1 - z)^b of u, but for a constant."""
    low, high = -REACH / float(a) - 2.0, REACH / float(b) + 2.0
    u = torch.linspace(low, high, num, dtype=torch.float64)
    log_beta = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
    log_sigmoid = torch.nn.functional.logsigmoid
    weight = a * log_sigmoid(u) + b * log_sigmoid(-u) - log_beta + math.log((high - low) / (num - 1))
    return u.sigmoid(), weight


def state_axis(probs: Tensor) -> Axis:
    """The states 0 … K-1 of a Categorical."""
    return torch.arange(len(probs)), (probs.double() / probs.double().sum()).log()


def bit_axis(prob: Tensor) -> Axis:
    """The two states of a Bernoulli, as numbers."""
    return torch.tensor([0.0, 1.0], dtype=torch.float64), torch.stack([(-prob).log1p(), prob.log()])


def product(axes: list[Axis]) -> tuple[list[Tensor], Tensor]:
    """Nodes of independent numbers: the values of each, ``(R,)``, and the log weights of all, ``(R,)``."""
    values = torch.meshgrid(*[value for value, _ in axes], indexing="ij")
    weights = torch.meshgrid(*[weight for _, weight in axes], indexing="ij")
    return [value.reshape(-1) for value in values], sum(weights).reshape(-1)


def integral(log_weights: Tensor, log_likelihood: Tensor) -> Tensor:
    """log p(x) of every datum, ``(N,)``, of nodes ``(R, N)`` or ``(R, 1)`` and the likelihoods there ``(R, N)``."""
    return (log_weights + log_likelihood).logsumexp(0)


def mean_weight(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithm of the mean of weights ``(R, N)`` and its standard error, ``(N,)`` each."""
    top = log_weights.max(0).values
    w = (log_weights - top).exp()
    mean = w.mean(0)
    error = w.std(0) if len(w) > 1 else torch.zeros_like(mean)
    return top + mean.log(), error / mean / math.sqrt(len(w))


def plain_weights(program, num_particles: int, seed: int = 0) -> dict[str, Tensor]:
    """log p(x, z) - log q(z | x) of draws of the guide by Pyro alone, without particles: each datum is repeated.

    Returns:
        by site, ``(R, N)`` float64: log p of data sites and factors, log p - log q of latents.
    """
    size = len(program.batch["x"])
    batch = {name: value.repeat_interleave(num_particles, 0) for name, value in program.batch.items()}
    with torch.random.fork_rng(), torch.no_grad(), pyro.validation_enabled(False), pyro.get_param_store().scope():
        torch.manual_seed(seed)
        guide = poutine.trace(program.guide).get_trace(**_accepted(program.guide, batch))
        replayed = poutine.replay(program.model, trace=guide)
        model = poutine.trace(replayed).get_trace(**_accepted(program.model, batch))
        guide.compute_log_prob()
        model.compute_log_prob()
    parts: dict[str, Tensor] = {}
    for sign, trace in ((1.0, model), (-1.0, guide)):
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or type(site["fn"]).__name__ == "_Subsample":
                continue
            value = site["log_prob"].double()
            if sign > 0 and not site["is_observed"]:
                value = torch.where(_inside(site), value, -torch.inf)
            if value.dim() == 2:  # an inner plate
                value = value.sum(0)
            value = value.expand(size * num_particles).reshape(size, num_particles).T
            parts[name] = parts.get(name, 0.0) + sign * value
    return parts


def total(parts: dict[str, Tensor]) -> Tensor:
    """log w of :func:`plain_weights`; a draw outside a latent's support has none, whatever the decoder makes of it."""
    outside = torch.stack([part == -torch.inf for part in parts.values()]).any(0)
    return torch.where(outside, -torch.inf, sum(parts.values()))


def _inside(site) -> Tensor:
    inside = site["fn"].support.check(site["value"])
    return inside if inside.dim() == site["log_prob"].dim() else inside.expand_as(site["log_prob"])


def _accepted(program, batch):
    import inspect

    names = inspect.signature(program.forward if isinstance(program, torch.nn.Module) else program).parameters
    return {name: value for name, value in batch.items() if name in names}


def linear_gaussian(weight: Tensor, bias: Tensor, scale: float, x: Tensor) -> Tensor:
    """log p(x) of z ~ N(0, 1), x ~ N(z W + b, scale^2), by the marginal covariance."""
    covariance = weight.T @ weight + scale**2 * torch.eye(len(bias), dtype=torch.float64)
    return td.MultivariateNormal(bias, covariance).log_prob(x.double())

"""Discrete draws with the continuous variables behind them, of which they are the signs or the largest entries."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, distributions
from torch.nn import functional

from pyro_vae.errors import InputError
from pyro_vae.programs.sites import Site, innermost, kept

_CATEGORICAL = distributions.Categorical, distributions.OneHotCategorical


@dataclass
class RelaxedDraw:
    r"""What lies behind a draw b of a site, ``shape``: that of its value, with K classes as a last dimension.

    .. math:: z = \theta + \epsilon, \qquad b = H(z)

    with theta the logits (of classes: normalized), epsilon logistic or Gumbel noise, and H the sign or the largest
    entry. b was drawn first, and z is drawn given b; so both have the law that they have the other way round.

    Attributes:
        z: a draw given b, detached.
        logits: theta, with the gradient of the guide.
        slope: dz/dtheta with epsilon held, less dz/dtheta with b and the noise of z given b held; by element, detached.
        score: d log q(b) / d logits, of logits that are not normalized, detached.
        classes: whether there are classes.
    """

    z: Tensor
    logits: Tensor
    slope: Tensor
    score: Tensor
    classes: bool

    def softened(self, z: Tensor, temperature: float | Tensor) -> Tensor:
        """The relaxed draw: sigmoid(z / temperature), of classes softmax(z / temperature)."""
        return (z / temperature).softmax(-1) if self.classes else (z / temperature).sigmoid()

    def unnormalized(self, gradient: Tensor) -> Tensor:
        """A gradient with respect to logits that are not normalized, from that with respect to theta."""
        return gradient - self.logits.detach().exp() * gradient.sum(-1, keepdim=True) if self.classes else gradient


def relaxed_draw(site: Site) -> RelaxedDraw:
    """Draw what lies behind a site's value. What a mask leaves out is zero, with no slope and no score.

    Args:
        site: of a trace, of a Bernoulli, Categorical or OneHotCategorical distribution that is drawn.

    Raises:
        InputError: if it is of another one; names the site.

    Source: Tucker et al. 2017, arXiv:1703.07370 (z given b).
    """
    fn, value = innermost(site["fn"]), site["value"]
    if fn.has_rsample or not isinstance(fn, (distributions.Bernoulli, *_CATEGORICAL)):
        raise InputError(
            f"site '{site['name']}' is {type(fn).__name__}, and nn_relax is for draws of Bernoulli, Categorical and "
            "OneHotCategorical: "
            + ("take it out" if fn.has_rsample else "use nn_baseline or use_decaying_avg_baseline there")
        )
    logits = fn.logits.float() if fn.logits.dtype in (torch.float16, torch.bfloat16) else fn.logits
    if isinstance(fn, distributions.Bernoulli):
        draw = _signs(logits.expand(value.shape), value.detach())
    else:
        if not isinstance(fn, distributions.OneHotCategorical):
            value = value[..., None] == torch.arange(logits.shape[-1], device=value.device)
        draw = _largest(logits.expand(value.shape), value.detach() > 0.5)
    keep = kept(site)
    if keep is None:
        return draw
    keep = keep[..., None] if keep.dim() < draw.z.dim() else keep
    parts = [torch.where(keep, part, 0.0) for part in (draw.z, draw.logits, draw.slope, draw.score)]
    return RelaxedDraw(*parts, draw.classes)


def _signs(logits: Tensor, value: Tensor) -> RelaxedDraw:
    theta, sign = logits.detach(), 2 * value - 1
    noise = torch.rand_like(theta)
    inner = noise.logit(eps=torch.finfo(theta.dtype).tiny) + functional.softplus(sign * theta)
    z = sign * functional.softplus(inner)
    slope = 1 - inner.sigmoid() * (sign * theta).sigmoid()
    return RelaxedDraw(z, logits, slope, value - theta.sigmoid(), classes=False)


def _largest(logits: Tensor, value: Tensor) -> RelaxedDraw:
    tiny = torch.finfo(logits.dtype).tiny
    logits = logits.clamp(min=math.log(tiny))  # a class that is never drawn
    theta = logits.detach()
    log_e = torch.empty_like(theta).exponential_().clamp(min=tiny).log()
    top = torch.where(value, log_e, 0.0).sum(-1, keepdim=True)  # -max z, which is Gumbel(0)
    z = torch.where(value, -top, -torch.logaddexp(log_e - theta, top))
    slope = torch.where(value, 1.0, (top - log_e + theta).sigmoid())
    return RelaxedDraw(z, logits, slope, value.to(theta.dtype) - theta.exp(), classes=True)

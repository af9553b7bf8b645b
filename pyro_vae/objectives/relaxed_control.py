"""Control variates of relaxed draws (RELAX), for score functions of Bernoulli and categorical sites."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.programs import baselines
from pyro_vae.programs.relaxed import relaxed_draw
from pyro_vae.programs.traces import TracePair


@dataclass
class Control:
    r"""A site's control variate c(z), z being the relaxed draw behind b = H(z); ``(num_particles, size)`` each.

    With the learning signal L the gradient of the bound with respect to the site's logits theta is estimated as

    .. math:: (L - c(z))\, \nabla_\theta \log q(b) + c'(z)
              \left(\frac{\partial z}{\partial\theta}\Big|_\epsilon
              - \frac{\partial z}{\partial\theta}\Big|_{b, v}\right)

    with z reparameterized in two ways: by its own noise, and by the noise v that it has given b. What is subtracted and
    what is added have the mean grad E c(z) both, so that the estimate is unbiased whatever c is. It is RELAX with the
    noises of z and of z given b coupled, so that both are the same number, and c is called once.

    c is fitted to the variance of this estimate: the mean of its square differs from it by a constant. It is that with
    respect to the site's logits, not to the guide's parameters, which needs second derivatives of c alone. (Fitted to L
    by squared errors, as other baselines are, the same c left twice the variance; its slope counts as well.)

    Attributes:
        value: c(z), nats, with the gradient of c's own parameters.
        pathwise: the second term, as a scalar that has its gradient in the guide, and none in c.
        square, cross, rest: what the squared estimate is made of, the last two with the gradient of c's own parameters.

    Source: Grathwohl et al. 2018, arXiv:1711.00123; Tucker et al. 2017, arXiv:1703.07370 (z given b, coupled noise).
    """

    value: Tensor
    pathwise: Tensor
    square: Tensor
    cross: Tensor
    rest: Tensor

    def variance(self, signal: Tensor) -> Tensor:
        """The mean squared estimate, a scalar with the gradient of c's own parameters.

        Args:
            signal: L - c(z), less any baselines, ``(num_particles, size)``.
        """
        return (signal.square() * self.square + 2 * signal * self.cross + self.rest).mean()


def relaxed_control(pair: TracePair, name: str) -> Control:
    """The control variate of a site that has one (``infer={"baseline": {"nn_relax": c}}``), at its draw.

    Args:
        pair: traces of one batch.
        name: of the site.

    Raises:
        InputError: if it is not for such a site, or c gives no number for each datum; names the site.
    """
    q = pair.latent()[name][0]
    draw, rank = relaxed_draw(q), len(q["fn"].batch_shape)
    z = draw.z.requires_grad_()
    value = baselines.control(q, draw, z)
    slope = torch.zeros_like(z)
    if value.requires_grad:
        options = {"create_graph": True, "allow_unused": True, "materialize_grads": True}
        (slope,) = torch.autograd.grad(value.sum(), z, **options)
    change = slope * draw.slope
    gradient = draw.unnormalized(change)

    def summed(parts: Tensor) -> Tensor:  # over the numbers of an event and over inner plates
        return of_site(pair, name, parts.flatten(rank).sum(-1) if parts.dim() > rank else parts)

    return Control(
        of_site(pair, name, value),
        summed(change.detach() * draw.logits),
        *(summed(parts) for parts in (draw.score.square(), draw.score * gradient, gradient.square())),
    )


def of_site(pair: TracePair, name: str, value: Tensor) -> Tensor:
    """A batch-shaped value of a site, ``(num_particles, size)``; of one that all data share ``(num_particles, 1)``."""
    value = pair.per_datum(value, pair.latent()[name][0])
    return value[:, :1] * (pair.num_data or pair.full_size) if name in pair.shared else value

"""The mixture with reparameterized samples: its density, its draws, and gradients through them."""

import pyro.distributions as dist
import pytest
import torch

from pyro_vae.distributions import ReparameterizedMixture


def mixture(batch=(), components=3, size=2):
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(*batch, *shape, generator=generator, dtype=torch.float64).requires_grad_()

    logits, loc, log_scale = drawn(components), drawn(components, size), drawn(components, size)
    normal = dist.Normal(loc, (0.5 * log_scale).exp()).to_event(1)
    return ReparameterizedMixture(dist.Categorical(logits=logits), normal), (logits, loc, log_scale)


def moments(parts):
    """E z z^T of the mixture, ``(size, size)``, by hand."""
    logits, loc, log_scale = parts
    second = loc[:, :, None] * loc[:, None, :] + torch.diag_embed(log_scale.exp())
    return (logits.softmax(-1)[:, None, None] * second).sum(0)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_gradients_through_draws_are_those_of_the_moments(size):
    _, parts = mixture(size=size)
    weights = torch.arange(1.0, 1 + size**2, dtype=torch.float64).reshape(size, size)
    exact = torch.cat([g.flatten() for g in torch.autograd.grad((weights * moments(parts)).sum(), parts)])
    torch.manual_seed(1)
    found = []
    for _ in range(50):
        q, parts = mixture(size=size)
        z = q.rsample((4000,))
        value = (weights * (z[:, :, None] * z[:, None, :])).sum((1, 2)).mean()
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, parts)]))
    found = torch.stack(found)
    error = found.std(0) / 50**0.5
    assert error.max() < 0.1 * exact.abs().max(), "the test would see nothing"
    assert ((found.mean(0) - exact).abs() < 4.5 * error + 1e-9).all()


def test_draws_have_the_density_and_shapes_are_kept():
    q, _ = mixture((4, 5))
    assert q.rsample((7,)).shape == (7, 4, 5, 2) and q.expand((6, 4, 5)).rsample().shape == (6, 4, 5, 2)
    plain = dist.MixtureSameFamily(q.mixture_distribution, q.component_distribution)
    z = q.rsample()
    torch.testing.assert_close(q.log_prob(z), plain.log_prob(z))
    torch.manual_seed(2)
    ours = q.rsample((1,))
    torch.manual_seed(2)
    torch.testing.assert_close(ours, plain.sample((1,)))

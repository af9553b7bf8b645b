"""Distributions of numbers that are independent after a rotation."""

import math

import pyro.distributions as dist
import pytest
import torch
from scipy.stats import multivariate_normal

from pyro_vae.distributions import Rotated


def rotation(size, seed=0):
    return torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(seed))).Q


def test_of_a_gaussian_it_is_scipys():
    q, loc, scale = rotation(4), torch.randn(4), torch.rand(4) + 0.2
    p = Rotated(dist.Normal(loc, scale).to_event(1), q)
    x = torch.randn(3, 4)
    cov = q.T @ torch.diag(scale**2) @ q
    wanted = multivariate_normal((q.T @ loc).numpy(), cov.double().numpy()).logpdf(x.numpy())
    torch.testing.assert_close(p.log_prob(x), torch.from_numpy(wanted).float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(p.mean, q.T @ loc)


def test_a_laplace_integrates_to_one():
    p = Rotated(dist.Laplace(torch.tensor([0.3, -0.2]), torch.tensor([0.5, 0.2])).to_event(1), rotation(2))
    at = torch.linspace(-8, 8, 1601)
    grid = torch.stack(torch.meshgrid(at, at, indexing="ij"), -1)
    assert p.log_prob(grid).exp().sum().item() * 0.01**2 == pytest.approx(1, abs=1e-3)
    assert p.log_prob(p.mean).item() == pytest.approx(-math.log(2 * 0.5) - math.log(2 * 0.2), abs=1e-5)


def test_draws_have_gradients_and_shapes():
    loc = torch.zeros(5, 4, 3, 2, requires_grad=True)
    p = Rotated(dist.Normal(loc, 1.0).to_event(3), rotation(4))
    assert p.batch_shape == (5,) and p.event_shape == (4, 3, 2) and p.has_rsample
    assert p.expand((7, 5)).rsample().shape == (7, 5, 4, 3, 2) and p.sample((6,)).shape == (6, 5, 4, 3, 2)
    assert not p.sample().requires_grad
    p.rsample().sum().backward()
    assert loc.grad.abs().sum() > 0
    one = p.log_prob(torch.ones(5, 4, 3, 2))
    assert torch.allclose(one, dist.Normal(loc, 1.0).to_event(3).log_prob(torch.ones(5, 4, 3, 2)))  # |Qx| = |x|
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        Rotated(dist.Normal(loc, 1.0).to_event(3), rotation(3))

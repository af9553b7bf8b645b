"""A mixture of Gaussians with full covariances against one written out."""

import pyro.distributions as dist
import pytest
import torch

from pyro_vae.distributions import GaussianMixture


def made(batch=(), k=5, d=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    loc = 3 * torch.randn(k, d, generator=generator)
    lower = torch.randn(k, d, d, generator=generator).tril(-1) + 0.05 * torch.eye(d)
    log_weights = torch.randn(*batch, k, generator=generator).log_softmax(-1)
    return GaussianMixture(log_weights, loc, lower)


def direct(p):
    parts = dist.MultivariateNormal(p.loc.double(), scale_tril=p.scale_tril.double())
    return dist.MixtureSameFamily(dist.Categorical(logits=p.log_weights.double()), parts)


@pytest.mark.parametrize("d", [1, 2, 4])
def test_the_density_is_the_direct_sum(d):
    p = made(d=d)
    z = torch.cat([p.sample((50,)), 10 * torch.randn(20, d)]).requires_grad_()
    ours, truth = p.log_prob(z), direct(p).log_prob(z.double())
    torch.testing.assert_close(ours.double(), truth, rtol=1e-6, atol=1e-6)
    gradients = [torch.autograd.grad(value.sum(), z, retain_graph=True)[0] for value in (ours, truth)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(p.mean.double(), direct(p).mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(p.variance.double(), direct(p).variance, rtol=1e-5, atol=1e-5)


def test_weights_of_each_datum_and_particles():
    p = made((4,))
    assert p.batch_shape == (4,) and p.event_shape == (3,)
    z = torch.randn(6, 4, 3)  # particles, data
    for i in range(4):
        alone = GaussianMixture(p.log_weights[i], p.loc, p.scale_tril)
        torch.testing.assert_close(p.log_prob(z)[:, i], alone.log_prob(z[:, i]))
        torch.testing.assert_close(p.covariance_matrix[i], alone.covariance_matrix)
    assert p.sample((6,)).shape == (6, 4, 3) and p.expand((7, 4)).sample().shape == (7, 4, 3)
    torch.testing.assert_close(p.expand((6, 4)).log_prob(z), p.log_prob(z))


def test_a_weight_of_zero_leaves_a_component_out():
    p = made(k=3)
    some = GaussianMixture(torch.tensor([0.25, 0.0, 0.75]).log(), p.loc, p.scale_tril)
    two = GaussianMixture(torch.tensor([0.25, 0.75]).log(), p.loc[[0, 2]], p.scale_tril[[0, 2]])
    z = torch.randn(9, 3, requires_grad=True)
    torch.testing.assert_close(some.log_prob(z), two.log_prob(z))
    assert torch.autograd.grad(some.log_prob(z).sum(), z)[0].isfinite().all()


def test_draws_have_mean_and_covariance():
    torch.manual_seed(0)
    p = made((2,))
    drawn = p.sample((40_000,))
    for i in range(2):
        whitened = torch.linalg.solve(torch.linalg.cholesky(p.covariance_matrix[i]), (drawn[:, i] - p.mean[i]).T)
        torch.testing.assert_close(whitened.mean(1), torch.zeros(3), rtol=0, atol=0.02)
        torch.testing.assert_close(whitened.cov(), torch.eye(3), rtol=0, atol=0.03)

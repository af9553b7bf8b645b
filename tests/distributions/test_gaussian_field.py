"""The Gaussian over fields against its matrix written out, scipy's density and draws' moments."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from pyro_vae.distributions import GaussianField

SHAPE = (2, 4, 3)


def made(batch=(), shape=SHAPE, k=3, gradient=0.7, scale=0.3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(*batch, *shape, generator=generator, dtype=dtype)
    directions = 1.5 * torch.randn(k, *shape, generator=generator, dtype=dtype)
    return GaussianField(loc, scale, directions, gradient)


def precision(p):
    """Lambda / s^2, by differences of neighbours one after another."""
    channels, height, width = p.event_shape
    index = np.arange(channels * height * width).reshape(channels, height, width)
    pairs = np.stack([index[:, 1:], index[:, :-1]]).reshape(2, -1).T.tolist()
    pairs += np.stack([index[:, :, 1:], index[:, :, :-1]]).reshape(2, -1).T.tolist()
    matrix = np.eye(index.size)
    for i, j in pairs:
        row = np.zeros(index.size)
        row[i], row[j] = 1, -1
        matrix += p.gradient * np.outer(row, row)
    for u in p.directions.flatten(1).numpy():
        matrix += np.outer(u, u)
    return matrix / float(p.scale) ** 2


@pytest.mark.parametrize("k, gradient", [(3, 0.7), (0, 0.7), (3, 0.0), (0, 0.0)])
def test_the_density_is_that_of_scipy(k, gradient):
    p = made(k=k, gradient=gradient)
    covariance = np.linalg.inv(precision(p))
    x = torch.randn(20, *SHAPE, dtype=torch.float64)
    truth = multivariate_normal(p.loc.flatten().numpy(), covariance).logpdf(x.flatten(1).numpy())
    np.testing.assert_allclose(p.log_prob(x).numpy(), truth, rtol=1e-10)
    np.testing.assert_allclose(p.variance.flatten().numpy(), np.diag(covariance), rtol=1e-10)


def test_draws_have_the_covariance():
    p = made()
    torch.manual_seed(0)
    drawn = p.sample((100_000,)).flatten(1).numpy()
    covariance = np.linalg.inv(precision(p))
    error = np.abs(np.cov(drawn.T) - covariance) / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert error.max() < 5 * np.sqrt(2 / len(drawn))
    assert np.abs(drawn.mean(0) - p.loc.flatten().numpy()).max() < 5 * np.sqrt(np.diag(covariance).max() / len(drawn))


def test_draws_are_whitened_by_the_precision():
    """The map from noise to draws is exactly a root of the covariance, also where directions depend on each other."""
    p = made(k=3)
    p = GaussianField(p.loc, p.scale, torch.cat([p.directions, p.directions[:1]]), p.gradient)
    size = p.event_shape.numel()

    def noise(_, **__):
        return torch.eye(size, dtype=torch.float64).view(size, *SHAPE)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", noise)
        root = (p.rsample((size,)) - p.loc).flatten(1).numpy()
    np.testing.assert_allclose(root.T @ root, np.linalg.inv(precision(p)), rtol=1e-9, atol=1e-12)


def test_batches_particles_and_expand():
    p = made((4,))
    x = torch.randn(6, 4, *SHAPE, dtype=torch.float64)
    for i in range(4):
        alone = GaussianField(p.loc[i], p.scale, p.directions, p.gradient)
        torch.testing.assert_close(p.log_prob(x)[:, i], alone.log_prob(x[:, i]))
    wider = p.expand((6, 4))
    assert wider.batch_shape == (6, 4) and wider.event_shape == SHAPE and wider.sample((2,)).shape == (2, 6, 4, *SHAPE)
    torch.testing.assert_close(wider.log_prob(x), p.log_prob(x))
    assert p.variance.shape == p.mean.shape == p.mode.shape == (4, *SHAPE)


def test_gradients_of_location_and_scale():
    x = torch.randn(5, *SHAPE, dtype=torch.float64)
    p = made()

    def log_p(loc, scale, directions):
        return GaussianField(loc, scale, directions, 0.7).log_prob(x)

    given = [value.detach().clone().requires_grad_() for value in (p.loc, p.scale, p.directions)]
    assert torch.autograd.gradcheck(log_p, given)


def test_a_large_field_takes_no_matrix():
    """64 x 64 x 2, 8192 numbers, in float32: a float64 computation says the same."""
    p = made((2,), (2, 64, 64), k=20, dtype=torch.float32)
    x = p.sample()
    double = GaussianField(p.loc.double(), p.scale.double(), p.directions.double(), p.gradient)
    torch.testing.assert_close(p.log_prob(x).double(), double.log_prob(x.double()), rtol=1e-5, atol=0.05)
    square = double.rsample((50,)).sub(double.loc)
    q = 2 * (double.log_prob(double.loc) - double.log_prob(double.loc + square))  # chi-squared of 8192 degrees
    assert abs(float(q.mean()) / 8192 - 1) < 5 * np.sqrt(2 / 8192 / 100)


@pytest.mark.parametrize(
    "said, changed",
    [
        ("scale", {"scale": torch.ones(SHAPE[-1])}),  # it would be laid over columns
        ("directions", {"directions": torch.ones(1, 1, *SHAPE[1:])}),
        ("directions", {"directions": torch.ones(SHAPE)}),
        ("gradient", {"gradient": -0.1}),
    ],
)
def test_what_is_of_another_shape_is_refused(said, changed):
    right = {"loc": torch.zeros(5, *SHAPE), "scale": 1.0, "directions": torch.ones(1, *SHAPE), "gradient": 0.1}
    with pytest.raises(ValueError, match=said):
        GaussianField(**{**right, **changed})
    with pytest.raises(ValueError, match="fields must have shape"):  # and none is repeated to fit
        GaussianField(**right).log_prob(torch.zeros(5, 1, *SHAPE[1:]))

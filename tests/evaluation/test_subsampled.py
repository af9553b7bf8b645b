"""Plates that subsample: a training matter; no estimator measures a part of a datum for the whole."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import ELBO, fit
from pyro_vae.errors import InputError
from pyro_vae.evaluation import ais, bidirectional, elbo, likelihood_gap, log_likelihood


class Pixels(nn.Module):
    """Ten pixels that depend on one latent; in training, only some of them are looked at."""

    def __init__(self, some=4):
        super().__init__()
        self.some = some
        self.loc = nn.Parameter(torch.zeros(()))

    def forward(self, x=None, *, num_samples=1):
        some = self.some if self.training or self.some > 4 else None
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.loc, 1.0))
            with pyro.plate("pixels", 10, subsample_size=some, dim=-2) as i:
                pyro.sample("x", dist.Normal(z, 1.0), obs=None if x is None else x.T[i])


def guide(x):
    scale = 11**-0.5
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x.sum(-1) / 11, scale))


ESTIMATORS = {
    "log_likelihood": lambda *pair: log_likelihood(*pair, num_particles=3),
    "elbo": lambda *pair: elbo(*pair),
    "ais": lambda *pair: ais(*pair, num_temperatures=5),
    "bidirectional": lambda *pair: bidirectional(*pair[:2], 4, num_temperatures=5),
    "gap": lambda *pair: likelihood_gap(*pair),
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_refused(estimator):
    x = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match=r"site 'x': plate 'pixels' takes 5 of 10 at random"):
        ESTIMATORS[estimator](Pixels(5), guide, x)


def test_subsampled_in_training_and_whole_in_evaluation():
    x = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    model = Pixels(4)
    bound = ELBO()
    fit(model, guide, x, objective=bound, epochs=2, learning_rate=1e-9, device="cpu", progress=False)
    covariance = torch.eye(10, dtype=torch.float64) + 1
    exact = dist.MultivariateNormal(torch.zeros(10, dtype=torch.float64), covariance).log_prob(x.double())
    found = log_likelihood(model, guide, x, num_particles=3)  # the guide is the posterior
    torch.testing.assert_close(found.per_datum, exact, atol=1e-5, rtol=0)


def test_a_plate_of_the_data_may_be_larger_than_a_batch():
    """The usual way to tell Pyro of all N data in training with batches; every estimate is of the batch's data."""

    def model(x=None, size=1000):
        rows = 1 if x is None else len(x)
        with pyro.plate("data", size, subsample=torch.arange(rows), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(rows), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), torch.ones(10)).to_event(1), obs=x)

    def own(x, size=1000):
        with pyro.plate("data", size, subsample=torch.arange(len(x)), dim=-1):
            pyro.sample("z", dist.Normal(x.sum(-1) / 11, 11**-0.5))

    x = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    whole = log_likelihood(model, own, x, num_particles=2)
    covariance = torch.eye(10, dtype=torch.float64) + 1
    exact = dist.MultivariateNormal(torch.zeros(10, dtype=torch.float64), covariance).log_prob(x.double())
    torch.testing.assert_close(whole.per_datum, exact, atol=1e-5, rtol=0)


def test_a_plate_of_the_data_that_takes_a_part_is_refused():
    def model(x=None, num_samples=1):
        rows = num_samples if x is None else len(x)
        with pyro.plate("data", rows, subsample_size=1, dim=-1) as i:
            pyro.sample("x", dist.Normal(torch.zeros(1, 10), 1.0).to_event(1), obs=None if x is None else x[i])

    def empty(x):
        pass

    with pytest.raises(InputError, match=r"plate 'data' takes 1 of 2 at random"):
        log_likelihood(model, empty, torch.randn(6, 10), num_particles=1)

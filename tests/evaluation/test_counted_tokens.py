"""What is counted of sequences, and of masked data, is theirs alone: not the particles', nor what is summed over."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import elbo, log_likelihood
from pyro_vae.data import Split
from tests.token_cases import F, T, some_sequences, strong

X = some_sequences(7)


class Program(nn.Module):
    """Sequences given a Gaussian, and a class that is summed over, perhaps; some are masked, perhaps."""

    def __init__(self, summed, masked, together):
        super().__init__()
        self.summed, self.masked, self.together = summed, masked, together
        self.likelihood = strong("gru")
        self.means = nn.Parameter(torch.randn(3, F))

    def forward(self, x=None, num_samples=1):
        n = num_samples if x is None else len(x)
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(F), 1.0).to_event(1))
            if not self.together:
                z = z.reshape(n, F)  # particles are run as further data
            if self.summed:
                z = z + self.means[pyro.sample("c", dist.Categorical(torch.ones(3) / 3))]
            p = self.likelihood(z)
            return pyro.sample("x", p.mask(kept_data(x)) if self.masked else p, obs=x)


def kept_data(x):
    return x[..., 0] != 1


def guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(torch.zeros(F), 1.0).to_event(1))


@pytest.mark.parametrize(
    ("summed", "together"), [(False, True), (False, False), (True, True)], ids=["plate", "repeated", "summed"]
)
@pytest.mark.parametrize("masked", [False, True])
def test_the_counts_are_those_of_the_data(summed, masked, together):
    counts = (X != 0).sum(1) + 1
    right = float((counts * kept_data(X) if masked else counts).sum()) / len(X)
    pair, data = (Program(summed, masked, together), guide), Split({"x": X}, integers=True)
    for particles in (1, 3):
        bound = elbo(*pair, data, num_particles=particles)
        assert bound.tokens == pytest.approx(right)
        assert bound.perplexity == pytest.approx(math.exp(-bound.mean / right))
    likelihood = log_likelihood(*pair, data, num_particles=3, progress=False)
    assert likelihood.num_dimensions == pytest.approx(right)
    assert likelihood.perplexity == pytest.approx(math.exp(-likelihood.mean / right))


def test_bits_of_masked_data_do_not_depend_on_how_many_classes_are_summed_over():
    x = torch.randn(7, T)

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            c = pyro.sample("c", dist.Categorical(torch.ones(3) / 3))
            p = dist.Normal(torch.arange(3.0)[c].unsqueeze(-1).expand(*c.shape, T), 1.0)
            return pyro.sample("x", p.mask(x > 0).to_event(1), obs=x)

    found = log_likelihood(model, lambda x: None, Split({"x": x}), num_particles=1, progress=False)
    assert found.num_dimensions == pytest.approx(float((x > 0).sum()) / 7)

"""What numbers per dimension are of, and factors of a guide in chunks that are drawn again."""

from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.evaluation import log_likelihood
from pyro_vae.evaluation.dimensions import DataSite
from pyro_vae.evaluation.results import PerDimension


@pytest.mark.parametrize(
    ("kinds", "together"),
    [
        ((True,), True),
        ((False,), False),
        ((None,), None),
        ((True, None), True),
        ((None, False), None),
        ((True, False), True),
    ],
)
def test_one_density_makes_the_whole_one(kinds, together):
    sites = {str(i): DataSite(1.0, kind) for i, kind in enumerate(kinds)}
    assert PerDimension.density.fget(SimpleNamespace(sites=sites)) is together


def test_a_factor_that_is_no_density_counts_in_no_chunk():
    """Not in the first chunk of a batch, nor in those that are drawn again from its distributions."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def plain(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.5 * x, 0.8))

    def with_loss(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.5 * x, 0.8))
            pyro.factor("classification", 3.0 * x, has_rsample=False)

    x = torch.randn(30)
    found = [log_likelihood(model, guide, x, num_particles=20_000, memory_budget=2**20) for guide in (plain, with_loss)]
    torch.testing.assert_close(found[0].per_datum, found[1].per_datum)
    torch.testing.assert_close(found[0].per_datum.float(), dist.Normal(0.0, 2**0.5).log_prob(x), rtol=0.01, atol=0.01)

"""A check of annealing: its weights have the mean p(x)."""

import math

from pyro_vae.evaluation import ais


def check_unbiased(model, guide, x, exact, *, num_chains=3000, limit=0.1, **options):
    """log of the mean weight is log p(x), to four standard errors of that mean, which must be small."""
    options = {"num_temperatures": 6, "num_leapfrog": 2, **options}
    result = ais(model, guide, x, num_chains=num_chains, **options)
    w = (result.log_weights - result.per_datum).exp()
    error = w.std(0) / math.sqrt(num_chains)
    assert error.max() < limit, "the test would see nothing"
    assert ((result.per_datum - exact).abs() < 4.5 * error + 1e-4).all()
    return result

"""From decoder features to p(x | .); log-probabilities in nats, image data in [0, 1]."""

from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.bernoulli import Bernoulli
from pyro_vae.likelihoods.categorical import Categorical, Categorical256
from pyro_vae.likelihoods.discretized_logistic_mixture import DiscretizedLogisticMixture
from pyro_vae.likelihoods.location_scale import Gaussian, Laplace
from pyro_vae.likelihoods.logit_laplace import LogitLaplace

__all__ = [
    "Bernoulli",
    "Categorical",
    "Categorical256",
    "DiscretizedLogisticMixture",
    "Gaussian",
    "Laplace",
    "Likelihood",
    "LogitLaplace",
]

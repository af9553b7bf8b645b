from .base import Likelihood as Likelihood
from .bernoulli import Bernoulli as Bernoulli
from .categorical import Categorical as Categorical
from .discretized_logistic_mixture import DiscretizedLogisticMixture as DiscretizedLogisticMixture
from .location_scale import Gaussian as Gaussian
from .location_scale import Laplace as Laplace
from .logit_laplace import LogitLaplace as LogitLaplace

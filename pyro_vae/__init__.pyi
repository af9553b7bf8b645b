from . import (
    adapters as adapters,
)
from . import (
    data as data,
)
from . import (
    distributions as distributions,
)
from . import (
    evaluation as evaluation,
)
from . import (
    export as export,
)
from . import (
    guides as guides,
)
from . import (
    likelihoods as likelihoods,
)
from . import (
    models as models,
)
from . import (
    networks as networks,
)
from . import (
    objectives as objectives,
)
from . import (
    plots as plots,
)
from . import (
    priors as priors,
)
from . import (
    recipes as recipes,
)
from . import (
    reports as reports,
)
from . import (
    runs as runs,
)
from . import (
    sharing as sharing,
)
from . import (
    sweeps as sweeps,
)
from . import (
    text_to_image as text_to_image,
)
from . import (
    training as training,
)
from .data.registry import load_data as load_data
from .evaluation.amortization import likelihood_gap as likelihood_gap
from .evaluation.amortization import refine as refine
from .evaluation.annealing.ais import ais as ais
from .evaluation.annealing.bidirectional import bidirectional as bidirectional
from .evaluation.discrete import posterior_probabilities as posterior_probabilities
from .evaluation.encoding import encode as encode
from .evaluation.encoding import posterior_moments as posterior_moments
from .evaluation.evidence import elbo as elbo
from .evaluation.generate import decode as decode
from .evaluation.generate import reconstruct as reconstruct
from .evaluation.generate import sample as sample
from .evaluation.importance import log_likelihood as log_likelihood
from .evaluation.parzen_window import parzen as parzen
from .evaluation.scoring import score as score
from .objectives.evidence_bound import ELBO as ELBO
from .objectives.importance_weighted import IWAE as IWAE
from .programs.handlers import penalty as penalty
from .runs.run import Run as Run
from .runs.run import load as load
from .training.fitting import fit as fit
from .training.prior import fit_prior as fit_prior
from .training.refit import refit_guide as refit_guide

__version__: str

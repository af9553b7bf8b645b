from .base import Objective as Objective
from .base import Terms as Terms
from .evidence_bound import ELBO as ELBO
from .importance_weighted import IWAE as IWAE

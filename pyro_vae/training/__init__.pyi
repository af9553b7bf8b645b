from .fitting import FitResult as FitResult
from .fitting import fit as fit
from .schedules import Constant as Constant
from .schedules import Cosine as Cosine
from .schedules import Linear as Linear
from .schedules import Schedule as Schedule
from .schedules import Stages as Stages

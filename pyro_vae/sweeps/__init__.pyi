from .plan import Plan as Plan
from .plan import read_plan as read_plan
from .results import sweep_results as sweep_results
from .sweep import run_sweep as run_sweep

"""Pages on trained runs: a report of one, a comparison of several."""

from pyro_vae.recipes.pages.compare import write_comparison
from pyro_vae.recipes.pages.report import write_report

__all__ = ["write_comparison", "write_report"]

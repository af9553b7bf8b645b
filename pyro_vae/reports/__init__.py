"""Pages of HTML about runs."""

from pyro_vae.reports.compare import write_comparison
from pyro_vae.reports.report import write_report

__all__ = ["write_comparison", "write_report"]

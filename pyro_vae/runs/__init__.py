"""Run directories: configured experiments, what they leave, and how it is read again."""

from pyro_vae.runs.run import Run, load

__all__ = ["Run", "load"]

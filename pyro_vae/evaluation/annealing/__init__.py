"""Bounds of log p(x) from both sides by annealed chains: AIS and bidirectional Monte Carlo."""

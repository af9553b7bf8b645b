"""Batch normalization of feature vectors with any number of leading dimensions."""

from __future__ import annotations

from torch import Tensor, nn

from pyro_vae.networks.leading import apply_batched


class FeatureNorm(nn.BatchNorm1d):
    r"""(h - mean) / sqrt(variance + eps) * gain + bias, unit by unit.

    In training mode mean and variance are those of all leading dimensions together (data and particles). In evaluation
    mode they are the running ones, which ``fit`` recomputes over the training data before it measures or returns.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167.
    """

    def forward(self, h: Tensor) -> Tensor:
        """Normalize ``(..., num_features)``."""
        return apply_batched(super().forward, h, 1)

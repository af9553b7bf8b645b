"""Data of tests of discrete latents."""

import pytest
import torch


@pytest.fixture
def x():
    """Three data of two real numbers."""
    return torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def binary():
    """Sixty data of eight binary numbers, which are alike within a datum."""
    generator = torch.Generator().manual_seed(2)
    return (torch.rand(60, 1, generator=generator) * torch.ones(8) > torch.rand(60, 8, generator=generator)).float()

"""Schedules: their values at the ends, between, and beyond."""

import math

import pytest

from pyro_vae.errors import InputError
from pyro_vae.training import Constant, Cosine, Linear, Stages
from pyro_vae.training.schedules import as_schedule


def test_constant_and_numbers():
    assert [Constant(0.3)(t) for t in (0, 5.5, 1e9)] == [0.3] * 3
    assert Constant(0.3).end == 0
    assert as_schedule(2)(7) == 2.0
    linear = Linear(0, 1, 3)
    assert as_schedule(linear) is linear


def test_linear():
    warmup = Linear(0.2, 1.0, 4)
    values = [warmup(t) for t in (-1, 0, 1, 2.5, 4, 100)]
    assert values == pytest.approx([0.2, 0.2, 0.4, 0.7, 1.0, 1.0])
    assert warmup(4) == 1.0 and warmup.end == 4
    down = Linear(1.0, 0.0, 2)
    assert [down(t) for t in (0, 1, 2, 3)] == pytest.approx([1, 0.5, 0, 0])


def test_cosine():
    decay = Cosine(1.0, 0.1, 10)
    assert [decay(t) for t in (0, 5, 10, 11)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    assert decay(2.5) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    values = [decay(t / 10) for t in range(101)]
    assert values == sorted(values, reverse=True)
    assert decay.end == 10


def test_stages_change_exactly_at_their_borders():
    stages = Stages([1.0, 0.5, 0.25], [1, 3, 9])
    assert [stages(t) for t in (0, 0.99, 1, 3.99, 4, 12.9, 13, 500)] == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]
    assert stages.end == 4


def test_the_iwae_learning_rates():
    """Burda et al.: 0.001 * 10^(-i/7) for 3^i epochs, i = 0..7: 3,280 epochs."""
    stages = Stages([1e-3 * 10 ** (-i / 7) for i in range(8)], [3**i for i in range(8)])
    assert stages.borders[-1] == 3280
    assert stages(0) == 1e-3 and stages(3279) == pytest.approx(1e-4)
    assert stages(1) == stages(3.9) == pytest.approx(1e-3 * 10 ** (-1 / 7))


def test_bad_schedules_are_named():
    for epochs in (0, -2):
        for kind in (Linear, Cosine):
            with pytest.raises(InputError, match=f"epochs must be positive, got {epochs}"):
                kind(0, 1, epochs)
    for values, epochs in (([1, 2], [1]), ([], []), ([1, 2], [1, 0])):
        with pytest.raises(InputError, match="Stages needs as many positive epochs as values"):
            Stages(values, epochs)

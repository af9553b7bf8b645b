"""Schedules: their values at the ends, between, and beyond."""

import math

import pytest

from pyro_vae.errors import InputError
from pyro_vae.training import Constant, Cosine, Cyclical, Linear, Sigmoid, Stages
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


def test_sigmoid_is_a_logistic_curve_through_its_ends():
    warmup = Sigmoid(0.2, 1.0, 4, steepness=3.0)
    sigma = [1 / (1 + math.exp(-3.0 * (t / 2 - 1))) for t in (0, 1, 2.5, 4)]
    expected = [0.2 + 0.8 * (s - sigma[0]) / (sigma[-1] - sigma[0]) for s in sigma]
    assert [warmup(t) for t in (0, 1, 2.5, 4)] == pytest.approx(expected)
    assert warmup(-1) == warmup(0) == 0.2 and warmup(4) == warmup(9) == 1.0 and warmup.end == 4
    assert warmup(2) == pytest.approx(0.6)
    with pytest.raises(InputError, match="steepness must be positive, got 0"):
        Sigmoid(0, 1, 4, steepness=0)


def test_cycles_of_a_ramp_and_a_rest():
    """Fu et al. 2019, eq. 6 and 7: tau = mod(t, period) / period, tau / R up to R, then 1; no cycle after the last."""
    weight = Cyclical(0.1, 0.9, epochs=12, cycles=3, ramp=0.75)
    for t in (0, 1, 2.9, 3.0, 3.9, 4, 5.5, 7.2, 8, 10.99):
        tau = t % 4 / 4
        assert weight(t) == pytest.approx(0.1 + 0.8 * min(tau / 0.75, 1.0)), t
    assert weight.end == 11 and {weight(t) for t in (11, 12, 12.5, 16, 1000)} == {0.9} and weight(-1) == 0.1
    assert weight.largest() == 0.9 and Cyclical(1.0, 0.0, 10, cycles=20).largest() == 1.0
    assert Cyclical(0.0, 1.0, 5, cycles=1, ramp=1.0)(2) == Linear(0.0, 1.0, 5)(2)
    for how, words in (
        ({"cycles": 0}, "cycles must be a positive"),
        ({"ramp": 0.0}, "ramp is a part"),
        ({"ramp": 2}, "got 2"),
    ):
        with pytest.raises(InputError, match=words):
            Cyclical(0, 1, 10, **how)


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
        for kind in (Linear, Cosine, Sigmoid, Cyclical):
            with pytest.raises(InputError, match=f"epochs must be positive, got {epochs}"):
                kind(0, 1, epochs)
    for values, epochs in (([1, 2], [1]), ([], []), ([1, 2], [1, 0])):
        with pytest.raises(InputError, match="Stages needs as many positive epochs as values"):
            Stages(values, epochs)

"""Resampling against sines, whose samples at any rate are known."""

import math

import pytest
import torch

from pyro_vae.data.sound import reach, resample
from pyro_vae.errors import InputError


def sine(frequency, rate, seconds=0.5):
    return torch.sin(2 * math.pi * frequency * torch.arange(int(seconds * rate), dtype=torch.float64) / rate + 0.3)


RATES = [(44100, 8000), (22050, 16000), (8000, 22050), (48000, 16000), (8000, 8001)]


@pytest.mark.parametrize(("old", "new"), RATES)
def test_a_sine_below_the_limit_stays_the_same_sine(old, new):
    limit = 0.92 * min(old, new) / 2
    for frequency in (50.0, 440.0, 0.5 * limit, limit):
        result, expected = resample(sine(frequency, old), old, new), sine(frequency, new)
        assert len(result) == math.ceil(int(0.5 * old) * new / old)
        edge = 1 + math.ceil(reach(old, new) * new / old)  # where silence outside is seen
        inner = slice(edge, min(len(result), len(expected)) - edge)
        torch.testing.assert_close(result[inner], expected[inner], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("old", "new"), [(44100, 8000), (48000, 16000), (22050, 16000)])
def test_what_the_new_rate_cannot_hold_is_taken_away(old, new):
    edge = 1 + math.ceil(reach(old, new) * new / old)
    for frequency in (new / 2 * 1.001, new / 2 * 1.3, 0.49 * old):
        result = resample(sine(frequency, old), old, new)[edge:-edge]
        assert result.abs().max() < 5e-4  # every other sample alone would be an alias of full loudness


def test_shapes_types_and_memory(monkeypatch):
    wave = torch.randn(2, 3, 500)
    whole = resample(wave, 3, 2)
    assert whole.shape == (2, 3, 334) and whole.dtype == torch.float32
    assert resample(wave, 5, 5) is wave
    torch.testing.assert_close(whole[1, 2], resample(wave[1, 2], 3, 2))
    monkeypatch.setattr("pyro_vae.data.sound.CHUNK_ELEMENTS", 5000)
    torch.testing.assert_close(resample(wave, 3, 2), whole)
    constant = resample(torch.ones(4000, dtype=torch.float64), 441, 160)
    torch.testing.assert_close(constant[200:-200], torch.ones_like(constant[200:-200]), rtol=0, atol=1e-12)


def test_rates_out_of_all_proportion_are_refused():
    with pytest.raises(InputError, match="767,999 samples a second cannot be resampled to 7,919"):
        resample(torch.zeros(100), 767_999, 7_919)
    with pytest.raises(InputError, match="cannot be resampled"):
        resample(torch.zeros(1_000_000), 1, 8000)

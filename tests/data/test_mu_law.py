"""Mu-law companding against the formula's exact values and the segments of G.711."""

import math

import pytest
import torch

from pyro_vae.data import sound as mu_law


def test_exact_values_of_the_law():
    """F(w) = k/8 where 1 + 255 w = 2^k, since ln(1 + mu) = ln 2^8."""
    wave = torch.tensor([(2.0**k - 1) / 255 for k in range(9)], dtype=torch.float64)
    expected = torch.arange(9, dtype=torch.float64) / 8
    torch.testing.assert_close(mu_law.compress(wave), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(mu_law.compress(-wave), -expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(mu_law.expand(-expected), -wave, rtol=0, atol=1e-12)


def test_the_segments_of_g711_follow_the_law():
    """G.711's decoder: code (segment s, step m) is ((2 m + 33) 2^s - 33) / 8159 of full scale."""
    for segment in range(8):
        for step in range(16):
            value = ((2 * step + 33) * 2**segment - 33) / 8159
            compressed = mu_law.compress(torch.tensor(value, dtype=torch.float64)).item()
            # The chords of a segment lie above the curve by at most 0.086 of a segment (of an octave, max of
            # log2(1 + t) - t); its codes are in the middle of their intervals, 1/2 of 1/128.
            assert abs(compressed - (16 * segment + step) / 128) < 0.0861 / 8 + 1 / 128


def test_levels_and_back():
    levels = torch.arange(256)
    wave = mu_law.mu_law_decode(levels.double() / 255)
    assert torch.equal(mu_law.mu_law_encode(wave), levels.to(torch.uint8))
    torch.testing.assert_close(wave[[0, -1]], torch.tensor([-1.0, 1.0], dtype=torch.float64))
    assert wave.abs().max() <= 1 and (wave.diff() > 0).all()
    torch.testing.assert_close(wave, -wave.flip(0), rtol=0, atol=1e-15)
    by_hand = [math.copysign((256 ** abs(2 * k / 255 - 1) - 1) / 255, k - 127.5) for k in range(256)]
    torch.testing.assert_close(wave, torch.tensor(by_hand, dtype=torch.float64))
    assert mu_law.mu_law_encode(torch.tensor([0.0, 2.0, -2.0])).tolist() == [128, 255, 0]
    assert mu_law.mu_law_decode(torch.tensor([-0.5, 1.5], dtype=torch.float64)).round(decimals=9).tolist() == [-1, 1]


@pytest.mark.parametrize("loudness", [1.0, 0.1, 0.01])
def test_noise_is_a_constant_share_of_the_loudness(loudness):
    wave = loudness * torch.sin(torch.arange(10_000, dtype=torch.float64))
    error = mu_law.mu_law_decode(mu_law.mu_law_encode(wave).double() / 255) - wave
    companded = 10 * (wave.square().mean() / error.square().mean()).log10().item()
    linear = 10 * math.log10(loudness**2 / 2 / ((2 / 255) ** 2 / 12))
    assert 30 < companded < 40 and (companded > linear) == (loudness < 0.5)

"""Relaxed codes against enumeration, torch's relaxed categorical, finite differences and the limits of temperature."""

import itertools
import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import RelaxedOneHotCategorical, kl_divergence

from pyro_vae.distributions import RelaxedCodes, RelaxedUniformCodes, UniformCodes
from pyro_vae.errors import InputError


def logits_of(*shape, scale=1.5):
    return scale * torch.randn(*shape, dtype=torch.float64)


def enumerated_kl(logits, others):
    """Over all K^N grids of one datum: logits ``(K, N)`` each."""
    q, p = logits.log_softmax(0), others.log_softmax(0)
    total = 0.0
    for grid in itertools.product(range(len(q)), repeat=q.shape[1]):
        log_q = sum(q[k, i] for i, k in enumerate(grid))
        log_p = sum(p[k, i] for i, k in enumerate(grid))
        total = total + log_q.exp() * (log_q - log_p)
    return total


def test_the_kl_is_the_categorical_one_summed_over_positions():
    logits, others = logits_of(2, 3, 2, 2), logits_of(2, 3, 2, 2)
    q, p = RelaxedCodes(logits, 0.3), RelaxedCodes(others, 0.8)
    uniform = RelaxedUniformCodes(3, (2, 2), 0.8)
    expected = torch.stack([enumerated_kl(a.flatten(1), b.flatten(1)) for a, b in zip(logits, others, strict=True)])
    torch.testing.assert_close(kl_divergence(q, p), expected)
    zeros = torch.zeros(3, 4, dtype=torch.float64)
    expected = torch.stack([enumerated_kl(a.flatten(1), zeros) for a in logits])
    torch.testing.assert_close(kl_divergence(q, uniform), expected)
    torch.testing.assert_close(kl_divergence(q, uniform.expand((2,))), expected)
    assert kl_divergence(q, uniform.expand((5, 2))).shape == (5, 2)


def test_integer_codes_have_the_same_kl():
    logits = logits_of(4, 3, 2, 2)
    q = dist.Categorical(logits=logits.movedim(1, -1)).to_event(2)
    relaxed = kl_divergence(RelaxedCodes(logits, 1.0), RelaxedUniformCodes(3, (2, 2), 1.0))
    torch.testing.assert_close(kl_divergence(q, UniformCodes(3, (2, 2))), relaxed)


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_density_is_torchs(temperature, rank):
    grid = (2, 3)[:rank]
    logits = logits_of(5, 4, *grid)
    ours = RelaxedCodes(logits, temperature, rank)
    theirs = RelaxedOneHotCategorical(torch.tensor(temperature).double(), logits=logits.movedim(1, -1))
    y = theirs.sample()  # (5, *grid, K)
    expected = theirs.log_prob(y).flatten(1).sum(1)
    torch.testing.assert_close(ours.log_prob(y.movedim(-1, 1)), expected)
    drawn = ours.rsample()
    expected = theirs.log_prob(drawn.movedim(1, -1)).flatten(1).sum(1)
    torch.testing.assert_close(ours.log_prob(drawn), expected)
    torch.testing.assert_close(ours.log_prob(drawn.clone()), expected)  # without the logarithm that a draw carries


def test_the_uniform_density():
    y = RelaxedCodes(logits_of(5, 4, 2, 2), 0.6).sample()
    plain = RelaxedCodes(torch.zeros(4, 2, 2).double(), 0.6)
    torch.testing.assert_close(RelaxedUniformCodes(4, (2, 2), 0.6).log_prob(y), plain.log_prob(y))


def test_low_temperatures_in_single_precision():
    """Most entries of y underflow; log q - log p is still that of double precision."""
    logits = logits_of(3, 50, 4, 4, scale=3.0)
    y = RelaxedCodes(logits, 1 / 16).sample()
    log_y = y.log_relaxed
    assert (y.float() == 0).any()
    single = y.float()
    single.log_relaxed = log_y.float()
    q, p = RelaxedCodes(logits.float(), 1 / 16), RelaxedUniformCodes(50, (4, 4), 1 / 16)
    gap = q.log_prob(single) - p.log_prob(single)
    exact = RelaxedCodes(logits, 1 / 16).log_prob(y) - RelaxedUniformCodes(50, (4, 4), 1 / 16).log_prob(y)
    torch.testing.assert_close(gap.double(), exact, rtol=1e-4, atol=1e-2)


def test_the_frequencies_are_the_logits():
    """The largest entry is code k with probability pi_k, at any temperature."""
    logits = torch.tensor([0.5, -1.0, 1.2]).reshape(3, 1)
    y = RelaxedCodes(logits, 0.7, rank=1).sample((100_000,))  # (100_000, 3, 1)
    frequencies = torch.bincount(y.argmax(1).flatten(), minlength=3) / 100_000
    torch.testing.assert_close(frequencies, logits.flatten().softmax(0), rtol=0, atol=0.006)


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_gradients_of_the_sample_with_the_noise_held(temperature):
    logits, weights = logits_of(3, 2, 2), logits_of(3, 2, 2)

    def value(parameters, tau):
        torch.manual_seed(7)
        return (RelaxedCodes(parameters, tau).rsample().square() * weights).sum()

    x, tau = logits.clone().requires_grad_(), torch.tensor(temperature).double().requires_grad_()
    by_logits, by_tau = torch.autograd.grad(value(x, tau), [x, tau])
    step, expected = 1e-6, torch.zeros_like(logits)
    for index in itertools.product(range(3), range(2), range(2)):
        moved = torch.zeros_like(logits)
        moved[index] = step
        expected[index] = (value(logits + moved, tau) - value(logits - moved, tau)).detach() / (2 * step)
    torch.testing.assert_close(by_logits, expected, rtol=1e-6, atol=1e-8)
    expected = (value(logits, tau + step) - value(logits, tau - step)).detach() / (2 * step)
    torch.testing.assert_close(by_tau, expected, rtol=1e-6, atol=1e-8)


def test_straight_through():
    """Exactly one-hot, with the relaxed draw's gradient and density."""
    logits, weights = logits_of(2, 3, 2, 2).requires_grad_(), logits_of(2, 3, 2, 2)
    torch.manual_seed(3)
    soft = RelaxedCodes(logits, 0.5).rsample()
    torch.manual_seed(3)
    q = RelaxedCodes(logits, 0.5, straight_through=True)
    hard = q.rsample()
    assert torch.equal(hard, torch.nn.functional.one_hot(soft.argmax(1), 3).movedim(-1, 1).double())
    gradients = [torch.autograd.grad((y * weights).sum(), logits)[0] for y in (hard, soft)]
    assert torch.equal(*gradients)
    torch.testing.assert_close(q.log_prob(hard), RelaxedCodes(logits, 0.5).log_prob(soft))
    with pytest.raises(InputError, match="the very tensor that was drawn"):
        q.log_prob(hard.clone())


def test_the_temperature_is_live():
    temperature = torch.tensor(1.0)
    q = RelaxedCodes(torch.zeros(5, 3, 3), temperature)
    warm = q.sample((100,)).max(1).values.mean()
    temperature.fill_(0.01)
    assert warm < 0.7 < 0.98 < q.sample((100,)).max(1).values.mean()
    p = RelaxedUniformCodes(5, (3, 3), temperature).expand((2,))
    assert p.sample().max(1).values.mean() > 0.95
    temperature.fill_(1.0)
    middle = torch.full((5, 3, 3), 0.2)  # at every position 4! / (sum_k pi_k y_k^-1)^5 prod_k pi_k y_k^-2 = 4!
    assert q.log_prob(middle).item() == pytest.approx(9 * math.log(24), rel=1e-5)


def test_support_shapes_and_errors():
    q = RelaxedCodes(logits_of(3, 4, 2, 5), 0.5)
    assert q.batch_shape == (3,) and q.event_shape == (4, 2, 5) and q.num_codes == 4
    y = q.sample((7,))
    assert y.shape == (7, 3, 4, 2, 5) and q.log_prob(y).shape == (7, 3)
    assert q.support.check(y).all() and q.support.check(y).shape == (7, 3)
    assert not q.support.check(y * 1.1).any() and not q.support.check(y - y.amax(2, keepdim=True)).any()
    wide = q.expand((6, 3))
    assert isinstance(wide, RelaxedCodes) and wide.sample().shape == (6, 3, 4, 2, 5)
    for bad in (torch.zeros(3, 2, 5), torch.zeros(3, 4, 2, 5, dtype=torch.int64)):
        with pytest.raises(InputError, match=r"mixtures of codes of shape \(\.\.\., 4, 2, 5\)"):
            q.log_prob(bad)
    with pytest.raises(InputError, match="temperature must be positive"):
        RelaxedCodes(torch.zeros(3, 2, 2), 0.0)
    with pytest.raises(InputError, match="a grid of rank 2"):
        RelaxedCodes(torch.zeros(3, 2), 1.0)
    assert RelaxedCodes(torch.zeros(3, 2, 2).bfloat16(), 1.0).sample().dtype == torch.float32

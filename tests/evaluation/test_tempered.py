"""Temperature and top-k of sites that can be tempered, through every wrapper."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from code_pairs import OneLevel, Table, TemperedTable, WithPriors, fixed
from pyro.distributions.torch_distribution import ExpandedDistribution

from pyro_vae.errors import InputError
from pyro_vae.evaluation.generate import sample
from pyro_vae.programs.handlers import tempered

LOGITS = fixed(3, 5, seed=4)  # 3 positions, 5 codes


def model(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
        codes = pyro.sample("codes", TemperedTable(LOGITS, 1))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        return pyro.sample("x", dist.Normal(codes.sum(-1) + z, 1.0), obs=x)


def frequencies(codes):
    return torch.stack([(codes == k).float().mean(0) for k in range(5)], -1)  # (3, 5)


@pytest.mark.parametrize(("temperature", "top_k"), [(0.5, None), (1.7, None), (1.0, 2), (0.6, 3), (1.0, 1)])
def test_codes_are_drawn_from_the_sharpened_distribution(temperature, top_k):
    n = 20_000
    drawn = sample(model, n, temperature=temperature, top_k=top_k, batch_size=3000)
    logits = LOGITS.clone()
    if top_k is not None:
        for row in logits:
            row[row.argsort(descending=True)[top_k:]] = -math.inf
    p = (logits / temperature).softmax(-1)
    error = (p * (1 - p) / n).sqrt()
    assert ((frequencies(drawn["codes"]) - p).abs() <= 5 * error).all()
    assert (frequencies(drawn["codes"])[p == 0] == 0).all()
    assert drawn["z"].std() == pytest.approx(1, abs=5 / math.sqrt(2 * n))  # what has no temperature stays


def test_without_temperature_nothing_changes_and_nothing_is_asked():
    plain = sample(model, 50, seed=3)
    same = sample(model, 50, seed=3, temperature=1.0, top_k=None)
    assert all(torch.equal(same[name], value) for name, value in plain.items())
    uniform = OneLevel()
    sample(uniform.model, 3, temperature=1.0)
    sample(model, 50, seed=3, temperature=0.1)
    assert all(torch.equal(sample(model, 50, seed=3)[name], value) for name, value in plain.items())  # put back


@pytest.mark.parametrize(
    "wrap",
    [
        lambda fn: fn,
        lambda fn: fn.expand([4]),
        lambda fn: ExpandedDistribution(fn, torch.Size([4])).to_event(1),
        lambda fn: fn.expand([6, 4]).to_event(1),
        lambda fn: fn.expand([4]).mask(torch.tensor([True, False, True, True])),
        lambda fn: fn.mask(False).expand([2, 4]).to_event(2),
    ],
)
def test_wrappers_survive(wrap):
    fn = wrap(TemperedTable(LOGITS, 1))
    sharp = tempered(fn, 0.5, 2)
    assert (sharp.batch_shape, sharp.event_shape) == (fn.batch_shape, fn.event_shape)
    expected = wrap(TemperedTable(LOGITS, 1).tempered(0.5, 2))
    torch.manual_seed(1)
    value = expected.sample()
    torch.manual_seed(1)
    assert torch.equal(sharp.sample(), value)
    torch.testing.assert_close(sharp.log_prob(value), expected.log_prob(value))


def test_what_cannot_be_tempered():
    for fn in (dist.Normal(0.0, 1.0), dist.Categorical(torch.ones(3)).expand([2]).to_event(1), dist.Delta(LOGITS)):
        assert tempered(fn, 0.5) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0.9}, r"no site of the model can be tempered \(it draws codes, z, x\)"),
        ({"top_k": 5}, "codes with a learned autoregressive prior can"),
        ({"temperature": 0.0}, "temperature must be a positive number, got 0"),
        ({"temperature": float("nan")}, "temperature must be a positive number"),
        ({"temperature": float("inf")}, "temperature must be a positive number"),
        ({"top_k": 0}, "top_k must be a positive integer, got 0"),
    ],
)
def test_what_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        sample(OneLevel().model, 3, **options)


def test_a_module_with_a_learned_prior():
    pair = WithPriors(Table(8, (4, 4)))
    sharp = sample(pair, 40, temperature=1e-3)["codes"]
    assert torch.equal(sharp, pair.priors["codes"].logits[0].argmax(-1).expand(40, 4, 4))

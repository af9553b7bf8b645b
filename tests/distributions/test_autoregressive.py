"""The autoregressive distribution against enumeration, and against a table of conditionals written by hand."""

import itertools
import math

import pytest
import torch
from prior_cases import codes, context, prior

from pyro_vae.distributions import Autoregressive
from pyro_vae.errors import InputError
from pyro_vae.priors import GatedPixelCNN, TransformerPrior, WaveNet

TINY = {
    "pixelcnn": lambda: GatedPixelCNN(3, (2, 2), channels=4, num_layers=2, kernel=3),
    "attention": lambda: GatedPixelCNN(
        2, (2, 3), channels=4, num_layers=2, kernel=3, attention_heads=2, attention_every=1
    ),
    "wavenet": lambda: WaveNet(3, (4,), channels=4, num_layers=3),
    "transformer": lambda: TransformerPrior(2, (3, 2), width=4, num_layers=3, heads=2, attention="sparse", window=3),
}


def tiny(name):
    """A network with strong preferences: untrained logits are nearly equal."""
    network = TINY[name]().double().eval()
    with torch.no_grad():
        network.head[-1].weight.mul_(10)
    return network()


def all_grids(distribution):
    shape = distribution.event_shape
    values = itertools.product(range(distribution.num_codes), repeat=math.prod(shape))
    return torch.tensor(list(values)).reshape(-1, *shape)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        (1.0, None, None),
        (0.4, None, None),
        (3.0, None, None),
        (1.0, 1, None),
        (0.7, 2, None),
        (1.0, None, 0.6),
        (2, 2, 0.7),
    ],
)
def test_probabilities_of_all_grids_sum_to_one(name, temperature, top_k, top_p):
    distribution = tiny(name).tempered(temperature, top_k, top_p)
    total = distribution.log_prob(all_grids(distribution)).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.5, None), (1.5, 2), (1.0, 1)])
def test_samples_follow_the_probabilities(name, temperature, top_k):
    distribution = tiny(name).tempered(temperature, top_k)
    grids = all_grids(distribution)
    probabilities = distribution.log_prob(grids).exp()
    drawn = distribution.sample((20_000,))
    powers = distribution.num_codes ** torch.arange(grids[0].numel()).flip(0)
    counts = (drawn.flatten(1) * powers).sum(1).bincount(minlength=len(grids))
    assert not counts[probabilities == 0].any()
    expected = 20_000 * probabilities
    often = expected > 5
    chi_square = ((counts - expected) ** 2 / expected)[often].sum().item()
    freedom = int(often.sum()) - 1
    assert chi_square <= freedom + 5 * math.sqrt(2 * freedom)  # five standard deviations


def by_hand(logits, code, temperature, top_k, top_p):
    """log p of one code of one position, as one would write it."""
    weights = [math.exp(v / temperature) for v in logits]
    kept = weights if top_k is None else [w for w in weights if w >= sorted(weights)[-top_k]]
    if top_p is not None:
        first, whole = sorted(kept, reverse=True), sum(kept)
        while len(first) > 1 and sum(first[:-1]) / whole >= top_p:  # enough without the last one
            first.pop()
        kept = first
    return math.log(weights[code] / sum(kept)) if weights[code] in kept else -math.inf


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        (1.0, None, None),
        (0.5, None, None),
        (1.0, 3, None),
        (2.0, 2, None),
        (1.0, 6, None),
        (1.0, None, 0.8),
        (0.3, None, 0.5),
        (1.0, None, 1.0),
        (1.0, None, 1e-9),
        (0.7, 4, 0.75),
    ],
)
def test_log_prob_by_hand(temperature, top_k, top_p):
    network = prior("pixelcnn-attention")
    distribution, grids = network().tempered(temperature, top_k, top_p), codes(network, 40)
    rows = network.logits(grids, {}).flatten(2).movedim(1, -1).tolist()  # grids x positions x K
    expected = [
        sum(by_hand(logits, code, temperature, top_k, top_p) for logits, code in zip(row, grid, strict=True))
        for row, grid in zip(rows, grids.flatten(1).tolist(), strict=True)
    ]
    found = distribution.log_prob(grids)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), rtol=1e-10, atol=0)


def test_equal_logits_all_stay_among_the_top():
    """Which of equals is among the top k is nobody's choice: as many stay as are equal to the k-th."""

    class Flat:
        def logits(self, codes, condition):
            return torch.zeros(len(codes), 4, *codes.shape[1:])

    distribution = Autoregressive(Flat(), 4, (2, 2)).tempered(top_k=1)
    assert distribution.log_prob(torch.zeros(2, 2, dtype=torch.int64)).item() == pytest.approx(-4 * math.log(4))


def test_shapes_and_expansion():
    network = prior("pixelcnn-label")
    distribution = network(y=torch.tensor([0, 2]))
    assert (distribution.batch_shape, distribution.event_shape) == ((2,), (5, 4))
    wide = distribution.expand((3, 2))
    assert wide.batch_shape == (3, 2) and wide.sample((4,)).shape == (4, 3, 2, 5, 4)
    assert distribution.sample().dtype == torch.int64 and distribution.sample((0,)).shape == (0, 2, 5, 4)
    some = codes(network)
    torch.testing.assert_close(wide.log_prob(some), distribution.log_prob(some).expand(3, 2))
    many = codes(network, 3, 1)
    expected = torch.stack([distribution.log_prob(one) for one in many])
    torch.testing.assert_close(wide.log_prob(many), expected)
    assert wide.tempered(0.5, 2).expand((5, 3, 2)).temperature == 0.5
    plain = prior("wavenet")()
    assert plain.batch_shape == () and plain.sample().shape == (20,) and plain.log_prob(plain.sample()).shape == ()
    assert plain.expand((2,)).log_prob(plain.sample()).shape == (2,)


def test_a_context_of_fewer_dimensions_is_not_multiplied_by_particles():
    """One pass over the grids that differ: a batch shape that only repeats costs nothing."""
    network, passes = prior("pixelcnn"), []
    original = network.logits
    network.logits = lambda codes, condition: passes.append(len(codes)) or original(codes, condition)
    network().expand((1000, 2)).log_prob(codes(network, 2))
    assert passes == [2]


def test_tempered_takes_the_place_of_tempered():
    distribution = prior("wavenet")()
    some = distribution.sample()
    again = distribution.tempered(0.5, 2).tempered()
    assert torch.equal(again.log_prob(some), distribution.log_prob(some))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_bad_temperature(temperature):
    with pytest.raises(InputError, match="temperature must be a positive number, got"):
        prior("wavenet")().tempered(temperature)


@pytest.mark.parametrize("top_k", [0, -1, 7])
def test_bad_top_k(top_k):
    with pytest.raises(InputError, match=f"between 1 and the number of codes, 6, got {top_k}"):
        prior("wavenet")().tempered(top_k=top_k)


@pytest.mark.parametrize("top_p", [0.0, -0.1, 1.01, math.nan])
def test_bad_top_p(top_p):
    with pytest.raises(InputError, match=f"top_p must be a probability above 0, got {top_p}"):
        prior("wavenet")().tempered(top_p=top_p)


def test_values_outside_the_support_are_refused():
    network = prior("pixelcnn")
    distribution, some = network(), codes(network, 3)
    assert distribution.support.check(some).all() and distribution.support.event_dim == 2
    for bad in (-1, 6):
        some[0, 0, 0] = bad
        assert distribution.support.check(some).tolist() == [False, True, True]
        with pytest.raises(ValueError, match="support"):
            Autoregressive(network, 6, (5, 4), validate_args=True).log_prob(some)


@pytest.mark.parametrize("name", ["pixelcnn-all", "wavenet-all", "transformer-all"])
def test_half_precision_logits_are_normalized_in_single(name):
    network = prior(name).float()
    some, given = codes(network, 3), context(network, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = network(**given).log_prob(some)
        drawn = network(**given).sample()
    assert half.dtype == torch.float32 and drawn.shape == some.shape
    torch.testing.assert_close(half, network(**given).log_prob(some), rtol=2e-2, atol=0)


class Fixed:
    """The same probabilities at every position, exact in binary."""

    def __init__(self, probabilities):
        self.values = torch.tensor(probabilities, dtype=torch.float64).log()

    def logits(self, codes, condition):
        return self.values[None, :, None].expand(len(codes), -1, codes.shape[-1])


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.25, 1), (0.5, 1), (0.500001, 2), (0.75, 2), (0.7500001, 4), (0.875, 4), (1.0, 4)],
)
def test_top_p_keeps_the_fewest_codes_that_reach_it_also_at_the_very_boundary(top_p, kept):
    """Probabilities 1/2, 1/4, 1/8, 1/8: those that reach p exactly are enough; equal ones stay together."""
    fixed = Fixed([0.125, 0.5, 0.125, 0.25])
    distribution = Autoregressive(fixed, 4, (1,)).tempered(top_p=top_p)
    found = distribution.log_prob(torch.arange(4)[:, None]).exp()
    order = torch.tensor([1, 3, 0, 2])[:kept]
    wanted = torch.zeros(4, dtype=torch.float64)
    wanted[order] = fixed.values.exp()[order]
    torch.testing.assert_close(found, wanted / wanted.sum(), rtol=1e-12, atol=0)

"""Label and coarser codes as context: that they matter, where, and with any leading dimensions."""

import itertools

import pyro
import pytest
import torch
from prior_cases import codes, context, prior
from pyro.infer import Predictive

from pyro_vae.errors import InputError
from pyro_vae.priors import GatedPixelCNN, WaveNet
from pyro_vae.priors.conditioning import CoarserCodes
from pyro_vae.recording import Recording

BOTH = pytest.mark.parametrize("name", ["pixelcnn-all", "wavenet-all", "transformer-all"])


@BOTH
def test_the_label_changes_the_logits_everywhere(name):
    network = prior(name)
    some, given = codes(network, 1), context(network, 1)
    logits = []
    for label in range(3):
        given["y"] = torch.tensor([label])
        logits.append(network.logits(some, network(**given).condition).flatten(2))
    for one, other in itertools.combinations(logits, 2):
        assert ((one - other).abs().amax(1) > 1e-6).all()


@BOTH
def test_every_coarser_code_matters_even_at_the_first_position(name):
    network = prior(name)
    some, given = codes(network, 1), context(network, 1)
    before = network.logits(some, network(**given).condition).flatten(2)
    for site, grid in network.coarser.items():
        flat = given[site].flatten(1)
        for j in range(flat.shape[1]):
            changed = flat.clone()
            changed[:, j] = (changed[:, j] + 1) % grid.num_codes
            other = network(**{**given, site: changed.reshape(given[site].shape)})
            difference = (network.logits(some, other.condition).flatten(2) - before).abs().amax(1)[0]
            assert difference.max() > 1e-6
            assert j > 0 or difference[0] > 1e-6


def test_positions_under_one_coarse_code_differ():
    """Features enlarged by nearest neighbours are the same under a code; what is around tells the positions apart."""
    stack = CoarserCodes({"codes_top": (5, (4, 4))}, (8, 8), 6)
    features = stack({"codes_top": torch.randint(5, (1, 4, 4))})
    blocks = features.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)  # (1, 6, 4, 4, 4)
    assert (blocks.amax(-1) - blocks.amin(-1)).amax(1).min() > 1e-4


@pytest.mark.parametrize("shape", [(3, 2), (5, 4), (1, 1)])
def test_enlarging_takes_the_nearest(shape):
    stack = CoarserCodes({"top": (7, shape)}, (5, 4), 3, num_blocks=0)
    torch.nn.init.zeros_(stack.last.here.weight)
    torch.nn.init.zeros_(stack.last.here.bias)
    top = torch.randint(7, (2, *shape))
    rows = torch.tensor([i * shape[0] // 5 for i in range(5)])
    columns = torch.tensor([j * shape[1] // 4 for j in range(4)])
    expected = stack.embeddings["top"](top[:, rows][:, :, columns]).movedim(-1, 1)
    torch.testing.assert_close(stack({"top": top}), expected, rtol=0, atol=0)


@BOTH
def test_leading_dimensions_of_context_and_codes(name):
    """Particles x data: each entry is what it is alone."""
    network = prior(name)
    given = context(network, 2)  # of the data
    site = next(iter(network.coarser))
    given[site] = torch.randint(4, (3, 2, *network.coarser[site].shape))  # of each particle
    some = codes(network, 3, 2)
    distribution = network(**given)
    assert distribution.batch_shape == (3, 2) and distribution.event_shape == network.shape
    found = distribution.log_prob(some)
    assert found.shape == (3, 2)
    for i, j in itertools.product(range(3), range(2)):
        one = {n: v[j] for n, v in given.items()} | {site: given[site][i, j]}
        alone = network(**one)
        assert alone.batch_shape == ()
        torch.testing.assert_close(found[i, j], alone.log_prob(some[i, j]), rtol=1e-10, atol=0)
    shared = network(**context(network, 2))
    torch.testing.assert_close(shared.log_prob(some)[1], shared.log_prob(some[1]), rtol=1e-10, atol=0)


@BOTH
def test_in_a_program_with_particles(name):
    network = prior(name)
    given = context(network, 2)

    def program(seen=None):
        with pyro.plate("data", 2, dim=-1):
            return pyro.sample("codes", network(**given), obs=seen)

    some = codes(network, 2)
    trace = pyro.poutine.trace(program).get_trace(some)
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["codes"]["log_prob"], network(**given).log_prob(some))
    drawn = Predictive(program, num_samples=3, parallel=True)()["codes"]
    assert drawn.shape == (3, 2, *network.shape) and drawn.dtype == torch.int64
    assert not torch.equal(drawn[0], drawn[1])


@BOTH
def test_recorded(name):
    """A graph of the loss and its gradient, made once, equal to the function; every parameter takes part."""
    network = prior(name)
    batch = {"codes": codes(network, 5), **context(network, 5)}

    def loss(codes, **given):
        return (-network(**given).log_prob(codes).mean(),)

    recording = Recording(network, loss, batch, True)
    other = {"codes": codes(network, 5), **context(network, 5)}
    recording.check(other, 1e-9)
    _, gradients = recording(other)
    names = [name for name, _ in network.named_parameters()]
    dead = [n for n, g in zip(names, gradients, strict=True) if g is None or not g.abs().max() > 0]
    assert dead == []


@BOTH
def test_what_is_missing_or_wrong_is_named(name):
    network = prior(name)
    given = context(network, 2)
    with pytest.raises(InputError, match=r"not given.*'y': class labels from 0 to 2"):
        network(**{**given, "y": None})
    with pytest.raises(InputError, match="'codes_top': codes from 0 to 3"):
        network(**{n: v for n, v in given.items() if n != "codes_top"})
    with pytest.raises(InputError, match=r"'codes_top' of shape .* got \(2, 9"):
        network(**{**given, "codes_top": torch.zeros(2, *[9] * len(network.shape), dtype=torch.int64)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GatedPixelCNN(8, (64,)), r"needs a grid \(height, width\), got \(64,\): WaveNet is for sequences"),
        (lambda: WaveNet(8, (8, 8)), r"needs a sequence \(length,\), got \(8, 8\): GatedPixelCNN is for grids"),
        (lambda: GatedPixelCNN(8, (4, 4), kernel=4), "kernel must be odd and at least 3, got 4"),
        (lambda: GatedPixelCNN(8, (4, 4), kernel=1), "kernel must be odd and at least 3, got 1"),
        (lambda: WaveNet(8, (4,), kernel=1), "kernel must be at least 2, got 1"),
        (lambda: WaveNet(8, (4,), cycle=0), "cycle must be a positive integer or None, got 0"),
        (lambda: GatedPixelCNN(8, (4, 4), channels=6, attention_heads=4), "divide the 6 channels, got 4"),
        (lambda: GatedPixelCNN(8, (4, 4), attention_heads=-1), "attention_heads must not be negative"),
        (lambda: GatedPixelCNN(8, (4, 4), attention_heads=2, attention_every=9), r"attention_every .* 8 layers, got 9"),
        (lambda: GatedPixelCNN(8, (4, 4), channels=0), "channels must be a positive integer, got 0"),
        (lambda: WaveNet(8, (4,), num_layers=0), "num_layers must be a positive integer, got 0"),
        (lambda: WaveNet(8, (4,), dropout=1.0), "dropout must be a probability below 1, got 1.0"),
        (lambda: WaveNet(0, (4,)), "must be positive"),
        (lambda: GatedPixelCNN(8, (4, 0)), "must be positive"),
        (lambda: GatedPixelCNN(8, (4, 4), coarser={"top": (8, (4,))}), r"'top'.*\(4,\) has another rank"),
        (lambda: GatedPixelCNN(8, (4, 4), coarser={"top": (8, (2, 5))}), r"'top'.*\(2, 5\) is finer than the own"),
    ],
)
def test_sizes_that_cannot_be(make, message):
    with pytest.raises(InputError, match=message):
        make()

"""Memory budgets of the ELBO and the statistics: they bound what is computed at once, and change no number."""

import numpy
import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import PPCA
from pyro.distributions.transforms import Planar
from torch import nn

from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation import ais, bidirectional, code_statistics, elbo, latent_statistics, log_likelihood
from pyro_vae.evaluation.chunks import UNIT, Chunks
from pyro_vae.guides import GaussianGuide, LadderGuide
from pyro_vae.likelihoods import RecurrentTokens
from pyro_vae.models import VAE, HierarchicalVAE
from pyro_vae.networks import RecurrentEncoder
from pyro_vae.programs.session import evaluating
from pyro_vae.runtime import PeakMemory, bytes_per_row, peak_bytes

MIB = 2**20


def images(count, side=28):
    return (torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(1)) < 0.3).float()


def flat_pair():
    model = VAE((1, 28, 28), latent_dim=3, hidden_dims=[40])
    return model, GaussianGuide(model, hidden_dims=[20])


def ladder_pair():
    model = HierarchicalVAE((1, 28, 28), latent_dims=[4, 3], hidden_dims=[16, 12])
    return model, LadderGuide(model, hidden_dims=[16, 12])


def repeating_pair():
    """A decoder that takes one batch dimension: each datum is repeated instead of a plate of particles."""
    encoder, decoder = nn.Linear(784, 4), nn.Linear(2, 784)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z).view(-1, 1, 28, 28)).to_event(3), obs=x)

    def guide(x):
        loc, raw = encoder(x.flatten(1)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    return model, guide


def plates_pair():
    """A plate inside a datum, and a site that has Gamma draws, whose random numbers depend on their parameters."""
    net = nn.Linear(784, 5)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            g = pyro.sample("g", dist.Gamma(2.0, 1.0))
            with pyro.plate("parts", 4, dim=-2):
                z = pyro.sample("z", dist.Normal(0.0, g))
            mean = z.sum(-2)[..., None, None, None].expand(*z.shape[:-2], len(x), 1, 28, 28)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(3), obs=x)

    def guide(x):
        out = net(x.flatten(1)).T  # (5, N)
        with pyro.plate("data", len(x), dim=-1):
            g = pyro.sample("g", dist.Gamma(out[0].exp(), 1.0))
            with pyro.plate("parts", 4, dim=-2):
                pyro.sample("z", dist.Normal(out[1:] + g.unsqueeze(-2), 0.5))

    return model, guide


PAIRS = {
    "flat": (flat_pair, 0.6),
    "ladder": (ladder_pair, 1.0),
    "repeated": (repeating_pair, 5.0),
    "plates": (plates_pair, 5.0),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.filterwarnings("ignore")
def test_no_number_depends_on_the_budget(name):
    make, least = PAIRS[name]
    pair, x = make(), images(130)
    runs = []
    for budget in (512, 8, least):
        with torch.random.fork_rng():
            given = {"memory_budget": int(budget * MIB), "seed": 3}
            bound = elbo(*pair, x, num_particles=10, **given)
            closed = elbo(*pair, x, num_particles=10, analytic_kl=False, **given)
            runs.append((bound, closed, latent_statistics(*pair, x, num_particles=10, **given).sites))
    for bound, closed, sites in runs[1:]:
        torch.testing.assert_close(bound.per_datum, runs[0][0].per_datum, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(closed.per_datum, runs[0][1].per_datum, rtol=1e-5, atol=1e-4)
        for site, found in sites.items():
            torch.testing.assert_close(found.kl_per_unit, runs[0][2][site].kl_per_unit, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found.variance, runs[0][2][site].variance, rtol=1e-4, atol=1e-6)
    assert not torch.equal(elbo(*pair, x, seed=4).per_datum, runs[0][0].per_datum)


@pytest.mark.parametrize("budget", [pytest.param(1, marks=pytest.mark.slow), 4, 64])
def test_tensors_of_all_estimators_stay_within_the_budget(budget):
    """Also what checks the data before, and what measures how much a particle takes."""
    (model, guide), x = flat_pair(), images(600)
    given = {"memory_budget": budget * MIB}
    allowed = max(budget, 5) * MIB  # data are checked in pieces of 4 MiB
    for estimate in (elbo, latent_statistics, code_statistics):
        assert peak_bytes(lambda estimate=estimate: estimate(model, guide, x, **given)) < allowed
    assert peak_bytes(lambda: log_likelihood(model, guide, x[:50], num_particles=300, **given)) < allowed
    few = {"num_chains": 2, "num_temperatures": 3, "num_leapfrog": 1}
    assert peak_bytes(lambda: ais(model, guide, x[:100], **few, **given)) < allowed
    assert peak_bytes(lambda: bidirectional(model, guide, 20, **few, **given)) < allowed


def test_large_images_are_computed_one_by_one_and_in_parts_of_their_particles():
    """What the issue measured: 2.8 GB at 64 MiB; and a datum whose draws together exceed what is drawn at once."""
    decoder = nn.Sequential(nn.Linear(2, 8 * 32 * 32), nn.Unflatten(-1, (8, 32, 32)), nn.Upsample(scale_factor=4))
    wide = nn.Conv2d(8, 3, 1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            flat = wide(decoder(z.reshape(-1, 2)))
            pyro.sample("x", dist.Normal(flat.reshape(*z.shape[:-1], 3, 128, 128), 1.0).to_event(3), obs=x)

    def guide(x):
        loc = x.mean((1, 2, 3))[:, None].expand(-1, 2)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))

    with torch.no_grad():
        x = torch.rand(8, 3, 128, 128)
        results = []
        for budget in (512, 64, 16):
            peak = peak_bytes(lambda b=budget: results.append(elbo(model, guide, x, memory_budget=b * MIB)))
            assert peak < budget * MIB
            peak = peak_bytes(lambda b=budget: latent_statistics(model, guide, x, memory_budget=b * MIB))
            assert peak < max(budget, 24) * MIB, budget
    for found in results[1:]:
        torch.testing.assert_close(found.per_datum, results[0].per_datum, rtol=1e-5, atol=0.0)
    with pytest.raises(InputError, match=r"memory_budget 1048576 bytes is too small: one particle of one datum takes"):
        elbo(model, guide, x, memory_budget=MIB)


def test_particles_that_do_not_fit_together_are_drawn_in_turns():
    ppca = PPCA(dtype=torch.float32)
    x = ppca.sample(2)
    with evaluating(ppca.model, ppca.exact_guide, x, 0) as (pair, split):
        chunks = Chunks(pair, split, 4_000_000, 2**29)
        assert chunks.data == 1 and 1000 < chunks.particles < 4_000_000
        shares = []
        Chunks(pair, split, 2_000_000, 2**29).run(lambda p: shares.append((p.rows, p.share, p.last)))
    for row in (0, 1):
        of_row = [(share, last) for rows, share, last in shares if rows == slice(row, row + 1)]
        assert sum(share for share, _ in of_row) == pytest.approx(1.0) and len(of_row) > 1
        assert [last for _, last in of_row] == [False] * (len(of_row) - 1) + [True]


def test_a_chunk_is_never_larger_than_the_unit():
    model, guide = flat_pair()
    with evaluating(model, guide, images(400), 0) as (pair, split), torch.no_grad():
        chunks = Chunks(pair, split, 10, 2**29)
        with PeakMemory() as memory:
            chunks.run(lambda piece: None)
        assert not chunks.split_up and memory.peak < UNIT


@pytest.mark.filterwarnings("ignore")
def test_a_flow_without_an_inverse_draws_anew_for_each_piece():
    """Its density is known of its own draws only; the numbers then agree as far as draws do."""
    flow, net = Planar(2), nn.Linear(784, 2)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = z.sum(-1)[..., None, None, None].expand(*z.shape[:-1], 1, 28, 28)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(dist.Normal(net(x.flatten(1)), 0.1).to_event(1), [flow]))

    x = images(60)
    wide, narrow = (elbo(model, guide, x, num_particles=100, memory_budget=int(b * MIB)) for b in (512, 1.1))
    assert wide.mean == pytest.approx(narrow.mean, abs=3.0) and wide.mean != narrow.mean


def test_codes_that_are_drawn_do_not_depend_on_the_budget():
    net = nn.Linear(784, 5 * 6)

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("codes", dist.Categorical(torch.ones(5, 6)).to_event(1))
            pyro.sample("x", dist.Normal(torch.zeros(1, 28, 28), 1.0).to_event(3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("codes", dist.Categorical(logits=net(x.flatten(1)).unflatten(-1, (5, 6))).to_event(1))

    x = images(700)
    wide, narrow = (code_statistics(model, guide, x, memory_budget=b * MIB).sites["codes"] for b in (512, 10))
    assert torch.equal(wide.counts, narrow.counts) and wide.counts.sum() == 3500
    with pytest.raises(InputError, match=r"small: the guide draws for 500 data at once, which takes \d+ bytes; \d+"):
        code_statistics(model, guide, x, memory_budget=50_000)


def test_budgets_that_are_too_small_or_no_numbers():
    ppca = PPCA(dtype=torch.float32)
    for estimate in (elbo, latent_statistics, code_statistics):
        for bad in (0, -1, 2.5, True):
            with pytest.raises(InputError, match="memory_budget must be a positive integer"):
                estimate(ppca.model, ppca.exact_guide, ppca.sample(3), memory_budget=bad)
    for estimate in (elbo, latent_statistics):
        with pytest.raises(InputError, match=r"memory_budget 8 bytes is too small: one particle .* takes \d+ bytes"):
            estimate(ppca.model, ppca.exact_guide, ppca.sample(3), memory_budget=8)


def test_probing_runs_within_the_limit():
    """A row of 100 kB: three of them would be more than the limit."""
    runs = []

    def run(rows):
        runs.append(rows)
        return torch.ones(rows, 25_000) + 1.0

    assert bytes_per_row(run, most=250_000) == pytest.approx(200_000, rel=0.3) and runs == [1]
    runs.clear()
    assert bytes_per_row(run, first=4, most=10**6) == pytest.approx(200_000, rel=0.3)
    assert max(runs) * 100_000 <= 10**6


def test_masked_data_are_counted_in_the_budget():
    """Masks are looked at by running the programs, which is bounded as well."""
    net = nn.Linear(784, 784)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            fn = dist.Normal(net(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 784)), 1.0)
            pyro.sample("x", fn.mask((x > 0.5).flatten(1)).to_event(1), obs=x.flatten(1))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.flatten(1)[:, :2], 1.0).to_event(1))

    x = Split({"x": images(900)})
    results = []
    peak = peak_bytes(lambda: results.append(log_likelihood(model, guide, x, num_particles=3, memory_budget=4 * MIB)))
    assert peak < 12 * MIB
    assert results[0].num_dimensions == pytest.approx((x.tensors["x"] > 0.5).double().sum().item() / 900)


def test_a_short_sequence_that_comes_first_does_not_tell_what_the_others_take(tmp_path):
    length, budget = 50, 2**23
    likelihood = RecurrentTokens((length,), 10, features=4, embedding_dim=4, hidden_dim=64, cell="gru")
    model = VAE((length,), latent_dim=2, likelihood=likelihood, hidden_dims=())
    guide = GaussianGuide(model, RecurrentEncoder((length,), 10, outputs=4, embedding_dim=4, hidden_dim=4, cell="gru"))
    x = torch.randint(1, 10, (4, length))
    x[:, -1] = 0
    x[0, 1:] = 0
    numpy.save(tmp_path / "x.npy", x.numpy())
    split = Split({"x": x}, integers=True)
    for each in (split, Split({"x": numpy.load(tmp_path / "x.npy", mmap_mode="r")}, integers=True)):
        assert each.largest() == slice(1, 2)
    assert peak_bytes(lambda: log_likelihood(model, guide, split, num_particles=100, memory_budget=budget)) < budget

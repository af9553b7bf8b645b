"""Codes in a pair of plain functions: which sites they are, how they are used, and what is exact about them."""

import logging
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from code_pairs import NOISE, OneLevel, Signals, TwoLevels, decoded, images
from pyro import poutine

from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation import code_statistics, elbo, latent_statistics, log_likelihood
from pyro_vae.evaluation.codes import CodeSite, code_sites, sites_of_codes
from pyro_vae.evaluation.encoding import encode, free_sites, mean_path, posterior_samples
from pyro_vae.evaluation.generate import decode, reconstruct, sample
from pyro_vae.evaluation.hierarchy import levels_of


# ------------------------------------------------------------------ which sites are codes
def test_code_sites_are_found_by_the_model_s_support():
    def model(x):
        pyro.sample("shared", dist.Categorical(torch.ones(3)))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("single", dist.Categorical(torch.ones(4)))
            pyro.sample("row", dist.Categorical(torch.ones(2, 5)).to_event(1))
            pyro.sample("grid", dist.Categorical(torch.ones(2, 3, 6)).to_event(2).mask(torch.tensor(True)))
            with pyro.plate("inner", 7, dim=-2):
                pyro.sample("inside", dist.Categorical(torch.ones(3)))
            pyro.sample("count", dist.Binomial(torch.arange(len(x)) + 1.0, torch.tensor(0.5)))  # K differs
            pyro.sample("bit", dist.Bernoulli(0.5))
            pyro.sample("real", dist.Normal(0.0, 1.0))
            pyro.sample("point", dist.Delta(torch.zeros(len(x), dtype=torch.int64)))
            pyro.sample("x", dist.Categorical(torch.ones(2)), obs=x)

    nodes = poutine.trace(model).get_trace(torch.zeros(4, dtype=torch.int64)).nodes
    assert code_sites(nodes, {"x", "row"}).keys() == {"grid", "inside"}  # labels that are known of some data
    assert code_sites(nodes) == {
        "row": CodeSite(5, (2,)),
        "grid": CodeSite(6, (2, 3)),
        "inside": CodeSite(3, (7,)),
    }


def test_sites_of_a_pair_in_the_model_s_order():
    two = TwoLevels()
    found = sites_of_codes(two.model, two.guide, images())
    assert list(found.items()) == [("codes_top", CodeSite(5, (2, 2))), ("codes_bottom", CodeSite(8, (4, 4)))]


# ------------------------------------------------------------------ how they are used
@pytest.mark.parametrize("memory_budget", [20_000, 200_000, 2**29])
def test_counts_usage_perplexity_and_entropy(memory_budget):
    two, split = TwoLevels(), images(23)
    state = torch.random.get_rng_state()
    statistics = code_statistics(two.model, two.guide, split, memory_budget=memory_budget)
    assert torch.equal(state, torch.random.get_rng_state())
    assert list(statistics.sites) == ["codes_top", "codes_bottom"] and statistics.num_data == 23
    quantized = two.quantized(split.tensors["x"])
    for name, site in statistics.sites.items():
        codes = quantized[name].flatten().tolist()
        counts = [codes.count(k) for k in range(site.num_codes)]
        assert site.counts.tolist() == counts and site.counts.dtype == torch.int64
        assert site.num_used == len(set(codes)) and site.usage == len(set(codes)) / site.num_codes
        shares = [c / len(codes) for c in counts if c]
        entropy = -sum(p * math.log2(p) for p in shares)
        assert site.entropy == pytest.approx(entropy) and site.perplexity == pytest.approx(2**entropy)
        assert site.num_positions == len(codes) / 23


def test_perplexity_lies_between_one_code_and_all():
    def pair(codes):
        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("codes", dist.Categorical(torch.ones(4, 6)).to_event(1))
                pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("codes", dist.Delta(codes[x[:, 0].long()], event_dim=1))  # of each datum by itself

        return code_statistics(model, guide, torch.arange(6.0)[:, None].expand(6, 2)).sites["codes"]

    one = pair(torch.full((6, 4), 3))
    assert (one.perplexity, one.entropy, one.num_used) == (1.0, 0.0, 1) and math.copysign(1, one.entropy) == 1
    even = pair((torch.arange(24) % 6).view(6, 4))
    assert even.perplexity == pytest.approx(6) and even.entropy == pytest.approx(math.log2(6)) and even.usage == 1
    with pytest.raises(InputError, match=r"codes from 0 to 6 at site 'codes', of which the model has 0 … 5"):
        pair((torch.arange(24) % 7).view(6, 4))


def test_draws_of_a_random_guide_are_counted():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("codes", dist.Categorical(torch.ones(1, 3)).to_event(1))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("codes", dist.Categorical(torch.tensor([0.5, 0.5, 0.0]).expand(len(x), 1, 3)).to_event(1))

    site = code_statistics(model, guide, torch.zeros(4000)).sites["codes"]
    assert site.counts.sum() == 4000 and site.counts[2] == 0 and abs(site.counts[0] - 2000) < 5 * math.sqrt(1000)
    assert torch.equal(site.counts, code_statistics(model, guide, torch.zeros(4000)).sites["codes"].counts)
    assert site.shape == (1,) and site.num_positions == 1


def test_a_model_without_codes_has_none_and_bad_numbers_are_refused():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    calls = []

    def guide(x):
        calls.append(len(x))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x, 1.0))

    statistics = code_statistics(model, guide, torch.zeros(900))
    assert statistics.sites == {} and statistics.to_dict()["sites"] == {}
    assert sum(calls) < 25  # the data are not gone through
    with pytest.raises(InputError, match="memory_budget must be a positive integer"):
        code_statistics(model, guide, torch.zeros(3), memory_budget=0)


# ------------------------------------------------------------------ what is exact
def by_hand(pair, x):
    """log p(x | z) - N log K of the one-level pair."""
    _, z = pair.quantized(x)
    mean = decoded(z, pair.decoder).double()
    log_x = -0.5 * ((x - mean) / NOISE) ** 2 - math.log(NOISE) - 0.5 * math.log(2 * math.pi)
    return log_x.flatten(1).sum(1) - 16 * math.log(pair.num_codes)


def test_the_bound_of_point_masses_is_exact_with_one_particle(caplog):
    pair, split = OneLevel(), images()
    expected = by_hand(pair, split.tensors["x"].double().float())
    rows = []

    def model(x=None, num_samples=1):
        rows.append(num_samples if x is None else len(x))
        return pair.model(x, num_samples)

    with caplog.at_level(logging.INFO):
        result = log_likelihood(model, pair.guide, split, num_particles=5000)
    torch.testing.assert_close(result.per_datum, expected, rtol=1e-5, atol=1e-3)
    assert result.num_particles == 1 and (result.effective_sample_size == 1).all()
    assert result.to_dict()["num_particles"] == 1 and result.to_dict()["effective_sample_size"] == 1.0
    (line,) = [r.getMessage() for r in caplog.records if "particle" in r.getMessage()]
    assert line == "one particle is taken: the guide draws nothing, all 5000 would be the same"
    assert sum(rows) < 5000  # of 30 * 5000; the measurement of memory included
    bound = elbo(pair.model, pair.guide, split)
    torch.testing.assert_close(bound.per_datum, expected, rtol=1e-5, atol=1e-3)
    assert bound.num_particles == 1
    torch.testing.assert_close(bound.kl["codes"], torch.full((30,), 16 * math.log(8), dtype=torch.float64))
    assert bound.to_dict()["kl"]["z"] == 0.0 and math.copysign(1, bound.to_dict()["kl"]["z"]) == 1


@pytest.mark.parametrize("vectorize", [True, False])
def test_a_guide_that_also_draws_is_no_point_mass(vectorize, caplog):
    """c ~ Categorical(1/3), w ~ N(0, 1), x ~ N(w + c, s²); the guide has a point at c, and w as wide as asked."""
    s, width = 0.5, 1.3

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", dist.Categorical(torch.ones(3)))
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(w + c, s), obs=x)

    def guide_of(factor):
        def guide(x):
            c = x.round().clamp(0, 2).long()
            loc, scale = (x - c) / (1 + s**2), factor * s / math.sqrt(1 + s**2)
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("c", dist.Delta(c))
                pyro.sample("w", dist.Normal(loc, scale))

        return guide

    x = torch.linspace(-1, 3, 20)
    expected = dist.Normal(x.round().clamp(0, 2), math.sqrt(1 + s**2)).log_prob(x) - math.log(3)
    options = {"num_particles": 400, "vectorize": vectorize}
    with caplog.at_level(logging.INFO):
        exact = log_likelihood(model, guide_of(1.0), x, **options)
        wide = log_likelihood(model, guide_of(width), x, **options)
    assert "particle" not in caplog.text
    assert exact.num_particles == wide.num_particles == 400
    torch.testing.assert_close(exact.per_datum, expected.double(), rtol=1e-5, atol=1e-5)
    assert (exact.effective_sample_size > 399.9).all() and (wide.effective_sample_size < 399).all()
    assert (wide.per_datum - expected).abs().max() < 5 * 0.5 / math.sqrt(400)
    assert elbo(model, guide_of(width), x, num_particles=7).num_particles == 7
    assert latent_statistics(model, guide_of(width), x, num_particles=7).num_particles == 7


def test_a_delta_with_a_density_was_drawn_by_somebody():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def guide(x):  # a transformed draw, as Pyro's autoguides have it
        fn = dist.Normal(x / 2, math.sqrt(0.5))
        with pyro.plate("data", len(x), dim=-1):
            u = pyro.sample("u", fn, infer={"is_auxiliary": True})
            pyro.sample("w", dist.Delta(u))

    x = torch.zeros(5)
    assert log_likelihood(model, guide, x, num_particles=9).num_particles == 9

    def own_density(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("w", dist.Delta(0.3 + x, log_density=torch.full((len(x),), -1.0)))

    with pytest.raises(InputError, match="'w': the guide has a point mass"):  # a density that nobody drew from
        log_likelihood(model, own_density, x, num_particles=9)


def test_latent_statistics_of_codes_have_no_active_units_and_vectors_no_kl():
    pair = OneLevel()
    statistics = latent_statistics(pair.model, pair.guide, images())
    codes, z = statistics.sites["codes"], statistics.sites["z"]
    assert statistics.num_particles == 1 and codes.kl == pytest.approx(16 * math.log(8), rel=1e-6)
    assert codes.variance is codes.active is codes.num_active is None and not codes.is_function
    assert z.is_function and z.variance is None and z.kl == 0.0 and math.copysign(1, z.kl) == 1
    assert "active" not in codes.to_dict() | z.to_dict()
    signals = Signals()
    units = latent_statistics(signals.model, signals.guide, torch.rand(9, 16)).sites["codes"]
    assert units.kl == pytest.approx(8 * math.log(6), rel=1e-6)


# ------------------------------------------------------------------ values
def test_integers_come_out_as_they_are():
    pair, split = OneLevel(), images()
    codes, z = pair.quantized(split.tensors["x"])
    for read in (encode, posterior_samples, mean_path):
        values = read(pair.model, pair.guide, split, batch_size=7)
        assert torch.equal(values["codes"], codes) and values["codes"].dtype == torch.int64
        assert torch.equal(values["z"], z)
        assert list(read(pair.model, pair.guide, split, sites=["codes"])) == ["codes"]


def test_a_mean_of_counts_is_never_a_code():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            n = pyro.sample("n", dist.Binomial(4, torch.tensor(0.5)))
            pyro.sample("x", dist.Normal(n, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("n", dist.Binomial(4, torch.full((len(x),), 0.3)))

    path = mean_path(model, guide, torch.zeros(50))["n"]
    assert torch.equal(path, path.round()) and len(path.unique()) > 1
    assert encode(model, guide, torch.zeros(3))["n"].tolist() == pytest.approx([1.2] * 3)  # the mean of the posterior


def test_generation_reconstruction_and_decoding():
    pair, split = OneLevel(), images(6)
    drawn = sample(pair.model, 9)
    assert drawn["codes"].dtype == torch.int64 and drawn["codes"].shape == (9, 4, 4)
    torch.testing.assert_close(drawn["x.mean"], decoded(pair.codebook[drawn["codes"]].movedim(-1, -3), pair.decoder))
    codes, z = pair.quantized(split.tensors["x"])
    mean = reconstruct(pair.model, pair.guide, split.batch(slice(0, 6)))
    torch.testing.assert_close(mean, decoded(z, pair.decoder))
    assert torch.equal(mean, decode(pair.model, {"codes": codes}))
    assert torch.equal(mean, decode(pair.model, {"z": z}))
    for bad in (codes + 8, codes - 8, codes + 0.5):
        with pytest.raises(InputError, match="values of latent site 'codes' must be integers from 0 to 7"):
            decode(pair.model, {"codes": bad})


def test_free_sites_are_real_and_no_functions_of_others():
    pair = OneLevel()
    assert free_sites(pair.model, pair.guide, images()) == []

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("sum", dist.Delta(z.sum(-1)))
            pyro.sample("k", dist.Categorical(torch.ones(3)))
            pyro.sample("row", dist.Categorical(torch.ones(2, 3)).to_event(1))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Delta(torch.zeros(len(x), 2), event_dim=1))  # no function of others in the model
            pyro.sample("sum", dist.Delta(z.sum(-1)))
            pyro.sample("k", dist.Categorical(torch.ones(len(x), 3)))
            pyro.sample("row", dist.Categorical(torch.ones(len(x), 2, 3)).to_event(1))

    state = torch.random.get_rng_state()
    assert free_sites(model, guide, torch.zeros(5)) == ["z"]
    assert free_sites(model, guide, torch.zeros(5), counted=True) == ["z", "k"]
    assert torch.equal(state, torch.random.get_rng_state())


def test_class_labels_are_no_codes():
    """Neither a single class nor several labels that the model takes where they are known: no codebook is reported."""

    def model(x, tags=None):
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y", dist.Categorical(torch.ones(10)))
            tags = pyro.sample("tags", dist.Categorical(torch.ones(2, 3)).to_event(1), obs=tags)
            pyro.sample("x", dist.Normal(0.1 * (y + tags.sum(-1)), 1.0), obs=x)

    def guide(x, tags=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("y", dist.Categorical(torch.ones(len(x), 10)))
            if tags is None:
                pyro.sample("tags", dist.Categorical(torch.ones(len(x), 2, 3)).to_event(1))

    split = Split({"x": torch.zeros(6)})
    assert sites_of_codes(model, guide, split) == code_statistics(model, guide, split).sites == {}
    assert [level.is_code for level in levels_of(model, guide, split)] == [False, False]
    assert list(latent_statistics(model, guide, split).sites) == ["y", "tags"]  # what they say of the data is told

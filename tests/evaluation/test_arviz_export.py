"""The export to ArviZ: what each group holds, against closed forms; resampling; and what is said without ArviZ."""

import builtins
import math
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import PPCA

from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation import to_arviz
from pyro_vae.evaluation.arviz import Particles, Resampled


@pytest.fixture
def arviz(monkeypatch):
    """A stand-in that gives back what it is given, so that these tests need no ArviZ."""
    stand_in = SimpleNamespace(__version__="0.23.4", from_dict=lambda **groups: SimpleNamespace(**groups))
    monkeypatch.setitem(sys.modules, "arviz", stand_in)


def parts(ppca, x, z, mean, scale):
    """log p(x | z) and log w by hand, for draws (draw, N, latent)."""
    z = torch.as_tensor(z).double()
    log_x = dist.Normal(z @ ppca.weight.T + ppca.bias, ppca.noise).log_prob(x).sum(-1)
    log_z = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    return log_x, log_x + log_z - dist.Normal(mean, scale).log_prob(z).sum(-1)


# ------------------------------------------------------------------ the groups
@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("resample", [False, True])
def test_the_groups_hold_what_they_say(arviz, monkeypatch, vectorize, resample):
    monkeypatch.setattr("pyro_vae.evaluation.arviz.CHUNK", 40_000)  # several batches, several chunks
    ppca = PPCA()
    x = ppca.sample(7)
    options = {"num_draws": 300, "resample": resample, "num_particles": 500, "vectorize": vectorize}
    found = to_arviz(ppca.model, ppca.rough_guide(), Split({"x": x}, name="toy"), **options)
    z, log_w, log_x = found.posterior["z"], found.sample_stats["log_weight"], found.log_likelihood["x"]
    assert z.shape == (1, 300, 7, 3) and log_w.shape == log_x.shape == (1, 300, 7)
    scale = ppca.posterior_covariance.diagonal().sqrt()
    expected = parts(ppca, x, z[0], ppca.posterior_mean(x) + 0.5 * scale, 2.5 * scale)
    np.testing.assert_allclose(log_x[0], expected[0], rtol=1e-8)
    np.testing.assert_allclose(log_w[0], expected[1], rtol=1e-7, atol=1e-8)
    assert np.array_equal(found.observed_data["x"], x.numpy())
    constant = found.constant_data
    error = np.sqrt(1 / constant["effective_sample_size"] - 1 / found.attrs["num_particles"])
    assert (np.abs(constant["log_marginal_likelihood"] - ppca.log_prob(x).numpy()) < 5 * error).all()
    assert constant["pareto_k"].shape == (7,) and (constant["pareto_k"] < 0.5).all()
    assert found.coords == {"datum": list(range(7))}
    assert set(found.dims) == {"z", "x", "log_weight", *constant} and set(map(tuple, found.dims.values())) == {
        ("datum",)
    }
    assert found.attrs["num_particles"] == (500 if resample else 300) and found.attrs["data"] == "toy"
    if not resample:
        bound = torch.as_tensor(log_w[0]).logsumexp(0) - math.log(300)
        np.testing.assert_allclose(constant["log_marginal_likelihood"], bound, rtol=1e-9)


def test_resampled_draws_are_the_posterior_s_and_plain_ones_the_guide_s(arviz):
    """10,000 particles of effective size about 2000: the draws' moments come near the exact posterior's."""
    ppca = PPCA()
    x = ppca.sample(20)
    guide = ppca.rough_guide(stretch=1.6, shift=0.8)
    mean, scale = ppca.posterior_mean(x), ppca.posterior_covariance.diagonal().sqrt()
    standardized, spread = {}, {}
    for resample in (False, True):
        found = to_arviz(ppca.model, guide, x, num_draws=2000, resample=resample, num_particles=10_000)
        z = torch.as_tensor(found.posterior["z"][0])
        standardized[resample] = ((z.mean(0) - mean) / scale).mean()
        spread[resample] = torch.stack([z[:, i].T.cov() for i in range(20)]).mean(0)
    assert standardized[False].item() == pytest.approx(0.8, abs=0.03)
    assert standardized[True].item() == pytest.approx(0.0, abs=0.03)
    deviation = scale[:, None] * scale
    assert ((spread[True] - ppca.posterior_covariance) / deviation).abs().max() < 0.08
    assert ((spread[False] - ppca.posterior_covariance) / deviation).abs().max() > 0.5


def test_several_sites_plates_and_factors(arviz):
    """An inner plate, a discrete site, an auxiliary one, a factor; the same draws in the model and in the export."""
    seen = []

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])))
            with pyro.plate("parts", 4, dim=-2):
                u = pyro.sample("u", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            seen.append((k.clone(), u.clone()))
            pyro.factor("extra", 0.1 * k)
            pyro.sample("x", dist.Normal(k + u.sum(-1).sum(-2, keepdim=True), 1.0), obs=x)
            pyro.sample("aside", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})  # its reverse model

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("aside", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
            pyro.sample("k", dist.Categorical(torch.tensor([0.5, 0.5])))
            with pyro.plate("parts", 4, dim=-2):
                pyro.sample("u", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    x = torch.arange(5.0)
    found = to_arviz(model, guide, x, num_draws=6)
    assert set(found.posterior) == {"k", "u"} and set(found.log_likelihood) == set(found.observed_data) == {"x"}
    assert found.posterior["k"].shape == (1, 6, 5) and found.posterior["u"].shape == (1, 6, 5, 4, 2)
    (same,) = [u for k, u in seen if len(k) == 6 and np.array_equal(k[:, 0], found.posterior["k"][0])]
    assert torch.equal(same.movedim(1, 2), torch.as_tensor(found.posterior["u"][0]))
    k, u = (torch.as_tensor(found.posterior[name][0]) for name in ("k", "u"))
    expected = dist.Normal(k + u.sum((-1, -2)), 1.0).log_prob(x)
    np.testing.assert_allclose(found.log_likelihood["x"][0], expected, rtol=1e-5)


def test_a_guide_that_draws_nothing_has_one_draw(arviz, caplog):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Categorical(torch.ones(3) / 3))
            pyro.sample("x", dist.Normal(z.float(), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Delta(x.long()))

    found = to_arviz(model, guide, torch.arange(3.0))
    assert found.posterior["z"].tolist() == [[[0, 1, 2]]]
    assert np.isnan(found.constant_data["pareto_k"]).all()
    with caplog.at_level("INFO"):
        to_arviz(model, guide, torch.arange(3.0), resample=True)
    assert "one draw is taken" in caplog.text


def test_the_seed_decides_and_the_global_state_is_left(arviz):
    ppca = PPCA()
    state = torch.random.get_rng_state()
    draws = [to_arviz(ppca.model, ppca.rough_guide(), ppca.sample(3), num_draws=9, seed=s) for s in (1, 1, 2)]
    assert torch.equal(state, torch.random.get_rng_state())
    a, b, c = (d.posterior["z"] for d in draws)
    assert np.array_equal(a, b) and not np.array_equal(a, c)


# ------------------------------------------------------------------ resampling
def test_resampling_follows_the_weights_over_chunks():
    """Two data, 40 particles in chunks of 1, 7 and 32 with weights from 0 to 100: 100,000 draws of each."""
    generator = torch.Generator().manual_seed(0)
    log_w = 3 * torch.randn(40, 2, generator=generator).double()
    log_w[5], log_w[0, 0] = -torch.inf, -torch.inf
    index = torch.arange(40)[:, None].expand(40, 2)
    places = Resampled(100_000)
    for chunk in (slice(0, 1), slice(1, 8), slice(8, 40)):
        places.add(Particles({"i": index[chunk]}, log_w[chunk], {"x": 2 * log_w[chunk]}))
    chosen = places.result()
    for datum in range(2):
        expected = log_w[:, datum].softmax(0)
        share = chosen.latents["i"][:, datum].bincount(minlength=40) / 100_000
        assert ((share - expected).abs() <= 5 * (expected / 100_000).sqrt()).all()
        torch.testing.assert_close(chosen.log_weights[:, datum], log_w[chosen.latents["i"][:, datum], datum])
        torch.testing.assert_close(chosen.log_likelihood["x"][:, datum], 2 * chosen.log_weights[:, datum])
    a, b = chosen.latents["i"].T.double()
    assert torch.corrcoef(torch.stack([a, b]))[0, 1].abs() < 0.02  # data are resampled apart from one another
    assert torch.corrcoef(torch.stack([a[1:], a[:-1]]))[0, 1].abs() < 0.02


def test_weights_that_are_all_zero_are_refused():
    places = Resampled(4)
    for _ in range(2):
        places.add(Particles({}, torch.tensor([[0.0, -torch.inf]] * 3).double(), {}))
    with pytest.raises(InputError, match="weights are all zero"):
        places.result()


# ------------------------------------------------------------------ bad input, no ArviZ
@pytest.mark.parametrize("name", ["num_draws", "num_particles"])
def test_numbers_must_be_positive(arviz, name):
    ppca = PPCA()
    with pytest.raises(InputError, match=f"{name} must be a positive integer"):
        to_arviz(ppca.model, ppca.exact_guide, ppca.sample(2), **{name: 0})


def test_without_arviz(monkeypatch):
    def refuse(name, *args, **kwargs):
        if name == "arviz":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)
    ppca = PPCA()
    with pytest.raises(InputError, match=r"pip install 'pyro-vae\[arviz\]'"):
        to_arviz(ppca.model, ppca.exact_guide, ppca.sample(2))


def test_the_next_arviz(monkeypatch, tmp_path):
    """ArviZ 1.x makes an xarray.DataTree of nested groups: the function is that of its package arviz-base."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = pytest.importorskip("arviz_base")
        xarray = pytest.importorskip("xarray")
        monkeypatch.setitem(sys.modules, "arviz", SimpleNamespace(__version__="1.0.0", from_dict=base.from_dict))
        ppca = PPCA()
        x = ppca.sample(4)
        found = to_arviz(ppca.model, ppca.rough_guide(), x, num_draws=50, seed=3)
    assert isinstance(found, xarray.DataTree) and found.attrs["draws"] == "from the guide"
    assert found["posterior"]["z"].dims[:3] == ("chain", "draw", "datum")
    assert found["posterior"]["z"].shape == (1, 50, 4, 3)
    assert found["log_likelihood"]["x"].dims == ("chain", "draw", "datum")
    assert found["sample_stats"]["log_weight"].dims == ("chain", "draw", "datum")
    np.testing.assert_array_equal(found["observed_data"]["x"], x)
    assert found["constant_data"]["pareto_k"].dims == ("datum",)


# ------------------------------------------------------------------ the real one
def test_arviz_reads_it(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ announces its next version, and so do its dependencies
        arviz = pytest.importorskip("arviz")
        ppca = PPCA()
        x = ppca.sample(4)
        found = to_arviz(ppca.model, ppca.rough_guide(), x, num_draws=800, resample=True, num_particles=4000)
        summary = arviz.summary(found, var_names=["z"], round_to="none")
        found.to_netcdf(tmp_path / "draws.nc")
        read = arviz.from_netcdf(tmp_path / "draws.nc")
    assert found.posterior["z"].dims[:3] == ("chain", "draw", "datum")
    assert found.log_likelihood["x"].dims == ("chain", "draw", "datum")
    assert found.observed_data["x"].dims[0] == "datum" and found.observed_data["x"].shape == (4, 8)
    mean, scale = ppca.posterior_mean(x).flatten(), ppca.posterior_covariance.diagonal().sqrt().repeat(4)
    assert len(summary) == 12
    np.testing.assert_allclose(summary["mean"], mean, atol=0.35 * scale.max().item())
    np.testing.assert_allclose(summary["sd"], scale, rtol=0.3)
    assert read.posterior["z"].equals(found.posterior["z"])
    assert read.constant_data["pareto_k"].shape == (4,)

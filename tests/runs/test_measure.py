"""One way to measure: the files it leaves, and what tells data and weights apart."""

import json
import math

import linear_gaussian
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.data import Data, Split
from pyro_vae.data.split import split_digest
from pyro_vae.errors import InputError
from pyro_vae.evaluation.results import bits_in_words, mean_and_error
from pyro_vae.guides import GaussianGuide
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import VAE
from pyro_vae.programs.program import as_programs
from pyro_vae.reports.compare import paired
from pyro_vae.runs.measurements import measure, part_of, weights_digest


def test_the_files_hold_the_exact_log_likelihood_datum_by_datum(tmp_path):
    pair = linear_gaussian.PPCA(noise=0.8)
    x = pair.sample(40)
    data = Data(Split({"x": x[:10]}), test=Split({"x": x[10:]}))
    measured = measure(*as_programs(pair.model, pair.exact_guide), data, particles=7, limit=20, device="cpu")
    measured.write(tmp_path)
    exact = pair.log_prob(x[10:30])
    result = json.loads((tmp_path / "evaluation-test.json").read_text())
    with np.load(tmp_path / "evaluation-test.npz") as arrays:
        np.testing.assert_allclose(arrays["log_likelihood"], exact, atol=1e-6)
        assert all(arrays[name].shape == (20,) and arrays[name].dtype == np.float64 for name in arrays.files)
        assert result["elbo"] == pytest.approx(arrays["elbo"].mean())
        np.testing.assert_allclose(arrays["effective_sample_size"], 7.0, rtol=1e-6)
    mean, error = mean_and_error(exact)
    assert result["log_likelihood"] == pytest.approx(mean) and result["standard_error"] == pytest.approx(error)
    assert result["num_data"] == 20 and result["num_particles"] == 7 and result["seed"] == 0
    assert result["data_digest"] == split_digest(Split({"x": x[10:30]})) and result["device"] == "cpu"


def test_density_or_probability_and_programs_in_float64():
    x = (torch.rand(6, 4, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    for likelihood, density in ((Gaussian(), True), (Bernoulli(), False)):
        model = VAE((4,), latent_dim=2, hidden_dims=[3], likelihood=likelihood).double()
        guide = GaussianGuide(model, hidden_dims=[3]).double()
        measured = measure(model, guide, Data(Split({"x": x}), test=Split({"x": x})), particles=3, device="cpu")
        assert measured.result["density"] is density and np.isfinite(measured.per_datum["elbo"]).all()

    def both(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            pyro.sample("y", dist.Bernoulli(0.5), obs=torch.ones(1 if x is None else len(x)))
            pyro.sample("x", dist.Normal(torch.zeros(4), 1.0).to_event(1), obs=x)

    pair = as_programs(both, lambda x: None)
    result = measure(*pair, Data(Split({"x": x})), "train", particles=1, device="cpu").result
    assert result["density"] is True  # a probability beside it does not make the density one
    assert bits_in_words(result).endswith(" of a density, of x given y")
    normal = (0.5 * x.square() + 0.5 * math.log(2 * math.pi)).sum(1).mean().item()
    assert result["bits_per_dim"] == pytest.approx(normal / (4 * math.log(2)), rel=1e-5)


def test_digest_of_weights():
    model, guide = torch.nn.Linear(2, 3), torch.nn.Linear(3, 2)
    before = weights_digest(model, guide)
    assert before == weights_digest(model, guide)
    with torch.no_grad():
        guide.bias[1] += 1e-6
    assert weights_digest(model, guide) != before


def test_parts_of_the_data():
    data = Data(Split({"x": torch.zeros(4, 2)}), name="mine")
    assert len(part_of(data, "train", 3)) == 3
    with pytest.raises(InputError, match="the data mine have no test part; they have: train"):
        part_of(data, "test")
    with pytest.raises(InputError, match=r"unknown part of the data 'tran'\. Did you mean 'train'"):
        part_of(data, "tran")


def test_paired_differences_know_that_both_find_the_same_data_hard():
    generator = np.random.default_rng(0)
    hard, noise = generator.normal(size=400) * 10, generator.normal(size=400)
    found = paired(hard + 0.5 + 0.1 * noise, hard)
    assert found["mean"] == pytest.approx(0.5 + 0.1 * noise.mean())
    assert found["standard_error"] == pytest.approx(0.1 * noise.std(ddof=1) / 20)
    assert found["better"] == pytest.approx((0.5 + 0.1 * noise > 0).mean())
    back = paired(hard, hard + 0.5 + 0.1 * noise)
    assert back["mean"] == pytest.approx(-found["mean"])

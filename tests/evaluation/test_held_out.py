"""Which data are measured: the test part, else validation, never training data unless they were asked for."""

import logging
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.data import Data, Split, held_out
from pyro_vae.errors import InputError
from pyro_vae.evaluation import ais, code_statistics, elbo, latent_statistics, likelihood_gap, log_likelihood, refine
from pyro_vae.evaluation.encoding import encode, free_sites, mean_path, posterior_samples
from pyro_vae.plots.registry import draw_all

P = 0.01  # of a one; the latent has no part in it
SIZES = {"train": (9, 0.0), "validation": (5, 1.0), "test": (3, 0.0)}  # and what x is
PARTS = {name: Split({"x": torch.full((n, 4), x)}, name=name) for name, (n, x) in SIZES.items()}
FEW = {"annealing_options": {"num_temperatures": 2}, "refine_options": {"num_steps": 1}}
MEASURES = {
    "log_likelihood": lambda *pair: log_likelihood(*pair, num_particles=2).per_datum,
    "elbo": lambda *pair: elbo(*pair).per_datum,
    "ais": lambda *pair: ais(*pair, num_temperatures=2, num_chains=2).per_datum,
    "refine": lambda *pair: refine(*pair, num_steps=1).amortized,
    "gap": lambda *pair: (
        likelihood_gap(
            *pair, particles=(1,), annealing_options={"num_temperatures": 2}, refine_options={"num_steps": 1}
        ).annealed.per_datum
    ),
}
LATENTS = {
    "encode": encode,
    "posterior_samples": posterior_samples,
    "mean_path": mean_path,
}


def model(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        p = P + 0.0 * z[..., None].expand(*z.shape, 4)
        pyro.sample("x", dist.Bernoulli(p).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0 * x.sum(-1), 1.0))


def test_held_out_is_test_else_validation_else_refused():
    assert held_out(Data(**PARTS)) is PARTS["test"]
    assert held_out(Data(PARTS["train"], validation=PARTS["validation"])) is PARTS["validation"]
    assert held_out(PARTS["train"]) is PARTS["train"]
    x = torch.zeros(2, 4)
    assert held_out(x).tensors["x"] is x and held_out({"x": x}).tensors["x"] is x
    with pytest.raises(InputError, match=r"^mine: these data have training data only.*pass data.train"):
        held_out(Data(PARTS["train"], name="mine"))


@pytest.mark.parametrize("name", MEASURES)
def test_measures_take_validation_where_there_is_no_test_part(name):
    measure, exact = MEASURES[name], 4 * math.log(P)
    found = measure(model, guide, Data(PARTS["train"], validation=PARTS["validation"]))
    torch.testing.assert_close(found.double(), torch.full((5,), exact).double(), rtol=0, atol=1e-3)
    assert len(measure(model, guide, Data(**PARTS))) == 3
    assert len(measure(model, guide, PARTS["train"])) == 9
    with pytest.raises(InputError, match="training data only"):
        measure(model, guide, Data(PARTS["train"]))


@pytest.mark.parametrize("name", LATENTS)
def test_latents_are_of_held_out_data(name):
    assert len(LATENTS[name](model, guide, Data(PARTS["train"], validation=PARTS["validation"]))["z"]) == 5
    with pytest.raises(InputError, match="training data only"):
        LATENTS[name](model, guide, Data(PARTS["train"]))


@pytest.mark.parametrize("measure", [code_statistics, latent_statistics, free_sites])
def test_what_is_said_of_data_with_training_data_only_is_refused(measure):
    with pytest.raises(InputError, match="training data only"):
        measure(model, guide, Data(PARTS["train"]))


def test_figures_of_training_data_say_so(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        draw_all(model, guide, Data(PARTS["train"], name="mine"), [], tmp_path)
    assert "figures show training data: mine has no others" in caplog.text


def test_every_measure_sees_the_same_dynamically_binarized_data(monkeypatch):
    """Without a latent's part in x, each is log p(x) of the drawn data exactly, whatever the memory and batch size."""
    split = Split({"x": torch.full((40, 4), 0.5)}, binarization="dynamic")
    ones = split.fixed().tensors["x"].sum(-1).double()
    exact = ones * math.log(P) + (4 - ones) * math.log(1 - P)
    assert exact.std() > 1
    for budget in (20_000, 2**29):
        found = log_likelihood(model, guide, split, num_particles=2, memory_budget=budget)
        torch.testing.assert_close(found.per_datum.double(), exact, rtol=0, atol=1e-3)
    for name in MEASURES:
        torch.testing.assert_close(MEASURES[name](model, guide, split).double(), exact, rtol=0, atol=1e-3)

"""Floating-point data of any type go to programs in the programs' type, at every entrance."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import load_data
from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation import ais, code_statistics, elbo, latent_statistics, log_likelihood
from pyro_vae.evaluation.encoding import encode
from pyro_vae.evaluation.generate import reconstruct
from pyro_vae.guides import ConditionalGuide, GaussianGuide
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE, ConditionalVAE
from pyro_vae.networks import Attributes
from pyro_vae.objectives import ELBO
from pyro_vae.training import fit

TYPES = [torch.float64, torch.float16, torch.bfloat16]
LEVELS = torch.rand(40, 6, generator=torch.Generator().manual_seed(3)).bfloat16().float()  # what every type holds
FEW = {"num_chains": 2, "num_temperatures": 3, "num_leapfrog": 1}


@pytest.fixture
def pair():
    model = VAE((6,), latent_dim=2, hidden_dims=[8], likelihood=Gaussian())
    return model, GaussianGuide(model, hidden_dims=[8])


ESTIMATES = {
    "log_likelihood": lambda *given: log_likelihood(*given, num_particles=5).per_datum,
    "elbo": lambda *given: elbo(*given).per_datum,
    "ais": lambda *given: ais(*given, **FEW).per_datum,
    "latent_statistics": lambda *given: latent_statistics(*given).sites["z"].kl_per_unit,
    "encode": lambda *given: encode(*given)["z"],
    "reconstruct": reconstruct,
}


@pytest.mark.parametrize("name", ESTIMATES)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_estimates_are_those_of_float32_data(pair, name, dtype):
    expected = ESTIMATES[name](*pair, LEVELS)
    for data in (LEVELS.to(dtype), {"x": LEVELS.to(dtype)}, Split({"x": LEVELS.to(dtype)})):
        assert torch.equal(ESTIMATES[name](*pair, data), expected)
    assert code_statistics(*pair, LEVELS.to(dtype)).sites == {}


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("compile", ["off", "graph"])
def test_training_is_that_of_float32_data(dtype, compile):
    def trained(x):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = VAE((6,), latent_dim=2, hidden_dims=[8], likelihood=Gaussian())
            guide = GaussianGuide(model, hidden_dims=[8])
        data = Data(Split({"x": x[:30]}), validation=Split({"x": x[30:]}))
        result = fit(model, guide, data, epochs=2, batch_size=10, progress=False, device="cpu", compile=compile)
        return result.records[-1]["validation/loss"], [p.detach() for p in model.parameters()]

    (loss, weights), (right, theirs) = trained(LEVELS.to(dtype)), trained(LEVELS)
    assert loss == right and all(torch.equal(a, b) for a, b in zip(weights, theirs, strict=True))
    assert weights[0].dtype == torch.float32


def test_as_files_are_converted(tmp_path, pair):
    x = np.random.default_rng(0).random((50, 6))
    np.save(tmp_path / "x.npy", x)
    test = load_data(str(tmp_path / "x.npy")).test
    from_file = elbo(*pair, test).per_datum
    places = [int(np.abs(x.astype(np.float32) - row.numpy()).sum(1).argmin()) for row in test.tensors["x"]]
    assert torch.equal(elbo(*pair, torch.from_numpy(x[places])).per_datum, from_file)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_context_is_converted_with_the_data(dtype):
    model = ConditionalVAE((6,), Attributes(3), latent_dim=2, hidden_dims=[8], likelihood=Gaussian())
    guide = ConditionalGuide(model, hidden_dims=[8])
    y = torch.rand(40, 3).bfloat16().float()
    expected = elbo(model, guide, {"x": LEVELS, "y": y}).per_datum
    assert torch.equal(elbo(model, guide, {"x": LEVELS.to(dtype), "y": y.to(dtype)}).per_datum, expected)
    assert torch.equal(elbo(model, guide, {"x": LEVELS, "y": y.to(dtype)}).per_datum, expected)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_functions_whose_parameters_are_made_when_they_first_run(dtype):
    """Nothing says before that they are float32."""

    def model(x=None, num_samples=1):
        weight = pyro.param("weight", torch.full((2, 6), 0.3))
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight, 1.0).to_event(1), obs=x)

    def guide(x):
        back = pyro.param("back", torch.full((6, 2), 0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ back, 0.5).to_event(1))

    expected = elbo(model, guide, LEVELS).per_datum
    assert torch.equal(elbo(model, guide, LEVELS.to(dtype)).per_datum, expected)
    assert torch.equal(encode(model, guide, LEVELS.to(dtype))["z"], encode(model, guide, LEVELS)["z"])
    options = {"epochs": 1, "progress": False, "device": "cpu", "objective": ELBO()}
    one, other = (fit(model, guide, x, **options) for x in (LEVELS, LEVELS.to(dtype)))
    assert torch.equal(one.model.param("weight"), other.model.param("weight"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_programs_in_float64_stay_there(pair, dtype):
    model, guide = (program.double() for program in pair)
    expected = elbo(model, guide, LEVELS.double())
    assert torch.equal(elbo(model, guide, LEVELS.to(dtype)).per_datum, expected.per_datum)
    assert encode(model, guide, LEVELS.to(dtype))["z"].dtype == torch.float64


def test_functions_without_parameters_keep_the_digits_of_float64():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=x.dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(0.0 * z, 1e-6).to_event(1), obs=x - 1.0)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(1, dtype=x.dtype), 1.0).to_event(1))

    x = torch.tensor([[1.0 + 1e-9]], dtype=torch.float64)
    right = dist.Normal(torch.zeros((), dtype=x.dtype), 1e-6).log_prob(x - 1.0).item()
    assert log_likelihood(model, guide, x, num_particles=1).mean == pytest.approx(right, abs=1e-9)


def test_numbers_that_are_none_are_named(pair):
    x = LEVELS.clone()
    x[17, 2] = math.nan
    x[30] = math.inf
    for dtype in (torch.float32, *TYPES):
        for estimate in ESTIMATES.values():
            with pytest.raises(InputError, match=r"x holds NaN or infinite numbers \(.*; datum 17 is the first"):
                estimate(*pair, x.to(dtype))
    with pytest.raises(InputError, match=r"mine: x holds NaN .*datum 17"):
        Split({"x": x}, name="mine")


def test_numbers_too_large_for_the_programs_are_named(pair):
    """Finite in float64, infinite where they are computed with."""
    x = LEVELS.double()
    x[23, 1] = 1e300
    for estimate in (ESTIMATES["log_likelihood"], ESTIMATES["elbo"], ESTIMATES["encode"]):
        with pytest.raises(InputError, match=r"x holds NaN or infinite numbers \(as float32; datum 23 is the first"):
            estimate(*pair, x)
    with pytest.raises(InputError, match=r"as float32; datum 23 is the first"):
        fit(*pair, x, epochs=1, progress=False, device="cpu")

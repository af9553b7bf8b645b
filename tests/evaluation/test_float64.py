"""Programs in float64 take the data that there are: levels, binary, single precision."""

import matplotlib.pyplot as plt
import pytest
import torch

from pyro_vae import plots as figures
from pyro_vae.data import Split
from pyro_vae.evaluation import latent_statistics
from pyro_vae.evaluation.encoding import encode
from pyro_vae.evaluation.generate import reconstruct, sample
from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE


@pytest.fixture(scope="module")
def pair():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VAE((1, 8, 8), latent_dim=2, hidden_dims=[8]).double()
        return model, GaussianGuide(model, hidden_dims=[8]).double()


def data(dtype=torch.float32):
    x = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5
    return Split({"x": x.to(dtype), "y": torch.arange(30) % 3})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.float64])
def test_the_same_latents_from_data_of_any_type(pair, dtype):
    z = encode(*pair, data(dtype))["z"]
    x = data(torch.float64).tensors["x"]
    with torch.no_grad():
        expected = pair[1].encoder(x).chunk(2, -1)[0]
    assert z.dtype == torch.float64 and torch.equal(z, expected)
    statistics = latent_statistics(*pair, data(dtype))
    assert statistics.sites["z"].kl == latent_statistics(*pair, data(torch.float64)).sites["z"].kl


def test_pictures_and_draws(pair):
    for figure in (figures.latent_scatter, figures.traversals, figures.reconstructions, figures.interpolations):
        assert figure(*pair, data()) is not None
    plt.close("all")
    assert sample(pair[0], 3)["x"].dtype == torch.float64
    assert reconstruct(*pair, data().batch(slice(0, 2))).dtype == torch.float64

"""What the tutorial shows of networks of other libraries: kernels of Keras, an encoder that gives a distribution."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

import pyro_vae
from pyro_vae.adapters import from_modules
from pyro_vae.likelihoods import Bernoulli, Gaussian


def dense(kernel, bias):
    """A layer of Keras, x @ kernel + bias, whose kernel is (in, out); torch's weight is (out, in)."""
    layer = nn.Linear(*kernel.shape)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(kernel.T))
        layer.bias.copy_(torch.from_numpy(bias))
    return layer


def test_kernels_of_keras_are_turned():
    draw = np.random.default_rng(0)
    layers = [(draw.normal(size=s).astype(np.float32), draw.normal(size=s[1]).astype(np.float32)) for s in [(6, 6)] * 2]
    x = (draw.random((5, 6)) > 0.5).astype(np.float32)
    hidden = np.maximum(x @ layers[0][0] + layers[0][1], 0) @ layers[1][0] + layers[1][1]
    ours = nn.Sequential(dense(*layers[0]), nn.ReLU(), dense(*layers[1]))
    np.testing.assert_allclose(ours(torch.from_numpy(x)).detach().numpy(), hidden, rtol=1e-4, atol=1e-4)


class Stand(nn.Module):
    """With the interface of diffusers' AutoencoderKL: encode(x).latent_dist of mean and logvar, decode(z).sample."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 2, stride=2), nn.ConvTranspose2d(4, 3, 2, stride=2)

    def encode(self, x):
        mean, logvar = self.down(x).chunk(2, 1)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, logvar=logvar))

    def decode(self, z):
        return SimpleNamespace(sample=self.up(z))


def test_an_autoencoder_kl_and_the_same_with_scaled_latents():
    """N(0, I) is another model of latents that are scaled: each pair has its own KL, in closed form."""
    vae, factor = Stand(), 0.5
    x = torch.rand(4, 3, 4, 4) * 2 - 1

    def moments(x):
        found = vae.encode(x).latent_dist
        return found.mean, found.logvar

    def scaled(x):
        mean, logvar = moments(x)
        return mean * factor, logvar + 2 * np.log(factor)

    plain = from_modules(moments, lambda z: vae.decode(z).sample, x, likelihood=Gaussian(0.3))
    other = from_modules(scaled, lambda z: vae.decode(z / factor).sample, x, likelihood=Gaussian(0.3))
    bounds = [pyro_vae.elbo(*pair, x, num_particles=5) for pair in (plain, other)]
    with torch.no_grad():
        for (mean, logvar), bound in zip((moments(x), scaled(x)), bounds, strict=True):
            kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)
            assert abs(bound.to_dict()["kl"]["z"] - kl.mean().item()) < 1e-2
    assert pyro_vae.sample(other[0], 2)["x"].shape == (2, 3, 4, 4)


def test_a_tied_bernoulli_decoder_takes_the_first_call():
    """A module that both programs use is one."""
    both = nn.Linear(6, 6)
    x = torch.rand(5, 6).round()
    pair = from_modules(
        lambda x: both(x)[:, :4], lambda z: both(nn.functional.pad(z, (0, 4))), x, likelihood=Bernoulli()
    )
    assert pyro_vae.log_likelihood(*pair, x, num_particles=20, progress=False).per_datum.isfinite().all()

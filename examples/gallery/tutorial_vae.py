"""Pyro's tutorial VAE, as it stands there: z ~ N(0, I), x | z ~ Bernoulli(decoder(z)).

z is drawn by the guide: training has a bound, `log_likelihood` one that K particles make tight.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_vae

EPOCHS, LEARNING_RATE = 60, 3e-3


def data(num_data=1000, seed=0):  # 6x6 images: a bright row and a bright column, with flipped pixels
    generator = torch.Generator().manual_seed(seed)
    row, column = torch.randint(6, (2, num_data, 1), generator=generator)
    on = (torch.arange(6) == row)[:, :, None] | (torch.arange(6) == column)[:, None, :]
    return torch.bernoulli(0.05 + 0.85 * on.float(), generator=generator)


class VAE(nn.Module):
    def __init__(self, z_dim=2, hidden_dim=64):
        super().__init__()
        self.z_dim = z_dim
        self.encoder = nn.Sequential(nn.Linear(36, hidden_dim), nn.Softplus(), nn.Linear(hidden_dim, 2 * z_dim))
        self.decoder = nn.Sequential(
            nn.Linear(z_dim, hidden_dim), nn.Softplus(), nn.Linear(hidden_dim, 36), nn.Sigmoid()
        )

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = x.new_zeros(torch.Size((x.shape[0], self.z_dim)))
            z_scale = x.new_ones(torch.Size((x.shape[0], self.z_dim)))
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            loc_img = self.decoder(z)
            pyro.sample("obs", dist.Bernoulli(loc_img, validate_args=False).to_event(1), obs=x.reshape(-1, 36))
            return loc_img

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            z_loc, log_scale = self.encoder(x.reshape(-1, 36)).chunk(2, dim=-1)
            pyro.sample("latent", dist.Normal(z_loc, torch.exp(log_scale)).to_event(1))


def pair():
    vae = VAE()
    return vae.model, vae.guide


if __name__ == "__main__":
    model, guide = pair()
    result = pyro_vae.fit(model, guide, data(), epochs=EPOCHS, learning_rate=LEARNING_RATE)
    print(pyro_vae.log_likelihood(result.model, result.guide, data(seed=1), num_particles=100))

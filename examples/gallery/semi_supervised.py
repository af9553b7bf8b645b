"""M2 (Kingma et al. 2014): y ~ Categorical, z ~ N(0, 1), x | y, z ~ N(decoder(y, z), s^2), y known for some data.

Where y is not known it is summed over exactly, in the guide: log p(x) there, log p(x, y) elsewhere; z has a bound.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.functional import one_hot, softplus

import pyro_vae

EPOCHS, LEARNING_RATE = 60, 1e-2


def data(num_data=1000, seed=0):  # three bent arms; the label of every tenth point is known
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (num_data,), generator=generator)
    noise = torch.randn(3, num_data, generator=generator)
    angle = 2 * torch.pi / 3 * y + 0.8 * noise[0]
    x = 2 * torch.stack([angle.cos(), angle.sin()], -1) * (1 + 0.3 * noise[0, :, None]) + 0.15 * noise[1:].T
    return {"x": x, "y": y, "known": torch.arange(num_data) % 10 == 0}


def pair():
    decoder = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))
    classifier = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 3))
    encoder = nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, 2))

    def beside(a, y):  # features and labels next to one another
        y = one_hot(y, 3).float()
        shape = torch.broadcast_shapes(a.shape[:-1], y.shape[:-1])
        return torch.cat([a.expand(*shape, -1), y.expand(*shape, -1)], -1)

    def model(x=None, y=None, known=None, num_samples=1):
        sd = pyro.param("sd", torch.tensor(0.5), constraint=dist.constraints.positive)
        with pyro.plate("data", num_samples if x is None else len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(3) / 3), obs=y, obs_mask=known)
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(decoder(beside(z, y)), sd).to_event(1), obs=x)

    def guide(x, y=None, known=None):
        with pyro.plate("data", len(x)):
            unknown = pyro.sample(
                "y_unobserved", dist.Categorical(logits=classifier(x)), infer={"enumerate": "parallel"}
            )
            y = unknown if y is None else torch.where(known, y, unknown)
            loc, raw = encoder(beside(x, y)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, softplus(raw) + 1e-3).to_event(1))

    return model, guide


if __name__ == "__main__":
    model, guide = pair()
    result = pyro_vae.fit(model, guide, data(), epochs=EPOCHS, learning_rate=LEARNING_RATE)
    print(pyro_vae.log_likelihood(result.model, result.guide, data(seed=1), num_particles=100))

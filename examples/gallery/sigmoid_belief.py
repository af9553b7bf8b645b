"""A sigmoid belief network: z in {0, 1}^6, x | z ~ Bernoulli(W z + b), learned by score functions as in NVIL.

The guide draws z; a network of x is the baseline of its gradient. log p(x) is bounded by importance weights.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_vae

EPOCHS, LEARNING_RATE = 60, 1e-2


def data(num_data=1000, seed=0):
    """6x6 pixels with horizontal bars, each there with probability 0.3; a pixel is flipped with probability 0.05."""
    draws = torch.Generator().manual_seed(seed)
    bars = torch.rand(num_data, 1, 6, 1, generator=draws) < 0.3
    flipped = torch.rand(num_data, 1, 6, 6, generator=draws) < 0.05
    return (bars ^ flipped).float()


def pair():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(36, 64), nn.ReLU(), nn.Linear(64, 6))
    baseline = nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
    prior, decoder = nn.Parameter(torch.zeros(6)), nn.Linear(6, 36)

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Bernoulli(logits=prior).to_event(1))
            logits = decoder(z).unflatten(-1, (1, 6, 6))
            return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    def guide(x):
        nvil = {"nn_baseline": baseline, "nn_baseline_input": x, "use_decaying_avg_baseline": True}
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=encoder(x)).to_event(1), infer={"baseline": nvil})

    return model, guide


if __name__ == "__main__":
    model, guide = pair()
    result = pyro_vae.fit(model, guide, data(), epochs=EPOCHS, learning_rate=LEARNING_RATE)
    print(pyro_vae.log_likelihood(result.model, result.guide, data(seed=1), num_particles=100))

"""Topics of short documents: shares z ~ Dirichlet(1, 1, 1), counts x | z ~ Multinomial(20, z @ topics).

q(z | x) is a Dirichlet with reparameterized gradients; log p(x) is bounded by importance weights over z.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.functional import softplus

import pyro_vae

EPOCHS, LEARNING_RATE = 30, 5e-2
NUM_WORDS, LENGTH = 9, 20


def data(num_data=1000, seed=0):
    """Counts (num_data, 9) of 20 words a document, from three topics of three words each."""
    draws = torch.Generator().manual_seed(seed)
    shares = -torch.rand(num_data, 3, generator=draws).log()  # normalized: uniform on the simplex
    words = (shares / shares.sum(-1, keepdim=True)).repeat_interleave(3, -1) / 3
    drawn = torch.multinomial(words, LENGTH, replacement=True, generator=draws)
    return nn.functional.one_hot(drawn, NUM_WORDS).sum(1).float()


def pair():
    encoder = nn.Sequential(nn.Linear(NUM_WORDS, 32), nn.ReLU(), nn.Linear(32, 3))
    topics = nn.Parameter(torch.randn(3, NUM_WORDS))

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Dirichlet(torch.ones(3)))
            words = z @ topics.softmax(-1)
            return pyro.sample("x", dist.Multinomial(LENGTH, words), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Dirichlet(softplus(encoder(x)) + 0.1))

    return model, guide


if __name__ == "__main__":
    model, guide = pair()
    result = pyro_vae.fit(model, guide, data(), epochs=EPOCHS, learning_rate=LEARNING_RATE)
    print(pyro_vae.log_likelihood(result.model, result.guide, data(seed=1), num_particles=100))

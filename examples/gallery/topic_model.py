"""ProdLDA, as in Pyro's tutorial: theta = softmax(N(0, I)), words | theta ~ Multinomial(n, softmax(B theta)).

n is each document's own; the multinomial coefficient is counted, exactly. logtheta has a bound.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_vae

EPOCHS, LEARNING_RATE = 40, 1e-2


def data(num_data=1000, seed=0):  # documents of 10 to 40 words, out of 12, by three topics
    generator = torch.Generator().manual_seed(seed)
    topics = torch.full((3, 12), 0.02) + torch.eye(3).repeat_interleave(4, 1)
    theta = torch.randn(num_data, 3, generator=generator).mul(1.5).softmax(-1)
    words = torch.multinomial(theta @ topics, 40, replacement=True, generator=generator)  # (num_data, 40)
    there = torch.arange(40) < torch.randint(10, 41, (num_data, 1), generator=generator)
    return torch.zeros(num_data, 12).scatter_add_(1, words, there.float())


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.beta, self.bn = nn.Linear(3, 12, bias=False), nn.BatchNorm1d(12, affine=False)

    def forward(self, theta):
        return torch.softmax(self.bn(self.beta(theta)), -1)


def pair():
    decoder = Decoder()
    encoder = nn.Sequential(nn.Linear(12, 32), nn.Softplus(), nn.Linear(32, 6))

    def model(docs=None, num_samples=1):
        pyro.module("decoder", decoder)
        with pyro.plate("documents", num_samples if docs is None else len(docs)):
            logtheta = pyro.sample("logtheta", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            word_probs = decoder(logtheta.softmax(-1))
            total_count = 25 if docs is None else int(docs.sum(-1).max())
            pyro.sample("obs", dist.Multinomial(total_count, word_probs), obs=docs)

    def guide(docs):
        pyro.module("encoder", encoder)
        with pyro.plate("documents", len(docs)):
            loc, log_scale = encoder(torch.log1p(docs)).chunk(2, -1)
            pyro.sample("logtheta", dist.Normal(loc, (0.5 * log_scale).exp()).to_event(1))

    return model, guide


if __name__ == "__main__":
    model, guide = pair()
    result = pyro_vae.fit(model, guide, data(), epochs=EPOCHS, learning_rate=LEARNING_RATE)
    print(pyro_vae.log_likelihood(result.model, result.guide, data(seed=1), num_particles=100))

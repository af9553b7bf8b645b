"""Strings that end: z ~ N(0, 1), tokens x_t | x_<t, z by an LSTM (teacher forcing), q(z | x) by an LSTM over packed x.

log p(x) is bounded by importance weights over z; what is beyond a string's end has no probability, and no nats.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import nn
from torch.nn.functional import one_hot, softplus
from torch.nn.utils.rnn import pack_padded_sequence

import pyro_vae

EPOCHS, LEARNING_RATE = 20, 1e-2
END, TOKENS, STEPS = 0, 4, 4  # letters are 1, 2 and 3; a string that has not ended after four tokens is cut


def data(num_data=1000, seed=0):
    """Strings of one letter, 1 or 3 with equal chance, in whose place may stand 2 (1/6) or the end (1/3)."""
    draws = torch.Generator().manual_seed(seed)
    letter = 1 + 2 * torch.randint(2, (num_data, 1), generator=draws)
    kind = torch.randint(6, (num_data, STEPS), generator=draws)
    x = torch.where(kind == 0, 2, letter) * (kind < 4)  # (num_data, 4)
    lengths = 1 + (x != END).cumprod(-1)[:, :-1].sum(-1)  # the end counts
    return {"x": torch.where(torch.arange(STEPS) < lengths[:, None], x, END), "lengths": lengths}


def pair():
    first, cell, words = nn.Linear(1, 32), nn.LSTMCell(TOKENS, 32), nn.Linear(32, TOKENS)
    encoder, latent = nn.LSTM(TOKENS, 32, batch_first=True), nn.Linear(32, 2)

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            hidden = memory = first(z)
            word = torch.zeros(len(z), dtype=torch.int64)
            going = torch.ones(len(z), dtype=torch.bool)
            for t in range(STEPS):
                hidden, memory = cell(one_hot(word, TOKENS).float(), (hidden, memory))
                with poutine.mask(mask=going):
                    logits = words(hidden)
                    word = pyro.sample(f"x_{t}", dist.Categorical(logits=logits), obs=None if x is None else x[:, t])
                going = going & (word != END)

    def guide(x, lengths):
        packed = pack_padded_sequence(one_hot(x, TOKENS).float(), lengths, batch_first=True, enforce_sorted=False)
        loc, raw = latent(encoder(packed)[1][0][0]).chunk(2, -1)  # of the last hidden state, (batch, 32)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, softplus(raw) + 1e-4).to_event(1))

    return model, guide


if __name__ == "__main__":
    model, guide = pair()
    result = pyro_vae.fit(model, guide, data(), epochs=EPOCHS, learning_rate=LEARNING_RATE)
    print(pyro_vae.log_likelihood(result.model, result.guide, data(seed=1), num_particles=100))

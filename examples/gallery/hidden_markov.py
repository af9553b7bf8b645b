"""A hidden Markov model: states s_t | s_{t-1}, numbers x_t | s_t ~ N, for sequences with lengths.

The guide has no states: they are summed over exactly, one after another, so that log p(x) is exact with one particle.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch.distributions import constraints

import pyro_vae

EPOCHS, LEARNING_RATE = 30, 2e-2
STATES, STEPS = 3, 8


def data(num_data=1000, seed=0):
    """Sequences of 3 to 8 numbers around -2, 0 and 2, which stay at a level or go to the next one."""
    draws = torch.Generator().manual_seed(seed)
    moves = (torch.rand(num_data, STEPS, generator=draws) < 0.2).long()
    moves[:, 0] = torch.randint(STATES, (num_data,), generator=draws)
    levels = 2.0 * (moves.cumsum(-1) % STATES - 1)
    lengths = torch.randint(3, STEPS + 1, (num_data,), generator=draws)
    return {"x": levels + 0.5 * torch.randn(num_data, STEPS, generator=draws), "lengths": lengths}


def pair():
    start = torch.randn(STATES)

    def model(x=None, lengths=None, num_samples=1):
        initial = pyro.param("initial", torch.full((STATES,), 1 / STATES), constraint=constraints.simplex)
        stay = (torch.ones(STATES, STATES) + torch.eye(STATES)) / (STATES + 1)
        transition = pyro.param("transition", stay, constraint=constraints.simplex)
        loc = pyro.param("loc", start)
        scale = pyro.param("scale", torch.ones(STATES), constraint=constraints.positive)
        with pyro.plate("data", num_samples if x is None else len(x)):
            state = None
            for t in pyro.markov(range(STEPS)):
                with poutine.mask(mask=True if lengths is None else t < lengths):
                    probs = initial if state is None else transition[state]
                    state = pyro.sample(f"s_{t}", dist.Categorical(probs), infer={"enumerate": "parallel"})
                    seen = None if x is None else x[:, t]
                    pyro.sample(f"x_{t}", dist.Normal(loc[state], scale[state]), obs=seen)

    def guide(x, lengths=None):
        pass

    return model, guide


if __name__ == "__main__":
    model, guide = pair()
    result = pyro_vae.fit(model, guide, data(), epochs=EPOCHS, learning_rate=LEARNING_RATE)
    print(pyro_vae.log_likelihood(result.model, result.guide, data(seed=1), num_particles=100))

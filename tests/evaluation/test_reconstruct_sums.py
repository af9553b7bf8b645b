"""Reconstructions through latents that are summed over: drawn from their exact posterior, jointly."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae

PRIOR, LEVELS = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([-1.0, 0.0, 1.5])
STAY = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.8, 0.2], [0.3, 0.0, 0.7]])
COPIES = 4000


def empty(x, lengths=None):
    pass


def mixture(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x)):
        c = pyro.sample("c", dist.Categorical(PRIOR))
        return pyro.sample("x", dist.Normal(LEVELS[c], 1.0), obs=x)


def chain(x=None, lengths=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x)):
        s = None
        for t in pyro.markov(range(3)):
            with pyro.poutine.mask(mask=True if lengths is None else t < lengths):
                s = pyro.sample(f"s_{t}", dist.Categorical(PRIOR if s is None else STAY[s]))
                pyro.sample(f"x_{t}", dist.Normal(LEVELS[s], 1.0), obs=None if x is None else x[:, t])


def inner(x=None, num_samples=1):
    """An inner plate of two, each with a class of its own."""
    with pyro.plate("data", num_samples if x is None else len(x), dim=-1), pyro.plate("parts", 2, dim=-2):
        c = pyro.sample("c", dist.Categorical(PRIOR))
        return pyro.sample("x", dist.Normal(LEVELS[c], 1.0), obs=None if x is None else x.mT).mT


def test_the_mean_of_a_mixture():
    x = torch.tensor([0.4])
    p = (PRIOR.log() + dist.Normal(LEVELS, 1.0).log_prob(x)).softmax(0)
    drawn = pyro_vae.reconstruct(mixture, empty, x.expand(COPIES))
    for value, share in zip(LEVELS, p, strict=True):  # binomial: 4 standard errors
        assert (drawn == value).float().mean().item() == pytest.approx(share.item(), abs=4 * 0.5 / COPIES**0.5)


@pytest.mark.parametrize("length", [2, 3])
def test_the_paths_of_a_chain_by_enumeration(length):
    x = torch.tensor([-0.5, 0.3, 1.0])
    states = torch.cartesian_prod(*[torch.arange(3)] * length)
    log_p = PRIOR.log()[states[:, 0]] + dist.Normal(LEVELS[states], 1.0).log_prob(x[:length]).sum(-1)
    for t in range(1, length):
        log_p = log_p + STAY[states[:, t - 1], states[:, t]].log()
    batch = {"x": x.expand(COPIES, -1), "lengths": torch.full((COPIES,), length)}
    drawn = pyro_vae.reconstruct(chain, empty, batch)[:, :length]
    for path, share in zip(states, log_p.softmax(0), strict=True):  # joint: all steps at once
        found = (drawn == LEVELS[path]).all(-1).float().mean().item()
        assert found == pytest.approx(share.item(), abs=4 * 0.5 / COPIES**0.5)


def test_inner_plates():
    x = torch.tensor([[-1.0, 1.2]])
    p = (PRIOR.log() + dist.Normal(LEVELS, 1.0).log_prob(x[0, :, None])).softmax(-1)  # (parts, values)
    drawn = pyro_vae.reconstruct(inner, empty, x.expand(COPIES, -1).clone()).mT  # (parts, copies)
    for part in range(2):
        for value, share in zip(LEVELS, p[part], strict=True):
            found = (drawn[part] == value).float().mean().item()
            assert found == pytest.approx(share.item(), abs=4 * 0.5 / COPIES**0.5)


def test_beside_what_the_guide_draws():
    """c given x and the guide's z, not c's prior."""

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            c = pyro.sample("c", dist.Bernoulli(0.5))
            return pyro.sample("x", dist.Normal(z + 10 * c[..., None], 0.1).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(1), 0.5).expand([len(x), 1]).to_event(1))

    x = torch.tensor([[0.0], [10.0]]).repeat(50, 1)
    assert ((pyro_vae.reconstruct(model, guide, x) - x).abs() < 4).all()

"""Figures of programs as users write them: latents on a simplex or a sphere, sequences of numbers, tables."""

import logging

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import plots
from pyro_vae.data import Split
from pyro_vae.errors import NotApplicable

DIRICHLET, SPHERE = dist.Dirichlet(torch.ones(3)), dist.ProjectedNormal(torch.zeros(3))


def pair(prior):
    decoder = nn.Linear(3, 5)

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", prior)
            return pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        around = x[..., :3]
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Dirichlet(around.exp()) if prior is DIRICHLET else dist.ProjectedNormal(around))

    return model, guide


@pytest.mark.parametrize(("prior", "told"), [(DIRICHLET, "Simplex"), (SPHERE, "Sphere")])
def test_numbers_that_are_tied_do_not_move_by_themselves(prior, told):
    model, guide = pair(prior)
    split = Split({"x": torch.randn(20, 5)})
    with pytest.raises(NotApplicable, match=rf"the numbers of a latent are tied to one another \(z: {told}"):
        plots.traversals(model, guide, split)
    drawn = plots.interpolations(model, guide, split, pairs=4)  # all points on the way are in the support
    assert ("linear" if prior is DIRICHLET else "spherical") in drawn.get_suptitle()


def chain(x=None, lengths=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x)):
        s = None
        for t in pyro.markov(range(4)):
            with pyro.poutine.mask(mask=True if lengths is None else t < lengths):
                s = pyro.sample(f"s_{t}", dist.Categorical(torch.ones(2) if s is None else torch.eye(2)[s] + 0.1))
                pyro.sample(f"x_{t}", dist.Normal(4.0 * s, 0.1), obs=None if x is None else x[:, t])


def test_sequences_of_one_number_a_step_are_drawn_up_to_their_lengths():
    lengths = torch.tensor([1, 2, 3, 4])
    x = 4.0 * torch.tensor([0, 1, 1, 0]).expand(4, 4)
    drawn = plots.sequences(chain, lambda x: None, Split({"x": x, "lengths": lengths}), n=4)
    for length, panel in zip(lengths.tolist(), drawn.axes[:4], strict=True):
        data, mean = (line.get_ydata() for line in panel.lines)
        assert len(data) == length and list(mean) == list(data)  # states of the posterior, not of the prior
    with pytest.raises(NotApplicable, match="takes no lengths"):
        plots.sequences(
            lambda x=None, num_samples=1: chain(x, None, num_samples),
            lambda x: None,
            Split({"x": x, "lengths": lengths}),
        )


def test_a_guide_that_draws_nothing_has_no_interpolations():
    with pytest.raises(NotApplicable, match="no latent site has real values"):
        plots.interpolations(chain, lambda x: None, Split({"x": torch.randn(9, 4)}))


def test_all_figures_of_a_batch_by_the_programs_names(tmp_path, caplog):
    decoder = nn.Linear(1, 2)

    def model(height=None, weight=None, num_samples=1):
        with pyro.plate("data", num_samples if height is None else len(height)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            means = decoder(z).unbind(-1)
            pyro.sample("height", dist.Normal(means[0], 1.0), obs=height)
            pyro.sample("weight", dist.Normal(means[1], 1.0), obs=weight)

    def guide(height, weight):
        with pyro.plate("data", len(height)):
            pyro.sample("z", dist.Normal(torch.stack([height + weight], -1), 1.0).to_event(1))

    batch = {"height": torch.randn(30), "weight": torch.randn(30)}
    with caplog.at_level(logging.INFO):
        written = plots.draw_all(model, guide, batch, [], tmp_path)
    assert {"kl_per_unit.png", "aggregated_posterior.png"} <= {path.name for path in written}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

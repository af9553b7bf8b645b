"""Step sizes of annealing: how they are found, and what lies between those that were found."""

import pyro
import pyro.distributions as dist
import torch

from pyro_vae.evaluation.annealing.chains import StepSizes, tune
from pyro_vae.evaluation.annealing.path import AnnealedPath
from pyro_vae.programs.session import evaluating

SPREAD = torch.tensor([0.01, 1.0, 30.0])


def model(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), SPREAD).to_event(1))
        return pyro.sample("x", dist.Normal(0.0 * z[..., 0], 1.0), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(3), SPREAD).expand([len(x), 3]).to_event(1))


def test_between_two_exponents_step_sizes_are_linear_and_beyond_them_the_nearest():
    step = torch.tensor([1.0, 3.0, 7.0])[:, None, None]
    sizes = StepSizes(torch.tensor([0.1, 0.3, 0.7], dtype=torch.float64), step)
    found = [sizes.at(b).item() for b in (0.0, 0.1, 0.15, 0.3, 0.4, 0.7, 0.9)]
    torch.testing.assert_close(torch.tensor(found), torch.tensor([1.0, 1.0, 1.5, 3.0, 4.0, 7.0, 7.0]))
    assert StepSizes(torch.tensor([1.0]), step[:1]).at(0.5).item() == 1.0


def test_each_number_s_step_is_in_proportion_to_its_spread():
    """A Gaussian that stays the same: one acceptance for all numbers, whatever their scale."""
    with evaluating(model, guide, torch.zeros(4), 0) as (pair, split):
        densities = AnnealedPath(pair, "guide", 64).on(split.batch(slice(0, 4)))
        step = tune(densities, [i / 20 for i in range(1, 21)], 3, lambda: None).step[-1]  # (4, 3)
    relative = step / SPREAD
    torch.testing.assert_close(relative, relative.mean().expand(4, 3), rtol=0.35, atol=0)
    assert 0.4 < relative.mean() < 2.0


def test_every_start_is_drawn_anew():
    """Chains that count must not start where those did that step sizes were found with."""
    for start in ("guide", "prior"):
        with evaluating(model, guide, torch.zeros(50), 0) as (pair, split):
            densities = AnnealedPath(pair, start, 40).on(split.batch(slice(0, 50)))
            a, b = ((densities.draw().u / SPREAD).flatten() for _ in range(2))
        assert torch.corrcoef(torch.stack([a, b]))[0, 1].abs() < 0.06
        assert abs(a.std() - 1) < 0.04 and abs(b.std() - 1) < 0.04

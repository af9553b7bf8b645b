"""Integers stay integers: counts and classes as data, one-hot latents; values where a program has none are refused."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import plots as figures
from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation import log_likelihood
from pyro_vae.evaluation.encoding import encode, free_sites, mean_path, posterior_samples
from pyro_vae.evaluation.generate import decode, reconstruct, sample
from pyro_vae.plots.images import grey_range, mosaic

LEVELS = nn.Linear(2, 16 * 5)
COUNTS = nn.Linear(2, 16)


def data(float_=False, n=40):
    x = torch.randint(0, 5, (n, 4, 4), generator=torch.Generator().manual_seed(0))
    return Split({"x": x.float() if float_ else x}, integers=not float_, name="toy")


def classes(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return pyro.sample("x", dist.Categorical(logits=LEVELS(z).unflatten(-1, (4, 4, 5))).to_event(2), obs=x)


def counts(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return pyro.sample("x", dist.Poisson(COUNTS(z).exp().unflatten(-1, (4, 4))).to_event(2), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.flatten(1)[:, :2].float(), 0.1).to_event(1))


def one_of_three(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x)):
        k = pyro.sample("k", dist.OneHotCategorical(logits=torch.zeros(3)))
        rate = k @ torch.tensor([[1.0], [5.0], [20.0]])
        return pyro.sample("x", dist.Poisson(rate[..., None].expand(*rate.shape[:-1], 4, 4)).to_event(2), obs=x)


def guide_of_three(x):
    with pyro.plate("data", len(x)):
        pyro.sample("k", dist.OneHotCategorical(logits=x.flatten(1)[:, :3].float()))


def test_what_is_made_of_classes_is_a_class_and_of_counts_a_mean():
    z = torch.randn(1, 2, generator=torch.Generator().manual_seed(1)).expand(2000, 2)
    decoded = decode(classes, {"z": z})
    assert decoded.dtype == torch.int64
    p = LEVELS(z[0]).unflatten(-1, (4, 4, 5)).softmax(-1)
    found = nn.functional.one_hot(decoded, 5).float().mean(0)
    assert ((found - p).abs() < 5 * (p * (1 - p) / 2000).sqrt()).all()
    drawn = sample(classes, 5)
    assert drawn["x"].dtype == torch.int64 and torch.equal(drawn["x.mean"], drawn["x"])
    torch.testing.assert_close(decode(counts, {"z": z}), COUNTS(z).exp().unflatten(-1, (4, 4)).detach())


def test_integers_are_shown_over_their_own_range():
    x = data().batch(slice(None))["x"]
    assert grey_range(x) == grey_range(x.float()) == (0.0, 4.0)
    assert grey_range(x / 4) == grey_range(x.bool().float()) == grey_range(None) == (0.0, 1.0)
    shown = mosaic(x[:1], 1, gap=0, limits=grey_range(x))
    torch.testing.assert_close(torch.from_numpy(shown[..., 0]), x[0] / 4)
    for model, what in ((classes, "a draw"), (counts, "mean")):
        figure = figures.reconstructions(model, guide, data(), n=3)
        assert f"reconstructions, {what} of p(x | z)" in figure.get_suptitle()
        axes = figure.axes[0]
        assert axes.get_xlabel() == "black is 0, white is 4"
        image = torch.from_numpy(axes.images[0].get_array()[..., 0]).float()
        above = torch.cat([image[:4, 5 * i : 5 * i + 4] for i in range(3)], 1)
        picked = data().batch(torch.tensor([0, 13, 26]))["x"]
        torch.testing.assert_close(above, torch.cat(list(picked), 1) / 4)


@pytest.mark.parametrize("float_", [False, True])
@pytest.mark.parametrize("model", [classes, counts])
def test_every_figure_of_integers_is_drawn(model, float_, tmp_path, caplog):
    written = {path.stem for path in figures.draw_all(model, guide, Data(data(float_)), [], tmp_path)}
    assert written >= {"kl_per_unit", "reconstructions", "worst_data", "prior_samples", "interpolations", "traversals"}
    assert not caplog.records


def test_one_hot_latents_are_not_moved():
    split = data()
    assert free_sites(one_of_three, guide_of_three, split) == []
    held = mean_path(one_of_three, guide_of_three, split)["k"]
    assert ((held == 0) | (held == 1)).all() and (held.sum(1) == 1).all()
    with pytest.raises(figures.NotApplicable, match="no latent site has real values"):
        figures.interpolations(one_of_three, guide_of_three, split)
    means = encode(one_of_three, guide_of_three, split)["k"]  # the classes' probabilities
    with pytest.raises(InputError, match=r"latent site 'k' must lie in the support .*posterior_samples"):
        decode(one_of_three, {"k": means})
    draws = posterior_samples(one_of_three, guide_of_three, split)
    assert set(decode(one_of_three, draws).unique().tolist()) <= {1.0, 5.0, 20.0}


def test_latents_outside_the_prior_s_support_are_not_decoded():
    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            scale = pyro.sample("scale", dist.Gamma(torch.ones(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(torch.zeros(2), scale).to_event(1), obs=x)

    assert torch.equal(decode(model, {"scale": torch.ones(3, 2)}), torch.zeros(3, 2))
    with pytest.raises(InputError, match=r"'scale' must lie in the support .*got -1 to 1"):
        decode(model, {"scale": torch.tensor([[1.0, 1.0], [1.0, -1.0]])})


@pytest.mark.parametrize("call", [reconstruct, encode, posterior_samples, mean_path])
@pytest.mark.parametrize("what", ["outside", "shape"])
def test_data_are_checked_at_every_entrance(call, what):
    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            probability = z.sum(-1).sigmoid()[..., None].expand(*z.shape[:-1], 4)
            return pyro.sample("x", dist.Bernoulli(probability).to_event(1), obs=x)

    x = torch.full((5, 4), 0.5) if what == "outside" else torch.ones(5, 2, 2)
    with pytest.raises(InputError) as expected:
        log_likelihood(model, guide, x, num_particles=2)
    for given in (x, {"x": x}):
        with pytest.raises(InputError) as found:
            call(model, guide, given)
        assert str(found.value) == str(expected.value)
    call(model, guide, torch.ones(5, 4))

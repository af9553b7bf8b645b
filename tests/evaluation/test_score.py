"""Scores of single data, and means and scales of latents, against closed forms."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import PPCA

import pyro_vae
from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation import log_likelihood, posterior_moments


@pytest.fixture(scope="module")
def ppca():
    return PPCA()


def test_scores_are_the_exact_log_likelihoods_where_the_guide_is_the_posterior(ppca):
    x = ppca.sample(30)
    scores = pyro_vae.score(ppca.model, ppca.exact_guide, x, num_particles=50)
    torch.testing.assert_close(scores.arrays()["log_likelihood"], ppca.log_prob(x), atol=1e-8, rtol=0)
    exact = ppca.log_prob(x).argsort().tolist()
    assert scores.lowest(4) == exact[:4] and scores.lowest(100) == exact and scores.ids == tuple(range(30))
    assert scores.rows["lowest (nats)"].startswith(f"{exact[0]} ({ppca.log_prob(x).min():.2f}), {exact[1]} (")
    assert scores.to_dict()["lowest"][0]["id"] == exact[0] and scores.to_dict()["of"] == ["x"]
    assert scores.row(3)["pareto_k"] is None and scores.row(3)["effective_sample_size"] == pytest.approx(50)
    assert "<table>" in scores._repr_html_() and len(scores) == 30


def test_scores_are_the_log_likelihoods_bit_for_bit(ppca):
    x, how = ppca.sample(40), {"num_particles": 70, "seed": 3, "memory_budget": 2**18}
    ours = pyro_vae.score(ppca.model, ppca.rough_guide(), x, **how).arrays()
    theirs = log_likelihood(ppca.model, ppca.rough_guide(), x, **how).arrays()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    other = pyro_vae.score(ppca.model, ppca.rough_guide(), x, **{**how, "seed": 4}).arrays()
    assert not torch.equal(ours["log_likelihood"], other["log_likelihood"])


@pytest.mark.parametrize("kind", ["array", "dict", "dataset", "loader", "batches", "parts"])
def test_what_data_may_be(ppca, kind):
    x = ppca.sample(12)
    made = {
        "array": lambda: x.numpy(),
        "dict": lambda: {"x": x.numpy()},
        "dataset": lambda: torch.utils.data.TensorDataset(x),
        "loader": lambda: torch.utils.data.DataLoader(list(x), batch_size=5),
        "batches": lambda: [x[:5], x[5:]],
        "parts": lambda: {"train": x[:2], "test": x},
    }[kind]()
    found = pyro_vae.score(ppca.model, ppca.exact_guide, made, num_particles=5)
    assert found.arrays()["log_likelihood"].tolist() == pytest.approx(ppca.log_prob(x).tolist(), abs=1e-3)


def test_names_stay_with_their_data_and_a_datum_that_is_no_number_is_the_lowest():
    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0).mask(torch.ones(()).bool()), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    split = Split({"x": torch.tensor([0.0, 1e30, 3.0, 5.0])}, names=["a", "b", "c", "d"])
    found = pyro_vae.score(model, guide, split, num_particles=3)
    exact = [-0.25 * x**2 - 0.5 * math.log(4 * math.pi) for x in (0.0, 3.0, 5.0)]
    assert found.ids == ("a", "b", "c", "d") and found.lowest(2) == [1, 3]
    assert found.arrays()["log_likelihood"][[0, 2, 3]].tolist() == pytest.approx(exact, abs=1e-4)
    assert any("datum 1" in sentence for sentence in found.warnings)


def test_what_is_given_is_said():
    model = pyro_vae.models.ConditionalVAE((1, 4, 4), latent_dim=2, hidden_dims=(8,))
    guide = pyro_vae.guides.ConditionalGuide(model, hidden_dims=(8,))
    data = {"x": (torch.rand(6, 1, 4, 4) > 0.5).float(), "y": torch.arange(6)}
    found = pyro_vae.score(model, guide, data, num_particles=5)
    assert found.given == ("y",) and found.rows["given"] == "y: log p(x | y)" and found.to_dict()["given"] == ["y"]


# ------------------------------------------------------------------ means and scales
def pair_of(q):
    """A pair whose guide draws z from a distribution of x."""

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 10.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", q(x))

    return model, guide


NORMAL = {
    "normal": (lambda x: dist.Normal(x, 0.5 + x.abs()).to_event(1), lambda x: 0.5 + x.abs()),
    "laplace": (lambda x: dist.Laplace(x, 2.0).to_event(1), lambda x: torch.full_like(x, 2 * 2**0.5)),
    "student": (lambda x: dist.StudentT(5.0, x, 3.0).to_event(1), lambda x: torch.full_like(x, 3 * (5 / 3) ** 0.5)),
    "uniform": (lambda x: dist.Uniform(x - 1, x + 1).to_event(1), lambda x: torch.full_like(x, 3**-0.5)),
    "full": (
        lambda x: dist.MultivariateNormal(x, torch.tensor([[4.0, 1.0], [1.0, 9.0]])),
        lambda x: torch.tensor([2.0, 3.0]).expand_as(x),
    ),
    "mixture": (
        lambda x: dist.MixtureSameFamily(
            dist.Categorical(torch.ones(2)),
            dist.Normal(torch.stack([x - 1, x + 1], -2), 2.0).to_event(1),
        ),
        lambda x: torch.full_like(x, 5**0.5),
    ),
}


@pytest.mark.parametrize("name", NORMAL)
def test_means_and_standard_deviations(name):
    q, scale = NORMAL[name]
    x = torch.randn(7, 2)
    found = posterior_moments(*pair_of(q), x, batch_size=3)
    assert set(found) == {"z.mean", "z.scale"}
    torch.testing.assert_close(found["z.mean"], x)
    torch.testing.assert_close(found["z.scale"], scale(x))
    assert torch.equal(pyro_vae.encode(*pair_of(q), x)["z"], found["z.mean"])


def test_what_has_no_mean_has_draws_and_a_point_mass_its_value():
    x = torch.randn(4, 2)
    heavy = posterior_moments(*pair_of(lambda x: dist.Cauchy(x, 1.0).to_event(1)), x)
    assert set(heavy) == {"z"} and not torch.equal(heavy["z"], x)
    assert torch.equal(posterior_moments(*pair_of(lambda x: dist.Delta(x, event_dim=1)), x)["z"], x)


def test_angles_have_no_scale():
    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.VonMises(0.0, 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.VonMises(x, 2.0))

    assert set(posterior_moments(model, guide, torch.rand(4))) == {"z.mean"}


@pytest.mark.parametrize("verb", [posterior_moments, pyro_vae.encode])
def test_a_mean_of_some_data_alone_is_refused(verb):
    """Else one column of numbers would hold means of some data and draws of others."""

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 10.0))
            return pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.StudentT(torch.where(x[:, 0] > 9, 0.5, 5.0), x[:, 0], 1.0))

    with pytest.raises(InputError, match=r"site 'z': .* for some data and none \(NaN\) for others"):
        verb(model, guide, torch.tensor([[0.0], [1.0], [10.0], [2.0]]), batch_size=2)


def test_what_a_mask_leaves_out_is_no_number():
    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            there = torch.ones(2).bool() if x is None else x > 0
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).mask(there).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 2.0).mask(x > 0).to_event(1))

    x = torch.tensor([[1.0, -1.0], [2.0, 3.0]])
    found = posterior_moments(model, guide, x)
    torch.testing.assert_close(found["z.mean"], torch.tensor([[1.0, torch.nan], [2.0, 3.0]]), equal_nan=True)
    torch.testing.assert_close(found["z.scale"], torch.tensor([[2.0, torch.nan], [2.0, 2.0]]), equal_nan=True)


def partly_labelled(kind, masks):
    """A latent that is known for some data; the guide draws it for all, with the mask of its own or the model's."""

    def site(like):
        return dist.Categorical(torch.full((*like.shape, 3), 1 / 3)) if kind == "labels" else dist.Normal(like, 1.0)

    def model(x=None, *, y, known, num_samples=1):
        with pyro.plate("data", len(y)):
            label = pyro.sample("y", site(torch.zeros(len(y))), obs=y, obs_mask=known)
            z = pyro.sample("z", dist.Normal(label.float(), 1.0))
            return pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    def guide(x, *, y, known):
        with pyro.plate("data", len(x)):
            with pyro.poutine.mask(mask=~known if masks == "guide" else True):
                pyro.sample("y_unobserved", site(x[:, 0]))
            pyro.sample("z", dist.Normal(x[:, 0], 2.0))

    return model, guide


@pytest.mark.parametrize("masks", ["guide", "model"])
@pytest.mark.parametrize("kind", ["labels", "numbers"])
@pytest.mark.parametrize("batch_size", [2, 500])
def test_what_is_known_has_no_number_as_a_latent(kind, masks, batch_size):
    x, known = torch.randn(6, 1), torch.tensor([True, True, False, True, False, False])
    y = torch.arange(6) % 3
    data = {"x": x, "y": y if kind == "labels" else y.float(), "known": known}
    found = posterior_moments(*partly_labelled(kind, masks), data, batch_size=batch_size)
    told = {name: value for name, value in found.items() if name.startswith("y_unobserved")}
    assert set(told) == ({"y_unobserved"} if kind == "labels" else {"y_unobserved.mean", "y_unobserved.scale"})
    for value in told.values():
        assert torch.equal(value.isnan(), known)
    if kind == "labels":
        assert set(told["y_unobserved"][~known].tolist()) <= {0.0, 1.0, 2.0}
    else:
        torch.testing.assert_close(told["y_unobserved.mean"][~known], x[~known, 0])
    torch.testing.assert_close(found["z.mean"], x[:, 0])


def test_a_site_with_the_name_of_anothers_mean_is_refused():
    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("z.mean", dist.Normal(z, 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))
            pyro.sample("z.mean", dist.Delta(x, event_dim=1))

    with pytest.raises(InputError, match="one has the name of another's mean or scale"):
        posterior_moments(model, guide, torch.randn(3, 2))
    assert set(pyro_vae.encode(model, guide, torch.randn(3, 2))) == {"z", "z.mean"}

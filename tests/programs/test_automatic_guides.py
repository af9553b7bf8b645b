"""Automatic guides of latents that all data share, called from within a guide: their KL, and what is given them."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDiagonalNormal, AutoGuideList, AutoIAFNormal, AutoNormal
from torch.distributions import kl_divergence

import pyro_vae
from pyro_vae.errors import InputError

X = torch.randn(30, 2, generator=torch.Generator().manual_seed(1))


def model(x=None, num_samples=1):
    w = pyro.sample("w", dist.LogNormal(0.3, 1.0))
    v = pyro.sample("v", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    with pyro.plate("data", num_samples if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(w * z + v, 1.0).to_event(1), obs=x)


def listed(program):
    guides = AutoGuideList(program)
    for name in "wv":
        guides.append(AutoNormal(poutine.block(program, expose=[name])))
    return guides


def guide_with(automatic):
    shared = automatic(poutine.block(model, hide=["z", "x"]))

    def guide(x):
        shared(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.3 * x, 0.9).to_event(1))

    return guide, shared


@pytest.mark.parametrize(
    ("automatic", "names"),
    [(AutoNormal, ["w", "v"]), (AutoDiagonalNormal, ["w, v"]), (listed, ["w", "v"]), (AutoIAFNormal, ["w, v"])],
    ids=["normal", "diagonal", "list", "iaf"],
)
def test_they_are_measured_with_one_kl_of_each_draw(automatic, names):
    """By hand: q(log w) and q(v) are Gaussians, and so are their priors; given w and v, x is Gaussian."""
    guide, shared = guide_with(automatic)
    result = pyro_vae.fit(model, guide, X, epochs=2, batch_size=10, learning_rate=0.02, device="cpu", progress=False)
    pair = result.model, result.guide
    bound = pyro_vae.elbo(*pair, X, num_particles=4000)
    assert list(bound.kl) == [*names, "z"] and list(bound.shared) == names
    assert not any("unconstrained" in row or "latent" in row for row in bound.rows)
    found = pyro_vae.log_likelihood(*pair, X, num_particles=500, num_global=200)
    assert list(found.shared.kl) == names
    assert pyro_vae.ais(*pair, X[:3], num_chains=2, num_temperatures=5).shared.names == ", ".join(names)
    if automatic is AutoIAFNormal:
        return
    if automatic is AutoDiagonalNormal:
        loc, scale = shared.loc.detach(), shared.scale.detach()
    else:
        parts = [shared[0], shared[1]] if automatic is listed else [shared, shared]
        loc, scale = (
            torch.cat([getattr(getattr(g, of), n).detach().flatten() for g, n in zip(parts, "wv", strict=True)])
            for of in ("locs", "scales")
        )
    prior = dist.Normal(torch.tensor([0.3, 0.0, 0.0]), torch.tensor([1.0, 2.0, 2.0]))
    each = kl_divergence(dist.Normal(loc, scale), prior)
    exact = [each.sum()] if len(names) == 1 else [each[0], each[1:].sum()]
    for name, kl in zip(names, exact, strict=True):  # nats of all data together
        assert bound.kl[name].sum().item() == pytest.approx(kl.item(), abs=0.02)
        assert found.shared.kl[name] == pytest.approx(kl.item(), abs=0.25)  # 200 draws
    torch.manual_seed(2)
    draws = loc + scale * torch.randn(20_000, 3)
    given = dist.Normal(draws[:, None, 1:], (draws[:, None, :1].exp().square() + 1).sqrt())
    truth = given.log_prob(X).sum(-1).mean(0)
    assert found.mean == pytest.approx(truth.mean().item(), abs=0.01)
    assert bound.given_shared.mean().item() < truth.mean().item()


def test_a_list_is_refused_by_its_part():
    with pytest.raises(InputError, match=r"AutoNormal keeps parameters of its own for each datum's 'z'"):
        guides = AutoGuideList(model)
        guides.append(AutoNormal(poutine.block(model, expose=["z"])))
        pyro_vae.log_likelihood(model, guides, X)


def test_statistics_have_the_kl_of_what_a_site_is_a_function_of():
    """KL(N(x / 2, 0.7) || N(0, 1)) of each datum, in AutoNormal's form; two functions of one draw have none each."""

    def of_data(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            noise = dist.Normal(x / 2, 0.7).to_event(1)
            u = pyro.sample("z_unconstrained", noise, infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u.exp(), log_density=-u.sum(-1), event_dim=1))

    exact = kl_divergence(dist.Normal(X / 2, 0.7), dist.Normal(0.0, 1.0)).sum(-1)
    bound = pyro_vae.elbo(of_data, guide, X, num_particles=5000)
    assert (bound.kl["z"] - exact).abs().max() < 0.1 and list(bound.kl) == ["z"]
    found = pyro_vae.evaluation.latent_statistics(of_data, guide, X, num_particles=5000).sites["z"]
    assert found.kl == pytest.approx(exact.mean().item(), abs=0.02)
    together, _ = guide_with(AutoDiagonalNormal)
    assert list(pyro_vae.evaluation.latent_statistics(model, together, X).sites) == ["z"]


def test_training_tells_one_kl_of_each_draw():
    guide, _ = guide_with(AutoNormal)
    how = {"epochs": 40, "batch_size": 10, "learning_rate": 0.01, "device": "cpu", "progress": False}
    result = pyro_vae.fit(model, guide, X, **how)
    told = {name: value for name, value in result.records[-1].items() if name.startswith("train/kl/")}
    assert list(told) == ["train/kl/w", "train/kl/v", "train/kl/z"]
    bound = pyro_vae.elbo(result.model, result.guide, X, num_particles=2000)
    for name in "wv":  # nats per datum: of a draw a batch, three batches an epoch
        assert told[f"train/kl/{name}"] == pytest.approx(bound.kl[name].mean().item(), abs=0.1)


def test_free_bits_of_functions_are_refused():
    guide, _ = guide_with(AutoNormal)
    how = {"epochs": 1, "batch_size": 10, "device": "cpu", "progress": False}
    with pytest.raises(InputError, match=r"free bits of site 'w.*has no KL by itself"):
        pyro_vae.fit(model, guide, X, objective=pyro_vae.ELBO(free_bits=0.1), **how)
    pyro_vae.fit(model, guide, X, objective=pyro_vae.ELBO(free_bits={"z": 0.1}), **how)

"""One model of an image, a label and attributes, of which some are missing: every tool, against hand-written bounds."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

import pyro_vae
from pyro_vae.data import Data, Split
from pyro_vae.evaluation.arviz import to_arviz
from pyro_vae.reports import write_report

SHAPE, CLASSES, ATTRIBUTES = (1, 4, 4), 3, 2


class Joint(nn.Module):
    """z ~ N(0, I);  x | z ~ Bernoulli, y | z ~ Categorical, a | z ~ Normal, with a guide that sees x only."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.label, self.attributes = nn.Linear(2, 16), nn.Linear(2, CLASSES), nn.Linear(2, ATTRIBUTES)
        self.encoder = nn.Linear(16, 4)

    def model(self, x=None, y=None, a=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            attributes = dist.Normal(self.attributes(z), 0.5)
            if a is not None:
                known = ~a.isnan()
                attributes, a = attributes.mask(known), torch.where(known, a, torch.zeros_like(a))
            pyro.sample("a", attributes.to_event(1), obs=a)
            kind = dist.Categorical(logits=self.label(z))
            if y is None:
                pyro.sample("y", kind)
            else:
                with pyro.poutine.mask(mask=y >= 0):
                    pyro.sample("y", kind, obs=y.clamp(min=0))
            logits = self.image(z).unflatten(-1, SHAPE)
            return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    def guide(self, x, y=None, a=None):
        loc, raw = self.encoder(x.flatten(1)).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, softplus(raw) + 0.7).to_event(1))

    @torch.no_grad()
    def parts(self, batch, z):
        """log p of each site by hand, ``(K, N)`` each, for z ``(K, N, 2)``; what is missing counts nothing."""
        x, y, a = (batch[name] for name in "xya")
        image = -binary_cross_entropy_with_logits(
            self.image(z), x.flatten(1).expand(len(z), -1, -1), reduction="none"
        ).sum(-1)
        scores = self.label(z) - self.label(z).logsumexp(-1, keepdim=True)
        label = torch.stack([scores[:, i, k] if k >= 0 else torch.zeros(len(z)) for i, k in enumerate(y.tolist())], 1)
        error = (a - self.attributes(z)) / 0.5
        density = -0.5 * error.square() - math.log(0.5) - 0.5 * math.log(2 * math.pi)
        return {"x": image, "y": label, "a": density.nansum(-1)}

    @torch.no_grad()
    def log_marginal(self, batch):
        """log p of what is known of each datum, by quadrature over z."""
        axis = torch.linspace(-7, 7, 401)
        z = torch.cartesian_prod(axis, axis)[:, None].expand(-1, len(batch["x"]), -1)
        prior = -0.5 * z.square().sum(-1) - math.log(2 * math.pi)
        total = sum(self.parts(batch, z).values()) + prior + 2 * math.log(axis[1] - axis[0])
        return total.double().logsumexp(0)


def batch_of(missing: bool):
    torch.manual_seed(1)
    batch = {
        "x": (torch.rand(12, *SHAPE) > 0.5).float(),
        "y": torch.randint(CLASSES, (12,)),
        "a": torch.randn(12, ATTRIBUTES),
    }
    if missing:
        batch["y"][::3] = -1
        batch["a"][1::4, 0] = torch.nan
        batch["a"][5] = torch.nan
    return batch


@pytest.fixture(params=[False, True], ids=["whole", "missing"])
def case(request):
    return Joint(), batch_of(request.param)


def test_each_sites_nats_are_those_by_hand(case):
    pair, batch = case
    found = pyro_vae.elbo(pair.model, pair.guide, batch, num_particles=4000)
    loc, raw = pair.encoder(batch["x"].flatten(1)).chunk(2, -1)
    scale = softplus(raw) + 0.7
    z = (loc + scale * torch.randn(4000, *loc.shape)).detach()
    by_hand = pair.parts(batch, z)
    assert sorted(found.log_likelihood) == ["a", "x", "y"]
    for name, value in by_hand.items():
        error = value.std(0) / 4000**0.5 + 1e-6
        assert ((found.log_likelihood[name] - value.mean(0)).abs() / error).max() < 6, name
    kl = (0.5 * (scale.square() + loc.square() - 1) - scale.log()).sum(-1).detach()
    torch.testing.assert_close(found.kl["z"], kl.double(), atol=1e-5, rtol=1e-5)
    total = sum(found.log_likelihood.values()) - found.kl["z"]
    torch.testing.assert_close(found.per_datum, total)


def test_the_likelihood_is_that_of_what_is_known(case):
    pair, batch = case
    result = pyro_vae.log_likelihood(pair.model, pair.guide, batch, num_particles=20_000)
    assert (result.per_datum - pair.log_marginal(batch)).abs().max() < 0.05
    known = (batch["y"] >= 0).double().mean(), (~batch["a"].isnan()).double().sum(1).mean()
    dimensions = {name: site.dimensions for name, site in result.sites.items()}
    assert dimensions == pytest.approx({"x": 16, "y": float(known[0]), "a": float(known[1])})
    assert {name: site.density for name, site in result.sites.items()} == {"x": False, "y": False, "a": True}
    annealed = pyro_vae.ais(pair.model, pair.guide, batch, num_chains=64, num_temperatures=100)
    w = (annealed.log_weights - pair.log_marginal(batch)).exp()  # (chains, N), of mean 1
    assert ((w.mean(0) - 1).abs() < 5 * w.std(0) / len(w) ** 0.5).all()


def test_a_training_loss_is_the_bound(case):
    pair, batch = case
    torch.manual_seed(3)
    loss = pyro_vae.ELBO()(pair.model, pair.guide)(**batch)
    torch.manual_seed(3)
    trace = pyro.poutine.trace(pair.guide).get_trace(x=batch["x"])
    z, q = trace.nodes["z"]["value"], trace.nodes["z"]["fn"].base_dist
    kl = (0.5 * (q.scale.square() + q.loc.square() - 1) - q.scale.log()).sum(-1)
    by_hand = sum(pair.parts(batch, z[None]).values())[0] - kl
    torch.testing.assert_close(loss, -by_hand.mean(), atol=1e-5, rtol=1e-5)


def test_what_is_missing_has_no_say(case):
    """Whatever stands in the place of a missing entry, and whoever else is in the batch."""
    pair, batch = case
    others = {**batch, "y": batch["y"].clone(), "a": batch["a"].clone()}
    others["y"][batch["y"] < 0] = -7
    others["a"][0] = 3.0  # another datum's
    apart = [pyro_vae.log_likelihood(pair.model, pair.guide, b, num_particles=200) for b in (batch, others)]
    torch.testing.assert_close(apart[0].per_datum[1:], apart[1].per_datum[1:], atol=0, rtol=0)
    assert apart[0].per_datum[0] != apart[1].per_datum[0]


def test_fit_gives_nats_of_each_site(case, tmp_path):
    pair, batch = case
    before = pair.log_marginal(batch).mean()
    how = {"epochs": 40, "batch_size": 6, "learning_rate": 0.02, "progress": False, "device": "cpu"}
    result = pyro_vae.fit(pair.model, pair.guide, Split(batch), **how)
    assert pair.log_marginal(batch).mean() > before + 0.5
    last = result.records[-1]
    assert {name for name in last if "log_likelihood/" in name or "reconstruction/" in name}, sorted(last)


def test_every_other_tool_works(case):
    pair, batch = case
    drawn = pyro_vae.sample(pair.model, 7)
    shapes = {name: tuple(value.shape) for name, value in drawn.items()}
    assert shapes == {"z": (7, 2), "a": (7, 2), "y": (7,), "x": (7, *SHAPE), "x.mean": (7, *SHAPE)}
    assert pyro_vae.sample(pair.model, 7, site="a")["a.mean"].shape == (7, ATTRIBUTES)
    assert pyro_vae.encode(pair.model, pair.guide, batch)["z"].shape == (12, 2)
    assert pyro_vae.reconstruct(pair.model, pair.guide, batch).shape == (12, *SHAPE)
    assert pyro_vae.reconstruct(pair.model, pair.guide, batch, site="a").shape == (12, ATTRIBUTES)
    assert pyro_vae.decode(pair.model, {"z": torch.zeros(3, 2)}, site="a").shape == (3, ATTRIBUTES)
    exported = to_arviz(pair.model, pair.guide, batch, num_draws=20)
    assert {"x", "y", "a"} <= set(exported["log_likelihood"].data_vars)


def test_a_report_shows_what_there_is(case, tmp_path, caplog):
    pair, batch = case
    data = Data(Split(batch), test=Split(batch))
    how = {"epochs": 2, "batch_size": 6, "progress": False, "device": "cpu"}
    result = pyro_vae.fit(pair.model, pair.guide, data, out=tmp_path, **how)
    write_report(tmp_path, result.model, result.guide, data, particles=20)
    assert "failed" not in (tmp_path / "report.json").read_text() and "no figure" not in caplog.text

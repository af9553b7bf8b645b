"""Discrete latents that are summed over, against closed forms, quadrature, the forward algorithm, and Pyro."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import nn

import pyro_vae
from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation import latent_statistics, posterior_probabilities
from pyro_vae.reports import write_report

P_C = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


def empty(x):
    """A guide of a model whose latents are all summed over."""


class Mixture(nn.Module):
    """y ~ OneHotCategorical, x | y ~ Bernoulli: all of it exact by hand."""

    def __init__(self, values: int = 4, size: int = 12) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.decoder, self.encoder, self.values = nn.Linear(values, size), nn.Linear(size, values), values

    def model(self, x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(self.values) / self.values))
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(y)).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.OneHotCategorical(logits=self.encoder(x)), infer={"enumerate": "parallel"})

    def joint(self, x):
        """log p(x, y) of all y, ``(N, K)``."""
        logits = self.decoder(torch.eye(self.values))
        return dist.Bernoulli(logits=logits).log_prob(x[:, None]).sum(-1).double() - math.log(self.values)


class ClusteredLatent(nn.Module):
    """c ~ Categorical, z | c ~ Normal, x | z, c ~ Normal, with one z: quadrature gives log p(x)."""

    def __init__(self, *, discrete_guide: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.decoder, self.encoder, self.logits = nn.Linear(1, 3), nn.Linear(3, 2), nn.Linear(3, 3)
        self.means = nn.Parameter(torch.tensor([-2.0, 0.0, 1.5]))
        self.discrete_guide = discrete_guide
        self.double()

    def model(self, x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            c = pyro.sample("c", dist.Categorical(P_C))
            z = pyro.sample("z", dist.Normal(self.means[c], 0.5))
            return pyro.sample("x", dist.Normal(self._mean(z, c), 1.0).to_event(1), obs=x)

    def _mean(self, z, c):
        return self.decoder(z[..., None]) + 0.1 * c[..., None]

    def guide(self, x):
        with pyro.plate("data", len(x)):
            shift = 0.0
            if self.discrete_guide:
                c = pyro.sample("c", dist.Categorical(logits=self.logits(x)), infer={"enumerate": "parallel"})
                shift = 0.3 * c
            loc, log_scale = self.encoder(x).unbind(-1)
            pyro.sample("z", dist.Normal(loc + shift, 2 * log_scale.exp()))

    @torch.no_grad()
    def joint(self, x):
        """log p(x, c), ``(N, 3)``, by quadrature over z."""
        z = torch.linspace(-12, 12, 6001, dtype=torch.float64)
        per_c = []
        for c in range(3):
            log_z = dist.Normal(self.means[c], 0.5).log_prob(z)
            log_x = dist.Normal(self._mean(z, torch.full_like(z, c)), 1.0).log_prob(x[:, None]).sum(-1)
            per_c.append((log_z + log_x + math.log(z[1] - z[0])).logsumexp(1) + P_C[c].log())
        return torch.stack(per_c, 1)


@pytest.fixture
def binary():
    torch.manual_seed(1)
    return (torch.rand(9, 12) > 0.5).float()


@pytest.fixture
def real():
    torch.manual_seed(1)
    return torch.randn(8, 3, dtype=torch.float64)


# ------------------------------------------------------------------ all latents discrete: exact
@pytest.mark.parametrize("marked", [True, False])
def test_of_discrete_latents_alone_the_likelihood_is_exact_with_one_particle(binary, marked):
    pair = Mixture()
    exact = pair.joint(binary).logsumexp(1)
    result = pyro_vae.log_likelihood(pair.model, pair.guide if marked else empty, binary, num_particles=50)
    assert result.num_particles == 1
    torch.testing.assert_close(result.per_datum, exact, atol=1e-5, rtol=0)


def test_the_elbo_is_exact_under_an_enumerated_guide(binary):
    pair = Mixture()
    log_q = pair.encoder(binary).log_softmax(-1).double()
    exact = (log_q.exp() * (pair.joint(binary) - log_q)).sum(1)
    result = pyro_vae.elbo(pair.model, pair.guide, binary)
    torch.testing.assert_close(result.per_datum, exact, atol=1e-5, rtol=0)
    kl = (log_q.exp() * (log_q + math.log(4))).sum(1)
    torch.testing.assert_close(result.kl["y"], kl, atol=1e-5, rtol=0)


def test_what_is_summed_in_the_model_is_a_part_of_the_likelihood(binary):
    pair = Mixture()
    result = pyro_vae.elbo(pair.model, empty, binary)
    torch.testing.assert_close(result.log_likelihood["x"], pair.joint(binary).logsumexp(1), atol=1e-5, rtol=0)
    assert not result.kl


# ------------------------------------------------------------------ against Pyro
@pytest.mark.parametrize("num_particles", [1, 4])
@pytest.mark.parametrize("discrete_guide", [True, False])
def test_value_and_gradients_are_those_of_pyros_enumeration(real, num_particles, discrete_guide):
    pair = ClusteredLatent(discrete_guide=discrete_guide)
    model = pair.model if discrete_guide else config_enumerate(pair.model)
    found = []
    for objective in (
        pyro_vae.ELBO(num_particles, analytic_kl=False),
        TraceEnum_ELBO(max_plate_nesting=1, num_particles=num_particles, vectorize_particles=num_particles > 1),
    ):
        torch.manual_seed(3)
        loss = objective.differentiable_loss(model, pair.guide, real)
        loss = loss if isinstance(objective, pyro_vae.ELBO) else loss / len(real)
        gradients = torch.autograd.grad(loss, list(pair.parameters()), allow_unused=True)
        found.append([loss.detach(), *(torch.zeros(()) if g is None else g for g in gradients)])
    torch.testing.assert_close(*found, atol=1e-10, rtol=1e-8)


# ------------------------------------------------------------------ mixed latents: quadrature
@pytest.mark.parametrize("discrete_guide", [True, False])
def test_estimates_agree_with_quadrature(real, discrete_guide):
    pair = ClusteredLatent(discrete_guide=discrete_guide)
    exact = pair.joint(real).logsumexp(1)
    result = pyro_vae.log_likelihood(pair.model, pair.guide, real, num_particles=20_000)
    assert (result.per_datum - exact).abs().max() < 0.1
    p = posterior_probabilities(pair.model, pair.guide, real, num_particles=20_000)["c"]
    assert (p - pair.joint(real).softmax(1)).abs().max() < 0.02
    annealed = pyro_vae.ais(pair.model, pair.guide, real, num_chains=64, num_temperatures=200, start="prior")
    assert (annealed.per_datum - exact).abs().max() < 0.15


@pytest.mark.parametrize("kind", ["real", "discrete"])
def test_what_is_drawn_before_the_guide_enumerates_what_its_prior_depends_on(real, kind):
    """z is drawn, then c given z has all its values, and p(z | c) depends on c: the KL of z is no closed form."""
    pair = ClusteredLatent(discrete_guide=True)
    wide = torch.linspace(-9, 9, 4001, dtype=torch.float64) if kind == "real" else torch.tensor([0.0, 1.0]).double()

    def of_c(z):
        return (pair.logits.bias + z[..., None] * torch.tensor([-1.0, 0.3, 0.8])).log_softmax(-1)

    def of_z(c):
        mean = pair.means[c.long()]
        return dist.Normal(mean, 0.5) if kind == "real" else dist.Bernoulli(logits=mean)

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            c = pyro.sample("c", dist.Categorical(P_C))
            z = pyro.sample("z", of_z(c))
            return pyro.sample("x", dist.Normal(pair.decoder(z[..., None]), 1.0).to_event(1), obs=x)

    def q(x):
        loc = pair.encoder(x)[..., 0]
        return dist.Normal(loc, 0.7) if kind == "real" else dist.Bernoulli(logits=loc)

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", q(x))
            pyro.sample("c", dist.Categorical(logits=of_c(z)), infer={"enumerate": "parallel"})

    z, log_c, c = wide[:, None], of_c(wide), torch.arange(3)  # (Z, 1), (Z, C), (C,)
    mass = q(real).log_prob(z).exp() * (wide[1] - wide[0])  # (Z, N)
    kl_of_z = q(real).log_prob(z) - (log_c.exp() * of_z(c).log_prob(z)).sum(-1, keepdim=True)
    kl_of_c = (log_c.exp() * (log_c - P_C.log())).sum(-1, keepdim=True)
    of_x = dist.Normal(pair.decoder(wide[:, None, None]), 1.0).log_prob(real).sum(-1)
    exact = (mass * (of_x - kl_of_z - kl_of_c)).sum(0)
    found = pyro_vae.elbo(model, guide, real, num_particles=20_000)
    assert (found.per_datum - exact).abs().max() < 0.12
    assert (found.kl["z"] - (mass * kl_of_z).sum(0)).abs().max() < 0.08
    loss = pyro_vae.ELBO(20_000).loss(model, guide, real)
    assert loss == pytest.approx(-exact.mean().item(), abs=0.05)


def test_the_sum_over_a_latents_prior_is_its_kl(real):
    """z's prior is the mixture: log q(z) - log sum_c p(c) p(z | c), here with x that does not look at c."""
    pair = ClusteredLatent(discrete_guide=False)
    pair._mean = lambda z, c: pair.decoder(z[..., None])
    mixture = dist.MixtureSameFamily(dist.Categorical(P_C), dist.Normal(pair.means, 0.5))

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", mixture)
            return pyro.sample("x", dist.Normal(pair.decoder(z[..., None]), 1.0).to_event(1), obs=x)

    ours, theirs = (pyro_vae.elbo(m, pair.guide, real, num_particles=20) for m in (pair.model, model))
    torch.testing.assert_close(ours.kl["z"], theirs.kl["z"], atol=1e-8, rtol=0)
    torch.testing.assert_close(ours.log_likelihood["x"], theirs.log_likelihood["x"], atol=1e-8, rtol=0)


# ------------------------------------------------------------------ plates and chains
def hidden_markov(length: int, states: int, symbols: int):
    torch.manual_seed(0)
    first, move, emit = (torch.randn(*shape).softmax(-1) for shape in ((states,), (states, states), (states, symbols)))

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            state, seen = None, []
            for t in pyro.markov(range(length)):
                state = pyro.sample(f"s{t}", dist.Categorical(first if state is None else move[state]))
                obs = None if x is None else x[:, t].long()
                seen.append(pyro.sample(f"x{t}", dist.Categorical(emit[state]), obs=obs))
        return torch.stack(torch.broadcast_tensors(*seen), -1)

    def forwards(x):
        found = [first * emit[:, x[:, 0]].T]
        for t in range(1, length):
            found.append((found[-1] @ move) * emit[:, x[:, t]].T)
        return found

    def smoothed(x):
        later = [torch.ones(len(x), states)]
        for t in range(length - 1, 0, -1):
            later.insert(0, (later[0] * emit[:, x[:, t]].T) @ move.T)
        both = [a * b for a, b in zip(forwards(x), later, strict=True)]
        return [p / p.sum(-1, keepdim=True) for p in both]

    return model, forwards, smoothed


def test_a_hidden_markov_model_is_exact_in_linear_time():
    model, forwards, smoothed = hidden_markov(length=30, states=4, symbols=3)
    x = torch.randint(0, 3, (6, 30))
    result = pyro_vae.log_likelihood(model, empty, {"x": x.float()}, num_particles=1)
    torch.testing.assert_close(result.per_datum, forwards(x)[-1].sum(1).log().double(), atol=1e-4, rtol=0)
    p = posterior_probabilities(model, empty, {"x": x.float()})
    for t, exact in enumerate(smoothed(x)):
        torch.testing.assert_close(p[f"s{t}"], exact, atol=1e-5, rtol=0)


def test_sites_of_an_inner_plate_are_summed_one_by_one():
    torch.manual_seed(0)
    weights, means, y = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.randn(4), torch.randn(7, 5)

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            g = pyro.sample("g", dist.Bernoulli(0.3))
            with pyro.plate("pixels", 5, dim=-2):
                c = pyro.sample("c", dist.Categorical(weights))
                return pyro.sample("x", dist.Normal(means[c] + g, 1.0), obs=None if x is None else x.T).T

    table = torch.stack([weights.log() + dist.Normal(means + g, 1.0).log_prob(y[..., None]) for g in (0, 1)])
    joint = table.logsumexp(-1).sum(-1) + torch.tensor([0.7, 0.3]).log()[:, None]  # (2, N)
    result = pyro_vae.log_likelihood(model, empty, y)
    torch.testing.assert_close(result.per_datum, joint.logsumexp(0).double(), atol=1e-4, rtol=0)
    p = posterior_probabilities(model, empty, y)
    torch.testing.assert_close(p["g"], joint.softmax(0).T, atol=1e-5, rtol=0)
    exact = (joint.softmax(0)[..., None, None] * table.softmax(-1)).sum(0)  # (N, 5, 4)
    torch.testing.assert_close(p["c"], exact, atol=1e-5, rtol=0)


def test_sums_do_not_underflow():
    """Two data sites that each rule out the other's state by 500 nats."""

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.5))
            first = pyro.sample("a", dist.Normal(c * 1000**0.5, 1.0), obs=None if x is None else x[:, 0])
            second = pyro.sample("b", dist.Normal((1 - c) * 1000**0.5, 1.0), obs=None if x is None else x[:, 1])
        return torch.stack(torch.broadcast_tensors(first, second), -1)

    x = torch.zeros(3, 2, dtype=torch.float64)
    result = pyro_vae.log_likelihood(model, empty, x)
    exact = -500 - math.log(2 * math.pi)
    torch.testing.assert_close(result.per_datum, torch.full((3,), exact, dtype=torch.float64), atol=1e-3, rtol=0)


# ------------------------------------------------------------------ training
@pytest.mark.parametrize("compile", ["off", "graph"])
@pytest.mark.parametrize("discrete_guide", [True, False])
def test_fit_recorded_or_not(real, discrete_guide, compile):
    pair = ClusteredLatent(discrete_guide=discrete_guide)
    before = pyro_vae.log_likelihood(pair.model, pair.guide, real, num_particles=200).mean
    how = {"epochs": 30, "batch_size": 4, "learning_rate": 0.02, "progress": False, "device": "cpu", "seed": 1}
    result = pyro_vae.fit(pair.model, pair.guide, real, compile=compile, precision="64-true", **how)
    assert pyro_vae.log_likelihood(result.model, result.guide, real, num_particles=200).mean > before + 0.5
    assert ("train/kl/c" in result.records[-1]) is discrete_guide


# ------------------------------------------------------------------ every other tool
@pytest.mark.parametrize("discrete_guide", [True, False])
def test_statistics_of_latents_are_those_of_the_bound(real, discrete_guide):
    pair = ClusteredLatent(discrete_guide=discrete_guide)
    statistics = latent_statistics(pair.model, pair.guide, real, num_particles=2000).sites
    bound = pyro_vae.elbo(pair.model, pair.guide, real, num_particles=2000)
    assert sorted(statistics) == sorted(bound.kl)
    for name, value in bound.kl.items():
        assert abs(statistics[name].kl - value.mean()) < 0.1 * (1 + value.mean().abs())


@pytest.mark.parametrize("discrete_guide", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_report_shows_what_there_is(real, discrete_guide, tmp_path, caplog):
    pair = ClusteredLatent(discrete_guide=discrete_guide)
    data = Data(Split({"x": real}), test=Split({"x": real}))
    how = {"epochs": 2, "batch_size": 4, "progress": False, "device": "cpu", "precision": "64-true"}
    result = pyro_vae.fit(pair.model, pair.guide, data, out=tmp_path, **how)
    write_report(tmp_path, result.model, result.guide, data, particles=20)
    assert "no figure" not in caplog.text and "failed" not in (tmp_path / "report.json").read_text()


def test_estimators_of_densities_refuse_a_guide_with_all_values(real):
    pair = ClusteredLatent(discrete_guide=True)
    objective = pyro_vae.IWAE(3, "dreg")
    with pytest.raises(InputError, match="site c has all its values"):
        objective.differentiable_loss(pair.model, pair.guide, real)


# ------------------------------------------------------------------ refusals
def test_too_many_terms_are_counted(binary, monkeypatch):
    monkeypatch.setattr("pyro_vae.programs.enumeration.ONE_DATUM", 2**26)

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            total = 0
            for i in range(8):
                total = total + pyro.sample(f"c{i}", dist.Categorical(torch.ones(30) / 30))
            rate = torch.full((12,), 0.5) + 0 * total[..., None]
            return pyro.sample("x", dist.Bernoulli(rate).to_event(1), obs=x)

    with pytest.raises(InputError, match=r"30 \(c0\) x .* 656,100,000,000 terms"):
        pyro_vae.log_likelihood(model, empty, binary)


def test_marks_that_cannot_be_followed_are_refused(binary):
    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.full((3,), 0.5)).to_event(1))
            rate = torch.full((12,), 0.5) + 0 * z[..., :1]
            return pyro.sample("x", dist.Bernoulli(rate).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(torch.full((3,), 0.5)).to_event(1), infer={"enumerate": "parallel"})

    with pytest.raises(InputError, match="'z' is marked to be enumerated, but its Independent has no finite list"):
        pyro_vae.log_likelihood(model, guide, binary)
    with pytest.raises(InputError, match="guide lacks the model's latent site z"):
        pyro_vae.log_likelihood(model, empty, binary)


def test_a_sum_shared_by_all_data_is_refused(binary):
    def model(x=None, num_samples=1):
        c = pyro.sample("c", dist.Bernoulli(0.5))
        with pyro.plate("data", num_samples if x is None else len(x)):
            return pyro.sample("x", dist.Bernoulli(0.2 + 0.6 * c.expand(12)).to_event(1), obs=x)

    with pytest.raises(InputError, match="'c' is outside the data plate"):
        pyro_vae.log_likelihood(model, empty, binary)


def test_annealing_from_a_guide_of_mixtures_says_what_to_do(real):
    pair = ClusteredLatent(discrete_guide=True)
    with pytest.raises(InputError, match=r"'c' has all its values in the guide.*start=\"prior\""):
        pyro_vae.ais(pair.model, pair.guide, real, num_chains=2, num_temperatures=5)


def test_nothing_summed_has_no_posterior_probabilities(binary):
    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Bernoulli(logits=z[..., None].expand(*z.shape, 12)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(-1), 1.0))

    with pytest.raises(InputError, match="no latent site is summed over"):
        posterior_probabilities(model, guide, binary)

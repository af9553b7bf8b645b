"""Control variates of relaxed draws (RELAX): unbiased by enumeration, and fitted to the variance of the gradient."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from discrete_pairs import Coins, check_unbiased, gradients
from pyro import poutine
from torch import nn
from torch.nn.functional import one_hot

import pyro_vae
from pyro_vae import ELBO, IWAE
from pyro_vae.programs.relaxed import relaxed_draw


def wild(relaxed, x):
    """A control variate that predicts nothing; relaxed draws with a value for each datum."""
    return 3 * torch.sin(3 * relaxed + x.sum(-1)) - 2 * relaxed**2


def off_target(x):
    return {"nn_relax": wild, "nn_baseline_input": x}


def with_others(x):
    others = {"nn_baseline": lambda x: x.sum(-1), "use_decaying_avg_baseline": True, "baseline_beta": 0.5}
    return off_target(x) | others | {"relax_temperature": 1.3}


# --------------------------------------------------------------------------- unbiased
@pytest.mark.parametrize("guide_order", [("a", "b"), ("b", "a")])
@pytest.mark.parametrize("hint", [off_target, with_others])
@pytest.mark.parametrize("objective", [ELBO(1), ELBO(1, analytic_kl=False), ELBO(3)], ids=["closed", "drawn", "three"])
def test_the_gradient_of_several_sites_is_that_of_enumeration(x, guide_order, hint, objective):
    pair = Coins(guide_order=guide_order, baseline=hint)
    check_unbiased(gradients(pair, objective, x), pair, pair.exact_loss(x), 0.008)


@pytest.mark.parametrize("num_particles", [1, 2])
def test_the_gradient_of_the_importance_weighted_bound_is_that_of_enumeration(x, num_particles):
    pair = Coins(baseline=off_target)
    check_unbiased(gradients(pair, IWAE(num_particles), x), pair, pair.exact_iwae(x, num_particles), 0.01)


def test_weights_of_kls_and_free_bits_are_kept(x):
    """The KL of b is below its free bits, that of a above."""
    pair = Coins(kl_of_b=0.4, baseline=off_target)
    with torch.no_grad():
        pair.q["a"].bias += 2.0
    check_unbiased(gradients(pair, ELBO(2, free_bits=0.3), x), pair, pair.exact_loss(x, 0.3), 0.008)


def test_a_site_that_is_enumerated_beside_one_with_a_control_variate(x):
    pair = Coins()
    plain = pair.guide
    hints = {"a": {"enumerate": "parallel"}, "b": {"baseline": off_target(x.repeat(4000, 1))}}
    pair.guide = poutine.infer_config(plain, lambda site: hints.get(site["name"], {}))
    found = gradients(pair, ELBO(2), x)
    pair.guide = plain
    check_unbiased(found, pair, pair.exact_loss(x), 0.008)


KINDS = {
    "bits": lambda logits: dist.Bernoulli(logits=logits[..., :2]).to_event(1),
    "probabilities": lambda logits: dist.Bernoulli(logits[..., :2].sigmoid()).to_event(1),
    "class": lambda logits: dist.Categorical(logits=logits[..., :3]),
    "class probabilities": lambda logits: dist.Categorical(logits[..., :3].exp()),
    "one-hot": lambda logits: dist.OneHotCategorical(logits=logits[..., :3]),
    "two one-hot": lambda logits: dist.OneHotCategorical(logits=logits.unflatten(-1, (2, 3))).to_event(1),
    "impossible class": lambda logits: dist.Categorical(
        logits=torch.cat([logits[..., :2], torch.full_like(logits[..., :1], -torch.inf)], -1)
    ),
}


class Kinds(nn.Module):
    """One latent of any kind; x is Normal about a linear function of it."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.q, self.mean = kind, nn.Linear(2, 6), nn.Linear(6, 2)
        self.temperature = nn.Parameter(torch.tensor(0.7))
        self.double()

    def features(self, value):
        value = one_hot(value, 3).double() if "class" in self.kind else value
        value = value.flatten(-2) if "two" in self.kind else value
        return torch.cat([value, value.new_zeros(*value.shape[:-1], 6 - value.shape[-1])], -1)

    def of_x(self, value):
        return dist.Normal(self.mean(self.features(value)), 0.7).to_event(1)

    def prior(self, like):
        return KINDS[self.kind](torch.tensor([0.3, -0.5, 0.0, 0.2, 0.2, -0.4], dtype=like.dtype))

    def model(self, x=None, num_samples=1):
        with pyro.plate("data", len(x)):
            pyro.sample("x", self.of_x(pyro.sample("z", self.prior(x))), obs=x)

    def control(self, relaxed, x):
        r = relaxed.flatten(-2) if "two" in self.kind else relaxed
        return 4 * torch.sin(2 * r.sum(-1) + x.sum(-1)) * r[..., 0] - 3 * r[..., -1] ** 2 + r.prod(-1)

    def guide(self, x):
        hint = {"nn_relax": self.control, "nn_baseline_input": x, "relax_temperature": self.temperature}
        with pyro.plate("data", len(x)):
            pyro.sample("z", KINDS[self.kind](self.q(x)), infer={"baseline": hint})

    def values(self):
        units = torch.eye(3, dtype=torch.float64)
        if "class" in self.kind:
            return [torch.tensor(i) for i in range(2 if "impossible" in self.kind else 3)]
        if self.kind == "one-hot":
            return list(units)
        if self.kind == "two one-hot":
            return [torch.stack(pair) for pair in itertools.product(units, units)]
        return [torch.tensor(pair, dtype=torch.float64) for pair in itertools.product((0.0, 1.0), repeat=2)]

    def exact_loss(self, x):
        loss, q = 0.0, KINDS[self.kind](self.q(x))
        for value in self.values():
            value = value.expand(len(x), *value.shape)
            log_q = q.log_prob(value)
            log_p = self.prior(x).log_prob(value) + self.of_x(value).log_prob(x)
            loss = loss + (log_q.exp() * (log_q - log_p)).mean()
        return loss


@pytest.mark.parametrize("num_particles", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_at_every_kind_of_site_is_that_of_enumeration(x, kind, num_particles):
    pair = Kinds(kind)
    pair.temperature.requires_grad_(False)  # it has a gradient of its own
    found = gradients(pair, ELBO(num_particles, analytic_kl=False), x)
    assert found.isfinite().all()
    check_unbiased(found, pair, pair.exact_loss(x), 0.02)


def test_bits_that_are_masked_and_in_an_inner_plate_beside_a_sum(x):
    """b of each of two numbers is drawn, where it is kept; c is summed over."""
    keep = torch.tensor([[True, True, False], [True, False, True]])

    class Plates(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.q, self.means = nn.Linear(2, 2), nn.Parameter(torch.tensor([-0.5, 1.0]))
            self.double()

        def of_x(self, b, c, keep):
            return dist.Normal(self.means[(b * keep).long()] + c, 1.0)

        def model(self, x=None, num_samples=1):
            mask = keep.repeat(1, len(x) // 3)
            with pyro.plate("data", len(x)):
                c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.3, dtype=torch.float64)))
                with pyro.plate("numbers", 2, dim=-2):
                    b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.6, dtype=torch.float64)).mask(mask))
                    pyro.sample("x", self.of_x(b, c, mask), obs=x.T)

        def guide(self, x):
            hint = {"nn_relax": lambda r: 5 * torch.sin(4 * r) * r.prod(-2, keepdim=True)}
            with pyro.plate("data", len(x)), pyro.plate("numbers", 2, dim=-2):
                pyro.sample("b", dist.Bernoulli(logits=self.q(x).mT), infer={"baseline": hint})

        def exact_loss(self, x):
            loss = 0.0
            for values in itertools.product((0, 1), repeat=2):
                b = torch.tensor(values, dtype=torch.float64)[:, None].expand(2, len(x))
                q = dist.Bernoulli(logits=self.q(x).mT).log_prob(b)
                p = dist.Bernoulli(torch.tensor(0.6, dtype=torch.float64)).log_prob(b)
                of_c = [math.log(w) + self.of_x(b, c, keep).log_prob(x.T).sum(0) for c, w in ((0.0, 0.7), (1.0, 0.3))]
                bound = (keep * (p - q)).sum(0) + torch.stack(of_c).logsumexp(0)
                loss = loss - (q.sum(0).exp() * bound).mean()
            return loss

    pair = Plates()
    check_unbiased(gradients(pair, ELBO(2, analytic_kl=False), x), pair, pair.exact_loss(x), 0.01)


@pytest.mark.parametrize("in_plate", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_class_shared_by_all_data_under_minibatches(x, in_plate):
    prior = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.odds = nn.Parameter(torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64))

        def model(self, x=None, num_samples=1):
            g = pyro.sample("g", dist.Categorical(prior))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(g[..., None] * torch.ones(2).double(), 2.0).to_event(1), obs=x)

        def guide(self, x):
            hint = {"nn_relax": lambda r: 0.3 * torch.sin(5 * r[..., 0]) - 0.2 * r[..., 1]}
            hint |= {"use_decaying_avg_baseline": True}
            pyro.sample("g", dist.Categorical(logits=self.odds), infer={"baseline": hint})

        def exact_loss(self, x, num_data):
            q = self.odds.softmax(-1)
            of = [dist.Normal(torch.full((2,), v), 2.0).to_event(1).log_prob(x).mean() for v in (0.0, 1.0, 2.0)]
            return (q * ((q / prior).log() / num_data - torch.stack(of))).sum()

    pair, num_data = Shared(), 50
    model, guide = pyro_vae.programs.program.as_programs(pair.model, pair.guide)
    examined = pyro_vae.programs.pair.examine(model, guide, {"x": x}, num_data=num_data, vectorize=in_plate)
    assert examined.repeated is not in_plate
    objective = ELBO(2000 if in_plate else 2).on(examined)
    torch.manual_seed(0)
    found = [
        torch.autograd.grad(objective.terms(model, guide, x=x).loss, pair.odds)[0]
        for _ in range(30 if in_plate else 3000)
    ]
    check_unbiased(torch.stack(found), pair, pair.exact_loss(x, num_data), 0.01)


@pytest.mark.parametrize("option", ["nn_relax", "baseline_value"])
def test_bits_of_a_plate_that_all_data_share(x, option):
    """Two bits for all data, in more particles than bits."""
    hint = {
        "nn_relax": lambda r: torch.sin(3 * r) + r.prod(-1, keepdim=True),
        "baseline_value": torch.tensor([-1.0, -0.5]),
    }

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.odds = nn.Parameter(torch.tensor([0.2, -0.4], dtype=torch.float64))

        def model(self, x=None, num_samples=1):
            with pyro.plate("bits", 2):
                b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.4, dtype=torch.float64)))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(b[..., None, :].expand(*b.shape[:-1], len(x), 2), 2.0).to_event(1), obs=x)

        def guide(self, x):
            with pyro.plate("bits", 2):
                infer = {"baseline": {option: hint[option]}}
                pyro.sample("b", dist.Bernoulli(logits=self.odds), infer=infer)

        def exact_loss(self, x):
            q, p = dist.Bernoulli(logits=self.odds), dist.Bernoulli(torch.tensor(0.4, dtype=torch.float64))
            loss = torch.distributions.kl_divergence(q, p).sum() / len(x)
            for bits in itertools.product((0.0, 1.0), repeat=2):
                b = torch.tensor(bits, dtype=torch.float64)
                loss = loss - q.log_prob(b).sum().exp() * dist.Normal(b, 2.0).log_prob(x).sum(-1).mean()
            return loss

    pair, objective = Shared(), ELBO(2000)
    model, guide = pair.model, pair.guide
    torch.manual_seed(0)
    losses = (objective.differentiable_loss(model, guide, x) for _ in range(30))
    found = torch.stack([torch.autograd.grad(loss, pair.odds)[0] for loss in losses])
    check_unbiased(found, pair, pair.exact_loss(x), 0.01)


# --------------------------------------------------------------------------- what lies behind a draw
@pytest.mark.parametrize("kind", ["bits", "class", "two one-hot"])
def test_what_lies_behind_a_draw_has_the_law_of_logistic_or_gumbel_noise(kind):
    """Its noise z - logits is free of the logits: its values at their distribution function are uniform."""
    fn = KINDS[kind](torch.tensor([1.5, -2.0, 0.3, 0.5, -1.0, 2.0], dtype=torch.float64).expand(20_000, 6))
    value = fn.sample()
    draw = relaxed_draw({"name": "z", "fn": fn, "value": value, "mask": None})
    if kind == "bits":
        assert torch.equal((draw.z > 0).double(), value)
        uniform = (draw.z - draw.logits).sigmoid()
    else:
        chosen = one_hot(value, 3).bool() if kind == "class" else value.bool()
        assert torch.equal(draw.z.argmax(-1), chosen.int().argmax(-1))
        uniform = (-(draw.logits - draw.z).exp()).exp()
    points = uniform.flatten(1).sort(0).values
    steps = torch.linspace(0, 1, len(points), dtype=torch.float64)[:, None]
    assert (points - steps).abs().max() < 1.95 / math.sqrt(len(points))  # Kolmogorov's, at 0.1 %


class OneSite(nn.Module):
    """Logits are parameters, so that their gradient is the estimate; the control variate has two parameters."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.logits = nn.Parameter(torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(4, 6))
        self.weights = nn.Parameter(torch.tensor([0.8, -0.3], dtype=torch.float64))
        self.temperature = nn.Parameter(torch.tensor(0.6, dtype=torch.float64))

    def model(self, x=None):
        with pyro.plate("data", 4):
            z = pyro.sample("z", KINDS[self.kind](torch.zeros(6, dtype=torch.float64)))
            z = z if self.kind == "class" else z.flatten(1).cumsum(-1).sum(-1)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        hint = {"nn_relax": self.control, "relax_temperature": self.temperature}
        with pyro.plate("data", 4):
            pyro.sample("z", KINDS[self.kind](self.logits), infer={"baseline": hint})

    def control(self, relaxed):
        r = relaxed.flatten(1)
        return self.weights[0] * torch.sin(2 * r).sum(-1) + self.weights[1] * r[:, 0] * r[:, 1]


@pytest.mark.parametrize("kind", ["bits", "class", "two one-hot"])
def test_a_control_variate_descends_the_squared_gradient(kind):
    """Its gradient against finite differences of the squares of what the guide's logits get, with the same draws."""
    pair, x = OneSite(kind), torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)

    def estimate():
        torch.manual_seed(3)
        return ELBO(1, analytic_kl=False).differentiable_loss(pair.model, pair.guide, x)

    def squares():
        (gradient,) = torch.autograd.grad(estimate(), pair.logits)
        return (4 * gradient).square().sum(1).mean().item()  # of each datum: the loss is the mean of four

    ours = torch.autograd.grad(estimate(), [pair.weights, pair.temperature])
    for parameter, gradient in zip((pair.weights, pair.temperature), ours, strict=True):
        for i in range(parameter.numel()):
            at = []
            for step in (1e-5, -2e-5):
                parameter.data.view(-1)[i] += step
                at.append(squares())
            parameter.data.view(-1)[i] += 1e-5
            assert gradient.view(-1)[i].item() == pytest.approx((at[0] - at[1]) / 2e-5, rel=1e-5, abs=1e-8)
            assert abs(gradient.view(-1)[i].item()) > 1e-3

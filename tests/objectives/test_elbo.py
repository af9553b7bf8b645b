"""ELBO: against a hand-written one, Pyro's own, closed forms and finite differences."""

import copy
import logging
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import PPCA
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.nn import functional as F

from pyro_vae.errors import InputError
from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE
from pyro_vae.objectives import ELBO, IWAE
from pyro_vae.programs.handlers import KLWeighted
from pyro_vae.programs.pair import examine
from pyro_vae.programs.parameters import module_parameters
from pyro_vae.programs.program import as_programs


def loss_of(objective, model, guide, *args, seed=0, **kwargs):
    torch.manual_seed(seed)
    return objective.differentiable_loss(model, guide, *args, **kwargs)


def terms_of(objective, model, guide, *args, seed=0):
    torch.manual_seed(seed)
    with module_parameters(model, guide):
        return objective.terms(model, guide, *args)


def value_of(objective, model, guide, *args, seed=0):
    torch.manual_seed(seed)
    with module_parameters(model, guide):
        return objective.loss(model, guide, *args)


def mean_and_error(values):
    values = torch.as_tensor(values, dtype=torch.float64)
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


# ------------------------------------------------------------------------------ a VAE written by hand
@pytest.fixture
def vae():
    model = VAE((1, 4, 3), latent_dim=2, hidden_dims=(8,))
    return model, GaussianGuide(model, hidden_dims=(8,)), (torch.rand(9, 1, 4, 3) > 0.4).float()


def hand_written(model, guide, x, particles, analytic, beta=1.0, seed=0, free=-math.inf):
    """Loss of Kingma & Welling, without Pyro; the same noise as a plate of particles draws; free bits of each datum."""
    loc, raw = guide.encoder(x).chunk(2, -1)
    scale = F.softplus(raw + math.log(math.expm1(1 - guide.min_scale))) + guide.min_scale
    if seed is not None:
        torch.manual_seed(seed)
    noise = torch.randn(particles, 9, 2)
    z = loc + scale * noise
    logits = model.decoder(z)
    log_likelihood = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(
        (-3, -2, -1)
    )
    if analytic:
        kl = 0.5 * (loc**2 + scale**2 - 1 - 2 * scale.log()).sum(-1).expand(particles, -1)
    else:
        kl = (-0.5 * noise**2 - scale.log() + 0.5 * z**2).sum(-1)
    loss = beta * kl.mean(0).clamp(min=free).mean() - log_likelihood.mean()
    return loss, log_likelihood.mean(), kl.mean()


@pytest.mark.parametrize("particles", [1, 4])
@pytest.mark.parametrize("analytic", [True, False])
def test_equals_a_hand_written_vae_with_its_gradient(vae, particles, analytic):
    model, guide, x = vae
    parameters = [*model.parameters(), *guide.parameters()]
    expected, log_likelihood, kl = hand_written(model, guide, x, particles, analytic)
    wanted = torch.autograd.grad(expected, parameters)
    loss = loss_of(ELBO(particles, analytic_kl=analytic), model, guide, x)
    torch.testing.assert_close(loss, expected)
    for got, want in zip(torch.autograd.grad(loss, parameters), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    terms = terms_of(ELBO(particles, analytic_kl=analytic), model, guide, x)
    torch.testing.assert_close(terms.log_likelihood["x"], log_likelihood)
    torch.testing.assert_close(terms.kl["z"], kl)
    assert not terms.kl["z"].requires_grad and not terms.log_likelihood["x"].requires_grad
    assert list(terms.named()) == ["loss", "log_likelihood/x", "kl/z"]


@pytest.mark.parametrize("particles", [1, 3])
def test_equals_pyros_objectives_over_n_with_the_same_seed(vae, particles):
    model, guide, x = vae
    options = {"num_particles": particles, "vectorize_particles": True, "max_plate_nesting": 1}
    for ours, theirs in (
        (ELBO(particles, analytic_kl=False), Trace_ELBO(**options)),
        (ELBO(particles), TraceMeanField_ELBO(**options)),
    ):
        torch.manual_seed(4)
        with module_parameters(model, guide):
            expected = theirs.loss(model, guide, x) / len(x)
        assert loss_of(ours, model, guide, x, seed=4).item() == pytest.approx(expected, rel=1e-5)
        assert value_of(ours, model, guide, x, seed=4) == pytest.approx(expected, rel=1e-5)


def test_as_the_loss_of_svi_it_steps_like_a_hand_written_loop(vae):
    model, guide, x = vae
    twins = copy.deepcopy((model, guide))
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), ELBO())
    torch.manual_seed(0)
    losses = [svi.step(x) for _ in range(5)]
    pyro.clear_param_store()
    optimizer = torch.optim.Adam([*twins[0].parameters(), *twins[1].parameters()], lr=1e-2)
    torch.manual_seed(0)
    for expected in losses:
        loss = hand_written(*twins, x, 1, True, seed=None)[0]
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


# ------------------------------------------------------------------------------ analytic KL
def test_analytic_and_drawn_kl_agree_in_expectation():
    ppca = PPCA()
    x = ppca.sample(6)
    scale = torch.tensor([0.3, 0.5, 0.4], dtype=torch.float64)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(ppca.posterior_mean(x) + 0.1, scale).to_event(1))

    truth = -ppca.elbo(x, ppca.posterior_mean(x) + 0.1, scale)[0].mean().item()
    for analytic in (True, False):
        losses = [loss_of(ELBO(20, analytic), ppca.model, guide, x, seed=s).item() for s in range(200)]
        mean, error = mean_and_error(losses)
        assert error < 0.1 and abs(mean - truth) < 4 * error


class TwoLayerModel(PyroModule):
    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.9, dtype=torch.float64))

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            z1 = pyro.sample("z1", dist.Normal(self.a * z2, 0.5))
            pyro.sample("x", dist.Normal(z1, 0.6), obs=x)


class TwoLayerGuide(PyroModule):
    """x -> z1 -> z2 (bottom-up)."""

    def __init__(self):
        super().__init__()
        self.c = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.f = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(self.c * x, 0.7))
            pyro.sample("z2", dist.Normal(self.f * z1, 0.8))


def two_layer_truth(a, c, f, x):
    """Exact negative ELBO, from the moments of (z1, z2) under the guide."""

    def expected_log_normal(mean_square, scale):
        return -0.5 * mean_square / scale**2 - math.log(scale) - 0.5 * math.log(2 * math.pi)

    m, v = c * x, 0.49
    z1_square = m * m + v
    value = expected_log_normal((x - m) ** 2 + v, 0.6)
    value += expected_log_normal((1 - a * f) ** 2 * z1_square + a * a * 0.64, 0.5)
    value += expected_log_normal(f * f * z1_square + 0.64, 1.0)
    entropy = sum(0.5 * math.log(2 * math.pi * math.e) + math.log(s) for s in (0.7, 0.8))
    return -(value + entropy)


def test_a_bottom_up_guide_gets_the_true_elbo_and_gradient():
    """The closed-form KL of z1 given the drawn z2 would be another objective; that of z2 given z1 is right."""
    model, guide = TwoLayerModel(), TwoLayerGuide()
    x = torch.full((300_000,), 1.2, dtype=torch.float64)
    point = {"a": 0.9, "c": 0.5, "f": 0.4}
    loss = loss_of(ELBO(), model, guide, x)
    assert loss.item() == pytest.approx(two_layer_truth(**point, x=1.2), abs=0.01)
    loss.backward()
    for name, p in {"a": model.a, "c": guide.c, "f": guide.f}.items():
        up, down = ({**point, name: point[name] + d} for d in (1e-4, -1e-4))
        slope = (two_layer_truth(**up, x=1.2) - two_layer_truth(**down, x=1.2)) / 2e-4
        assert p.grad.item() == pytest.approx(slope, abs=0.03), name
        assert abs(slope) > 0.3, f"{name}: nothing to compare"


def test_a_top_down_guide_takes_every_kl_in_closed_form():
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(0.4 * x, 0.8))
            pyro.sample("z1", dist.Normal(0.3 * z2 + 0.2 * x, 0.7))

    x = torch.linspace(-1, 1, 5, dtype=torch.float64)
    model = TwoLayerModel()
    terms = terms_of(ELBO(), model, guide, x)
    torch.manual_seed(0)
    z2 = 0.4 * x + 0.8 * torch.randn(5, dtype=torch.float64)
    normal = torch.distributions.Normal
    kl2 = torch.distributions.kl_divergence(normal(0.4 * x, 0.8), normal(0.0, 1.0)).mean()
    kl1 = torch.distributions.kl_divergence(normal(0.3 * z2 + 0.2 * x, 0.7), normal(0.9 * z2, 0.5)).mean()
    torch.testing.assert_close(terms.kl["z2"], kl2)
    torch.testing.assert_close(terms.kl["z1"], kl1.detach())


# ------------------------------------------------------------------------------ free bits
class OneLatent(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([0.5, -0.2]))
        self.scale = PyroParam(torch.tensor([0.9, 1.1]), constraint=dist.constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.loc, self.scale).to_event(1))


def no_information(x):
    """x does not depend on z: the loss's gradient is the KL's alone."""
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_free_bits_value_and_gradient(named, beta):
    guide, x, weight = OneLatent(), torch.zeros(6), torch.tensor(beta)
    kl = terms_of(ELBO(), no_information, guide, x).kl["z"].item()
    nothing = 0.5 * math.log(2 * math.pi)  # -log p(x)

    def at(free):
        guide.zero_grad()
        objective = ELBO(free_bits={"z": free} if named else free)
        loss = objective.differentiable_loss(KLWeighted(no_information, weight), KLWeighted(guide, weight), x)
        loss.backward()
        return loss.item() - nothing, guide.loc.grad.clone(), objective

    above, gradient, objective = at(kl + 0.5)
    assert above == pytest.approx(beta * (kl + 0.5), abs=1e-5)
    assert gradient.abs().max() < 1e-6
    assert terms_of(objective, no_information, guide, x).kl["z"].item() == pytest.approx(kl)  # raw
    assert value_of(objective.for_validation(), no_information, guide, x) == pytest.approx(kl + nothing, abs=1e-5)
    below, gradient, _ = at(kl - 0.05)
    assert below == pytest.approx(beta * kl, abs=1e-5)
    torch.testing.assert_close(gradient, beta * guide.loc.detach())  # d KL / d mu = mu
    for i in range(2):  # and by finite differences
        values = []
        for step in (1e-2, -1e-2):
            with torch.no_grad():
                guide.loc[i] += step
            values.append(at(kl - 0.05)[0])
            with torch.no_grad():
                guide.loc[i] -= step
        assert (values[0] - values[1]) / 2e-2 == pytest.approx(gradient[i].item(), abs=1e-3)


def test_free_bits_are_per_site():
    model, guide, x = TwoLayerModel(), TwoLayerGuide(), torch.full((50_000,), 1.2, dtype=torch.float64)
    kl = terms_of(ELBO(), model, guide, x).kl
    assert kl["z2"] > 0.05 and kl["z1"] > 0.05
    plain = loss_of(ELBO(), model, guide, x)
    lifted = loss_of(ELBO(free_bits={"z2": kl["z2"].item() + 1}), model, guide, x)
    assert (lifted - plain).item() == pytest.approx(1.0, abs=0.02)
    both = loss_of(ELBO(free_bits=5.0), model, guide, x)
    assert (both - plain).item() == pytest.approx(10 - kl["z1"].item() - kl["z2"].item(), abs=0.05)


def test_the_clamped_kl_is_recorded_beside_the_raw_one():
    model, guide, x = TwoLayerModel(), TwoLayerGuide(), torch.full((200,), 1.2, dtype=torch.float64)
    for free_bits in ({"z2": 3.0, "z1": 0.0}, {"z2": 0.01, "z1": 3.0}, 5.0):
        terms = terms_of(ELBO(free_bits=free_bits), model, guide, x)
        per_site = free_bits if isinstance(free_bits, dict) else {"z2": free_bits, "z1": free_bits}
        clamped = {k: max(free, terms.kl[k].item()) for k, free in per_site.items() if free}
        assert {k: v.item() for k, v in terms.kl_clamped.items()} == clamped
        assert all(value < 3 for value in terms.kl.values())
        assert not any(v.requires_grad for v in terms.kl_clamped.values())
        assert terms.named().keys() >= {f"kl_clamped/{name}" for name in clamped}
        counted = sum((terms.kl | terms.kl_clamped).values())
        assert terms.loss.item() == pytest.approx((counted - terms.log_likelihood["x"]).item())  # what the loss counts
    assert not terms_of(ELBO(free_bits=5.0).for_validation(), model, guide, x).kl_clamped


@pytest.mark.parametrize("particles", [1, 4])
@pytest.mark.parametrize("analytic", [True, False])
def test_free_bits_of_each_datum_are_those_written_by_hand(vae, particles, analytic):
    model, guide, x = vae
    parameters, beta = [*model.parameters(), *guide.parameters()], torch.tensor(0.4)
    with torch.no_grad():
        [*guide.parameters()][-2].mul_(4)  # so that data differ in their KL
        loc, scale = loc_scale(guide, x)
        kl = 0.5 * (loc**2 + scale**2 - 1) - scale.log()
    free = kl.sum(-1).median().item() + 1e-3
    assert 2 < (kl.sum(-1) > free).sum() < 7
    expected, _, raw = hand_written(model, guide, x, particles, analytic, 0.4, free=free)
    wanted = torch.autograd.grad(expected, parameters)
    objective = ELBO(particles, analytic, free_bits=free, free_bits_of="datum")
    loss = loss_of(objective, KLWeighted(model, beta), KLWeighted(guide, beta, of_guide=True), x)
    torch.testing.assert_close(loss, expected)
    for got, want in zip(torch.autograd.grad(loss, parameters), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    terms = terms_of(objective, model, guide, x)
    torch.testing.assert_close(terms.kl["z"], raw)  # as it is
    torch.testing.assert_close(terms.loss, terms.kl_clamped["z"] - terms.log_likelihood["x"])
    assert terms.kl_clamped["z"] > max(free, raw.item()) + 0.01  # which is what the batch's would be
    raw_loss = loss_of(ELBO(particles, analytic), model, guide, x)
    torch.testing.assert_close(loss_of(objective.for_validation(), model, guide, x), raw_loss)


def loc_scale(guide, x):
    loc, raw = guide.encoder(x).chunk(2, -1)
    return loc, F.softplus(raw + math.log(math.expm1(1 - guide.min_scale))) + guide.min_scale


def test_free_bits_of_a_datum_that_has_none_are_refused():
    x = torch.randn(5)

    def shared(x):
        w = pyro.sample("w", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def one_for_all(x):
        pyro.sample("w", dist.Normal(torch.ones(()), 1.0))

    def weighted(x):
        with pyro.plate("data", len(x)):
            with pyro.poutine.scale(scale=torch.arange(1.0, 6.0)):
                z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def weighted_guide(x):
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=torch.arange(1.0, 6.0)):
            pyro.sample("z", dist.Normal(torch.ones(()), 1.0))

    objective = ELBO(free_bits=1.0, free_bits_of="datum")
    with pytest.raises(InputError, match="free bits of site 'w': all data share it"):
        loss_of(objective, shared, one_for_all, x)
    with pytest.raises(InputError, match="free bits of site 'z': its KL has a weight for each element"):
        loss_of(objective, weighted, weighted_guide, x)
    with pytest.raises(InputError, match="unknown free_bits_of 'data'"):
        ELBO(free_bits=1.0, free_bits_of="data")


# ------------------------------------------------------------------------------ plates
def test_a_subsampled_plate_gives_the_mean_over_the_data():
    def model(x):
        with pyro.plate("data", 100, subsample=torch.arange(len(x)), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 100, subsample=torch.arange(len(x)), dim=-1):
            pyro.sample("z", dist.Normal(0.5 * x, 0.8))

    def plain_model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def plain_guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.5 * x, 0.8))

    x = torch.randn(10)
    objectives = [ELBO(), ELBO(3, analytic_kl=False), ELBO(free_bits=2.0), ELBO(free_bits=0.3, free_bits_of="datum")]
    for objective in (*objectives, IWAE(4), IWAE(4, "dreg")):
        expected = loss_of(objective, plain_model, plain_guide, x)
        torch.testing.assert_close(loss_of(objective, model, guide, x), expected)
    torch.manual_seed(0)
    theirs = Trace_ELBO().loss(model, guide, x) / 100
    assert loss_of(ELBO(1, analytic_kl=False), model, guide, x).item() == pytest.approx(theirs, rel=1e-5)
    terms = terms_of(ELBO(), model, guide, x)
    torch.testing.assert_close(terms.kl["z"], terms_of(ELBO(), plain_model, plain_guide, x).kl["z"])


@pytest.mark.parametrize("full", [4, 100])
def test_the_score_function_loss_of_a_subsampled_plate_is_the_mean_over_its_data(full):
    """A guide that is certain of a discrete latent: the loss is known without a draw."""

    def model(x):
        with pyro.plate("data", full, subsample=torch.arange(len(x)), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", full, subsample=torch.arange(len(x)), dim=-1):
            pyro.sample("z", dist.Bernoulli(torch.tensor(1.0)))

    x = torch.randn(4)
    expected = -(math.log(0.3) + dist.Normal(1.0, 1.0).log_prob(x)).mean()
    torch.testing.assert_close(loss_of(ELBO(), model, guide, x), expected)


@pytest.mark.parametrize("subsample", [False, True])
@pytest.mark.parametrize("particles", [1, 3])
def test_a_latent_that_all_data_share_counts_once(subsample, particles):
    def plate(x):
        return pyro.plate("data", 40, subsample=torch.arange(8), dim=-1) if subsample else pyro.plate("data", 8, dim=-1)

    def model(x):
        w = pyro.sample("w", dist.Normal(torch.zeros(()), 1.0))
        with plate(x):
            z = pyro.sample("z", dist.Normal(w, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("w", dist.Normal(torch.tensor(0.3), 0.5))
        with plate(x):
            pyro.sample("z", dist.Normal(0.5 * x, 0.8))

    x, n = torch.randn(8), 40 if subsample else 8
    torch.manual_seed(2)
    theirs = Trace_ELBO(particles, vectorize_particles=True, max_plate_nesting=1).loss(model, guide, x) / n
    assert loss_of(ELBO(particles, False), model, guide, x, seed=2).item() == pytest.approx(theirs, rel=1e-4)
    kl = terms_of(ELBO(), model, guide, x).kl["w"].item()
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(0.3, 0.5), torch.distributions.Normal(0.0, 1.0)
    )
    assert kl == pytest.approx(expected.item() / n, rel=1e-5)  # nats per datum


@pytest.mark.parametrize("particles", [1, 3])
def test_plates_inside_the_data_plate(particles):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            with pyro.plate("parts", 3, dim=-2):
                u = pyro.sample("u", dist.Normal(torch.zeros(()), 1.0))  # the prior does not broadcast itself
                pyro.sample("x", dist.Normal(z + u, 0.5), obs=x.T)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.3 * x.sum(-1), 0.6))
            with pyro.plate("parts", 3, dim=-2):
                pyro.sample("u", dist.Normal(x.T - z, 0.7))

    x = torch.randn(7, 3)
    options = {"vectorize_particles": True, "max_plate_nesting": 2}
    for ours, theirs in (
        (ELBO(particles, False), Trace_ELBO(particles, **options)),
        (ELBO(particles, True), TraceMeanField_ELBO(particles, **options)),
    ):
        torch.manual_seed(2)
        expected = theirs.loss(model, guide, x) / 7
        assert loss_of(ours, model, guide, x, seed=2).item() == pytest.approx(expected, rel=1e-5)


def test_a_plate_that_comes_later_is_found_or_told():
    """A program may have an inner plate in training only: one particle takes no plate of its own, several do."""
    parts = 0

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)
            if parts:
                with pyro.plate("parts", parts):
                    pyro.sample("y", dist.Normal(z, 1.0), obs=torch.tensor(1.0))

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.8 * x, 0.4))

    x = torch.randn(7)
    one, several = (ELBO(k, False).on(examine(*as_programs(model, guide), {"x": x})) for k in (1, 2))
    parts = 3
    torch.manual_seed(1)
    expected = Trace_ELBO(max_plate_nesting=2).loss(model, guide, x) / 7
    assert loss_of(one, model, guide, x, seed=1).item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(InputError, match=r"site 'y' is in plate 'parts' at dim -3.*the particles' plate is at dim -2"):
        loss_of(several, model, guide, x)


# ------------------------------------------------------------------------------ KL weights
@pytest.mark.parametrize("particles", [1, 3])
def test_the_kl_weight_is_live_and_the_terms_stay_raw(vae, particles):
    model, guide, x = vae
    weight = torch.tensor(1.0)
    weighted = KLWeighted(model, weight), KLWeighted(guide, weight)
    for beta in (1.0, 0.25, 0.0, 4.0):
        weight.fill_(beta)  # in place: the programs are not wrapped again
        for analytic in (True, False):
            expected, log_likelihood, kl = hand_written(model, guide, x, particles, analytic, beta)
            terms = terms_of(ELBO(particles, analytic_kl=analytic), *weighted, x)
            torch.testing.assert_close(terms.loss, expected)
            torch.testing.assert_close(terms.kl["z"], kl)
            torch.testing.assert_close(terms.log_likelihood["x"], log_likelihood)
    assert "weight" not in weighted[0].state_dict()


# ------------------------------------------------------------------------------ what does not fit
def mismatched(model_sites, guide_sites, auxiliary=()):
    def program(sites, data):
        def run(x):
            with pyro.plate("data", len(x), dim=-1):
                for name in sites:
                    infer = {"is_auxiliary": True} if name in auxiliary else {}
                    pyro.sample(name, dist.Normal(torch.zeros(()), 1.0), infer=infer)
                if data:
                    pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x)

        return run

    return program(model_sites, True), program(guide_sites, False)


def test_sites_that_do_not_match_are_named():
    x = torch.zeros(3)
    for objective in (ELBO(), IWAE(3), IWAE(3, "dreg")):
        with pytest.raises(InputError, match=r"lacks the model's latent site z1 \(it has: z2\)"):
            loss_of(objective, *mismatched(["z1", "z2"], ["z2"]), x)
        with pytest.raises(InputError, match=r"the guide samples extra, which the model does not"):
            loss_of(objective, *mismatched(["z"], ["z", "extra"]), x)
    loss = loss_of(ELBO(), *mismatched(["z"], ["z", "extra"], auxiliary={"extra"}), x)
    assert math.isfinite(loss.item())


def test_data_outside_a_plate_are_named():
    def model(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    with pytest.raises(InputError, match=r"data site 'x' is in no plate at dim -1.*pyro\.plate"):
        loss_of(ELBO(), model, guide, torch.zeros(3))


def test_no_data_at_all_is_said():
    def model():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(InputError, match="the model has no data"):
        loss_of(ELBO(), model, model)


def test_undeclared_event_dimensions_are_named():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(5, 4, 3), 1.0))

    with pytest.raises(InputError, match=r"has batch shape \(5, 4, 3\), at most 2 dimensions.*to_event"):
        loss_of(ELBO(), model, guide, torch.zeros(3))


@pytest.mark.parametrize("bad", [0, -1, True, 1.5])
def test_bad_particles(bad):
    with pytest.raises(InputError, match="num_particles must be a positive integer"):
        ELBO(bad)


def test_bad_free_bits(vae):
    for bad in (-0.1, {"z": -1.0}):
        with pytest.raises(InputError, match="free_bits must not be negative"):
            ELBO(free_bits=bad)
    model, guide, x = vae
    with pytest.raises(InputError, match=r"unknown latent site in free_bits 'zz'\. Did you mean 'z'"):
        loss_of(ELBO(free_bits={"zz": 1.0}), model, guide, x)


# ------------------------------------------------------------------------------ guides without reparameterization
class CoinGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.logit = nn.Parameter(torch.tensor([0.0, 0.0]))

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("c", dist.Bernoulli(logits=self.logit[(x > 0).long()]))


def coin_model(x):
    """c ~ Bernoulli(0.3); x | c ~ N(+-1, 1)."""
    with pyro.plate("data", len(x), dim=-1):
        c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.3)))
        pyro.sample("x", dist.Normal(2 * c - 1, 1.0), obs=x)


@pytest.mark.parametrize("objective", [ELBO(8), IWAE(8), IWAE(8, "dreg")], ids=["elbo", "iwae", "dreg"])
def test_score_functions_learn_the_enumerated_posterior_and_are_said_once(objective, caplog):
    guide, x = CoinGuide(), torch.tensor([0.8, -0.8] * 50)
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.05)
    module = objective(coin_model, guide)
    with caplog.at_level(logging.INFO, logger="pyro_vae"):
        for _ in range(300):
            optimizer.zero_grad()
            module(x).backward()
            optimizer.step()
    lines = [r.getMessage() for r in caplog.records]
    assert len(lines) == 1 and "'c' (Bernoulli)" in lines[0] and "score-function estimate" in lines[0]
    for logit, value in zip(guide.logit.detach(), (-0.8, 0.8), strict=True):
        truth = math.log(0.3 / 0.7) + 2 * value  # posterior log odds, by enumeration
        assert logit.item() == pytest.approx(truth, abs=0.25)
    # the loss's value is the objective's own once no gradient is asked for
    enumerated = sum(
        0.5
        * math.log(
            sum(
                p * math.exp(dist.Normal(m, 1.0).log_prob(torch.tensor(v)).item()) for p, m in ((0.3, 1.0), (0.7, -1.0))
            )
        )
        for v in (0.8, -0.8)
    )
    assert value_of(objective, coin_model, guide, x) == pytest.approx(-enumerated, abs=0.05)


def test_the_score_function_is_the_mean_over_data_and_unbiased():
    guide, x = CoinGuide(), torch.tensor([0.8, -0.8] * 5)
    gradients = []
    objective = ELBO(200)
    for _ in range(100):
        guide.zero_grad()
        objective(coin_model, guide)(x).backward()
        gradients.append(guide.logit.grad.clone())
    stack = torch.stack(gradients)
    for i, value in enumerate((-0.8, 0.8)):
        q = 0.5
        # d/dlogit of sum_c q(c) (log q(c) - log p(c, x)) = q (1 - q) (logit - log odds), half of the data have it
        expected = 0.5 * q * (1 - q) * (0 - (math.log(0.3 / 0.7) + 2 * value))
        mean, error = mean_and_error(stack[:, i])
        assert error < 0.02 and abs(mean - expected) < 4 * error


@pytest.mark.parametrize("objective", [ELBO(2, analytic_kl=False), IWAE(2)], ids=["ELBO", "IWAE"])
def test_the_recorded_kl_of_a_latent_outside_its_support_is_infinite(objective):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Exponential(torch.ones(()), validate_args=False))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x, 0.01))

    for x, finite in ((0.5, True), (-7.0, False)):
        terms = terms_of(objective, model, guide, torch.full((3,), x))
        assert bool(terms.kl["z"].isfinite().all()) is finite
        assert bool(terms.loss.isfinite()) is finite

"""evaluation.latent_statistics: KL per unit against closed forms, active units on guides where they are known."""

import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import PPCA

from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation import elbo, latent_statistics
from pyro_vae.evaluation.latent_units import unit_kl


def normal_kl(m, s, m0=0.0, s0=1.0):
    """KL(N(m, s^2) || N(m0, s0^2)), written out."""
    s, s0 = torch.as_tensor(s), torch.as_tensor(s0)
    return (s0 / s).log() + (s**2 + (m - m0) ** 2) / (2 * s0**2) - 0.5


def site(fn, value=None, mask=None):
    return {"fn": fn, "value": value, "mask": mask, "scale": 1.0}


@pytest.fixture
def ppca():
    return PPCA(dtype=torch.float32)


# ------------------------------------------------------------------ one site's units
def test_units_of_independent_gaussians_in_closed_form_and_at_the_draw():
    m, s = torch.randn(5, 2, 3), torch.rand(5, 2, 3) + 0.2
    q, p = dist.Normal(m, s).to_event(2), dist.Normal(0.3, 2.0).expand([5, 2, 3]).to_event(2)
    value = q.sample()
    closed = unit_kl(site(q), site(p), analytic=True)
    assert closed.closed_form and closed.dims == 2
    torch.testing.assert_close(closed.value, normal_kl(m, s, 0.3, 2.0))
    drawn = unit_kl(site(q, value), site(p, value), analytic=False)
    assert not drawn.closed_form and drawn.value.shape == (5, 2, 3)
    torch.testing.assert_close(drawn.value.sum((1, 2)), q.log_prob(value) - p.log_prob(value))


def test_units_are_what_both_distributions_hold_independent():
    m = torch.randn(4, 3, 2)
    q = dist.Normal(m, 1.0).to_event(2)
    rows = dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 1.0]])).expand([4, 3]).to_event(1)
    value = q.sample()
    found = unit_kl(site(q, value), site(rows, value), analytic=False)
    assert found.value.shape == (4, 3)
    torch.testing.assert_close(found.value.sum(1), q.log_prob(value) - rows.log_prob(value))
    inverse = torch.tensor([[4.0, -2.0], [-2.0, 4.0]]) / 3  # of the rows' covariance, whose determinant is 3/4
    closed = 0.5 * (inverse.trace() + ((m @ inverse) * m).sum(-1) - 2 + math.log(0.75))
    torch.testing.assert_close(unit_kl(site(q), site(rows), analytic=True).value, closed)
    whole = dist.MultivariateNormal(torch.zeros(4, 2), torch.eye(2))
    assert unit_kl(site(whole), site(whole), analytic=True)[1:] == (0, True)
    heavy = dist.StudentT(5.0, torch.zeros(4, 3, 2), 1.0).to_event(2)  # to a Gaussian: no closed form is registered
    found = unit_kl(site(heavy, value), site(q, value), analytic=True)
    assert found.value.shape == (4, 3, 2) and not found.closed_form


def test_a_mask_leaves_data_out():
    mask = torch.tensor([True, False, True])
    q, p = dist.Normal(torch.ones(3, 2), 1.0).to_event(1), dist.Normal(torch.zeros(3, 2), 1.0).to_event(1)
    value = torch.zeros(3, 2)
    for analytic in (True, False):
        found = unit_kl(site(q, value, mask), site(p, value, mask), analytic=analytic)
        assert torch.equal(found.value[1], torch.zeros(2)) and found.value[0].abs().min() > 0.4


# ------------------------------------------------------------------ whole programs
def test_kl_per_unit_of_a_linear_gaussian_pair(ppca):
    x, scale = ppca.sample(2500), torch.tensor([0.3, 0.5, 0.4])
    mean = ppca.posterior_mean(x) + 0.2

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(ppca.posterior_mean(x) + 0.2, scale).to_event(1))

    found = latent_statistics(ppca.model, guide, Split({"x": x}, name="known"), num_particles=3)
    z = found.sites["z"]
    torch.testing.assert_close(z.kl_per_unit.float(), normal_kl(mean, scale).mean(0), rtol=1e-4, atol=1e-4)
    assert z.closed_form and z.kl == pytest.approx(z.kl_per_unit.sum().item())
    torch.testing.assert_close(z.variance.float(), mean.var(0), rtol=1e-4, atol=1e-5)  # over batches of 333
    assert (found.num_data, found.num_particles, found.split) == (2500, 3, "known")


def dead_and_alive(model_scale=1.0):
    """Five units, of which 0 and 3 follow the data with deviation 1, and 1 with deviation 0.05 (variance 0.0025)."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(5), model_scale).to_event(1))
            pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            mean = x[:, None] * torch.tensor([1.0, 0.05, 0.0, -1.0, 0.0])
            pyro.sample("z", dist.Normal(mean, 1.0).to_event(1))

    return model, guide


def test_active_units_are_counted():
    x = torch.randn(1500, generator=torch.Generator().manual_seed(0))
    z = latent_statistics(*dead_and_alive(), x, num_particles=2).sites["z"]
    assert z.active.tolist() == [True, False, False, True, False] and z.num_active == 2
    torch.testing.assert_close(z.variance[:2].float(), torch.stack([x.var(), x.var() / 400]))
    torch.testing.assert_close(z.kl_per_unit[2:].tolist(), [0.0, 0.5 * x.square().mean().item(), 0.0])


def two_layers(order):
    """z2 has its posterior independent of x; z1's posterior mean is z2 (unit 0), x (unit 1), z2 + x (unit 2)."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2[..., None] * torch.tensor([1.0, 0.0, 1.0]), 2.0).to_event(1))
            pyro.sample("x", dist.Normal(z1[..., 1], 1.0), obs=x)

    def top_down(x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros_like(x), 1.0))
            mean = torch.stack(torch.broadcast_tensors(z2, x, z2 + x), -1)
            pyro.sample("z1", dist.Normal(mean, 0.5).to_event(1))

    def bottom_up(x):
        with pyro.plate("data", len(x), dim=-1):
            mean = torch.stack([torch.zeros_like(x), x, x], -1)
            z1 = pyro.sample("z1", dist.Normal(mean, 0.5).to_event(1))
            pyro.sample("z2", dist.Normal(z1[..., 0], 1.0))  # E_q[z2 | x] = E_q[z1[0] | x] = 0

    return model, top_down if order == "top-down" else bottom_up


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("order", ["top-down", "bottom-up"])
def test_units_that_only_follow_another_latent_are_not_active(order, vectorize):
    x = 2 * torch.randn(2000, generator=torch.Generator().manual_seed(1))
    found = latent_statistics(*two_layers(order), x, num_particles=20, vectorize=vectorize).sites
    assert found["z1"].active.tolist() == [False, True, True]
    assert found["z2"].num_active == 0 and found["z2"].active.shape == ()
    torch.testing.assert_close(found["z1"].variance[1:].float(), x.var().expand(2), rtol=0.05, atol=0.0)


@pytest.mark.parametrize("order", ["top-down", "bottom-up"])
@pytest.mark.parametrize("num_particles", [1, 7])
def test_sites_have_the_kl_of_the_elbo(order, num_particles):
    """The same draws: equal to rounding, closed form or not."""
    x = torch.randn(300, generator=torch.Generator().manual_seed(1))
    pair = two_layers(order)
    found = latent_statistics(*pair, x, num_particles=num_particles, seed=4).sites
    expected = elbo(*pair, x, num_particles=num_particles, seed=4).kl
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].kl == pytest.approx(values.mean().item(), rel=1e-4)
        assert found[name].kl_per_unit.sum().item() == pytest.approx(found[name].kl)
    assert found["z1"].closed_form == (order == "top-down") and found["z2"].closed_form
    if order == "top-down":  # unit 1: N(x, 0.5) || N(0, 2)
        expected = normal_kl(x, 0.5, 0.0, 2.0).mean().item()
        assert found["z1"].kl_per_unit[1].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("num_particles", "vectorize"), [(1, True), (3, True), (3, False)])
def test_inner_plates_shared_sites_discrete_and_auxiliary_ones(num_particles, vectorize):
    def model(x):
        weight = pyro.sample("weight", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x), dim=-1):
            code = pyro.sample("code", dist.Categorical(torch.ones(3, 4)).to_event(1))
            with pyro.plate("parts", 2, dim=-2):
                z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            mean = z.sum((-1, -3)) + weight.sum(-1) + code.sum(-1)
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    def guide(x):
        pyro.sample("weight", dist.Normal(torch.ones(2), 1.0).to_event(1))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("helper", dist.Normal(x, 1.0), infer={"is_auxiliary": True})
            pyro.sample("code", dist.Categorical(torch.tensor([1.0, 0, 0, 0]).expand(3, 4)).to_event(1))
            with pyro.plate("parts", 2, dim=-2):
                mean = torch.stack([x, 0 * x])[..., None] * torch.tensor([1.0, 2.0, 0.0])  # (2, batch, 3)
                pyro.sample("z", dist.Normal(mean, 1.0).to_event(1))

    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    options = {"num_particles": num_particles, "vectorize": vectorize}
    found = latent_statistics(model, guide, x, **options).sites
    assert set(found) == {"weight", "code", "z"}
    assert found["z"].active.tolist() == [[True, True, False], [False] * 3]
    half = 0.5 * x.square().mean().item()
    torch.testing.assert_close(found["z"].kl_per_unit.tolist(), [[half, 4 * half, 0.0], [0.0] * 3])
    torch.testing.assert_close(found["code"].kl_per_unit.tolist(), [math.log(4)] * 3)
    assert found["code"].active is None and "num_active" not in found["code"].to_dict()
    torch.testing.assert_close(found["weight"].kl_per_unit.tolist(), [0.5 / 50] * 2)  # of each datum
    assert found["weight"].active is None


def test_programs_that_cannot_broadcast_are_run_on_repeated_data():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.cat([z, x[:, None]], 1).sum(1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x[:, None] * torch.tensor([1.0, 0.0, 2.0]), 1.0).to_event(1))

    x = torch.randn(250, generator=torch.Generator().manual_seed(0))
    z = latent_statistics(model, guide, x, num_particles=6, vectorize=False).sites["z"]
    half = 0.5 * x.square().mean().item()
    assert z.kl_per_unit.tolist() == pytest.approx([half, 0.0, 4 * half])
    torch.testing.assert_close(z.variance.float(), x.var() * torch.tensor([1.0, 0.0, 4.0]))


def test_context_is_passed_through():
    def model(x, y):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(y.float(), 1.0))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x, y):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(y + 1.0, 1.0))

    data = Split({"x": torch.zeros(40), "y": torch.arange(40) % 2, "unused": torch.zeros(40)})
    z = latent_statistics(model, guide, data).sites["z"]
    assert z.kl == pytest.approx(0.5) and z.variance.item() == pytest.approx(10 / 39)


# ------------------------------------------------------------------ free bits, summary, errors
def test_clamped_kl_is_apart_from_the_raw_one():
    x = torch.randn(200, generator=torch.Generator().manual_seed(1))
    pair = two_layers("top-down")
    plain = latent_statistics(*pair, x).sites
    assert plain["z1"].kl_clamped is None and "kl_clamped" not in plain["z1"].to_dict()
    for free_bits, expected in ((50.0, {"z1": 50.0, "z2": 50.0}), ({"z2": 0.5}, {"z1": None, "z2": 0.5})):
        found = latent_statistics(*pair, x, free_bits=free_bits).sites
        assert {name: s.kl_clamped for name, s in found.items()} == expected
        assert {name: s.kl for name, s in found.items()} == {name: s.kl for name, s in plain.items()}
    assert latent_statistics(*pair, x, free_bits={"z1": 1e-3}).sites["z1"].kl_clamped == plain["z1"].kl


def test_summary_is_plain_and_the_random_state_is_left():
    x = torch.randn(20, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    summary = latent_statistics(*dead_and_alive(), {"x": x}, free_bits=3.0).to_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert json.loads(json.dumps(summary)) == summary
    z = summary["sites"]["z"]
    assert (z["num_active"], z["num_units"], z["kl_clamped"]) == (2, 5, 3.0)
    assert sum(z["kl_per_unit"]) == pytest.approx(z["kl"])


def test_errors_name_the_site():
    x = torch.zeros(4)
    with pytest.raises(InputError, match=r"unknown latent site in free_bits 'z3'.*Did you mean 'z[12]'.*Known: z1, z2"):
        latent_statistics(*two_layers("top-down"), x, free_bits={"z3": 1.0})
    for bad in (-1.0, {"z": -0.5}, math.nan):
        with pytest.raises(InputError, match="free_bits must not be negative"):
            latent_statistics(*dead_and_alive(), x, free_bits=bad)
    with pytest.raises(InputError, match="num_particles must be a positive integer"):
        latent_statistics(*dead_and_alive(), x, num_particles=0)

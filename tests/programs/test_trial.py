"""Programs that mix up particles and data: found by a trial, then run so that every number is that of one alone."""

import logging
import math
import time

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pyro_vae import fit
from pyro_vae.errors import InputError
from pyro_vae.evaluation import ais, elbo, latent_statistics, log_likelihood, refine
from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE
from pyro_vae.networks import apply_batched
from pyro_vae.objectives import ELBO, IWAE
from pyro_vae.programs.pair import examine
from pyro_vae.programs.program import as_programs
from pyro_vae.programs.trial import try_together

WEIGHT = 2 * torch.randn(2, 6, generator=torch.Generator().manual_seed(4))


def norm(channels):
    """Plain batch norm in evaluation mode whose statistics are no identity."""
    layer = nn.BatchNorm1d(channels).eval()
    with torch.no_grad():
        layer.running_mean.copy_(torch.linspace(-1, 1, channels))
        layer.running_var.copy_(torch.linspace(0.5, 2, channels))
    return layer


two, three = norm(2), norm(3)
pad = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, -0.5]])
MIXED_UP = {
    "normalize over dim 1": lambda z: F.normalize(z) @ WEIGHT,
    "softmax over dim 1": lambda z: F.softmax(3 * z, 1) @ WEIGHT,
    "view": lambda z: z.view(-1, 1, 2).squeeze(1) @ WEIGHT,
    "view of as many rows as data": lambda z: (z.view(-1, 2) @ WEIGHT)[: max(1, z.shape[-2])],
    "first columns": lambda z: torch.stack([z[:, 0], z[:, 1]], -1) @ WEIGHT,
    "mean over dim 1": lambda z: (z - z.mean(1, keepdim=True)) @ WEIGHT,
    "batch norm of two channels": lambda z: two(z) @ WEIGHT,
    "batch norm of three channels": lambda z: three(z @ pad)[..., :2] @ WEIGHT,
    "transpose": lambda z: (z.t() if z.dim() == 2 else z.transpose(0, 1)).transpose(0, 1).cumsum(1) @ WEIGHT,
}
RIGHT = {
    "last dimensions": lambda z: F.normalize(z, dim=-1) @ WEIGHT,
    "apply_batched": lambda z: apply_batched(lambda h: F.softmax(3 * h, 1) @ WEIGHT, z, 1),
}


def pair(decode):
    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.2).expand([len(x), 2]).to_event(1))

    return model, guide


def data(decode, n=12):
    return dist.Bernoulli(logits=decode(torch.randn(n, 2))).sample()


def exact(decode, x):
    """log p(x) of each datum by quadrature over the two latents, each grid point decoded as a batch of data."""
    g = torch.linspace(-6.5, 6.5, 301)
    z = torch.stack(torch.meshgrid(g, g, indexing="ij"), -1).reshape(-1, 2)
    prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    logits = torch.cat([decode(part) for part in z.split(1)]) if decode is MIXED_UP[LAST] else decode(z)
    total = [(prior + dist.Bernoulli(logits=logits).log_prob(v).sum(-1)).double().logsumexp(0) for v in x]
    return torch.stack(total) + 2 * math.log((g[1] - g[0]).item())


LAST = "view of as many rows as data"


@pytest.mark.parametrize("name", MIXED_UP)
def test_programs_that_mix_up_particles_are_found_and_measured_rightly(name, caplog):
    decode = MIXED_UP[name]
    x = data(decode)
    with caplog.at_level(logging.WARNING):
        result = log_likelihood(*pair(decode), x, num_particles=3000)
    told = [r.message for r in caplog.records if "particles are run as further data" in r.message]
    assert len(told) == 1 and "apply_batched" in told[0]
    if name != LAST:  # (its own data are quadrature's problem)
        assert (result.per_datum - exact(decode, x)).abs().max() < 6 / math.sqrt(result.effective_sample_size.min())
    apart = log_likelihood(*pair(decode), x, num_particles=3000, vectorize=False)
    assert torch.equal(apart.per_datum, result.per_datum)


@pytest.mark.parametrize("name", RIGHT)
def test_programs_that_broadcast_run_in_a_plate(name, caplog):
    decode = RIGHT[name]
    x = data(decode)
    model, guide = as_programs(*pair(decode))
    assert not examine(model, guide, {"x": x[:2]}).repeated
    assert examine(model, guide, {"x": x[:2]}, vectorize=False).repeated
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_every_tool_and_training_give_the_numbers_of_single_particles(caplog):
    """The mixed-up decoder against the same one written rightly, with the same random numbers where they are shared."""
    wrong, right = pair(MIXED_UP["softmax over dim 1"]), pair(lambda z: F.softmax(3 * z, -1) @ WEIGHT)
    x = data(lambda z: F.softmax(3 * z, -1) @ WEIGHT, 30)
    for tool, options in (
        (elbo, {"num_particles": 2000}),
        (ais, {"num_chains": 64, "num_temperatures": 30}),
        (log_likelihood, {"num_particles": 2000}),
    ):
        ours, theirs = (tool(*p, x, **options).per_datum for p in (wrong, right))
        assert (ours - theirs).abs().max() < 0.25 and (ours - theirs).mean().abs() < 0.05, tool.__name__
    ours, theirs = (latent_statistics(*p, x, num_particles=200).sites["z"].kl for p in (wrong, right))
    assert ours == pytest.approx(theirs, abs=1e-6)
    ours, theirs = (refine(*p, x, num_steps=60, num_particles=500).refined for p in (wrong, right))
    assert (ours - theirs).mean().abs() < 0.05
    for objective in (ELBO(400), IWAE(400), IWAE(400, gradient="dreg")):
        torch.manual_seed(0)
        ours = sum(objective.loss(*wrong, x) for _ in range(10)) / 10
        assert ours == pytest.approx(sum(objective.loss(*right, x) for _ in range(10)) / 10, abs=0.05)


@pytest.mark.parametrize("gradient", ["standard", "dreg", "stl"])
def test_gradients_with_repeated_data_are_those_of_a_plate(gradient):
    """Mean gradients over many draws, of the guide's and the decoder's weights."""
    found = []
    for decode in (lambda z, w: F.softmax(3 * z, 1) @ w, lambda z, w: F.softmax(3 * z, -1) @ w):
        torch.manual_seed(1)
        net, weight = nn.Linear(6, 4), nn.Parameter(WEIGHT.clone())

        def model(x, decode=decode, weight=weight):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Bernoulli(logits=decode(z, weight)).to_event(1), obs=x)

        class Guide(nn.Module):
            def __init__(self, net):
                super().__init__()
                self.net = net

            def forward(self, x):
                loc, raw = self.net(x).chunk(2, -1)
                with pyro.plate("data", len(x)):
                    pyro.sample("z", dist.Normal(loc, F.softplus(raw) + 0.1).to_event(1))

        x = torch.tensor([[1.0, 0, 1, 0, 0, 1], [0.0, 1, 1, 1, 0, 0], [0.0, 0, 0, 1, 0, 1]]).repeat(200, 1)
        guide, objective = Guide(net), IWAE(4, gradient=gradient)
        for _ in range(10):
            objective.differentiable_loss(model, guide, x).backward()
        found.append((net.weight.grad / 10, weight.grad / 10))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.15)


def batch_normed(batched):
    torch.manual_seed(0)
    enc, dec = nn.Linear(6, 8), nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 6))

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            return pyro.sample(
                "x", dist.Normal(apply_batched(dec, z, 1) if batched else dec(z), 0.5).to_event(1), obs=x
            )

    def guide(x):
        loc, raw = enc(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, F.softplus(raw) + 1e-3).to_event(1))

    return model, guide


def test_plain_batch_norm_trains_with_particles_as_under_apply_batched():
    """Batches of 16 and 16 channels: read as channels, the data would be normalized."""
    x = torch.randn(64, 2) @ torch.randn(2, 6)
    scores = []
    for batched in (True, False):
        result = fit(
            *batch_normed(batched), x, objective=IWAE(5), epochs=150, batch_size=16, progress=False, device="cpu"
        )
        scores.append(log_likelihood(result.model, result.guide, x, num_particles=100, vectorize=False).mean)
    assert scores[1] == pytest.approx(scores[0], abs=0.3) and scores[0] > -6


# ------------------------------------------------------------------------------ programs that look at the whole batch
def whole_batch(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z, 1.0 + x.abs().mean(0)).to_event(1), obs=x)


def rough(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.8).to_event(1))


def test_data_are_run_alone_where_a_program_looks_at_the_whole_batch(caplog):
    x = torch.randn(20, 2)
    truth = dist.Normal(0.0, (1 + (1 + x.abs()).square()).sqrt()).log_prob(x).sum(-1)
    for budget in (2**29, 200_000):
        result = log_likelihood(whole_batch, rough, x, num_particles=4000, memory_budget=budget)
        assert (result.per_datum - truth).abs().max() < 0.1
    assert "data are run one by one" in caplog.text
    bound = elbo(whole_batch, rough, x, num_particles=200)
    assert torch.equal(bound.per_datum[:5], elbo(whole_batch, rough, x[:5], num_particles=200).per_datum)


def test_a_program_that_can_be_run_in_no_way_is_refused_with_the_remedy():
    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z / (1 + z.square().sum()), 1 + x.abs().mean(0)).to_event(1), obs=x)

    with pytest.raises(InputError, match=r"look at the whole batch .*'x'.*apply_batched"):
        log_likelihood(model, rough, torch.randn(5, 2), num_particles=10)


def test_noise_outside_the_sites_is_not_compared(caplog):
    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z + torch.randn_like(z), 1.0).to_event(1), obs=x)

    x = torch.randn(30, 2) * math.sqrt(3)
    result = log_likelihood(model, rough, x, num_particles=8000)
    assert (result.per_datum - dist.Normal(0.0, math.sqrt(3)).log_prob(x).sum(-1)).mean().abs() < 0.1
    assert "random numbers outside its sites" in caplog.text


STATISTICS = {  # of a whole batch, which the first two data have in common
    "greatest": lambda x: x.amax(),
    "a number of Python's": lambda x: float(x.max()),
    "least": lambda x: 20 - x.amin(),
    "mean": lambda x: x.mean(),
    "median": lambda x: x.median(),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_of_the_batch_that_the_first_data_have_in_common(name, caplog):
    """p(x) = N(x; 0, s(x)^2), s of the datum alone, whatever is beside it."""
    statistic = STATISTICS[name]

    def model(x=None, num_samples=1):
        scale = 1.0 if x is None else statistic(x)
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(0 * z, scale).to_event(1), obs=x)

    def prior(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))

    x = 3 + torch.arange(60.0).reshape(30, 2) % 17
    x[:2] = torch.tensor([[7.0, 4.0], [4.0, 7.0]])
    exact = torch.stack([dist.Normal(0.0, float(statistic(row))).log_prob(row).sum() for row in x])
    ours = log_likelihood(model, prior, x, num_particles=3).per_datum
    torch.testing.assert_close(ours.float(), exact, rtol=1e-5, atol=1e-4)
    assert "data are run one by one" in caplog.text


# ------------------------------------------------------------------------------ the trial itself
def test_plates_over_the_data_are_told_from_others_of_the_same_size():
    def model(x):
        with pyro.plate("topics", 2):
            pyro.sample("beta", dist.Normal(0.0, 1.0))
        with pyro.plate("documents", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("words", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("k", 2):
            pyro.sample("beta", dist.Normal(0.0, 1.0))
        with pyro.plate("n", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    programs = as_programs(model, guide)
    found = try_together(*programs, {"x": torch.randn(2)}, 1)
    assert found.plate and found.together and found.data_plates == {"documents", "words"}
    traces = examine(*programs, {"x": torch.randn(2)}).traces({"x": torch.randn(2)})
    assert traces.shared == {"beta"}


def test_the_trial_leaves_random_state_modes_and_buffers_and_is_quick():
    model = VAE((1, 28, 28), latent_dim=8, hidden_dims=(64,))
    guide = GaussianGuide(model, hidden_dims=(64,))
    programs = as_programs(model, guide)
    for program in programs:
        program.train()
    x = torch.rand(2, 1, 28, 28).round()
    state = torch.get_rng_state()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        examine(*programs, {"x": x})
        times.append(time.perf_counter() - started)
    assert torch.equal(torch.get_rng_state(), state) and model.training and guide.training
    assert min(times) < 2.0  # 0.03 s on an idle core; a guard against another order of magnitude


@pytest.mark.parametrize("scale", [1e-2, 1e-3, 2e-4])
def test_narrow_posteriors_are_run_together_for_all_that_rounding_does(scale, caplog):
    """Of a guide that is nearly a point mass, as without a KL, rounding of the mean alone changes densities."""
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Linear(784, 1000), torch.nn.ReLU(), torch.nn.Linear(1000, 8))
    decoder = torch.nn.Linear(8, 784)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(8), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x, shift=0.0):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(10 * encoder(x) + shift, scale).to_event(1))

    x = (torch.rand(6, 784) < 0.5).float()
    pair = examine(*as_programs(model, guide), {"x": x})
    assert not pair.alone and not pair.repeated and not caplog.records

    def looks(x):  # a mean that is moved by a hundredth of the scale for the batch that it is in
        return guide(x, 0.01 * scale * x.sum((0, 1)) / 100)

    examine(*as_programs(model, looks), {"x": x})
    assert "whole batch" in caplog.text or scale < 1e-3

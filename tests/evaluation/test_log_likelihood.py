"""log_likelihood: against exact log p(x) of linear-Gaussian models; what it draws, runs and keeps in memory."""

import importlib
import itertools
import math
import subprocess
import sys
import warnings
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import PPCA
from pyro import poutine
from torch import nn

from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation import log_likelihood
from pyro_vae.runtime import PeakMemory, bytes_per_row


def chunked(monkeypatch, bytes_of_chunk):
    """Force small chunks on the CPU, whatever the budget allows."""
    monkeypatch.setattr(importlib.import_module("pyro_vae.evaluation.importance"), "CPU_CHUNK", bytes_of_chunk)


def errors(result):
    """Delta-method standard error of each datum's estimate: sqrt(1/ESS - 1/K)."""
    return (1 / result.effective_sample_size - 1 / result.num_particles).clamp(min=0).sqrt()


# ------------------------------------------------------------------------------ against the truth
def test_ppca_every_datum_is_within_four_standard_errors():
    ppca = PPCA(dtype=torch.float32)
    x = ppca.sample(200)
    result = log_likelihood(ppca.model, ppca.rough_guide(stretch=1.6, shift=0.3), x, num_particles=5000)
    error = errors(result)
    assert 0.005 < error.min() and error.max() < 0.05, "the guide is too good or too bad for this to test anything"
    assert ((result.per_datum - ppca.log_prob(x)).abs() < 4 * error).all()


def test_ppca_deviations_are_as_large_as_the_standard_errors_say():
    ppca = PPCA(dtype=torch.float32)
    x = ppca.sample(600)
    result = log_likelihood(ppca.model, ppca.rough_guide(), x, num_particles=5000)
    deviation = (result.per_datum - ppca.log_prob(x)) / errors(result)
    assert errors(result).min() > 0.02
    assert deviation.mean().abs() < 4 / math.sqrt(600) and deviation.std().item() == pytest.approx(1, abs=0.12)


def test_ppca_rises_monotonically_with_k_to_the_truth():
    """2,500 data: so the step from K = 1000 to 5000, about var(w) / 2K = 0.01 nats, stands out of its noise."""
    ppca = PPCA(dtype=torch.float32)
    x = ppca.sample(2500)
    truth = ppca.log_prob(x)
    guide = ppca.rough_guide(stretch=4.0)
    gaps = [log_likelihood(ppca.model, guide, x, num_particles=k).mean - truth.mean().item() for k in (1, 10, 100)]
    results = [log_likelihood(ppca.model, guide, x, num_particles=k) for k in (1000, 5000)]
    gaps += [r.mean - truth.mean().item() for r in results]
    assert gaps == sorted(gaps) and gaps[0] < -5
    noise = [errors(r).mean().item() / 50 for r in results]
    assert gaps[4] - gaps[3] > 2 * noise[0]
    assert abs(gaps[4]) < 0.005 + 4 * noise[1]


def test_the_exact_posterior_is_exact_with_one_particle():
    ppca = PPCA(dtype=torch.float32)
    x = ppca.sample(100)
    result = log_likelihood(ppca.model, ppca.exact_guide, x, num_particles=1)
    assert (result.per_datum - ppca.log_prob(x)).abs().max() < 1e-4
    many = log_likelihood(ppca.model, ppca.exact_guide, x, num_particles=50)
    assert (many.per_datum - ppca.log_prob(x)).abs().max() < 1e-4
    torch.testing.assert_close(many.effective_sample_size, torch.full((100,), 50.0).double(), rtol=1e-3, atol=0)


def test_the_effective_sample_size_and_estimate_follow_their_formulas(monkeypatch):
    """The K draws are seen by the model; the estimate is recomputed from the very ones, over several chunks."""
    ppca = PPCA(dtype=torch.float32)
    x, seen = ppca.sample(1), []
    guide = ppca.rough_guide()

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            seen.append(z.detach().reshape(-1, 3).clone())
            pyro.sample("x", dist.Normal(z @ ppca.weight.T + ppca.bias, ppca.noise).to_event(1), obs=x)

    chunked(monkeypatch, 3000)
    k = 101
    result = log_likelihood(model, guide, x, num_particles=k)
    size = len(seen[-1])
    chunks = math.ceil(k / size)
    assert chunks > 2 and k % size, "several chunks, the last one not full"
    z = torch.cat(seen[-chunks:])[:k].double()  # exactly K of them count
    mean = ppca.posterior_mean(x).double()
    scale = ppca.posterior_covariance.diagonal().sqrt().double()
    log_w = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_w += dist.Normal(z @ ppca.weight.T.double() + ppca.bias, ppca.noise).log_prob(x.double()).sum(-1)
    log_w -= dist.Normal(mean + 0.5 * scale, 2.5 * scale).log_prob(z).sum(-1)
    assert result.per_datum.item() == pytest.approx((log_w.logsumexp(0) - math.log(k)).item(), abs=1e-4)
    w = (log_w - log_w.max()).exp()
    assert result.effective_sample_size.item() == pytest.approx((w.sum() ** 2 / (w**2).sum()).item(), rel=1e-4)
    assert sum(map(len, seen[-chunks:])) - k < chunks, "hardly more draws than asked for"


def test_chunks_of_any_size_estimate_the_same(monkeypatch):
    ppca = PPCA(dtype=torch.float32)
    x = ppca.sample(150)
    whole = log_likelihood(ppca.model, ppca.rough_guide(), x, num_particles=700)
    for size in (10_000, 60_000):
        chunked(monkeypatch, size)
        parts = log_likelihood(ppca.model, ppca.rough_guide(), x, num_particles=700, seed=1)
        difference = (parts.per_datum - whole.per_datum) / torch.hypot(errors(parts), errors(whole))
        assert not torch.equal(parts.per_datum, whole.per_datum)
        assert difference.abs().max() < 5 and difference.mean().abs() < 4 / math.sqrt(150)
        assert difference.std().item() == pytest.approx(1.0, abs=0.3)  # independent chunks: no draw is used twice
        assert parts.effective_sample_size.mean().item() == pytest.approx(
            whole.effective_sample_size.mean().item(), rel=0.2
        )


# ------------------------------------------------------------------------------ hierarchical guides
class TwoLayer:
    """z2 ~ N(0,1), z1 ~ N(a z2, s1^2), x ~ N(b z1, s0^2) (three values): log p(x) in closed form."""

    a, b, s1, s0 = 0.9, torch.tensor([1.0, -0.7, 0.4]), 0.6, 0.5
    runs = 0  # of the guide's upper layer

    def log_prob(self, x):
        covariance = (self.a**2 + self.s1**2) * torch.outer(self.b, self.b) + self.s0**2 * torch.eye(3)
        return torch.distributions.MultivariateNormal(torch.zeros(3).double(), covariance.double()).log_prob(x.double())

    def sample(self, n):
        z1 = self.a * torch.randn(n) + self.s1 * torch.randn(n)
        return z1[:, None] * self.b + self.s0 * torch.randn(n, 3)

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(()), 1.0))
            z1 = pyro.sample("z1", dist.Normal(self.a * z2, self.s1))
            pyro.sample("x", dist.Normal(z1[..., None] * self.b, self.s0).to_event(1), obs=x)

    def z1_given(self, x):
        precision = 1 / (self.a**2 + self.s1**2) + (self.b**2).sum() / self.s0**2
        return dist.Normal(x @ self.b / self.s0**2 / precision + 0.1, 1.3 / precision.sqrt())

    def z2_given(self, z1, how):
        precision = 1 + self.a**2 / self.s1**2
        loc, scale = self.a / self.s1**2 / precision * z1, 1.2 / math.sqrt(precision)
        self.runs += 1
        if how == "normal":
            return dist.Normal(loc, scale)
        if how == "affine":  # the dependence is in the transform, the base is the same for all particles
            return dist.TransformedDistribution(
                dist.Normal(torch.zeros(()), scale), [dist.transforms.AffineTransform(loc, 1.0)]
            )
        if how == "mixture":
            locs = torch.stack([loc - 0.3, loc + 0.3], -1)
            return dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Normal(locs, scale))
        raise AssertionError(how)

    def guide(self, how):
        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                z1 = pyro.sample("z1", self.z1_given(x))
                pyro.sample("z2", self.z2_given(z1, how))

        return guide


@pytest.mark.parametrize("num_data", [1, 6])
@pytest.mark.parametrize("how", ["normal", "affine", "mixture"])
def test_a_hierarchical_guide_is_run_again_for_every_chunk(monkeypatch, how, num_data):
    pair = TwoLayer()
    x = pair.sample(num_data)
    chunked(monkeypatch, 2500)
    log_likelihood(pair.model, pair.guide(how), x, num_particles=2, compile="off")
    overhead, pair.runs = pair.runs, 0  # checks, the measurement of memory
    result = log_likelihood(pair.model, pair.guide(how), x, num_particles=3000, compile="off")
    # reuse of the upper layer's distributions would still be unbiased, but noisier: so the runs are counted
    assert pair.runs > overhead + 5 * num_data
    error = errors(result)
    assert error.max() < 0.1
    assert ((result.per_datum - pair.log_prob(x)).abs() < 4 * error).all()
    recorded = log_likelihood(pair.model, pair.guide(how), x, num_particles=3000, compile="graph")
    torch.testing.assert_close(recorded.per_datum, result.per_datum, rtol=1e-5, atol=1e-5)


def test_a_discrete_layer_below_is_not_reused_either(monkeypatch):
    """q(c) q(k | c): the second site's logits depend on the particle in the dimension before the event."""
    table = torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.05, 0.9]])
    prior = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    loc = torch.tensor([-1.0, 0.0, 1.0])

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.4, 0.6])))
            k = pyro.sample("k", dist.Categorical(prior[c]))
            pyro.sample("x", dist.Normal(loc[k], 0.5), obs=x)

    runs = []

    def guide(x):
        runs.append(len(x))
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.5, 0.5])))
            pyro.sample("k", dist.Categorical(table[c]))

    chunked(monkeypatch, 2000)
    for x in (torch.tensor([0.7]), torch.tensor([0.7, -1.2])):
        joint = (torch.tensor([0.4, 0.6])[:, None] * prior).sum(0).log()
        truth = (joint + dist.Normal(loc, 0.5).log_prob(x[:, None])).logsumexp(-1)
        runs.clear()
        result = log_likelihood(model, guide, x, num_particles=4000, compile="off")
        assert len(runs) > 20
        assert ((result.per_datum - truth).abs() < 4 * errors(result)).all() and errors(result).max() < 0.1


# ------------------------------------------------------------------------------ how often the encoder runs
class Counting(nn.Module):
    def __init__(self, hidden=1):
        super().__init__()
        self.net = nn.Linear(8, 6)
        self.rows = 0

    def forward(self, x):
        self.rows += x.shape[:-1].numel()
        return self.net(x)


def counted_pair(ppca):
    encoder = Counting()

    def guide(x):
        loc, raw = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(ppca.posterior_mean(x) + 0.01 * loc, 0.5 + 0.01 * raw.sigmoid()).to_event(1))

    return encoder, guide


def test_the_encoder_runs_once_per_datum(monkeypatch):
    ppca = PPCA(dtype=torch.float32)
    encoder, guide = counted_pair(ppca)
    x = ppca.sample(40)
    log_likelihood(ppca.model, guide, x, num_particles=1, compile="off")
    overhead = encoder.rows - 40  # checks and the measurement of memory: a few data
    assert overhead <= 40
    for size in (None, 20_000):
        if size:
            chunked(monkeypatch, size)
        encoder.rows = 0
        result = log_likelihood(ppca.model, guide, x, num_particles=2000, compile="off")
        assert encoder.rows == 40 + overhead, f"with chunks of {size} bytes"
        assert ((result.per_datum - ppca.log_prob(x)).abs() < 4 * errors(result)).all()


# ------------------------------------------------------------------------------ recorded chunks
def masked_pair(ppca):
    """A guide with a constrained latent (a transform) and a mask that depends on the data, drawn from again."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            with poutine.mask(mask=x[..., 0] > 0):
                s = pyro.sample("s", dist.LogNormal(0.0, 0.3))
            pyro.sample("x", dist.Normal(s[..., None] * (z @ ppca.weight.T), 0.5).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(ppca.posterior_mean(x), 0.6).to_event(1))
            with poutine.mask(mask=x[..., 0] > 0):
                pyro.sample("s", dist.LogNormal(0.1 * x[..., 1], 0.4))

    return model, guide


@pytest.mark.parametrize("num_data", [1, 7])
@pytest.mark.parametrize("how", ["graph", "full"])
def test_recorded_chunks_give_the_same_numbers(monkeypatch, how, num_data):
    ppca = PPCA(dtype=torch.float32)
    model, guide = masked_pair(ppca)
    x = ppca.sample(num_data)
    chunked(monkeypatch, 40_000)
    run = partial(log_likelihood, model, guide, x, num_particles=2000, memory_budget=10**6)
    eager, recorded = run(compile="off"), run(compile=how)
    torch.testing.assert_close(recorded.per_datum, eager.per_datum, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(recorded.effective_sample_size, eager.effective_sample_size, rtol=1e-3, atol=1e-3)


def test_programs_that_cannot_be_recorded_are_evaluated_eagerly(caplog):
    ppca = PPCA(dtype=torch.float32)

    def guide(x):
        assert x.sum() != 17.0
        return ppca.exact_guide(x)

    result = log_likelihood(ppca.model, guide, ppca.sample(5), num_particles=1, compile="graph")
    torch.testing.assert_close(result.per_datum, ppca.log_prob(ppca.sample(5)), rtol=1e-4, atol=1e-4)
    lines = [r.getMessage() for r in caplog.records if r.name == "pyro_vae.evaluation.chunks"]
    assert len(lines) == 1 and "looks at a tensor's value in `assert x.sum() != 17.0`" in lines[0]
    with pytest.raises(InputError, match=r"compile.*'ful'.*full"):
        log_likelihood(ppca.model, guide, ppca.sample(5), compile="ful")


# ------------------------------------------------------------------------------ programs that cannot broadcast
def test_vectorize_false_for_a_model_that_cannot_broadcast(monkeypatch):
    ppca = PPCA(dtype=torch.float32)
    x = ppca.sample(30)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            h = z.reshape(len(x), -1)  # fails with a particle dimension
            loc = h @ ppca.weight.T + ppca.bias
            pyro.sample("x", dist.Normal(loc, ppca.noise).to_event(1), obs=x)

    for size, vectorize in itertools.product((24 * 2**20, 30_000), (True, False)):
        chunked(monkeypatch, size)
        result = log_likelihood(model, ppca.rough_guide(), x, num_particles=1001, vectorize=vectorize)
        assert ((result.per_datum - ppca.log_prob(x)).abs() < 4 * errors(result)).all()
        # the estimates belong to their data: no mix-up of particles and data in the reshaping
        assert errors(result).max() < 0.35 and ppca.log_prob(x).std() > 1


# ------------------------------------------------------------------------------ memory
def test_peak_memory_counts_live_storages():
    x = torch.ones(1000)
    with PeakMemory() as memory:
        y = x + 1  # 4000 bytes
        z = y.view(10, 100).T  # no storage of its own
        y.add_(1)
        del y
        w = z * 2  # 8000 bytes
        del w
        v = x * 3
    assert memory.peak == 8000 and memory.live == 8000
    del z, v
    assert memory.live == 0


@pytest.mark.parametrize(
    ("hidden_encoder", "hidden_decoder", "num_particles", "num_data"),
    [(8, 500, 300, 200), (4000, 8, 1, 400), (4000, 8, 7, 400)],
)
@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("how", ["off", "graph"])
def test_memory_stays_within_the_budget(hidden_encoder, hidden_decoder, num_particles, num_data, vectorize, how):
    encoder = nn.Sequential(nn.Linear(30, hidden_encoder), nn.ReLU(), nn.Linear(hidden_encoder, 4))
    decoder = nn.Sequential(nn.Linear(2, hidden_decoder), nn.ReLU(), nn.Linear(hidden_decoder, 30))

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        loc, raw = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    x, budget = torch.randn(num_data, 30), 2**20
    with PeakMemory() as memory:
        options = {"num_particles": num_particles, "memory_budget": budget, "vectorize": vectorize}
        log_likelihood(model, guide, x, compile=how, **options)
    weights = sum(p.nbytes for p in (*encoder.parameters(), *decoder.parameters()))
    assert memory.peak <= budget + (3 * weights if how == "graph" else 0)  # recording copies them for a moment
    assert memory.peak > 0.2 * budget, "the budget is hardly used: slow for no reason"


# ------------------------------------------------------------------------------ results
def test_summary_bits_per_dim_standard_error_and_split():
    ppca = PPCA(dtype=torch.float32)
    data = Data(Split({"x": ppca.sample(10)}, name="train"), test=Split({"x": ppca.sample(25, seed=9)}, name="test"))
    result = log_likelihood(ppca.model, ppca.exact_guide, data, num_particles=3)
    truth = ppca.log_prob(ppca.sample(25, seed=9))
    assert result.num_dimensions == 8
    summary = result.to_dict()
    assert summary.pop("split") == "test"
    assert [summary.pop(key) for key in ("pareto_k_max", "pareto_k_above", "warnings")] == [None, None, []]
    assert [summary.pop(key) for key in ("bits_of", "density", "bits_density")] == ["x", True, True]
    assert summary == pytest.approx(
        {
            "log_likelihood": truth.mean().item(),
            "standard_error": truth.std().item() / 5,
            "bits_per_dim": -truth.mean().item() / (8 * math.log(2)),
            "num_particles": 3,
            "num_data": 25,
            "effective_sample_size": 3.0,
        },
        rel=1e-4,
    )


def test_dimensions_count_inner_plates_and_leave_factors_out():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.factor("extra", torch.zeros(()))
            with pyro.plate("pixels", 5, dim=-2):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.sum(-1) / 6, 6**-0.5))

    x = torch.randn(12, 5)
    truth = dist.MultivariateNormal(torch.zeros(5), torch.eye(5) + torch.ones(5, 5)).log_prob(x)
    for k in (1, 20):
        result = log_likelihood(model, guide, x, num_particles=k)
        assert result.num_dimensions == 5
        torch.testing.assert_close(result.per_datum.float(), truth, rtol=1e-4, atol=1e-4)


def test_seeds_and_the_global_random_state():
    ppca = PPCA(dtype=torch.float32)
    x, guide = ppca.sample(5), ppca.rough_guide()
    state = torch.get_rng_state()
    one = log_likelihood(ppca.model, guide, x, num_particles=20, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(77)
    again = log_likelihood(ppca.model, guide, x, num_particles=20, seed=1)
    other = log_likelihood(ppca.model, guide, x, num_particles=20, seed=2)
    assert torch.equal(one.per_datum, again.per_datum)
    assert not torch.equal(one.per_datum, other.per_datum)


def test_y_goes_to_the_program_that_has_an_argument_for_it():
    ppca = PPCA(dtype=torch.float32)
    offset = torch.tensor([0.0, 5.0])

    def model(x, y):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            loc = z @ ppca.weight.T + ppca.bias + offset[y][:, None]
            pyro.sample("x", dist.Normal(loc, ppca.noise).to_event(1), obs=x)

    def guide(x, y):
        return ppca.exact_guide(x - offset[y][:, None])

    x, y = ppca.sample(20), torch.arange(20) % 2
    shifted = x + offset[y][:, None]
    with_y = log_likelihood(model, guide, {"x": shifted, "y": y}, num_particles=2)
    without = log_likelihood(ppca.model, ppca.exact_guide, {"x": x, "y": y}, num_particles=2)
    torch.testing.assert_close(with_y.per_datum, without.per_datum, rtol=1e-4, atol=1e-4)
    repeated = log_likelihood(model, guide, {"x": shifted, "y": y}, num_particles=2, vectorize=False)
    torch.testing.assert_close(repeated.per_datum, without.per_datum, rtol=1e-4, atol=1e-4)


class Normalized(nn.Module):
    """A guide with batch norm and dropout; one of its parts is in evaluation mode already."""

    def __init__(self, ppca):
        super().__init__()
        self.ppca = ppca
        self.norm, self.drop, self.fixed = nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)

    def forward(self, x):
        h = self.fixed(self.drop(self.norm(x)))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.ppca.posterior_mean(x) + 0.01 * h, 0.6).to_event(1))


def test_evaluation_mode_inside_and_the_old_modes_afterwards():
    ppca = PPCA(dtype=torch.float32)
    guide, x = Normalized(ppca), ppca.sample(30)
    guide.fixed.eval()
    before = guide.norm.running_mean.clone()
    one = log_likelihood(ppca.model, guide, x, num_particles=3)
    assert guide.training and guide.norm.training and guide.drop.training and not guide.fixed.training
    assert torch.equal(guide.norm.running_mean, before) and guide.norm.num_batches_tracked == 0
    guide.eval()
    assert torch.equal(log_likelihood(ppca.model, guide, x, num_particles=3).per_datum, one.per_datum)
    # modes come back after an error too
    guide.train()
    with pytest.raises(InputError):
        log_likelihood(ppca.model, guide, x, num_particles=3, memory_budget=8)
    assert guide.training and guide.norm.training


def test_no_warnings_no_gradients():
    ppca = PPCA(dtype=torch.float32)
    _, guide = counted_pair(ppca)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = log_likelihood(ppca.model, guide, ppca.sample(3), num_particles=4)
    assert not result.per_datum.requires_grad and result.per_datum.dtype == torch.float64


# ------------------------------------------------------------------------------ errors
@pytest.mark.parametrize("bad", [0, -5, True, 2.0, "10"])
def test_bad_numbers_are_named(bad):
    ppca = PPCA(dtype=torch.float32)
    for name in ("num_particles", "memory_budget"):
        with pytest.raises(InputError, match=f"{name} must be a positive integer, got {bad!r}"):
            log_likelihood(ppca.model, ppca.exact_guide, ppca.sample(3), **{name: bad})


def test_a_tiny_budget_says_what_is_needed():
    ppca = PPCA(dtype=torch.float32)
    with pytest.raises(InputError, match=r"memory_budget 8 bytes is too small: .* takes \d+ bytes"):
        log_likelihood(ppca.model, ppca.exact_guide, ppca.sample(3), memory_budget=8)


def test_a_shared_latent_and_unmatched_sites_are_named():
    ppca = PPCA(dtype=torch.float32)

    def shared(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(w[..., None] * torch.ones(8), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.sample("w", dist.Normal(0.0, 1.0))

    assert list(log_likelihood(shared, guide, ppca.sample(3), num_particles=2).shared.kl) == ["w"]
    with pytest.raises(InputError, match="the guide lacks the model's latent site z"):
        log_likelihood(ppca.model, guide, ppca.sample(3), num_particles=2)


MANY_DATA = """
import resource, torch
from pyro_vae.evaluation import log_likelihood
from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
torch.set_num_threads(1)
model = VAE((64,), latent_dim=40, hidden_dims=(64,))
guide, x = GaussianGuide(model, hidden_dims=(64,)), (torch.rand(300, 64) < 0.5).float()
log_likelihood(model, guide, x[:2], num_particles=10)
before = peak()
log_likelihood(model, guide, x, num_particles=5000, memory_budget=64 * 2**20)
print(peak() - before)
"""


@pytest.mark.slow
def test_the_process_does_not_grow_with_the_number_of_data():
    """Of the process, not of its tensors: small results kept among large temporaries once split the heap."""
    done = subprocess.run([sys.executable, "-c", MANY_DATA], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 64 * 1.25  # MiB


def test_memory_of_a_row_beside_large_tensors_that_do_not_depend_on_rows():
    """Weights that are made at every call (weight normalization) peak at another moment than the rows."""

    def run(rows):
        weights = torch.ones(1_000_000) * 2  # two times 4 MB, gone before the rows come
        total = weights.sum()
        del weights
        return torch.ones(rows, 1000) * total

    assert bytes_per_row(run) == pytest.approx(8000, rel=0.35)  # ones, and their product

"""Mutual information under the guide: by hand, at its two ends, of hierarchies, and what has none."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.data import Split
from pyro_vae.errors import NotApplicable
from pyro_vae.evaluation import information, mutual_information
from pyro_vae.evaluation.encoding import posterior_samples
from pyro_vae.evaluation.results import metrics


def model(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide_of(slope, scale):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, scale).to_event(1))

    return guide


X = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))


def test_is_the_sum_over_all_pairs():
    guide = guide_of(0.8, 0.5)
    found = mutual_information(model, guide, X, seed=3)
    z = posterior_samples(model, guide, X, seed=3)["z"].double()
    log_q = torch.distributions.Normal(0.8 * X.double(), 0.5).log_prob(z[:, None]).sum(-1)  # (z_i, x_j)
    expected = log_q.diag() - log_q.exp().mean(1).log()
    torch.testing.assert_close(found.of_data, expected, atol=1e-5, rtol=1e-5)
    assert found.value == pytest.approx(expected.mean().item(), abs=1e-5)
    assert found.standard_error == pytest.approx(expected.std().item() / math.sqrt(40), rel=1e-4)
    in_parts = mutual_information(model, guide, X, seed=3, memory_budget=20_000)
    torch.testing.assert_close(in_parts.of_data, found.of_data)
    one_by_one = mutual_information(model, guide, X, seed=3, memory_budget=1)
    torch.testing.assert_close(one_by_one.of_data, found.of_data)
    assert found.to_dict()["most"] == math.log(40) and found.rows.keys() == {"I(x; z) under the guide"}
    assert found.to_dict()["mutual_information"] == found.value and not found.arrays()


def test_blocks_of_data_are_put_together(monkeypatch):
    monkeypatch.setattr(information, "BLOCK", 7)  # of 40, the last is smaller
    found = mutual_information(model, guide_of(0.8, 0.5), X, seed=3)
    torch.manual_seed(3)
    z = torch.cat([0.8 * part + 0.5 * torch.randn(part.shape) for part in X.split(7)]).double()
    log_q = torch.distributions.Normal(0.8 * X.double(), 0.5).log_prob(z[:, None]).sum(-1)
    torch.testing.assert_close(found.of_data, log_q.diag() - log_q.exp().mean(1).log(), atol=1e-5, rtol=1e-5)


def test_ends():
    """0 of a collapsed guide, log N of one that tells all data apart; between them that of a Gaussian channel."""
    assert mutual_information(model, guide_of(0.0, 0.9), X).value == pytest.approx(0.0, abs=1e-6)
    assert mutual_information(model, guide_of(1.0, 1e-4), X).value == pytest.approx(math.log(40), abs=1e-6)
    x = torch.randn(1500, 2, generator=torch.Generator().manual_seed(1))
    found = mutual_information(model, guide_of(1.0, 1.0), x)  # 2 * log(1 + 1) / 2 nats
    assert abs(found.value - math.log(2)) < 4 * found.standard_error + 0.01 and found.standard_error < 0.03


def test_of_hierarchies_plates_and_discrete_latents():
    """All latents together: z2 given z1, an inner plate, and a coin; against a loop over all pairs."""

    def deep_model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(0.0, 1.0))
            z2 = pyro.sample("z2", dist.Normal(torch.stack([z1, z1], -1), 1.0).to_event(1))
            pyro.sample("c", dist.Bernoulli(0.5))
            with pyro.plate("inner", 3, dim=-2):
                w = pyro.sample("w", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(z2 + w.sum(-2)[..., None], 1.0).to_event(1), obs=x)

    def deep_guide(x):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(x[..., 0], 0.7))
            pyro.sample("z2", dist.Normal(x + z1[..., None], 0.6).to_event(1))
            pyro.sample("c", dist.Bernoulli(logits=3 * x[..., 0]))
            with pyro.plate("inner", 3, dim=-2):
                pyro.sample("w", dist.Normal(x[..., 1] * torch.arange(3.0)[:, None], 1.1))

    x = X[:9]
    found = mutual_information(deep_model, deep_guide, x, seed=5).of_data
    with pytest.raises(NotApplicable, match="z1, z2, c, w may depend on one another"):  # too much for every evaluation
        metrics()["information_in_latents"](deep_model, deep_guide, Split({"x": x}), 2**29, 0)
    expected, n = [], dist.Normal
    draws = posterior_samples(deep_model, deep_guide, x, seed=5)
    for i in range(9):
        log_q = []
        for j in range(9):
            z1, z2, c, w = (draws[name][i].double() for name in ("z1", "z2", "c", "w"))
            a, b = x[j].double()
            log_q.append(
                n(a, 0.7).log_prob(z1)
                + n(x[j].double() + z1, 0.6).log_prob(z2).sum()
                + dist.Bernoulli(logits=3 * a).log_prob(c)
                + n(b * torch.arange(3.0), 1.1).log_prob(w.flatten()).sum()
            )
        log_q = torch.stack(log_q)
        expected.append(log_q[i] - log_q.logsumexp(0) + math.log(9))
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_the_metric_looks_at_the_first_data_and_leaves_no_trace():
    function = metrics()["information_in_latents"]
    before = torch.get_rng_state()
    found = function(
        model, guide_of(1.0, 0.5), Split({"x": torch.randn(1003, 2, generator=torch.Generator())}), 2**29, 0
    )
    assert len(found.of_data) == 1000 and torch.equal(torch.get_rng_state(), before)


def point_mass(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Delta(x).to_event(1))


def masked(x):
    with pyro.plate("data", len(x)), pyro.poutine.mask(mask=x[:, 0] > 0):
        pyro.sample("z", dist.Normal(x, 1.0).to_event(1))


def with_more(x):
    with pyro.plate("data", len(x)):
        u = pyro.sample("u", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(x + u[..., None], 1.0).to_event(1))


@pytest.mark.parametrize(
    ("guide", "words"),
    [(point_mass, "nothing to draw"), (masked, "of z parts are masked"), (with_more, "u is drawn by the guide alone")],
)
def test_what_has_no_mutual_information(guide, words):
    with pytest.raises(NotApplicable, match=words):
        mutual_information(model, guide, X)


def test_a_single_datum_and_shared_latents_have_none():
    def shared(x=None, num_samples=1):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", num_samples if x is None else len(x)):
            return pyro.sample("x", dist.Normal(w, 1.0).expand([2]).to_event(1), obs=x)

    def one(x):
        pyro.sample("w", dist.Normal(0.5, 1.0))

    with pytest.raises(NotApplicable, match="all data share w"):
        mutual_information(shared, one, X)
    with pytest.raises(NotApplicable, match="of a single datum nothing can be known"):
        mutual_information(model, guide_of(1.0, 1.0), X[:1])

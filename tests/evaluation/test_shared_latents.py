"""Latents that all data share: averaged over by draws of the guide, against closed forms."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroSample
from torch import nn

import pyro_vae
from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation import given_shared
from pyro_vae.plots import draw_all
from pyro_vae.plots.registry import Shown, figures
from pyro_vae.programs.program import as_programs
from pyro_vae.reports import write_report

M, S = 1.3, 0.2  # of q(w)


def mean_model(x=None, num_samples=1):
    w = pyro.sample("w", dist.Normal(torch.tensor(0.0), 1.0))
    with pyro.plate("data", num_samples if x is None else len(x)):
        return pyro.sample("x", dist.Normal(w, 1.0), obs=x)


def mean_guide(x):
    pyro.sample("w", dist.Normal(torch.tensor(M), S))


class LinearDecoder(nn.Module):
    """W ~ N(0, 1), z ~ N(0, I), x ~ N(W z, sigma^2): given W the exact likelihood is a Gaussian's."""

    latent, size, noise = 2, 4, 0.5

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.loc, self.scale = nn.Parameter(torch.randn(self.latent, self.size)), 0.1
        self.double()

    def model(self, x=None, num_samples=1):
        with pyro.plate("rows", self.latent):
            w = pyro.sample("w", dist.Normal(torch.zeros_like(self.loc[0]), 1.0).to_event(1))
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent, dtype=w.dtype), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal((z[..., None, :] @ w).squeeze(-2), self.noise).to_event(1), obs=x)

    def guide(self, x):
        """q(w) is a Gaussian, q(z | x, w) the exact posterior."""
        with pyro.plate("rows", self.latent):
            w = pyro.sample("w", dist.Normal(self.loc, self.scale).to_event(1))
        precision = torch.eye(self.latent, dtype=x.dtype) + w @ w.mT / self.noise**2
        loc = torch.linalg.solve(precision, (w @ x[..., None]) / self.noise**2).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(loc, precision_matrix=precision))

    def exact(self, x, draws=20_000):
        """E_q(w) [log p(x | w)] by plain Monte Carlo over the closed form, with its error; ``(N,)`` each."""
        generator = torch.Generator().manual_seed(9)
        w = self.loc.detach() + self.scale * torch.randn(draws, *self.loc.shape, generator=generator, dtype=x.dtype)
        cov = w.mT @ w + self.noise**2 * torch.eye(self.size, dtype=x.dtype)
        log_p = dist.MultivariateNormal(torch.zeros(self.size, dtype=x.dtype), cov[:, None]).log_prob(x)  # (draws, N)
        return log_p.mean(0), log_p.std(0)


@pytest.fixture
def numbers():
    torch.manual_seed(1)
    return torch.randn(50) + 1.0


@pytest.fixture
def vectors():
    torch.manual_seed(1)
    return torch.randn(6, 4, dtype=torch.float64)


# ------------------------------------------------------------------ closed forms
def test_the_mean_of_a_gaussian(numbers):
    """E_q(w) [log N(x; w, 1)] = log N(x; m, 1) - s^2 / 2, and KL(q(w) || p(w)) of all data together."""
    result = pyro_vae.log_likelihood(mean_model, mean_guide, numbers, num_global=2000)
    exact = dist.Normal(M, 1.0).log_prob(numbers) - S**2 / 2
    assert (result.per_datum - exact).abs().max() < 5 * S * (numbers - M).abs().max() / math.sqrt(2000)
    kl = torch.distributions.kl_divergence(dist.Normal(M, S), dist.Normal(0.0, 1.0)).item()
    assert result.shared.kl["w"] == pytest.approx(kl, rel=1e-5)
    assert "none on log p(x)" in result.warnings[0] and "log-likelihood given w (K = 1)" in result.rows
    assert result.to_dict()["shared"]["draws"] == 2000
    error = result.to_dict()["shared"]["error_of_draws"]  # d mean / dw = mean(x) - w
    assert error == pytest.approx(S * math.hypot(numbers.mean() - M, S / math.sqrt(2)) / math.sqrt(2000), rel=0.2)
    predictive = dist.Normal(M, math.sqrt(1 + S**2)).log_prob(numbers)
    assert result.mean < predictive.mean()


def test_the_elbo_says_what_it_bounds(numbers):
    result = pyro_vae.elbo(mean_model, mean_guide, numbers, num_particles=500)
    exact = dist.Normal(M, 1.0).log_prob(numbers) - S**2 / 2
    kl = torch.distributions.kl_divergence(dist.Normal(M, S), dist.Normal(0.0, 1.0)).item()
    assert result.given_shared.mean() == pytest.approx(exact.mean().item(), abs=0.02)
    assert result.mean == pytest.approx(result.given_shared.mean().item() - kl / 50, abs=1e-6)
    assert f"a datum's part of {kl:.2f}" in result.rows["KL of w"]
    assert "log p of all 50 data together" in result.warnings[0]


@pytest.mark.parametrize("compile", ["off", "graph"])
@pytest.mark.parametrize("vectorize", [True, False])
def test_a_bayesian_linear_decoder(vectors, vectorize, compile):
    pair = LinearDecoder()
    exact, deviation = pair.exact(vectors)
    how = {"num_particles": 3, "num_global": 400, "vectorize": vectorize, "compile": compile}
    result = pyro_vae.log_likelihood(pair.model, pair.guide, vectors, **how)
    assert ((result.per_datum - exact).abs() < 4 * deviation / math.sqrt(400)).all()
    torch.testing.assert_close(result.effective_sample_size, torch.full((6,), 3.0, dtype=torch.float64))


def test_annealing_is_that_of_one_draw(vectors):
    """Under a guide of w that hardly varies the closed form is known."""
    pair = LinearDecoder()
    pair.scale = 1e-6
    result = pyro_vae.ais(pair.model, pair.guide, vectors, num_chains=8, num_temperatures=20)
    torch.testing.assert_close(result.per_datum, pair.exact(vectors, 2)[0], atol=1e-3, rtol=0)
    assert "at one draw of w" in result.warnings[0] and "log-likelihood given w, annealed" in result.rows


# ------------------------------------------------------------------ training
def test_the_loss_of_mini_batches_is_that_of_all_data(numbers):
    """Its mean over batches, the draws held: with KL / N in every batch."""
    found = []
    for size in (50, 10):
        how = {"epochs": 1, "batch_size": size, "learning_rate": 0.0, "progress": False, "device": "cpu"}
        loc = nn.Parameter(torch.tensor(M))

        def still(x, loc=loc):
            pyro.sample("w", dist.Normal(loc, 1e-6))

        found.append(pyro_vae.fit(mean_model, still, numbers, **how).records[-1]["train/loss"])
    kl = torch.distributions.kl_divergence(dist.Normal(M, 1e-6), dist.Normal(0.0, 1.0)).item()
    exact = -dist.Normal(M, 1.0).log_prob(numbers).mean().item() + kl / 50
    assert found == pytest.approx([exact, exact], abs=1e-4)


# ------------------------------------------------------------------ programs as users write them
class BayesianDecoder(PyroModule):
    """A linear layer whose weights have priors (PyroSample)."""

    def __init__(self):
        super().__init__()
        self.layer = PyroModule[nn.Linear](2, 3)
        self.layer.weight = PyroSample(dist.Normal(0.0, 1.0).expand([3, 2]).to_event(2))
        self.layer.bias = PyroSample(dist.Normal(0.0, 1.0).expand([3]).to_event(1))

    def forward(self, x=None, num_samples=1):
        weight, bias = self.layer.weight, self.layer.bias
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = (weight @ z[..., None]).squeeze(-1) + bias
            return pyro.sample("x", dist.Normal(loc, 0.3).to_event(1), obs=x)


class BayesianGuide(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.weight, self.bias = (
            nn.Linear(3, 4),
            nn.Parameter(torch.randn(3, 2)),
            nn.Parameter(torch.ones(3)),
        )

    def forward(self, x):
        pyro.sample("layer.weight", dist.Normal(self.weight, 0.05).to_event(2))
        pyro.sample("layer.bias", dist.Normal(self.bias, 0.05).to_event(1))
        loc, scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


@pytest.mark.slow
def test_weights_with_priors_are_trained_measured_drawn_and_reported(tmp_path, caplog):
    torch.manual_seed(0)
    x = torch.randn(60, 2) @ torch.randn(2, 3) + 2.0
    data = Data(Split({"x": x[:40]}), test=Split({"x": x[40:]}))
    how = {"epochs": 40, "batch_size": 20, "learning_rate": 0.02, "progress": False, "device": "cpu"}
    result = pyro_vae.fit(BayesianDecoder(), BayesianGuide(), data, out=tmp_path, **how)
    pair = result.model, result.guide
    bound = pyro_vae.log_likelihood(*pair, data, num_particles=200)
    assert sorted(bound.shared.kl) == ["layer.bias", "layer.weight"]
    assert bound.mean >= pyro_vae.elbo(*pair, data, num_particles=50).given_shared.mean() - 0.3
    mean = pyro_vae.sample(given_shared(*pair, data)[0], 2000)["x"].mean(0)  # that of the guide's bias, not its prior's
    assert (mean - result.guide.bias).abs().max() < 0.3
    caplog.clear()
    draw_all(*pair, data, result.records, tmp_path / "figures")
    assert (tmp_path / "figures" / "reconstructions.png").is_file()
    write_report(tmp_path, *pair, data, particles=20)
    assert "no figure 'prior_samples'" not in caplog.text and "failed" not in caplog.text
    assert "all data share layer.weight, layer.bias" in (tmp_path / "report.html").read_text()


def test_figures_show_the_guides_draw_and_say_so(numbers):
    """The prior of w is N(0, 1), the guide's N(30, 0.2^2)."""

    def guide(x):
        pyro.sample("w", dist.Normal(30.0, S))

    run = Shown(*as_programs(mean_model, guide), Split({"x": numbers}))
    assert run.shared == "w"
    assert pyro_vae.sample(run.model, 50)["x"].mean() == pytest.approx(30.0, abs=1.0)
    torch.manual_seed(0)
    run = Shown(*as_programs(BayesianDecoder(), BayesianGuide()), Split({"x": torch.randn(20, 3)}))
    title = figures()["prior_samples"].draw(run).get_suptitle()
    assert title.endswith("(given one draw of layer.weight, layer.bias from the guide)")


# ------------------------------------------------------------------ refusals
def test_a_guide_that_looks_at_the_batch_is_refused(numbers):
    def guide(x):
        pyro.sample("w", dist.Normal(x.mean(), S))

    with pytest.raises(InputError, match="'w' is shared by all data, but the guide draws it from those of a batch"):
        pyro_vae.log_likelihood(mean_model, guide, numbers)


def test_draws_are_counted(numbers):
    with pytest.raises(InputError, match="num_global must be a positive integer, got 0"):
        pyro_vae.log_likelihood(mean_model, mean_guide, numbers, num_global=0)


def test_what_is_not_shared_cannot_be_given():
    pair = LinearDecoder()
    with pytest.raises(InputError, match="no latent is shared by all data"):
        given = given_shared(pair.model, pair.guide, torch.randn(3, 4, dtype=torch.float64))
        given_shared(*given, torch.randn(3, 4, dtype=torch.float64))


@pytest.mark.parametrize("module", ["importance", "annealing.ais"])
def test_to_look_for_shared_latents_changes_no_draw(module, monkeypatch):
    model = pyro_vae.models.VAE((7,), latent_dim=2, hidden_dims=(), likelihood=pyro_vae.likelihoods.Gaussian(0.5))
    guide, x = pyro_vae.guides.GaussianGuide(model, hidden_dims=()), torch.randn(5, 7)

    def measured():
        if module == "importance":
            return pyro_vae.log_likelihood(model, guide, x, num_particles=30).per_datum
        return pyro_vae.ais(model, guide, x, num_chains=2, num_temperatures=5).per_datum

    looked = measured()
    monkeypatch.setattr(f"pyro_vae.evaluation.{module}.shared_of", lambda pair, split: [])
    assert torch.equal(looked, measured())

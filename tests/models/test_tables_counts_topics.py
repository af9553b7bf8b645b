"""Models of tables, counts and documents: the shared contract, and likelihoods against exact ones."""

import math

import pyro.distributions as dist
import pytest
import torch
from contract import PairContract

import pyro_vae
from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.guides import GaussianGuide
from pyro_vae.likelihoods import Beta, ClassLabels, Gaussian, Mixed, NegativeBinomial, ZeroInflated
from pyro_vae.models import CountVAE, TabularVAE, TopicVAE
from pyro_vae.reports import write_report


def mixed():
    return Mixed({"a": Gaussian("learned"), "b": ClassLabels(3), "c": NegativeBinomial(), "d": Beta()})


def rows(n=24):
    a = torch.randn(n)
    return torch.stack([a + 1, (a > 0) + (a > 1).float(), torch.poisson(a.exp()), a.sigmoid()], 1)


class TestTable(PairContract):
    learning_rate = 0.01

    def make_pair(self):
        x = rows()
        model = TabularVAE((4,), 2, mixed(), hidden_dims=(16,), data_mean=x.mean(0))
        return model, GaussianGuide(model, hidden_dims=(16,)), {"x": x}


class TestCounts(PairContract):
    learning_rate = 0.01

    def make_pair(self):
        x = torch.poisson(20 * torch.randn(24, 1).exp() * torch.rand(2, 5).repeat(12, 1)) + 1
        model = CountVAE((5,), latent_dim=2, hidden_dims=(16,), data_mean=x.mean(0))
        return model, GaussianGuide(model, hidden_dims=(16,)), {"x": x, "library": x.sum(1)}


class TestZeroInflatedCounts(TestCounts):
    def make_pair(self):
        _, _, batch = super().make_pair()
        model = CountVAE((5,), 2, ZeroInflated(), hidden_dims=(16,))
        return model, GaussianGuide(model, hidden_dims=(16,)), batch


class TestTopics(PairContract):
    learning_rate = 0.05

    def make_pair(self):
        x = torch.poisson(3 * torch.rand(2, 6).repeat(12, 1) * torch.tensor([1.0, 5.0] * 3))
        model = TopicVAE((6,), num_topics=3, data_mean=x.mean(0))
        return model, GaussianGuide(model, hidden_dims=(16,)), {"x": x}


# ------------------------------------------------------------------ exact likelihoods
def with_holes(x, share=0.3):
    holes = torch.rand(x.shape) < share
    holes[0], holes[1] = False, True  # one datum is whole, of one nothing is known
    return torch.where(holes, torch.nan, x)


class Wide(GaussianGuide):
    """q(z | x) = N(0, I), which has room for all of the posterior."""

    def forward(self, x):
        with torch.no_grad():
            self.encoder.mlp.out.weight.zero_()
        return super().forward(x)


def test_a_linear_gaussian_table_is_factor_analysis_with_missing_entries():
    """log p of what is known is the Gaussian with the known part of mean and covariance."""
    torch.manual_seed(0)
    model = TabularVAE((5,), 2, Gaussian(0.5), hidden_dims=())
    x = with_holes(torch.randn(20, 5))
    weight, bias = model.decoder.mlp.out.weight.detach(), torch.randn(5)
    model.decoder.set_output_bias(bias)
    covariance = weight @ weight.T + 0.25 * torch.eye(5)
    exact = torch.zeros(20, dtype=torch.float64)
    for i, row in enumerate(x):
        at = (~row.isnan()).nonzero()[:, 0]
        if len(at):
            exact[i] = dist.MultivariateNormal(bias[at], covariance[at][:, at]).log_prob(row[at])
    guide = Wide(model, hidden_dims=())
    result = pyro_vae.log_likelihood(model, guide, Split({"x": x}, missing=True), num_particles=20_000)
    assert (result.per_datum - exact).abs().max() < 0.1
    assert abs(result.per_datum[1]) < 1e-6
    assert result.num_dimensions == pytest.approx(float((~x.isnan()).sum()) / 20)


def on_grid(dim, size):
    axis = torch.linspace(-7, 7, size, dtype=torch.float64)
    z = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim)
    prior = dist.Normal(0.0, 1.0).log_prob(z).sum(1) + dim * math.log(axis[1] - axis[0])
    return z, prior


def test_a_table_of_mixed_columns_against_quadrature():
    torch.manual_seed(0)
    model = TabularVAE((4,), 2, mixed(), hidden_dims=(8,)).double()
    x = with_holes(rows(12).double())
    z, prior = on_grid(2, 401)
    features = model.decoder(z).detach()  # (G, 1 + 3 + 1 + 2)
    columns = model.likelihood.columns
    total = prior[None].expand(12, -1).clone()
    with torch.no_grad():
        for i, (likelihood, part) in enumerate(zip(columns, features.split([1, 3, 1, 2], 1), strict=True)):
            for n in range(12):
                if not x[n, i].isnan():
                    total[n] += likelihood(part, 1).log_prob(x[n, i].expand(len(z), 1))
    exact = total.logsumexp(1)
    guide = Wide(model, hidden_dims=()).double()
    result = pyro_vae.log_likelihood(model, guide, Split({"x": x}, missing=True), num_particles=20_000)
    assert (result.per_datum - exact).abs().max() < 0.1


@pytest.mark.parametrize("likelihood", [None, ZeroInflated(NegativeBinomial(0.3))])
def test_counts_against_quadrature(likelihood):
    torch.manual_seed(0)
    model = CountVAE((6,), 1, likelihood, hidden_dims=(8,)).double()
    x = torch.poisson(torch.rand(10, 6).double() * 8)
    library = x.sum(1) + 1
    z, prior = on_grid(1, 4001)
    with torch.no_grad():
        p = model.likelihood(model.decoder(z)[:, None], 1, library=library)
        log_x = (p.log_prob(x) + prior[:, None]).logsumexp(0)
        scale = math.log1p(math.exp(0.54))
        log_l = dist.Normal(0.0, scale).log_prob(library.log()) - library.log()
    guide = Wide(model, hidden_dims=()).double()
    result = pyro_vae.log_likelihood(model, guide, {"x": x, "library": library}, num_particles=5000)
    assert (result.per_datum - log_x - log_l).abs().max() < 0.1
    assert result.bits_of == "x given library"
    bits = -log_x.mean() / (6 * math.log(2))
    assert result.bits_per_dim == pytest.approx(float(bits), abs=0.02)


def test_topics_against_quadrature():
    torch.manual_seed(0)
    model = TopicVAE((5,), num_topics=2, concentration=0.5).double()
    x = torch.poisson(torch.rand(10, 5).double() * 4)
    z, prior = on_grid(2, 401)
    weight, bias = model.decoder.mlp.out.weight, model.decoder.mlp.out.bias
    assert model.scale == pytest.approx(1.0)  # sqrt((1 - 1/2) / 0.5)
    with torch.no_grad():
        words = (z.softmax(1) @ weight.T + bias).log_softmax(1)
        ways = torch.lgamma(x.sum(1) + 1) - torch.lgamma(x + 1).sum(1)
        exact = (words @ x.T + prior[:, None]).logsumexp(0) + ways
    guide = Wide(model, hidden_dims=()).double()
    result = pyro_vae.log_likelihood(model, guide, x, num_particles=5000)
    assert (result.per_datum - exact).abs().max() < 0.1
    assert result.density is False


# ------------------------------------------------------------------ missing entries
def table(n=60):
    torch.manual_seed(0)
    x = with_holes(rows(n))
    model = TabularVAE((4,), 2, mixed(), hidden_dims=(8,), data_mean=Split({"x": x}, missing=True).mean())
    return model, GaussianGuide(model, hidden_dims=(8,)), Split({"x": x}, missing=True)


@pytest.mark.parametrize("compile", ["off", "graph"])
def test_a_table_with_holes_is_fitted(compile):
    model, guide, split = table()
    before = pyro_vae.log_likelihood(model, guide, split, num_particles=200).mean
    how = {"epochs": 30, "batch_size": 20, "learning_rate": 0.01, "progress": False, "device": "cpu"}
    pyro_vae.fit(model, guide, split, compile=compile, **how)
    assert pyro_vae.log_likelihood(model, guide, split, num_particles=200).mean > before + 0.3


def test_every_other_tool_takes_holes(tmp_path, caplog):
    model, guide, split = table()
    assert pyro_vae.encode(model, guide, split)["z"].shape == (60, 2)
    mean = pyro_vae.reconstruct(model, guide, split.batch(slice(None)))
    assert mean.shape == (60, 4) and mean.isfinite().all() and set(mean[:, 1].tolist()) <= {0.0, 1.0, 2.0}
    assert pyro_vae.sample(model, 5)["x"].isfinite().all()
    how = {"epochs": 2, "batch_size": 20, "progress": False, "device": "cpu"}
    data = pyro_vae.data.Data(split, test=split)
    result = pyro_vae.fit(model, guide, data, out=tmp_path, **how)
    write_report(tmp_path, result.model, result.guide, data, particles=20)
    text = (tmp_path / "report.json").read_text()
    assert "failed" not in text and "NaN" not in text


def test_a_datum_with_holes_does_not_depend_on_its_batch():
    model, guide, split = table()
    whole = pyro_vae.elbo(model, guide, split, num_particles=1)
    kl = pyro_vae.elbo(model, guide, split.subset(3), num_particles=1).kl["z"]
    torch.testing.assert_close(whole.kl["z"][:3], kl)


def test_holes_are_refused_where_nothing_is_said_of_them():
    x = with_holes(rows())
    with pytest.raises(InputError, match=r"NaN or infinite numbers .* Split\(…, missing=True\)"):
        Split({"x": x})
    with pytest.raises(InputError, match="x holds infinite numbers"):
        Split({"x": torch.tensor([[torch.nan, torch.inf]])}, missing=True)
    model = pyro_vae.models.VAE((4,), 2, Gaussian(1.0), hidden_dims=())
    guide = GaussianGuide(model, hidden_dims=())
    with pytest.raises(InputError, match="data 'x' hold NaN, and site 'x' does not leave them out"):
        pyro_vae.elbo(model, guide, Split({"x": x}, missing=True))


def test_the_mean_is_of_what_is_known():
    x = torch.tensor([[1.0, torch.nan, torch.nan], [3.0, 5.0, torch.nan]])
    torch.testing.assert_close(Split({"x": x}, missing=True).mean(), torch.tensor([2.0, 5.0, 0.0]))


def test_bad_arguments_are_named():
    with pytest.raises(InputError, match="a table has rows of shape"):
        TabularVAE((1, 2, 2))
    with pytest.raises(InputError, match=r"the likelihood has 4 \(a, b, c, d\), the data have shape \(3,\)"):
        TabularVAE((3,), likelihood=mixed())
    with pytest.raises(InputError, match="documents are vectors of counts"):
        TopicVAE((1, 2, 2))
    with pytest.raises(InputError, match="num_topics must be at least 2"):
        TopicVAE((3,), num_topics=1)
    with pytest.raises(InputError, match="concentration must be positive"):
        TopicVAE((3,), concentration=0.0)
    model = CountVAE((3,), 1, hidden_dims=())
    guide = GaussianGuide(model, hidden_dims=())
    x = torch.ones(4, 3)
    with pytest.raises(InputError, match="guide lacks the model's latent site library"):
        pyro_vae.elbo(model, guide, x)
    with pytest.raises(InputError, match="'library' takes library sizes, positive"):
        pyro_vae.elbo(model, guide, {"x": x, "library": torch.zeros(4)})


def test_the_top_words_of_a_topic():
    model = TopicVAE((4,), num_topics=2)
    with torch.no_grad():
        model.decoder.mlp.out.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0], [1.0, 2.0], [9.0, 9.0]]))
    assert model.top_words(1).tolist() == [[0], [1]]

"""Guides of every kind of distribution: drawn from again, recorded, and asked for their density at other values."""

import shutil

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as T
import pytest
import torch
from linear_gaussian import PPCA
from torch import nn
from torch.distributions import biject_to

from pyro_vae.errors import InputError
from pyro_vae.evaluation import ais, log_likelihood
from pyro_vae.evaluation.annealing.path import AnnealedPath
from pyro_vae.programs.session import evaluating

N, Z = 5, 2
TRIL = torch.tensor([[0.9, 0.0], [0.4, 0.7]])


def loc(x):
    return 0.3 * x[:, :Z]


def tril(x):
    return TRIL * (1 + 0.1 * x[:, :1].tanh())[..., None]


def covariance(x):
    return tril(x) @ tril(x).mT


def normal(x, scale=1.0):
    return dist.Normal(loc(x), scale).to_event(1)


def standard(x):
    return dist.Normal(torch.zeros(len(x), Z), 1.0)


def transformed(base, *transforms):
    return dist.TransformedDistribution(base, list(transforms))


REAL = {
    "multivariate normal, by its Cholesky factor": lambda x: dist.MultivariateNormal(loc(x), scale_tril=tril(x)),
    "by its covariance": lambda x: dist.MultivariateNormal(loc(x), covariance(x)),
    "by its precision": lambda x: dist.MultivariateNormal(loc(x), precision_matrix=covariance(x).inverse()),
    "of low rank": lambda x: dist.LowRankMultivariateNormal(loc(x), tril(x)[..., :1], 0.5 + 0.1 * x[:, :Z] ** 2),
    "Student-t": lambda x: dist.StudentT(5.0, loc(x), 1.0).to_event(1),
    "multivariate Student-t": lambda x: dist.MultivariateStudentT(torch.tensor(5.0), loc(x), tril(x)),
    "mixture": lambda x: dist.MixtureSameFamily(
        dist.Categorical(logits=x[:, :3]),
        dist.Normal(loc(x)[:, None] + torch.arange(3.0)[:, None] - 1, 1.0).to_event(1),
    ),
    "expanded": lambda x: dist.Normal(0.0, 1.0).expand([len(x), Z]).to_event(1),
    "masked by True": lambda x: dist.Normal(loc(x), 1.0).mask(True).to_event(1).mask(True),
    "affine": lambda x: transformed(standard(x), T.AffineTransform(loc(x), 1.2)).to_event(1),
    "affine with a cache": lambda x: transformed(standard(x), T.AffineTransform(loc(x), 1.2, cache_size=1)).to_event(1),
    "inverse": lambda x: transformed(standard(x), T.AffineTransform(-loc(x), 1 / 1.2).inv).to_event(1),
    "composed": lambda x: transformed(
        standard(x), T.ComposeTransform([T.AffineTransform(loc(x), 2.0), T.AffineTransform(0.1 * loc(x), 1.7).inv])
    ).to_event(1),
    "lower Cholesky affine": lambda x: transformed(standard(x).to_event(1), T.LowerCholeskyAffine(loc(x), TRIL)),
    "permuted": lambda x: transformed(normal(x), T.Permute(torch.tensor([1, 0]))),
    "numbers of the batch": lambda x: transformed(
        standard(x), T.AffineTransform(float(x.mean()), 1.0 + float(x.std()))
    ).to_event(1),
}
POSITIVE = {
    "log-normal": lambda x: dist.LogNormal(loc(x), 0.7).to_event(1),
    "gamma": lambda x: dist.Gamma(1 + loc(x).exp(), 1.0).to_event(1),
    "half-normal": lambda x: dist.HalfNormal(loc(x).exp()).to_event(1),
    "Weibull": lambda x: dist.Weibull(loc(x).exp(), 1.0).to_event(1),
    "folded": lambda x: dist.FoldedDistribution(dist.Normal(loc(x), 0.7)).to_event(1),
    "softplus": lambda x: transformed(dist.Normal(loc(x), 0.7), T.SoftplusTransform()).to_event(1),
}
UNIT = {
    "beta": lambda x: dist.Beta(1 + loc(x).exp(), 1.5).to_event(1),
    "Kumaraswamy": lambda x: dist.Kumaraswamy(1 + loc(x).exp(), 1.5).to_event(1),
    "sigmoid with a cache": lambda x: transformed(dist.Normal(loc(x), 0.7), T.SigmoidTransform(cache_size=1)).to_event(
        1
    ),
}
SIMPLEX = {
    "Dirichlet": lambda x: dist.Dirichlet(1 + (0.3 * x[:, :3]).exp()),
    "logistic normal": lambda x: dist.LogisticNormal(loc(x), 0.7 * torch.ones(Z)),
}
ANGLE = {"von Mises": lambda x: dist.VonMises(loc(x), 2.0).to_event(1)}
FACTOR = {"LKJ": lambda x: dist.LKJCholesky(3, 1 + (0.3 * x[:, 0]).exp())}
PRIORS = [
    (REAL, dist.Normal(torch.zeros(Z), 1.0).to_event(1)),
    (POSITIVE, dist.Gamma(2 * torch.ones(Z), 1.0).to_event(1)),
    (UNIT, dist.Beta(2 * torch.ones(Z), 2.0).to_event(1)),
    (SIMPLEX, dist.Dirichlet(2 * torch.ones(3))),
    (ANGLE, dist.VonMises(torch.zeros(Z), 1.0).to_event(1)),
    (FACTOR, dist.LKJCholesky(3, torch.tensor(1.0))),
]
CASES = {name: (q, prior) for kind, prior in PRIORS for name, q in kind.items()}


class Flow(nn.Module):
    """A guide with a normalizing flow, conditional on the data or not."""

    def __init__(self, flow, conditional=False):
        super().__init__()
        self.flow, self.conditional = flow, conditional

    def q(self, x):
        if self.conditional:
            return dist.ConditionalTransformedDistribution(normal(x), [self.flow]).condition(x)
        return dist.TransformedDistribution(normal(x), [self.flow])

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.q(x))


FLOWS = {
    "planar": lambda: T.planar(Z),
    "radial": lambda: T.radial(Z),
    "Sylvester": lambda: T.sylvester(Z),
    "block autoregressive": lambda: T.block_autoregressive(Z, residual="normal"),
    "neural autoregressive": lambda: T.neural_autoregressive(Z, [8]),
    "inverse autoregressive": lambda: T.affine_autoregressive(Z, [8]),
    "coupling": lambda: T.affine_coupling(Z, [8]),
    "spline": lambda: T.spline(Z, bound=8.0),
    "spline autoregressive": lambda: T.spline_autoregressive(Z, [8], bound=8.0),
    "matrix exponential": lambda: T.matrix_exponential(Z),
}
WITHOUT_INVERSE = list(FLOWS)[:5]


def flow(name):
    torch.manual_seed(1)
    guide = Flow(FLOWS[name]())
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.mul_(0.5)  # flows start rough
    return guide


def data(seed=7, n=N):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))


def programs(q, prior):
    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", prior)
            z = z[..., 1, :] if isinstance(prior, dist.LKJCholesky) else z
            mean = z.sum(-1, keepdim=True) * torch.linspace(-1, 1, 6)
            return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", q(x))

    return model, guide


def told(caplog):
    """What the log says of recordings."""
    return [r.getMessage() for r in caplog.records if r.name == "pyro_vae.evaluation.chunks"]


# ------------------------------------------------------------------------------ the density is the distribution's own
def check_start(model, guide, q, support, mode, vectorize=True):
    """log f_0 of two batches, at draws and at other values, is log q(z | x) + log |dz/du| written out."""
    batches = [data(seed) for seed in (7, 8)]
    transform = biject_to(support)
    with evaluating(model, guide, torch.cat(batches), 0, vectorize=vectorize) as (pair, split):
        path = AnnealedPath(pair, "guide", 3, mode)
        for i, x in enumerate(batches):
            densities = path.on(split.batch(slice(i * N, (i + 1) * N)))
            for u in (densities.draw().u, densities.draw().u, densities.draw().u + 0.1):
                point = densities.at(u)
                shape = transform.inv(q(x).sample()).shape[1:]
                nested = u.unflatten(-1, shape)
                z = transform(nested)
                log_det = transform.log_abs_det_jacobian(nested, z)
                log_det = log_det.flatten(2).sum(-1) if log_det.dim() > 2 else log_det
                log_q = torch.stack([q(x).log_prob(z[c]) for c in range(3)])
                torch.testing.assert_close(point.log_start, log_q + log_det, rtol=1e-4, atol=1e-4)
        return path.recorder


@pytest.mark.parametrize("mode", ["off", "graph"])
@pytest.mark.parametrize("name", CASES)
def test_annealing_starts_at_the_distribution_that_the_guide_has(name, mode, caplog):
    q, prior = CASES[name]
    support = dist.constraints.interval(-torch.pi, torch.pi) if name == "von Mises" else prior.support
    recorder = check_start(*programs(q, prior), q, support, mode)
    eagerly = mode == "graph" and name == "LKJ"  # its log-density looks at a tensor's values
    assert recorder.mode == ("off" if eagerly else mode)
    if name == "numbers of the batch":  # the density of a datum depends on the others
        assert not told(caplog) and "data are run one by one" in caplog.text
    else:
        assert len(told(caplog)) == eagerly


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("name", [name for name in FLOWS if name not in WITHOUT_INVERSE])
def test_annealing_starts_at_a_flow(name, vectorize, caplog):
    guide = flow(name)
    prior = PRIORS[0][1]
    with torch.no_grad():
        check_start(programs(None, prior)[0], guide, guide.q, prior.support, "graph", vectorize)
    assert len(told(caplog)) <= 1 and all("runs eagerly" in line for line in told(caplog))


@pytest.mark.parametrize("name", WITHOUT_INVERSE)
def test_a_flow_without_an_inverse_is_refused_and_the_prior_will_do(name):
    model, guide = programs(None, PRIORS[0][1])[0], flow(name)
    with pytest.raises(InputError, match=r"latent site 'z': the guide's density at values.*start=\"prior\""):
        ais(model, guide, data(), num_temperatures=3)
    result = ais(model, guide, data(), num_temperatures=3, start="prior")
    assert result.per_datum.isfinite().all()


# ------------------------------------------------------------------------------ particles drawn again
def exact():
    ppca = PPCA(data_dim=6, latent_dim=Z, noise=1.5, dtype=torch.float32)
    x = ppca.sample(N)
    return ppca, x, ppca.log_prob(x)


@pytest.mark.parametrize("name", [*REAL, *FLOWS])
def test_likelihood_in_all_modes_is_the_exact_one(name, caplog):
    """Several chunks of particles, for several batches: the first is drawn by the guide, others from it again."""
    ppca, x, log_p = exact()
    results = []
    for mode in ("off", "graph"):
        guide = flow(name) if name in FLOWS else programs(REAL[name], None)[1]
        options = {"num_particles": 3000, "memory_budget": 60_000, "compile": mode}
        results.append(log_likelihood(ppca.model, guide, x, **options))
    error = (1 / results[0].effective_sample_size).sqrt()
    assert ((results[0].per_datum - log_p).abs() < 5 * error + 1e-3).all()
    assert not told(caplog) or name == "numbers of the batch", told(caplog)
    torch.testing.assert_close(results[1].per_datum, results[0].per_datum, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["off", "graph"])
def test_numbers_taken_from_a_batch_are_those_of_the_batch(mode):
    """Each datum is a batch here: with the first one's numbers the others' particles would be far off."""
    ppca = PPCA(data_dim=6, latent_dim=1, noise=0.1, dtype=torch.float32)
    x = ppca.sample(N)
    assert ppca.posterior_mean(x).std() > 5 * ppca.posterior_covariance.sqrt()

    def guide(x):
        centre = float(ppca.posterior_mean(x).mean())
        base = dist.Normal(torch.zeros(len(x), 1), 1.5 * ppca.posterior_covariance.sqrt()[0])
        with pyro.plate("data", len(x)):
            pyro.sample("z", transformed(base, T.AffineTransform(centre, 1.0)).to_event(1))

    result = log_likelihood(ppca.model, guide, x, num_particles=3000, memory_budget=60_000, compile=mode)
    assert (result.per_datum - ppca.log_prob(x)).abs().max() < 0.1 and result.effective_sample_size.min() > 1000


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="the compiler of torch needs a C++ compiler")
@pytest.mark.parametrize("name", ["multivariate normal, by its Cholesky factor", "composed", "coupling"])
def test_compiled_they_are_the_same(name):
    ppca, x, _ = exact()
    guide = flow(name) if name in FLOWS else programs(REAL[name], None)[1]
    for estimate, options in (
        (log_likelihood, {"num_particles": 500, "memory_budget": 60_000}),
        (ais, {"num_temperatures": 5, "num_chains": 4}),
    ):
        compiled, eager = (estimate(ppca.model, guide, x, compile=mode, **options) for mode in ("full", "off"))
        torch.testing.assert_close(compiled.per_datum, eager.per_datum, rtol=1e-4, atol=1e-4)

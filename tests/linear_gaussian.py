"""Linear-Gaussian models, whose log p(x), posterior and bounds are known in closed form."""

import math

import pyro
import pyro.distributions as dist
import torch


class PPCA:
    """z ~ N(0, I);  x | z ~ N(W z + b, s^2 I), with W, b, s known (Tipping & Bishop 1999)."""

    def __init__(self, data_dim=8, latent_dim=3, noise=0.5, seed=1, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(data_dim, latent_dim, generator=generator, dtype=dtype)
        self.bias = torch.randn(data_dim, generator=generator, dtype=dtype)
        self.noise = noise
        identity = torch.eye(latent_dim, dtype=dtype)
        self.posterior_covariance = torch.linalg.inv(identity + self.weight.T @ self.weight / noise**2)
        self.posterior_tril = torch.linalg.cholesky(self.posterior_covariance)

    def sample(self, n, seed=2):
        generator = torch.Generator().manual_seed(seed)
        data_dim, latent_dim = self.weight.shape
        z = torch.randn(n, latent_dim, generator=generator, dtype=self.weight.dtype)
        e = torch.randn(n, data_dim, generator=generator, dtype=self.weight.dtype)
        return z @ self.weight.T + self.bias + self.noise * e

    def log_prob(self, x):
        """Exact log p(x), nats, (N,) in float64, from the marginal covariance."""
        covariance = (self.weight @ self.weight.T).double()
        covariance = covariance + self.noise**2 * torch.eye(len(covariance), dtype=torch.float64)
        return torch.distributions.MultivariateNormal(self.bias.double(), covariance).log_prob(x.double())

    def posterior_mean(self, x):
        return (x - self.bias) @ self.weight / self.noise**2 @ self.posterior_covariance

    def model(self, x=None, num_samples=1):
        latent_dim = self.weight.shape[1]
        zero = torch.zeros(latent_dim, dtype=self.weight.dtype)
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z @ self.weight.T + self.bias, self.noise).to_event(1), obs=x)

    def exact_guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.MultivariateNormal(self.posterior_mean(x), scale_tril=self.posterior_tril))

    def rough_guide(self, stretch=2.5, shift=0.5):
        """A diagonal Gaussian around a displaced mean, wider than the posterior (bounded weights)."""
        scale = self.posterior_covariance.diagonal().sqrt()

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                mean = self.posterior_mean(x) + shift * scale
                pyro.sample("z", dist.Normal(mean, stretch * scale).to_event(1))

        return guide

    def elbo(self, x, mean, scale):
        """Exact ELBO (N,) under q = N(mean, diag scale^2), and its parts: E log p(x|z), KL."""
        data_dim = len(self.bias)
        residual = x - mean @ self.weight.T - self.bias
        spread = (self.weight**2 * scale**2).sum()
        log_likelihood = -0.5 * (residual.pow(2).sum(-1) + spread) / self.noise**2
        log_likelihood = log_likelihood - data_dim * (math.log(self.noise) + 0.5 * math.log(2 * math.pi))
        kl = 0.5 * (mean**2 + scale**2 - 1 - 2 * scale.log()).sum(-1)
        return log_likelihood - kl, log_likelihood, kl

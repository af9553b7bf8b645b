"""The exact log-likelihood of the dataset state-space, by a Kalman filter."""

import torch

from pyro_vae.data.sources.state_space import EMISSION, FIRST_SCALE, NOISE_SCALE, STATE_SCALE, TRANSITION


def kalman(x, lengths):
    """log p(x_1 … x_length) of every sequence, nats, ``(N,)`` float64; x ``(N, T, 3)``, lengths ``(N,)``."""
    eye, x = torch.eye(2, dtype=torch.float64), x.double()
    mean, cov, total = torch.zeros(len(x), 2, dtype=torch.float64), FIRST_SCALE**2 * eye, torch.zeros(len(x)).double()
    for t in range(x.shape[1]):
        seen = EMISSION @ cov @ EMISSION.T + NOISE_SCALE**2 * torch.eye(3)  # covariance of x_t given those before
        predicted = torch.distributions.MultivariateNormal(mean @ EMISSION.T, seen)
        total += torch.where(t < lengths, predicted.log_prob(x[:, t]), 0.0)
        gain = cov @ EMISSION.T @ torch.linalg.inv(seen)
        mean = mean + (x[:, t] - predicted.mean) @ gain.T
        cov = cov - gain @ EMISSION @ cov
        mean, cov = mean @ TRANSITION.T, TRANSITION @ cov @ TRANSITION.T + STATE_SCALE**2 * eye
    return total

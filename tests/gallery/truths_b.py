"""log p(x) of every datum under trained programs of the gallery, without the package: by hand from their weights.

Each function is named like its program and takes ``(model, guide, batch)``, the trained pair; nats, ``(batch,)``.
"""

import math

import numpy as np
import torch
from torch.distributions import Beta, Categorical, MultivariateNormal, Normal, Poisson, StudentT
from torch.nn.functional import logsigmoid, one_hot, softplus


def plane(most=6.0, points=301):
    """A grid over N(0, I) in two dimensions: z ``(points^2, 2)`` and its log-weights."""
    axis = torch.linspace(-most, most, points)
    z = torch.cartesian_prod(axis, axis)
    return z, -0.5 * z.square().sum(-1) - math.log(2 * math.pi) + 2 * math.log(axis[1] - axis[0])


def line(most=8.0, points=2001):
    """A grid over N(0, 1): z ``(points, 1)`` and its log-weights."""
    z = torch.linspace(-most, most, points)
    return z[:, None], -0.5 * z.square() - 0.5 * math.log(2 * math.pi) + math.log(z[1] - z[0])


def net(program, name):
    return program.modules_used[name]


def bernoulli(logits, x):
    """log p of binary x ``(batch, d)`` at every row of logits ``(points, d)``: ``(points, batch)``."""
    return logsigmoid(logits) @ x.T + logsigmoid(-logits) @ (1 - x).T


def two_sites(model, guide, batch):
    z, weights = plane()
    images = bernoulli(net(model, "image")(z), batch["x"].flatten(1))
    labels = net(model, "label")(z).log_softmax(-1)[:, batch["y"]]  # (points, batch)
    return (weights[:, None] + images + labels).double().logsumexp(0)


def hyperspherical(model, guide, batch, points=5000):
    phase = 2 * math.pi * torch.arange(points) / points
    loc = net(model, "decoder")(torch.stack([phase.cos(), phase.sin()], -1))
    log_prob = Normal(loc[:, None], model.param("noise")).log_prob(batch["x"]).sum(-1)  # (points, batch)
    return log_prob.double().logsumexp(0) - math.log(points)


def dirichlet(model, guide, batch, points=30):
    """Gauss-Legendre over the simplex, of which the likelihood is a polynomial of degree 20: exact."""
    (topics,) = model.parameters_used.values()
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(points))
    u, v = ((g + 1) / 2 for g in torch.meshgrid(nodes, nodes, indexing="ij"))
    shares = torch.stack([u, (1 - u) * v, (1 - u) * (1 - v)], -1)  # density 2, Jacobian 1 - u
    weights = (weights[:, None] * weights / 4 * 2 * (1 - u)).log()
    words = (shares @ topics.softmax(-1).double()).log()  # (points, points, words)
    x = batch["x"].double()
    coefficient = torch.lgamma(x.sum(-1) + 1) - torch.lgamma(x + 1).sum(-1)
    return ((words @ x.T) + weights[..., None]).flatten(0, 1).logsumexp(0) + coefficient


def tabular(model, guide, batch):
    z, weights = plane()
    loc, raw, rate, a, b, *logits = net(model, "decoder")(z)[:, None].unbind(-1)  # (points, 1) each
    columns = {
        "height": Normal(1.7 + 0.1 * loc, 0.1 * softplus(raw) + 0.01),
        "shop": Categorical(logits=torch.stack(logits, -1)),
        "visits": Poisson(rate.exp()),
        "share": Beta(softplus(a) + 0.1, softplus(b) + 0.1),
    }
    total = sum(p.log_prob(batch[name]) for name, p in columns.items())  # (points, batch)
    return (weights[:, None] + total).double().logsumexp(0)


def bayesian_decoder(model, guide, batch, draws=4000):
    """E_q(w) [log p(x | w)], as log_likelihood has it, over draws of w: given w, x is Gaussian."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(draws, 1, 5, generator=generator)
    weight = guide.param("weight_loc") + guide.param("weight_scale") * noise  # (draws, 1, 5)
    covariance = weight.mT @ weight + model.noise.detach().square() * torch.eye(5)
    return MultivariateNormal(torch.zeros(5), covariance[:, None]).log_prob(batch["x"]).mean(0)


def text(model, guide, batch):
    z, weights = line(points=401)
    cell, words, first = (net(model, name) for name in ("cell", "words", "first"))
    x = batch["x"]
    hidden = memory = first(z).repeat_interleave(len(x), 0)  # (points * batch, size)
    inputs = torch.cat([torch.zeros(len(x), 1, dtype=torch.int64), x[:, :-1]], 1).repeat(len(z), 1)
    over, total = torch.zeros(len(hidden), dtype=torch.bool), torch.zeros(len(hidden))
    for t, token in enumerate(x.repeat(len(z), 1).T):
        hidden, memory = cell(one_hot(inputs[:, t], 4).float(), (hidden, memory))
        log_prob = words(hidden).log_softmax(-1).gather(-1, token[:, None])[:, 0]
        total += torch.where(over, 0.0, log_prob)
        over |= token == 0
    return (weights[:, None] + total.unflatten(0, (len(z), len(x)))).double().logsumexp(0)


def sigmoid_belief(model, guide, batch):
    (prior,) = model.parameters_used.values()
    z = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 6)  # all 64 states
    log_prior = bernoulli(prior[None], z)[0]
    return (log_prior[:, None] + bernoulli(net(model, "decoder")(z), batch["x"].flatten(1))).double().logsumexp(0)


def hidden_markov(model, guide, batch):
    """The forward algorithm."""
    initial, transition, loc, scale = (model.param(name) for name in ("initial", "transition", "loc", "scale"))
    x, lengths = batch["x"], batch["lengths"]
    alpha = initial.log() + Normal(loc, scale).log_prob(x[:, :1])  # (batch, states)
    for t in range(1, x.shape[1]):
        after = (alpha[:, :, None] + transition.log()).logsumexp(1) + Normal(loc, scale).log_prob(x[:, t : t + 1])
        alpha = torch.where((t < lengths)[:, None], after, alpha)
    return alpha.logsumexp(-1)


def probabilistic_pca(model, guide, batch):
    decoder = net(model, "decoder")
    covariance = decoder.weight @ decoder.weight.T + model.param("noise").square() * torch.eye(5)
    return MultivariateNormal(decoder.bias, covariance).log_prob(batch["x"])


def conditional(model, guide, batch):
    z, weights = line()
    c = batch["c"]
    both = torch.cat([z[:, None].expand(-1, len(c), -1), c.expand(len(z), -1, -1)], -1)  # (points, batch, 2)
    log_prob = Normal(net(model, "decoder")(both), model.param("noise")).log_prob(batch["x"]).sum(-1)
    return (weights[:, None] + log_prob).double().logsumexp(0)


def student_t(model, guide, batch, points=20_001):
    """Quadrature over u, z = sinh(u), which reaches far into both tails."""
    u = torch.linspace(-9, 9, points, dtype=torch.float64)
    z, decoder = u.sinh(), net(model, "decoder")
    prior = StudentT(3.0).log_prob(z) + u.cosh().log() + (u[1] - u[0]).log()
    loc = z[:, None] * decoder.weight[:, 0].double() + decoder.bias.double()  # (points, 5)
    log_prob = sum(
        StudentT(3.0, loc[:, None, d], model.param("noise")[d].double()).log_prob(batch["x"][:, d].double())
        for d in range(5)
    )
    return (prior[:, None] + log_prob).logsumexp(0)

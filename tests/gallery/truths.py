"""log p(x) of trained programs of examples/gallery by other means: quadrature, sums, closed forms, a Kalman filter.

``NAME(model, guide, batch)`` gives nats of each datum, ``(N,)`` float64, of what ``fit`` returned for the program NAME.
Nothing of the package computes here: the networks are called, and the formulas are written out.
"""

import copy
import inspect
import math

import torch
from torch.distributions import MultivariateNormal, Normal


def of(program, *names):
    """What a program's function refers to by these names, or its object has: modules in double precision."""
    function = program.program
    known = vars(function.__self__) if inspect.ismethod(function) else inspect.getclosurevars(function).nonlocals
    if inspect.ismethod(function):
        known = dict(function.__self__.named_children()) | dict(function.__self__.named_parameters())
    found = [copy.deepcopy(known[name]) for name in names]
    for value in (v for each in found for v in (each if isinstance(each, list) else [each])):
        if isinstance(value, torch.nn.Module):
            value.double().eval()
    return found if len(found) > 1 else found[0]


def settled(integral, dims, low=-6.5, high=6.5):
    """log of an integral over a box by the trapezoidal rule, refined until it moves by less than 1e-3 nats anywhere.

    Args:
        integral: log of what is integrated, from points ``(M, dims)`` to ``(N, M)``.
        dims, low, high: the box (numbers, or tensors ``(dims,)``).
    """
    low, high = (torch.as_tensor(v, dtype=torch.float64).expand(dims) for v in (low, high))
    before = None
    for n in (int({1: 1000, 2: 220}[dims] * 1.5**i) for i in range(5)):
        sides = [torch.linspace(a, b, n, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
        grid = torch.cartesian_prod(*sides).reshape(-1, dims)
        parts = [integral(part).logsumexp(-1) for part in grid.split(10_000)]
        value = torch.stack(parts).logsumexp(0) + ((high - low) / (n - 1)).log().sum()
        if before is not None and (value - before).abs().max() < 1e-3:
            return value
        before = value
    raise ValueError("the grid is too coarse")


def normal(x, loc, scale):
    """log N(x; loc, scale^2 I), the last dimension summed over."""
    return Normal(loc, scale).log_prob(x).sum(-1)


def bernoulli(x, logits):
    """``(N, M)`` of data ``(N, D)`` and logits ``(M, D)``."""
    return x @ logits.T - torch.nn.functional.softplus(logits).sum(-1)


@torch.no_grad()
def tutorial_vae(model, guide, batch):
    decoder, x = of(model, "decoder")[:-1], batch["x"].double().flatten(1)  # the last layer is a sigmoid
    return settled(lambda z: bernoulli(x, decoder(z)) + normal(z, 0.0, 1.0), 2)


@torch.no_grad()
def semi_supervised(model, guide, batch):
    each = joint_of_labels(model, batch)
    return torch.where(batch["known"], each.gather(-1, batch["y"][:, None])[:, 0], each.logsumexp(-1))


@torch.no_grad()
def joint_of_labels(model, batch):
    """log p(x, y) of every y, ``(N, 3)``, in the semi-supervised program."""
    decoder, sd, x = of(model, "decoder"), model.param("sd").double(), batch["x"].double()[:, None]
    each = []
    for label in torch.eye(3, dtype=torch.float64):

        def joint(z, label=label):
            loc = decoder(torch.cat([z, label.expand(len(z), 3)], -1))
            return normal(x, loc, sd) + normal(z, 0.0, 1.0) - math.log(3)

        each.append(settled(joint, 1))
    return torch.stack(each, -1)


@torch.no_grad()
def gaussian_mixture(model, guide, batch):
    decoder, x = of(model, "decoder"), batch["x"].double()[:, None]
    pi, means, scales, sd = (model.param(name).double() for name in ("pi", "means", "scales", "sd"))

    def joint(z):
        prior = (pi.log() + normal(z[:, None], means, scales)).logsumexp(-1)  # (M,)
        return normal(x, decoder(z), sd) + prior

    low, high = (means - 6 * scales).amin(0), (means + 6 * scales).amax(0)
    return settled(joint, 2, low, high)


@torch.no_grad()
def flow_guide(model, guide, batch):
    f, x = of(model, "f"), batch["x"].double()
    (a, b, c), bias = f.weight[0], f.bias  # of z_1, z_2 and z_1^2: given z_1, x is normal

    def joint(z):
        return Normal(a * z + c * z**2 + bias, (0.3**2 + b**2).sqrt()).log_prob(x[:, None]).sum(-1) + normal(
            z, 0.0, 1.0
        )

    return settled(joint, 1)


@torch.no_grad()
def flow_prior(model, guide, batch):
    (decoder, flow), x = of(model, "decoder", "flow"), batch["x"].double()[:, None]
    sd = model.param("sd").double()

    def joint(e):  # over the base space
        z = e
        for transform in flow:
            z = transform(z)
        return normal(x, decoder(z), sd) + normal(e, 0.0, 1.0)

    return settled(joint, 2)


@torch.no_grad()
def vamp_prior(model, guide, batch):
    (decoder, encoder), x = of(model, "decoder", "encoder"), batch["x"].double()
    loc, raw = encoder.net(model.param("pseudo").double()).chunk(2, -1)
    scale = torch.nn.functional.softplus(raw) + 1e-3

    def joint(z):
        prior = normal(z[:, None], loc, scale).logsumexp(-1) - math.log(len(loc))
        return bernoulli(x, decoder(z)) + prior

    return settled(joint, 2, (loc - 7 * scale).amin(0), (loc + 7 * scale).amax(0))


@torch.no_grad()
def deep_markov(model, guide, batch):
    trans, emitter, z_0, log_scale = of(model, "trans", "emitter", "z_0", "log_scale")
    x, (z_scale, x_scale), eye = batch["x"].double(), log_scale.double().exp(), torch.eye(3, dtype=torch.float64)
    mean, cov, total = z_0.double().expand(len(x), 2), torch.zeros(2, 2, dtype=torch.float64), 0.0
    for t in range(x.shape[1]):
        mean, cov = trans(mean), trans.weight @ cov @ trans.weight.T + z_scale**2 * eye[:2, :2]
        seen = emitter.weight @ cov @ emitter.weight.T + x_scale**2 * eye  # covariance of x_t given those before
        predicted = MultivariateNormal(emitter(mean), seen)
        total += torch.where(t < batch["lengths"], predicted.log_prob(x[:, t]), 0.0)
        gain = cov @ emitter.weight.T @ torch.linalg.inv(seen)
        mean, cov = mean + (x[:, t] - predicted.mean) @ gain.T, cov - gain @ emitter.weight @ cov
    return total


@torch.no_grad()
def topic_model(model, guide, batch):
    decoder, x = of(model, "decoder"), batch["x"].double()
    plane = torch.tensor([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]], dtype=torch.float64)
    plane = plane / plane.norm(dim=-1, keepdim=True)  # softmax does not see what is orthogonal to it
    coefficient = (x.sum(-1) + 1).lgamma() - (x + 1).lgamma().sum(-1)
    log_p = settled(lambda e: x @ decoder((e @ plane).softmax(-1)).log().T + normal(e, 0.0, 1.0), 2)
    return coefficient + log_p


@torch.no_grad()
def counts(model, guide, batch):
    decoder, x = of(model, "decoder"), batch["x"].double()[:, None]
    r, l_loc = model.param("r").double(), model.param("l_loc").double()

    def joint(e):  # of the normals that log l and z are made of
        mean = (l_loc + 0.5 * e[:, :1]).exp() * decoder(e[:, 1:]).softmax(-1)  # (M, 8)
        log_p = (x + r).lgamma() - r.lgamma() - (x + 1).lgamma() + x * (mean / (r + mean)).log()
        return (log_p + r * (r / (r + mean)).log()).sum(-1) + normal(e, 0.0, 1.0)

    return settled(joint, 2)


@torch.no_grad()
def missing_data(model, guide, batch):
    W, m, s = (model.param(name).double() for name in ("W", "m", "s"))
    cov, found = W.T @ W + (s**2).diag(), []
    for x, known in zip(batch["x"].double(), batch["known"], strict=True):
        marginal = MultivariateNormal(m[known], cov[known][:, known]) if known.any() else None
        found.append(marginal.log_prob(x[known]) if marginal else torch.zeros((), dtype=torch.float64))
    return torch.stack(found)

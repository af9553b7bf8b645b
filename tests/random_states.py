"""Discrete latent parts of random programs; the guide is a distribution, the posterior, or a point mass."""

from __future__ import annotations

import torch
import torch.distributions as td
from exact_values import ONE, bit_axis, normal_axis, product, state_axis
from random_latents import Draws, Latents, Values, spread
from torch import Tensor


def _guide_of_states(b: Draws, name: str, k: int, one_hot: bool) -> tuple[str, dict[str, str]]:
    """The guide's line for K states, and its point mass if it is one."""
    b.normal(f"G_{name}", 2, k, scale=0.8)
    if b.chance(0.25):
        b.mark("point mass")
        star = f"(e @ G_{name}).argmax(-1)"
        star = f"F.one_hot({star}, {k}).float()" if one_hot else star
        return f'{name} = pyro.sample("{name}", dist.Delta({star}, event_dim={int(one_hot)}))', {name: star}
    family = "OneHotCategorical" if one_hot else "Categorical"
    return f'{name} = pyro.sample("{name}", dist.{family}(logits=e @ G_{name}))', {}


def states(b: Draws) -> Latents:
    """One Categorical or OneHotCategorical, whose prior may depend on the context."""
    k, one_hot = b.choice(2, 3, 4, 6), "OneHotCategorical" in b.marks
    logits = b.normal("A", k, scale=0.7)
    b.normal("TABLE", k, 2)
    conditional = b.chance(0.4)
    slope = b.normal("SLOPE", 3, k, scale=0.7) if conditional else torch.zeros(3, k)
    if conditional:
        b.mark("context in the prior")
    family = "OneHotCategorical" if one_hot else "Categorical"
    prior = "A + c[..., :3] @ SLOPE" if conditional else "A"
    model = [f'k = pyro.sample("k", dist.{family}(logits={prior}))']
    exact = b.chance(0.3)
    if exact:
        b.mark("exact guide")
        guide, stars = f'k = pyro.sample("k", dist.{family}(logits=posterior(ARGUMENTS)))', {}
    else:
        guide, stars = _guide_of_states(b, "k", k, one_hot)

    def values(index: Tensor) -> Values:
        return {"k": torch.eye(k, dtype=torch.float64)[index] if one_hot else index}

    def log_prior(c: Tensor) -> Tensor:
        return (logits.double() + c[:, :3].double() @ slope.double()).log_softmax(-1)  # (N, K)

    def nodes(c: Tensor) -> tuple[Values, Tensor]:
        return values(torch.arange(k)[:, None].expand(k, len(c))), log_prior(c).T

    def draw(c: Tensor, r: int) -> Values:
        return values(td.Categorical(logits=log_prior(c)).sample((r,)))

    features = "k @ TABLE" if one_hot else "TABLE[k]"
    return Latents(model, [guide], features, 2, nodes, draw, stars, exact_guide=exact)


def bits(b: Draws) -> Latents:
    """A vector of Bernoullis."""
    d = b.choice(1, 2, 3, 5)
    probs = b.between("A", 0.2, 0.8, d)
    b.normal("G", 2, d, scale=0.6)
    stars = {}
    guide = 'z = pyro.sample("z", dist.Bernoulli(logits=e @ G).to_event(1))'
    if b.chance(0.25):
        b.mark("point mass")
        stars = {"z": "(e @ G > 0).float()"}
        guide = f'z = pyro.sample("z", dist.Delta({stars["z"]}, event_dim=1))'

    def nodes(c: Tensor) -> tuple[Values, Tensor]:
        each, weight = product([bit_axis(p) for p in probs.double()])
        z, weight = spread(torch.stack(each, -1), weight, len(c))
        return {"z": z}, weight

    def draw(c: Tensor, r: int) -> Values:
        return {"z": td.Bernoulli(probs.double()).sample((r, len(c)))}

    model = ['z = pyro.sample("z", dist.Bernoulli(A).to_event(1))']
    return Latents(model, [guide], "z", d, nodes, draw, stars)


def two_states(b: Draws) -> Latents:
    """Categorical k1, and Categorical k2 given k1."""
    k1, k2 = b.choice(2, 3), b.choice(2, 4)
    first, second = b.probs("A", k1), b.probs("B", k1, k2)
    b.normal("T1", k1, 1), b.normal("T2", k2, 1)
    model = ['k1 = pyro.sample("k1", dist.Categorical(A))', 'k2 = pyro.sample("k2", dist.Categorical(B[k1]))']
    one, stars = _guide_of_states(b, "k1", k1, False)
    two = 'k2 = pyro.sample("k2", dist.Categorical(logits=0.5 * B[k1].log()))'
    if stars and b.chance(0.5):
        b.normal("G_k2", 2, k2)
        stars |= {"k2": "(e @ G_k2).argmax(-1)"}
        two = 'k2 = pyro.sample("k2", dist.Delta((e @ G_k2).argmax(-1)))'

    def nodes(c: Tensor) -> tuple[Values, Tensor]:
        (i, j), _ = product([state_axis(first), (torch.arange(k2), torch.zeros(k2).double())])
        weight = first.double()[i].log() + second.double()[i, j].log()
        both, weight = spread(torch.stack([i, j], -1), weight, len(c))
        return {"k1": both[..., 0], "k2": both[..., 1]}, weight

    def draw(c: Tensor, r: int) -> Values:
        i = td.Categorical(first.double()).sample((r, len(c)))
        return {"k1": i, "k2": td.Categorical(second.double()[i]).sample()}

    return Latents(model, [one, two], "torch.cat([T1[k1], T2[k2]], -1)", 2, nodes, draw, stars)


def mixture(b: Draws) -> Latents:
    """Categorical k, and Normal z given k."""
    k = b.choice(2, 3)
    probs, loc, scale = b.probs("A", k), b.normal("MU", k, 1), b.between("B", 0.4, 0.9, k, 1)
    model = [
        'k = pyro.sample("k", dist.Categorical(A))',
        'z = pyro.sample("z", dist.Normal(MU[k], B[k]).to_event(1))',
    ]
    one, stars = _guide_of_states(b, "k", k, False)
    two = 'z = pyro.sample("z", dist.Normal(MU[k] + 0.2 * e[:, :1], 1.3 * B[k]).to_event(1))'

    def nodes(c: Tensor) -> tuple[Values, Tensor]:
        parts = [normal_axis(loc[i, 0].double(), scale[i, 0].double(), ONE) for i in range(k)]
        index = torch.arange(k).repeat_interleave(ONE)
        z, weight = torch.cat([v for v, _ in parts]), torch.cat([w for _, w in parts])
        weight = weight + probs.double()[index].log()
        z, weight = spread(z[:, None], weight, len(c))
        return {"k": index[:, None].expand(-1, len(c)), "z": z}, weight

    def draw(c: Tensor, r: int) -> Values:
        i = td.Categorical(probs.double()).sample((r, len(c)))
        return {"k": i, "z": td.Normal(loc.double()[i], scale.double()[i]).sample()}

    return Latents(model, [one, two], "z", 1, nodes, draw, stars)

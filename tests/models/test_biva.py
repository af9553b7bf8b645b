"""BIVA: its sites, shapes and paths, and what it refuses."""

import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_vae.errors import InputError
from pyro_vae.evaluation import elbo
from pyro_vae.guides import BIVAGuide
from pyro_vae.models import BIVA, VAE
from pyro_vae.models.biva import stage_shapes
from pyro_vae.objectives import ELBO
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.program import Program

SIZES = {"latent_dims": (4, 3, 2), "widths": (6, 5, 4), "num_blocks": 1}


def pair(strides=None, **options):
    torch.manual_seed(0)
    model = BIVA((1, 9, 7), **SIZES, strides=strides)
    return Program(model), Program(BIVAGuide(model, num_blocks=1, **options)), {"x": torch.rand(5, 1, 9, 7).round()}


def test_two_latents_a_stage_but_one_at_the_top():
    model, guide, batch = pair()
    traces = Pair(model, guide).traces(batch)
    assert [n for n, s in traces.model.nodes.items() if s["type"] == "sample"] == [
        "z3", "z2_bu", "z2_td", "z1_bu", "z1_td", "x",
    ]  # fmt: skip
    assert list(traces.latent()) == ["z1_bu", "z2_bu", "z3", "z2_td", "z1_td"]  # up, then down
    assert traces.model.nodes["z1_td"]["value"].shape == (5, 4)


def test_images_shrink_by_the_strides():
    assert stage_shapes((3, 28, 28), (64,) * 6, (2, 1, 1, 1, 1, 2)) == [(64, 14, 14)] * 5 + [(64, 7, 7)]
    assert stage_shapes((1, 9, 7), (8, 4), (2, 2)) == [(8, 5, 4), (4, 3, 2)]
    model, guide, batch = pair((2, 1, 2))
    assert Pair(model, guide).traces(batch, 3).model.nodes["x"]["fn"].event_shape == (1, 9, 7)


def test_a_bottom_up_latent_depends_on_the_ones_below_and_a_top_down_one_on_all():
    """By the gradient of each posterior's mean with respect to the noise of every latent that is drawn before."""
    _, guide, batch = pair()
    nodes = poutine.trace(guide).get_trace(**batch).nodes
    order = ["z1_bu", "z2_bu", "z3", "z2_td", "z1_td"]
    for i, name in enumerate(order):
        loc = nodes[name]["fn"].base_dist.loc.sum()
        for earlier in order[:i]:
            (gradient,) = torch.autograd.grad(loc, nodes[earlier]["value"], retain_graph=True, allow_unused=True)
            assert gradient is not None and gradient.abs().sum() > 0, (name, earlier)


def test_every_latent_reaches_the_data_and_every_conditional_what_is_above():
    model, _, _ = pair()
    top = torch.randn(4, 2, requires_grad=True)
    nodes = poutine.trace(poutine.condition(model, {"z3": top})).get_trace(num_samples=4).nodes
    logits = nodes["x"]["fn"].base_dist.logits.sum()
    above = []
    for name in ("z3", "z2_bu", "z2_td", "z1_bu", "z1_td"):
        assert torch.autograd.grad(logits, nodes[name]["value"], retain_graph=True)[0].abs().sum() > 0
        for higher in above:
            same_stage = higher[:2] == name[:2]
            loc = nodes[name]["fn"].base_dist.loc.sum()
            (gradient,) = torch.autograd.grad(loc, nodes[higher]["value"], retain_graph=True, allow_unused=True)
            assert (gradient is None) == same_stage, (name, higher)
        above.append(name)


def test_the_residual_form_starts_from_the_models_conditional():
    model, guide, batch = pair(parameterization="residual")
    with torch.no_grad():
        for head in guide.program.heads_td:
            for parameter in head.parameters():
                parameter.zero_()  # mu = 0, sigma^2 = softplus(0)
            head.linear.linear.bias[head.linear.linear.bias.numel() // 2 :] = torch.tensor(1.0 - 1e-5).expm1().log()
    bound = elbo(model, guide, batch)
    assert all(bound.kl[f"z{i}_td"].abs().max() < 1e-4 for i in (1, 2))


def test_the_loss_is_that_of_the_equations_written_out():
    """With the same random numbers: one pass up, one pass down, every Gaussian's KL by hand."""
    model, guide, batch = pair((2, 1, 2))
    m, g, x = model.program, guide.program, batch["x"]

    def normal_kl(q, p):
        ratio = (q.scale / p.scale).square()
        return 0.5 * (ratio + ((q.loc - p.loc) / p.scale).square() - 1 - ratio.log()).sum()

    def draw(q):
        return q.loc + q.scale * torch.randn_like(q.loc)

    torch.manual_seed(4)
    u1 = g.upward[0](x)
    q1 = g.heads_bu[0](u1)
    bu1 = draw(q1)
    u2 = g.upward[1](u1 + g.inject[0](bu1))
    q2 = g.heads_bu[1](u2)
    bu2 = draw(q2)
    q3 = g.heads_bu[2](g.upward[2](u2 + g.inject[1](bu2)))
    d3 = m.top(draw(q3))
    kl = (0.5 * (q3.loc.square() + q3.scale.square() - 1) - q3.scale.log()).sum()
    h2 = m.states[1](d3, None)
    q = g.heads_td[1](g.merge[1](h2, u2))
    kl = kl + normal_kl(q, m.priors_td[1](h2)) + (q2.log_prob(bu2) - m.priors_bu[1](h2).log_prob(bu2)).sum()
    h1 = m.states[0](h2 + m.inject[1](torch.cat([bu2, draw(q)], -1)), d3)
    q = g.heads_td[0](g.merge[0](h1, u1))
    kl = kl + normal_kl(q, m.priors_td[0](h1)) + (q1.log_prob(bu1) - m.priors_bu[0](h1).log_prob(bu1)).sum()
    logits = m.decoder(h1 + m.inject[0](torch.cat([bu1, draw(q)], -1)))
    log_x = (x * logits - nn.functional.softplus(logits)).sum()
    torch.manual_seed(4)
    loss = ELBO()(model, guide)(**batch)
    torch.testing.assert_close(loss, (kl - log_x) / len(x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "sizes", "strides"),
    [((9,), 1, None), ((1, 1, 8), 3, (2, 2, 1)), ((1, 2, 8), 2, (2, 2)), ((3, 9, 7), 2, (1, 2))],
)
def test_one_stage_narrow_and_odd_images(shape, sizes, strides):
    model = BIVA(shape, (2,) * sizes, (4,) * sizes, strides, num_blocks=1)
    assert elbo(model, BIVAGuide(model, num_blocks=1), torch.rand(3, *shape).round()).per_datum.isfinite().all()


def test_the_data_start_at_their_mean():
    mean = torch.rand(1, 9, 7) * 0.8 + 0.1
    model = Program(BIVA((1, 9, 7), **SIZES, strides=(2, 1, 2), data_mean=mean))
    logits = poutine.trace(model).get_trace(num_samples=20).nodes["x"]["fn"].base_dist.logits
    assert (logits - torch.logit(mean)).abs().max() < 0.1


def test_errors():
    with pytest.raises(InputError, match="num_blocks must be a positive integer, got 0"):
        BIVA((9,), (2, 2), (4, 4), None, num_blocks=0)
    with pytest.raises(InputError, match=r"strides must be 1 or 2 for each of the 2 stages, got \[2, 3\]"):
        BIVA((1, 9, 7), (2, 2), (4, 4), (2, 3))
    with pytest.raises(InputError, match="strides are for images"):
        BIVA((9,), (2, 2), (4, 4), (1, 1))
    with pytest.raises(InputError, match="one number for each layer"):
        BIVA((9,), (2, 2), (4,), None)
    with pytest.raises(InputError, match=r"BIVAGuide is for models.BIVA, got VAE; LadderGuide fits others"):
        BIVAGuide(VAE((9,)))
    with pytest.raises(InputError, match=r"parameterization 'residul'.*residual"):
        BIVAGuide(BIVA((9,), (2, 2), (4, 4), None), parameterization="residul")

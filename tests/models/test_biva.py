"""BIVA: its sites, shapes and paths, and what it refuses."""

import pytest
import torch
from pyro import poutine

from pyro_vae.errors import InputError
from pyro_vae.evaluation import elbo
from pyro_vae.guides import BIVAGuide
from pyro_vae.models import BIVA, VAE
from pyro_vae.models.biva import stage_shapes
from pyro_vae.program import Program
from pyro_vae.traces import trace_pair

SIZES = {"latent_dims": (4, 3, 2), "widths": (6, 5, 4), "num_blocks": 1}


def pair(strides=None, **options):
    torch.manual_seed(0)
    model = BIVA((1, 9, 7), **SIZES, strides=strides)
    return Program(model), Program(BIVAGuide(model, num_blocks=1, **options)), {"x": torch.rand(5, 1, 9, 7).round()}


def test_two_latents_a_stage_but_one_at_the_top():
    model, guide, batch = pair()
    traces = trace_pair(model, guide, (), batch)
    assert [n for n, s in traces.model.nodes.items() if s["type"] == "sample"] == [
        "z3", "z2_bu", "z2_td", "z1_bu", "z1_td", "x",
    ]  # fmt: skip
    assert list(traces.latent()) == ["z1_bu", "z2_bu", "z3", "z2_td", "z1_td"]  # up, then down
    assert traces.model.nodes["z1_td"]["value"].shape == (5, 4)


def test_images_shrink_by_the_strides():
    assert stage_shapes((3, 28, 28), (64,) * 6, (2, 1, 1, 1, 1, 2)) == [(64, 14, 14)] * 5 + [(64, 7, 7)]
    assert stage_shapes((1, 9, 7), (8, 4), (2, 2)) == [(8, 5, 4), (4, 3, 2)]
    model, guide, batch = pair((2, 1, 2))
    assert trace_pair(model, guide, (), batch, 3).model.nodes["x"]["fn"].event_shape == (1, 9, 7)


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


def test_errors():
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

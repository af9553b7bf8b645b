"""Convolutional hierarchies: sites, paths, shapes, the residual form against equations, and what is refused."""

import pytest
import torch
from pyro import poutine
from torch.nn.functional import softplus

from pyro_vae.errors import InputError
from pyro_vae.evaluation import elbo
from pyro_vae.guides import ConvLadderGuide
from pyro_vae.models import VAE, ConvHierarchicalVAE
from pyro_vae.networks.mlp import diagonal_normal
from pyro_vae.networks.stages import PixelOutput, ScaleEncoder
from pyro_vae.objectives import ELBO
from pyro_vae.priors import MixturePrior
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.program import Program

SHAPE = (1, 9, 7)
LATENTS = {"z4": (3,), "z3": (2, 3, 2), "z2": (2, 3, 2), "z1": (1, 5, 4)}  # 9x7 -> 5x4 -> 3x2


def pair(merge="residual", **options):
    torch.manual_seed(0)
    model = ConvHierarchicalVAE(SHAPE, 3, (6, 5), (1, 2), (1, 2), **options)
    guide = ConvLadderGuide(model, (4, 8), merge=merge)
    for parameter in (*model.parameters(), *guide.parameters()):
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model, guide, {"x": torch.rand(5, *SHAPE).round()}


def test_a_vector_and_then_grids_from_the_coarsest_to_the_finest():
    model, guide, batch = pair()
    traces = Pair(Program(model), Program(guide)).traces(batch, 3)
    assert {n: tuple(q["fn"].event_shape) for n, (q, _) in traces.latent().items()} == LATENTS
    assert list(traces.latent()) == list(LATENTS)
    assert traces.model.nodes["x"]["fn"].event_shape == SHAPE


def test_every_latent_reaches_the_data_and_what_is_drawn_after_it():
    """By gradients of the conditionals' means with respect to what is drawn before, in the model and in the guide."""
    model, guide, batch = pair()
    for program, arguments in ((model, {"num_samples": 5}), (guide, batch)):
        start = {"z4": torch.randn(5, 3, requires_grad=True)} if program is model else {}
        nodes = poutine.trace(poutine.condition(Program(program), start)).get_trace(**arguments).nodes
        drawn = []
        for name in LATENTS:
            for before in drawn:
                loc = nodes[name]["fn"].base_dist.loc.sum()
                (gradient,) = torch.autograd.grad(loc, nodes[before]["value"], retain_graph=True)
                assert gradient.abs().sum() > 0, (name, before)
            drawn.append(name)
        if program is model:
            logits = nodes["x"]["fn"].base_dist.logits.sum()
            for name in LATENTS:
                assert torch.autograd.grad(logits, nodes[name]["value"], retain_graph=True)[0].abs().sum() > 0


def test_the_guide_sees_every_pixel_at_every_latent():
    _, guide, _ = pair()
    x = torch.rand(1, *SHAPE).requires_grad_()
    nodes = poutine.trace(Program(guide)).get_trace(x=x).nodes
    (gradient,) = torch.autograd.grad(nodes["z4"]["fn"].base_dist.loc.sum(), x, retain_graph=True)
    assert (gradient != 0).all()


@pytest.mark.parametrize("merge", ["residual", "precision"])
def test_the_posterior_is_the_equation(merge):
    """q(z1 | .) written out from the features, the model's state and its conditional."""
    model, guide, batch = pair(merge)
    guide_trace = poutine.trace(Program(guide)).get_trace(**batch)
    model_trace = poutine.trace(poutine.replay(Program(model), trace=guide_trace)).get_trace(**batch)
    h = model_trace.nodes["z1"]["infer"]["features"]  # (5, 6, 5, 4)
    mean, raw = guide.heads[0](h + guide.sides[0](guide.upward(batch["x"])[0])).chunk(2, 1)
    width = softplus(raw + torch.tensor(1 - 0.01).expm1().log()) + 0.01
    p, q = model_trace.nodes["z1"]["fn"].base_dist, guide_trace.nodes["z1"]["fn"].base_dist
    if merge == "residual":
        loc, scale = p.loc + mean, p.scale * width
    else:
        weights = width**-2, p.scale**-2
        loc = (mean * weights[0] + p.loc * weights[1]) / sum(weights)
        scale = sum(weights) ** -0.5
    torch.testing.assert_close(q.loc, loc)
    torch.testing.assert_close(q.scale, scale)


def test_the_path_is_the_equation():
    """x's logits of given latents, by the layers called one after another."""
    model, _, _ = pair()
    z = {name: torch.randn(2, *shape) for name, shape in LATENTS.items()}
    nodes = poutine.trace(poutine.condition(Program(model), z)).get_trace(num_samples=2).nodes
    h = model.top_blocks(model.top(z["z4"]).reshape(2, 5, 3, 2))
    for i, name in ((3, "z3"), (2, "z2")):
        h = model.stages[i - 1].blocks(h + model.stages[i - 1].inject(z[name]))
    h = model.enlarge[0].conv(h.relu())[..., :5, :4]
    h = model.stages[0].blocks(h + model.stages[0].inject(z["z1"]))
    wide = torch.nn.functional.pixel_shuffle(model.decoder.conv(h.relu()), 2)
    torch.testing.assert_close(nodes["x"]["fn"].base_dist.logits, wide[..., :9, :7] + model.decoder.bias)


def test_means_start_at_the_datas_and_latents_at_the_prior():
    mean = torch.full(SHAPE, 0.8)
    model = ConvHierarchicalVAE(SHAPE, 3, (6, 5), (1, 2), (1, 2), data_mean=mean)
    nodes = poutine.trace(Program(model)).get_trace(num_samples=50).nodes
    torch.testing.assert_close(nodes["x"]["fn"].base_dist.probs.mean(0), mean, atol=0.1, rtol=0)
    for name in ("z3", "z2", "z1"):
        p = nodes[name]["fn"].base_dist
        assert p.loc.abs().max() == 0 and (p.scale - 1).abs().max() < 1e-6


def test_a_learned_prior_of_the_vector():
    torch.manual_seed(0)
    prior = MixturePrior((3,), num_components=4)
    model = ConvHierarchicalVAE(SHAPE, 3, (6, 5), (1, 1), (1, 2), prior=prior)
    result = elbo(model, ConvLadderGuide(model), torch.rand(4, *SHAPE).round())
    assert result.per_datum.isfinite().all()
    with pytest.raises(InputError, match=r"shape \(3,\).*'z3' has \(4,\)"):
        ConvHierarchicalVAE(SHAPE, 4, (6, 5), (1, 1), (1, 2), prior=MixturePrior((3,), num_components=4))


def test_batch_norm_is_of_the_weights_in_evaluation():
    """In evaluation a datum's numbers do not depend on the others of its batch; in training they do."""
    model, guide, batch = pair(batch_norm=True)
    ELBO()(model, guide)(**batch).backward()
    assert model.top_blocks.blocks[0][0].weight.grad.abs().sum() > 0
    model.eval(), guide.eval()
    z = {"z3": torch.randn(5, 2, 3, 2)}
    whole = poutine.trace(poutine.condition(Program(model), z)).get_trace(num_samples=5)
    assert model.top_blocks.blocks[0][0].running_mean.abs().sum() > 0
    top = whole.nodes["z4"]["value"]
    one = poutine.trace(poutine.condition(Program(model), {"z4": top[:1]})).get_trace(num_samples=1)
    torch.testing.assert_close(one.nodes["z3"]["fn"].base_dist.loc, whole.nodes["z3"]["fn"].base_dist.loc[:1])


def test_dropout_is_in_the_blocks_of_both_and_in_training_alone():
    """Before the last convolution of each block; weights and their names are those without it."""
    plain, plain_guide, batch = pair()
    model, _, _ = pair(dropout=0.5)
    guide = ConvLadderGuide(model, (4, 8), dropout=0.5)
    assert model.state_dict().keys() == plain.state_dict().keys()
    guide.load_state_dict(plain_guide.state_dict())  # the guide's model among them
    z, h = torch.randn(2, 3), torch.randn(1, 6, 5, 4)
    for block in (model.top_blocks, *(stage.blocks for stage in model.stages), *guide.upward.blocks):
        here = torch.randn(1, block.blocks[0][-1].in_channels, 5, 4)
        assert not torch.equal(block(here), block(here))
        block.eval()
        assert torch.equal(block(here), block(here))
    found = model.stages[0].eval().blocks(h)
    torch.testing.assert_close(found, plain.stages[0].blocks(h))
    model.train()
    torch.manual_seed(1)
    draws = torch.stack([model.top_blocks(model.top(z).reshape(2, 5, 3, 2)) for _ in range(4000)])
    expected = plain.top_blocks(plain.top(z).reshape(2, 5, 3, 2))  # linear in what is dropped
    torch.testing.assert_close(draws.mean(0), expected, rtol=0, atol=0.02)
    model.eval(), guide.eval(), plain.eval(), plain_guide.eval()
    ours, theirs = (elbo(m, g, batch["x"], seed=0).per_datum for m, g in ((model, guide), (plain, plain_guide)))
    torch.testing.assert_close(ours, theirs)


def test_gaussians_are_float32_under_mixed_precision():
    normal = diagonal_normal(torch.randn(3, 8).bfloat16())
    assert normal.loc.dtype == normal.scale.dtype == torch.float32


def test_leading_dimensions():
    """Particles and data in any number of leading dimensions give what each gives alone."""
    torch.manual_seed(0)
    x = torch.rand(3, 2, *SHAPE)
    encoder, output = (
        ScaleEncoder(SHAPE, [(6, 5, 4), (5, 3, 2)], 1, "relu", False),
        PixelOutput((6, 5, 4), SHAPE, "relu"),
    )
    features = encoder(x)
    assert [tuple(f.shape) for f in features] == [(3, 2, 6, 5, 4), (3, 2, 5, 3, 2)]
    for f, alone in zip(features, encoder(x[1]), strict=True):
        torch.testing.assert_close(f[1], alone)
    torch.testing.assert_close(output(features[0])[1], output(features[0][1]))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"channels": (6,)}, "one number for each scale"),
        ({"channels": ()}, "one number for each scale"),
        ({"channels": (6, 0)}, "must be positive"),
        ({"num_latents": (1, -1)}, "not negative"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"num_blocks": 0}, "num_blocks"),
        ({"dropout": 1.0}, "dropout must be a number from 0 to below 1"),
        ({"data_shape": (7,)}, r"\(C, H, W\)"),
        ({"data_shape": (1, 2, 2)}, "too small"),
        ({"activation": "rleu"}, "relu"),
    ],
)
def test_bad_sizes(changed, words):
    sizes = {"data_shape": SHAPE, "channels": (6, 5), "num_latents": (1, 1), "latent_channels": (1, 2)}
    with pytest.raises(InputError, match=words):
        ConvHierarchicalVAE(**(sizes | changed))


def test_bad_guides():
    model, _, _ = pair()
    with pytest.raises(InputError, match="LadderGuide fits others"):
        ConvLadderGuide(VAE(SHAPE, 2))
    with pytest.raises(InputError, match="2 scales, got \\[4\\]"):
        ConvLadderGuide(model, (4,))
    with pytest.raises(InputError, match="dropout must be a number from 0 to below 1"):
        ConvLadderGuide(model, dropout=-0.1)
    with pytest.raises(InputError, match="precision"):
        ConvLadderGuide(model, merge="precison")
    with pytest.raises(InputError, match=r"shape \(1, 9, 7\)"):
        ConvLadderGuide(model)(torch.rand(5, 1, 7, 9))

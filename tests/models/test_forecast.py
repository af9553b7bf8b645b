"""Forecasts: densities against ones written by hand, what each number is a density of, penalties, refusals."""

import copy
import json
import math

import pyro
import pytest
import torch
from pyro import poutine
from torch.nn.functional import softplus

import pyro_vae
from pyro_vae.data import Data, Motions, Split
from pyro_vae.errors import InputError
from pyro_vae.guides import EmptyGuide, ForecastGuide
from pyro_vae.likelihoods import Bernoulli, Gaussian, Laplace
from pyro_vae.models import ForecastRegressor, ForecastVAE
from pyro_vae.networks import (
    ContextEncoder,
    ContextPlaces,
    CosineTransform,
    PlaceDecoder,
    PlaceEncoder,
    diagonal_normal,
)
from pyro_vae.objectives import ELBO
from pyro_vae.priors import MixtureDensityPrior
from pyro_vae.programs.program import Program, as_programs
from pyro_vae.programs.traces import traced

SIZES = {"channels": (6, 8), "context_dim": 7}
SHAPE, IMAGE = (10, 4, 4), (3, 8, 8)  # 5 frames


def batch(n=6):
    return {"x": torch.randn(n, *SHAPE), "image": torch.rand(n, *IMAGE)}


def pair(**options):
    torch.manual_seed(0)
    model = ForecastVAE(SHAPE, IMAGE, 3, 2, **SIZES | options)
    return model, ForecastGuide(model, **SIZES)


def log_densities(model, z_d, z_m, given):
    """log p(z_d), log p(z_m) and log p of the coefficients' Gaussian, from the networks by hand."""
    grids = model.encoder.grids(given["image"])
    loc, raw = model.moments(model.encoder.vector(grids)).split([6, 4], -1)
    found = []
    for z, part in ((z_d, loc), (z_m, raw)):
        mean, spread = part.chunk(2, -1)
        normal = torch.distributions.Normal(mean, _scale(spread))
        found.append(normal.log_prob(z).sum(-1))
    f, g = model.field.direction(z_d, grids), model.field.magnitude(z_m, grids)
    mean = (1 + g.square()).sqrt() * f / (1 + f.square().sum(1, keepdim=True)).sqrt()
    scale = 1e-3 + softplus(model.likelihood.raw_scale)
    y = CosineTransform(5, model.transform.coefficients)(given["x"])
    found.append(torch.distributions.Normal(mean, scale).log_prob(y).sum((1, 2, 3)))
    return found


def _scale(raw):
    return diagonal_normal(torch.cat([torch.zeros_like(raw), raw], -1)).scale


@pytest.mark.parametrize("coefficients", [None, 5, 2])
def test_the_density_is_the_one_written_by_hand(coefficients):
    model, guide = pair(coefficients=coefficients)
    given = batch()
    with torch.no_grad():
        drawn = traced(Program(guide), **given)
        trace = traced(poutine.replay(Program(model), trace=drawn), **given)
        trace.compute_log_prob()
        z_d, z_m = (drawn.nodes[name]["value"] for name in ("direction", "magnitude"))
        wanted = log_densities(model, z_d, z_m, given)
    seen = "coefficients" if coefficients == 2 else "x"
    for name, value in zip(("direction", "magnitude", seen), wanted, strict=True):
        torch.testing.assert_close(trace.nodes[name]["log_prob"], value, rtol=1e-4, atol=1e-3)
    assert ("x" in trace.nodes) == (coefficients != 2)


def test_with_all_coefficients_the_nats_are_those_of_the_trajectories():
    """A Gaussian of one scale is the same before and after a rotation: that around the trajectories themselves."""
    model, guide = pair()
    given = batch()
    with torch.no_grad():
        drawn = traced(Program(guide), **given)
        trace = traced(poutine.replay(Program(model), trace=drawn), **given)
        site = trace.nodes["x"]
        scale = 1e-3 + softplus(model.likelihood.raw_scale)
        plain = torch.distributions.Normal(site["fn"].mean, scale).log_prob(given["x"]).sum((1, 2, 3))
    torch.testing.assert_close(site["fn"].log_prob(given["x"]), plain, rtol=1e-5, atol=1e-3)


def test_every_output_says_what_it_is_a_density_of():
    model, guide = pair(coefficients=2, likelihood=Laplace("learned"))
    of = "the first 2 of 5 cosine coefficients of x"
    found = pyro_vae.log_likelihood(model, guide, batch(), num_particles=20, progress=False)
    assert any(f"these nats are of a density of {of}, and not of x" in words for words in found.warnings)
    assert found.to_dict()["density_of"] == of and math.isnan(found.to_dict()["bits_per_dim"])
    assert found.sites["coefficients"].dimensions == 4 * 16
    json.dumps(found.to_dict())
    assert any(of in label for label in pyro_vae.elbo(model, guide, batch()).warnings)
    whole, guide = pair()
    assert "density_of" not in pyro_vae.log_likelihood(whole, guide, batch(), num_particles=20).to_dict()


def test_what_is_shown_of_few_coefficients_are_smooth_trajectories():
    model, guide = pair(coefficients=2)
    given = batch()
    drawn = pyro_vae.sample(model, 6, batch={"image": given["image"]})
    mean, transform = drawn["trajectories.mean"], CosineTransform(5, 2)
    assert mean.shape == (6, *SHAPE) and drawn["coefficients"].shape == (6, 4, 4, 4)
    torch.testing.assert_close(transform.inverse(transform(mean)), mean, rtol=1e-5, atol=1e-5)
    assert pyro_vae.reconstruct(model, guide, given).shape == (6, *SHAPE)


def test_the_papers_losses_are_part_of_training_alone():
    model, plain = pair()
    given = batch()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        guide = ForecastGuide(model, direction_penalty=0.5, magnitude_penalty=2.0, **SIZES)
        own = {name: value for name, value in guide.state_dict().items() if not name.startswith("model.")}
        plain.load_state_dict(own)

    def loss(guide):
        with torch.random.fork_rng(devices=[]):
            pyro.set_rng_seed(3)
            return ELBO().loss(*as_programs(model, guide), **given)

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        pyro.set_rng_seed(3)
        trace = traced(Program(guide), **given)
    z_d, z_m = (trace.nodes[name]["value"] for name in ("direction", "magnitude"))
    with torch.no_grad():
        d, m, _ = model.field(z_d, z_m, model.encoder.grids(given["image"]))
    y = model.transform(given["x"])
    size = y.norm(dim=1, keepdim=True)
    direction = (y / size - d).square().sum((1, 2, 3))
    magnitude = (size - m).square().sum((1, 2, 3))
    values = {n: s["fn"].log_prob(s["value"]) for n, s in trace.nodes.items() if n.endswith("_penalty")}
    torch.testing.assert_close(values["direction_penalty"], 0.5 * direction, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(values["magnitude_penalty"], 2.0 * magnitude, rtol=1e-4, atol=1e-4)
    wanted = (0.5 * direction + 2.0 * magnitude).mean().item()
    assert loss(guide) - loss(plain) == pytest.approx(wanted, rel=1e-3)
    ours, theirs = (pyro_vae.elbo(model, g, given, num_particles=3).per_datum for g in (guide, plain))
    assert torch.equal(ours, theirs)
    assert not [n for n in traced(Program(plain), **given).nodes if "penalty" in n]


def test_a_forecast_of_two_ways_is_neither():
    """What may go right or left in equal parts: the regressor's forecast is that it stays, the other's are both."""
    torch.manual_seed(0)
    n = 200
    sign = torch.randint(2, (n, 1, 1, 1)) * 2.0 - 1
    x = torch.zeros(n, *SHAPE)
    x[:, :5] = 2 * sign * torch.arange(1, 6).view(1, -1, 1, 1) / 5
    given = {"x": x + 0.2 * torch.randn_like(x), "image": torch.full((n, *IMAGE), 0.5)}
    options = {"epochs": 25, "batch_size": 50, "learning_rate": 1e-2, "progress": False, "device": "cpu"}
    regressor = ForecastRegressor(SHAPE, IMAGE, **SIZES)
    pyro_vae.fit(regressor, EmptyGuide(), given, **options)
    image = given["image"][:40]
    forecast = pyro_vae.sample(regressor, 40, batch={"image": image})["x.mean"]
    assert forecast.abs().max() < 0.8
    prior = MixtureDensityPrior((3,), ContextEncoder(IMAGE, (6,), 5), num_components=4, argument="image")
    model, guide = pair(prior=prior)
    pyro_vae.fit(model, guide, given, **options)
    ends = pyro_vae.sample(model, 40, batch={"image": image})["x.mean"][:, 4].mean((1, 2))
    assert 8 < (ends > 1).sum() < 32 and 8 < (ends < -1).sum() < 32
    nats = pyro_vae.log_likelihood(model, guide, given, num_particles=50, progress=False).mean
    assert nats > pyro_vae.log_likelihood(regressor, EmptyGuide(), given, progress=False).mean + 50


def test_refusals():
    for shape, image, options, message in [
        ((9, 4, 4), IMAGE, {}, r"must be trajectories \(2 \* frames, height, width\), got \(9, 4, 4\)"),
        ((10, 16), IMAGE, {}, r"must be trajectories"),
        ((10, 3, 3), IMAGE, {}, "sides of a scale"),
        (SHAPE, IMAGE, {"coefficients": 6}, "5 frames have so many at most, got 6"),
        (SHAPE, IMAGE, {"likelihood": Bernoulli()}, "must be a Gaussian or a Laplace"),
    ]:
        for kind in (ForecastVAE, ForecastRegressor):
            with pytest.raises(InputError, match=message):
                kind(shape, image, **SIZES, **options)
    model, guide = pair()
    given = batch()
    with pytest.raises(InputError, match="image"):
        pyro_vae.log_likelihood(model, guide, given | {"image": torch.rand(6, 3, 8, 6)}, num_particles=2)
    with pytest.raises(InputError, match="image"):
        pyro_vae.sample(model, 3)
    with pytest.raises(InputError, match="direction_penalty: must be 0 or a positive number"):
        ForecastGuide(model, direction_penalty=-1.0, **SIZES)
    with pytest.raises(InputError, match="latent site 'direction' has"):
        pair(prior=MixtureDensityPrior((4,), ContextEncoder(IMAGE, (6,), 5), argument="image"))


def test_per_pixel_scales_are_the_networks():
    model, guide = pair(likelihood=Gaussian("per_pixel"), coefficients=3)
    assert model.field.direction.out_shape == (12, 4, 4)
    found = pyro_vae.log_likelihood(model, guide, batch(), num_particles=5, progress=False)
    assert found.per_datum.isfinite().all()


def test_a_killed_training_is_gone_on_with_to_the_same_end(tmp_path):
    data = Data(Split(batch(20)), extras=(Motions(5),))
    options = {"batch_size": 5, "progress": False, "device": "cpu", "compile": "off"}
    whole, guide = pair()
    parts = copy.deepcopy((whole, guide))
    pyro_vae.fit(whole, guide, data, epochs=4, **options)
    pyro_vae.fit(*parts, data, epochs=2, out=tmp_path, **options)
    again = pair()
    pyro_vae.fit(*again, data, epochs=4, out=tmp_path, resume=True, **options)
    for a, b in zip((whole, guide), again, strict=True):
        for (name, value), other in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
            assert torch.equal(value, other), name


def test_latents_of_every_cell_are_independent_given_the_image_and_their_densities_add_up():
    prior = MixtureDensityPrior((4, 4, 3), ContextPlaces(IMAGE, (6,)), num_components=2, argument="image")
    model, guide = pair(local=True, channels=(6,), prior=prior)
    given = batch(5)
    with torch.no_grad():
        drawn = traced(Program(guide.eval()), **given)
        trace = traced(poutine.replay(Program(model.eval()), trace=drawn), **given)
        trace.compute_log_prob()
        z_d, z_m = (drawn.nodes[name]["value"] for name in ("direction", "magnitude"))
        assert z_d.shape == (5, 4, 4, 3) and z_m.shape == (5, 4, 4, 2)
        grids = model.encoder.grids(given["image"])
        mean, spread = model.moments(grids[0].movedim(1, -1)).chunk(2, -1)
        wanted = torch.distributions.Normal(mean, _scale(spread)).log_prob(z_m).sum((1, 2, 3))
        torch.testing.assert_close(trace.nodes["magnitude"]["log_prob"], wanted)
        features = prior.condition(given["image"])
        places = torch.zeros(5)
        for i in range(4):
            for j in range(4):
                logits, moments = prior.network(features[:, i, j]).split([2, 12], -1)
                loc, raw = moments.view(5, 2, 2, 3).unbind(2)
                scale = diagonal_normal(torch.cat([loc, raw], -1), 1e-3).scale
                each = torch.distributions.Normal(loc, scale).log_prob(z_d[:, None, i, j]).sum(-1)
                places += (logits.log_softmax(-1) + each).logsumexp(-1)
        torch.testing.assert_close(trace.nodes["direction"]["log_prob"], places)


def test_what_cells_do_moves_with_the_image():
    """Away from the borders, networks of places commute with shifts by whole cells."""
    torch.manual_seed(1)
    image, x, z = torch.rand(2, 3, 32, 32), torch.randn(2, 4, 16, 16), torch.randn(2, 16, 16, 3)
    seen, decoder = ContextPlaces((3, 32, 32), (6,)).eval(), PlaceDecoder(3, (6, 16, 16), (4, 16, 16))
    encoder = PlaceEncoder((4, 16, 16), 6, 5, 1, "relu", False)

    def moved(steps):
        shifted = image.roll((-2 * steps, 2 * steps), (2, 3))
        features = seen(shifted)
        grids = seen.encoder.grids(shifted)[-1]
        decoded = decoder(z.roll((-steps, steps), (1, 2)), grids).movedim(1, -1)
        back = (features, encoder(x.roll((-steps, steps), (2, 3))), decoded)
        return [t.roll((steps, -steps), (1, 2))[:, 7:9, 7:9] for t in back]

    with torch.no_grad():
        for still, shifted in zip(moved(0), moved(2), strict=True):
            torch.testing.assert_close(shifted, still, rtol=1e-4, atol=1e-5)
            assert still.std() > 1e-3


def test_grids_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"shape must begin with the places of its condition, \(4, 4\)"):
        MixtureDensityPrior((4, 3, 2), ContextPlaces(IMAGE, (6,)), argument="image")
    with pytest.raises(InputError, match="shape must begin with the places"):
        MixtureDensityPrior((4, 4), ContextPlaces(IMAGE, (6,)), argument="image")
    with pytest.raises(InputError, match=r"latent site 'direction' has \(4, 4, 3\)"):
        pair(
            local=True, channels=(6,), prior=MixtureDensityPrior((3,), ContextEncoder(IMAGE, (6,), 5), argument="image")
        )
    with pytest.raises(InputError, match=r"scale of the image's features, \(2, 2\): it must be the data's, \(4, 4\)"):
        pair(local=True)
    model, _ = pair(local=True, channels=(6,))
    with pytest.raises(InputError, match="PlaceDecoder expects"):
        model.field.direction(torch.zeros(5, 4, 4, 2), torch.zeros(5, 6, 4, 4))

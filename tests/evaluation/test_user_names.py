"""Programs whose arguments and sites are called otherwise than x: the same numbers and figures as those that are."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import fit
from pyro_vae import plots as figures
from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation import elbo, log_likelihood
from pyro_vae.evaluation.encoding import encode, posterior_samples
from pyro_vae.evaluation.generate import decode, reconstruct, sample
from pyro_vae.evaluation.latent_space import decode_path
from pyro_vae.guides import GaussianGuide
from pyro_vae.programs.context import data_argument, required_arguments
from pyro_vae.programs.program import Program

SHAPE = (4, 4)
decoder = nn.Sequential(nn.Linear(2, 16), nn.Unflatten(-1, SHAPE))
encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))


def data(n=60):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(0))


def generate(count, obs, site):
    with pyro.plate("data", count):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return pyro.sample(site, dist.Normal(decoder(z), 0.2).to_event(2), obs=obs)


def infer(values):
    loc, raw = encoder(values).chunk(2, -1)
    with pyro.plate("data", len(values)):
        pyro.sample("z", dist.Normal(loc, nn.functional.softplus(raw) + 1e-3).to_event(1))


def reference(x=None, num_samples=1):
    return generate(num_samples if x is None else len(x), x, "x")


def guide(x):
    infer(x)


def xs_model(xs):  # no default: it needs its data to run
    return generate(xs.shape[0], xs, "obs")


def xs_guide(xs):
    infer(xs)


def data_model(data=None, num_samples=1):
    return generate(num_samples if data is None else len(data), data, "pixels")


def obs_guide(obs):
    infer(obs)


def x_and_image(x=None, num_samples=1):
    generate(num_samples if x is None else len(x), x, "image")  # and returns nothing


def named_batch(batch, size=None):  # a second argument, that no batch has
    return generate(len(batch), batch, "obs")


def mean_returned(num_samples=1, x=None):  # returns the mean, as Pyro's tutorial does, not the draw
    with pyro.plate("data", num_samples if x is None else x.shape[0]):
        z = pyro.sample("latent", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        mean = decoder(z)
        pyro.sample("obs", dist.Normal(mean.flatten(-2), 0.2).to_event(1), obs=None if x is None else x.flatten(1))
        return mean


def latent_guide(batch):
    loc, raw = encoder(batch).chunk(2, -1)
    with pyro.plate("data", batch.shape[0]):
        pyro.sample("latent", dist.Normal(loc, nn.functional.softplus(raw) + 1e-3).to_event(1))


PAIRS = {
    "xs": (xs_model, xs_guide, "obs"),
    "data and obs": (data_model, obs_guide, "pixels"),
    "x at image": (x_and_image, guide, "image"),
    "batch": (named_batch, xs_guide, "obs"),
    "the mean is returned": (mean_returned, latent_guide, "obs"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_names_change_no_number(name):
    model, its_guide, site = PAIRS[name]
    x, batch = data(), {"x": data()}
    expected = log_likelihood(reference, guide, x, num_particles=20, seed=1)
    torch.testing.assert_close(
        log_likelihood(model, its_guide, x, num_particles=20, seed=1).per_datum, expected.per_datum
    )
    torch.testing.assert_close(elbo(model, its_guide, batch, seed=1).mean, elbo(reference, guide, batch, seed=1).mean)
    latent = "latent" if model is mean_returned else "z"
    assert torch.equal(encode(model, its_guide, x)[latent], encode(reference, guide, x)["z"])
    z = posterior_samples(model, its_guide, Split({"x": x}))[latent]
    rebuilt = reconstruct(reference, guide, x)
    for given in (x, batch, Split(batch), {data_argument(model): x}):
        assert torch.equal(reconstruct(model, its_guide, given).flatten(1), rebuilt.flatten(1))
    drawn, same = sample(model, 7, batch={"x": x[:3]}), sample(reference, 7)
    assert set(drawn) == {latent, site, f"{site}.mean"}
    assert torch.equal(drawn[site].flatten(1), same["x"].flatten(1))
    assert torch.equal(drawn[f"{site}.mean"].flatten(1), same["x.mean"].flatten(1))
    decoded = decode(model, {latent: z}, batch=batch)
    torch.testing.assert_close(decoded.flatten(1), decoder(z).detach().flatten(1))
    path = decode_path(model, {latent: z[:, None].expand(-1, 2, -1)}, batch=batch)
    torch.testing.assert_close(path.flatten(2)[:, 1], decoded.flatten(1))


def test_names_change_no_training_and_no_figure(tmp_path):
    written, losses = [], []
    for model, its_guide in ((reference, guide), (xs_model, xs_guide), (data_model, obs_guide)):
        before = {k: v.clone() for k, v in nn.ModuleList([decoder, encoder]).state_dict().items()}
        split = Split({"x": data()}, name="toy")
        result = fit(model, its_guide, Data(split, test=split), epochs=1, batch_size=20, progress=False, device="cpu")
        losses.append(result.records[-1]["train/loss"])
        records = [{k: v for k, v in r.items() if k != "seconds"} for r in result.records]
        names = {"train/log_likelihood/x": 0, "train/log_likelihood/obs": 0, "train/log_likelihood/pixels": 0}
        records = [{("ll" if k in names else k): v for k, v in r.items()} for r in records]
        folder = tmp_path / str(len(written))
        written.append(figures.draw_all(result.model, result.guide, Data(split, test=split), records, folder))
        nn.ModuleList([decoder, encoder]).load_state_dict(before)
    assert losses[0] == losses[1] == losses[2]
    assert {path.stem for path in written[0]} >= {"reconstructions", "prior_samples", "interpolations", "manifold"}
    for others in written[1:]:
        assert [path.stem for path in others] == [path.stem for path in written[0]]
        assert all(a.read_bytes() == b.read_bytes() for a, b in zip(written[0], others, strict=True))


def two_sites(x=None, y=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("label", dist.Categorical(logits=z), obs=y)
        pyro.sample("pixels", dist.Normal(decoder(z), 0.2).to_event(2), obs=x)


def halves(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        upper, lower = decoder(z).split(2, -2)
        pyro.sample("upper", dist.Normal(upper, 0.2).to_event(2), obs=None if x is None else x[:, :2])
        pyro.sample("lower", dist.Normal(lower, 0.2).to_event(2), obs=None if x is None else x[:, 2:])


def test_of_several_data_sites_the_one_that_is_x_is_found_and_else_asked_for():
    x, y = data(8), torch.arange(8) % 2
    found = sample(two_sites, 5)
    assert set(found) == {"z", "label", "pixels", "pixels.mean"}
    assert reconstruct(two_sites, guide, {"x": x, "y": y}).shape == (8, *SHAPE)
    assert "label.mean" in sample(two_sites, 5, site="label")
    z = encode(halves, guide, x)
    for call in (lambda **how: sample(halves, 5, **how), lambda **how: reconstruct(halves, guide, x, **how)):
        with pytest.raises(InputError, match=r"several data sites \(upper, lower\).*site='upper'"):
            call()
        with pytest.raises(InputError, match="nowhere"):
            call(site="nowhere")
    with pytest.raises(InputError, match=r"several data sites \(upper, lower\)"):
        decode(halves, z)
    torch.testing.assert_close(decode(halves, z, site="lower"), decoder(z["z"]).detach()[:, 2:])
    assert sample(halves, 5, site="upper")["upper.mean"].shape == (5, 2, 4)


def test_a_gaussian_guide_finds_the_data_site():
    found = []
    for model in (reference, data_model):
        torch.manual_seed(0)
        its_guide = GaussianGuide(model, hidden_dims=(8,))
        assert its_guide.latent_shapes == {"z": (2,)}
        found.append(log_likelihood(model, its_guide, data(), num_particles=5).per_datum)
    assert torch.equal(*found)
    with pytest.raises(InputError, match=r"cannot be told \(z, upper, lower\): call the site x"):
        GaussianGuide(halves)


def test_a_latent_called_x_is_not_taken_for_the_data():
    def model(data=None, num_samples=1):
        with pyro.plate("data", num_samples if data is None else len(data)):
            x = pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("y", dist.Normal(decoder(x), 0.2).to_event(2), obs=data)

    drawn = sample(model, 6)
    assert set(drawn) == {"x", "y", "y.mean"}
    torch.testing.assert_close(drawn["y.mean"], decoder(drawn["x"]).detach())


def looks_back(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(decoder(z) + 0.5 * x.roll(1, -1), 0.2).to_event(2), obs=x)


def test_a_model_that_looks_at_its_data_is_not_sampled_from(caplog):
    x = data(10)
    for call in (
        lambda: sample(looks_back, 5, batch={"x": x}),
        lambda: decode(looks_back, encode(looks_back, guide, x), batch={"x": x}),
    ):
        with pytest.raises(InputError, match=r"looks at its data \(site 'x'"):
            call()
    assert not caplog.records
    reconstruct(looks_back, guide, x)
    assert "looks at its data" in caplog.text
    with pytest.raises(InputError, match=r"num_samples.*batch=\{'x'"):
        sample(xs_model, 5)
    assert math.isclose(
        float(sample(xs_model, 3, batch={"x": x[:1]})["obs"].sum()), float(sample(reference, 3)["x"].sum())
    )


def test_what_is_handed_to_which_argument():
    def program(labels, y=None, *, num_samples=1):
        return {"labels": labels, "y": y}

    def not_for_data(beta=1.0, xs=None):
        return {"beta": beta, "xs": xs}

    def anything(data, **rest):
        return {"data": data, **rest}

    def no_data(y=None, mask=None, num_samples=1):
        return {"y": y, "mask": mask}

    assert Program(program)(x=1, y=2) == {"labels": 1, "y": 2}
    assert Program(program)(x=1, labels=3) == {"labels": 3, "y": None}
    assert Program(not_for_data)(x=1) == {"beta": 1.0, "xs": 1}
    assert Program(anything)(x=1, y=2) == {"data": 1, "y": 2}
    assert Program(lambda **batch: batch)(x=1) == {"x": 1}
    assert Program(no_data)(x=1) == {"y": None, "mask": None}  # labels and masks are never taken for data
    assert required_arguments(program) == [] and required_arguments(program, ["labels"]) == ["labels"]
    assert required_arguments(lambda xs, context: None) == ["context"]

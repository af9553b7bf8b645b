"""Parzen windows against scikit-learn's kernel density, closed forms, and what they are not."""

import json
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from command_line import run, write
from linear_gaussian import PPCA

import pyro_vae
from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError
from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE, ConditionalVAE, FeatureVAE
from pyro_vae.networks import OneHot
from pyro_vae.runs import Run


@pytest.mark.parametrize("budget", [2**29, 400_000])
@pytest.mark.parametrize("draws", [False, True])
def test_it_is_the_kernel_density_of_scikit_learn(budget, draws):
    """On the same samples, drawn by the model by itself; whatever the chunks.

    Near samples: where all of them are many bandwidths away, scikit-learn's trees cut the sum off (by 200 nats), and
    the sum itself is the truth.
    """
    neighbors = pytest.importorskip("sklearn.neighbors")
    ppca = PPCA(data_dim=5, latent_dim=2, noise=0.3)
    x, validation = ppca.sample(60), ppca.sample(50, seed=3)
    widths = [0.35, 0.45, 0.6, 1.0]
    how = {"num_samples": 1200, "bandwidths": widths, "validation": validation, "draws": draws, "seed": 4}
    found = pyro_vae.parzen(ppca.model, x, memory_budget=budget, **how)

    if not draws:
        samples = pyro_vae.sample(ppca.model, 1200, seed=4)["x.mean"].numpy()
    else:
        with torch.random.fork_rng():
            torch.manual_seed(4)
            samples = np.concatenate([ppca.model(num_samples=n).numpy() for n in (500, 500, 200)])
    kernels = {h: neighbors.KernelDensity(bandwidth=h).fit(samples) for h in widths}
    means = {h: kernel.score_samples(validation.numpy()).mean() for h, kernel in kernels.items()}
    assert found.candidates == pytest.approx(means, abs=1e-5)
    best = max(means, key=means.get)
    assert found.bandwidth == best
    expected = kernels[best].score_samples(x.numpy())
    np.testing.assert_allclose(found.per_datum.numpy(), expected, atol=1e-5)
    assert found.mean == pytest.approx(expected.mean())
    far = pyro_vae.parzen(ppca.model, x + 5.0, num_samples=1200, bandwidths=0.2, draws=draws, seed=4).per_datum
    squared = (x[:, None] + 5.0 - torch.from_numpy(samples)).square().sum(-1)
    norm = math.log(1200) + 5 * math.log(0.2 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(far, (-squared / 0.08).logsumexp(1) - norm, rtol=1e-12, atol=1e-9)
    assert found.standard_error == pytest.approx(expected.std(ddof=1) / math.sqrt(60))
    assert ("draws of x" if draws else "means of p(x | z)") in found.rows["which is"]
    assert "not log p(x)" in found.rows["which is"] and any("Theis" in words for words in found.warnings)


def test_many_samples_give_the_model_convolved_with_the_kernel():
    """In one dimension, where there are enough of them: N(0, 1 + s^2 + h^2) for x = z + noise of scale s."""

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    x = torch.linspace(-2, 2, 30)[:, None]
    for draws, variance in ((False, 1.0), (True, 1.25)):
        found = pyro_vae.parzen(model, x, num_samples=40_000, bandwidths=0.3, draws=draws)
        exact = dist.Normal(0.0, math.sqrt(variance + 0.09)).log_prob(x[:, 0])
        torch.testing.assert_close(found.per_datum.float(), exact, atol=0.06, rtol=0)
        assert found.candidates == {} and found.bandwidth == 0.3


def test_it_warns_at_the_end_of_the_bandwidths_and_chooses_its_own():
    ppca = PPCA(data_dim=4, latent_dim=2)
    data = Data(*(Split({"x": ppca.sample(80, seed=s)}) for s in (1, 2, 3)))
    ends = pyro_vae.parzen(ppca.model, data, num_samples=500, bandwidths=[0.01, 0.02])
    assert any("end of those that were tried" in words for words in ends.warnings)
    own = pyro_vae.parzen(ppca.model, data, num_samples=500)
    assert len(own.candidates) == 17 and not any("tried" in words for words in own.warnings)
    assert own.mean > ends.mean
    again = pyro_vae.parzen(ppca.model, data, num_samples=500)
    assert torch.equal(again.per_datum, own.per_datum)
    scale = data.validation.batch(slice(None))["x"].std().item()
    assert min(own.candidates) == pytest.approx(10**-1.5 * scale) and max(own.candidates) < 3.3 * scale


def test_what_is_refused():
    ppca, x = PPCA(data_dim=4, latent_dim=2), PPCA(data_dim=4, latent_dim=2).sample(10)
    for words, how in (
        ("none: give them, or one bandwidth", {}),
        ("none: give them, or one bandwidth", {"bandwidths": [0.1, 0.2]}),
        ("positive numbers", {"bandwidths": [0.1, -0.2], "validation": x}),
        ("positive numbers", {"bandwidths": []}),
        ("1e-100 or more", {"bandwidths": 1e-200}),
        ("one x has 3 numbers, and of the data 4", {"bandwidths": [0.1, 0.2], "validation": x[:, :3]}),
        ("too small: 10000 samples of 4 numbers", {"bandwidths": 0.1, "memory_budget": 1000}),
        ("num_samples must be a positive integer", {"num_samples": 0}),
    ):
        with pytest.raises(InputError, match=words):
            pyro_vae.parzen(ppca.model, x, **how)
    with pytest.raises(InputError, match="all numbers of x are equal"):
        pyro_vae.parzen(ppca.model, x, validation=torch.ones_like(x))
    conditional = ConditionalVAE((1, 8, 8), OneHot(3), latent_dim=2, hidden_dims=(8,))
    with pytest.raises(InputError, match="it is given y"):
        pyro_vae.parzen(conditional, {"x": torch.rand(5, 1, 8, 8), "y": torch.zeros(5).long()}, bandwidths=0.2)
    gaps = torch.where(x > 0, x, torch.nan)
    with pytest.raises(InputError, match="missing or infinite entries"):
        pyro_vae.parzen(ppca.model, Split({"x": gaps}, missing=True), bandwidths=0.2)


def of_numbers(likelihood):
    """z ~ N(0, I) of six numbers, x ~ likelihood(z, length)."""

    def model(x=None, length=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(6), 1.0).to_event(1))
            return pyro.sample("x", likelihood(z, length).to_event(1), obs=x)

    return model


@pytest.mark.parametrize("kind", ["none", "not known", "along a draw"])
def test_draws_are_never_called_means(kind):
    """Where x has no mean given z, or one given its own earlier numbers alone, draws are asked for."""

    class AlongDraw(dist.Normal):
        def mean_along(self, value):
            return value

    def likelihood(z, length):
        if kind == "not known":
            ways = [dist.transforms.ExpTransform(), dist.transforms.AffineTransform(0.0, 2.0)]
            return dist.TransformedDistribution(dist.Normal(z, 0.1), ways)
        return (AlongDraw if kind == "along a draw" else dist.Cauchy)(z, 0.1)

    model, x = of_numbers(likelihood), torch.rand(20, 6) + 0.1
    with pytest.raises(InputError, match=r"has no mean given the latents: take draws of x, draws=True"):
        pyro_vae.parzen(model, x, num_samples=50, bandwidths=0.5)
    assert pyro_vae.parzen(model, x, num_samples=50, bandwidths=0.5, draws=True).samples == "draws of x"


def test_what_a_model_shows_is_neither_a_draw_nor_a_mean_of_x():
    """A model of the data's features has no p(x | z)."""
    model, x = FeatureVAE((1, 8, 8), torch.nn.Conv2d(1, 2, 3), 2, "mlp", (4,)), torch.rand(10, 1, 8, 8)
    found = pyro_vae.parzen(model, x, num_samples=50, bandwidths=0.5)
    assert "'image', which the model shows" in found.rows["which is"] and "means of" not in found.rows["which is"]
    with pytest.raises(InputError, match="the model draws no x, 'image' is what it shows"):
        pyro_vae.parzen(model, x, num_samples=50, bandwidths=0.5, draws=True)


def test_numbers_that_are_left_out_are_not_counted():
    """Padding beyond a sequence's end is no data; a mask that leaves nothing out changes nothing."""

    def likelihood(z, length):
        fn = dist.Normal(z, 0.1)
        return fn if length is None else fn.mask(torch.arange(6) < length[..., None])

    model, x, length = of_numbers(likelihood), torch.randn(600, 6), torch.full((600,), 6)
    whole = pyro_vae.parzen(model, {"x": x, "length": length}, num_samples=50, bandwidths=0.5)
    assert whole.mean == pyro_vae.parzen(model, x, num_samples=50, bandwidths=0.5).mean
    length[-1] = 3  # not among the first data that are looked at
    with pytest.raises(InputError, match="it leaves out numbers of 'x'"):
        pyro_vae.parzen(model, {"x": x, "length": length}, num_samples=50, bandwidths=0.5)


def test_it_warns_of_figures_that_do_not_compare():
    model, x = VAE((1, 8, 8), latent_dim=2, hidden_dims=(8,)), torch.rand(20, 1, 8, 8)
    how = {"num_samples": 50, "bandwidths": [0.2, 0.4]}
    binary = pyro_vae.parzen(model, (x > 0.5).float(), validation=x, **how).warnings
    assert any("0 and 1 alone" in words for words in binary) and not any("too high" in words for words in binary)
    same = pyro_vae.parzen(model, x[:10], validation=x, **how)
    assert any("chosen on the data that are measured" in words for words in same.to_dict()["warnings"])
    assert not any("0 and 1 alone" in words for words in same.warnings)


CONFIG = {
    "data": {"name": "mnist5k", "binarization": "none", "limit": 60},
    "model": {"class_path": "pyro_vae.models.VAE", "init_args": {"latent_dim": 2, "hidden_dims": [8]}},
    "guide": {"class_path": "pyro_vae.guides.GaussianGuide", "init_args": {"hidden_dims": [8]}},
    "fit": {"epochs": 1, "device": "cpu", "compile": "off"},
}


def test_the_command(tmp_path, capsys):
    config = CONFIG | {"data": CONFIG["data"] | {"binarization": "threshold"}}
    assert run("train", write(tmp_path, "vae.yaml", config), "--out", tmp_path / "vae") == 0
    capsys.readouterr()
    assert run("parzen", tmp_path / "vae", "--samples", "300", "--limit", "20") == 0
    printed = capsys.readouterr().out
    assert "Parzen window (300 samples)" in printed and "not log p(x) of the model" in printed
    stored = json.loads((tmp_path / "vae" / "parzen-test.json").read_text())
    data, (model, _) = Run(tmp_path / "vae").data(), pyro_vae.load(tmp_path / "vae")
    same = pyro_vae.parzen(model, data.test.subset(20), num_samples=300, validation=data.validation)
    assert stored["parzen"] == pytest.approx(same.mean) and stored["bandwidth"] == same.bandwidth
    with np.load(tmp_path / "vae" / "parzen-test.npz") as arrays:
        np.testing.assert_allclose(arrays["parzen"], same.per_datum.numpy())
    assert run("parzen", tmp_path / "vae", "--samples", "50", "--bandwidths", "[0.2]", "--draws", "--json") == 0
    assert json.loads(capsys.readouterr().out)["samples"] == "draws of x"


def test_a_guide_plays_no_part():
    torch.manual_seed(0)
    model = VAE((1, 8, 8), latent_dim=2, hidden_dims=(8,))
    x = (torch.rand(10, 1, 8, 8) > 0.5).float()
    before = pyro_vae.parzen(model, x, num_samples=50, bandwidths=0.5)
    pyro_vae.encode(model, GaussianGuide(model, hidden_dims=(8,)), x)
    assert torch.equal(pyro_vae.parzen(model, x, num_samples=50, bandwidths=0.5).per_datum, before.per_datum)

"""The latent explorer: its page, and its pictures against Python's in a browser."""

import json
import re
import subprocess
from html import escape, unescape

import pyro
import pytest
import torch
from pages import CHROMIUM, Page, check_alone
from pyro import distributions as dist
from torch import nn

import pyro_vae
from pyro_vae import guides, models
from pyro_vae.data import Split, as_data
from pyro_vae.errors import InputError
from pyro_vae.evaluation import posterior_moments
from pyro_vae.programs.program import as_program
from pyro_vae.reports import explorer, write_explorer

browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")
POINTS = [[0.0, 0.0], [1.3, -0.7], [-2.5, 2.1]]


class Strided(nn.Module):
    """Convolutions, normalization and activations of every kind that the page has operations for."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 4 * 16)
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1), nn.GroupNorm(2, 6), nn.GELU(),
            nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=2), nn.BatchNorm2d(6), nn.SiLU(),
            nn.Conv2d(6, 4, 3, stride=2, padding=1), nn.ELU(), nn.Upsample(scale_factor=2), nn.LeakyReLU(0.2),
            nn.Conv2d(4, 4, 1), nn.PixelShuffle(2), nn.Conv2d(1, 1, 3, stride=2, padding=1),
        )  # fmt: skip
        self.layers[4].running_mean.normal_()
        self.layers[4].running_var.uniform_(0.5, 2)
        self.norm = nn.LayerNorm(8)

    def forward(self, z):
        y = self.norm(self.layers(self.first(z).unflatten(-1, (4, 4, 4))))
        return torch.cat([y[:, :, :4].softmax(-1), nn.functional.softplus(y[:, :, 4:])], 2).transpose(2, 3)


class Convolutional(nn.Module):
    """A model of one's own whose decoder is :class:`Strided`."""

    def __init__(self):
        super().__init__()
        self.decoder = Strided()

    def forward(self, x=None, num_samples=1):
        count = num_samples if x is None else len(x)
        with pyro.plate("data", count):
            z = pyro.sample("z", dist.Normal(torch.zeros(count, 2), 1.0).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(3), obs=x)


class Encoder(nn.Module):
    """A guide of one's own."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(64, 4)

    def forward(self, x):
        loc, raw = self.encoder(x.flatten(1)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


def trained(folder, model, guide, x, **more):
    data = as_data({part: Split({"x": x, **more}) for part in ("train", "test")})
    pyro_vae.fit(model, guide, data, epochs=1, batch_size=20, out=folder, progress=False, compile="off")
    return {"run": folder, "model": model, "guide": guide, "data": data}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explorer")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x, y = (torch.rand(40, 1, 8, 8) > 0.5).float(), torch.arange(40) % 3
        layers = models.HierarchicalVAE((1, 8, 8), [3, 2], [6, 6])
        given = models.ConditionalVAE((1, 8, 8), pyro_vae.networks.OneHot(3), latent_dim=2, hidden_dims=(9,))
        own = trained(folder / "own", Convolutional(), Encoder(), x)
        layers = trained(folder / "layers", layers, guides.HierarchicalGuide(layers, [6, 6]), x)
        given = trained(folder / "given", given, guides.ConditionalGuide(given, hidden_dims=(5,)), x, y=y)
        return {"own": own, "layers": layers, "given": given}


def python(name, run, z):
    """What the package makes of points; of classes the third one."""
    if name == "layers":  # the lower latents at the means that the model gives them
        with torch.no_grad():
            trace = pyro.poutine.trace(pyro.poutine.condition(as_program(run["model"]), {"z2": z})).get_trace(
                num_samples=len(z)
            )
        return pyro_vae.decode(run["model"], {"z2": z, "z1": trace.nodes["z1"]["fn"].mean})
    given = {"y": torch.full((len(z),), 2)} if name == "given" else None
    return pyro_vae.decode(run["model"], {"z": z}, batch=given)


def opened(pages, script, tmp_path):
    """What a script finds in pages, each in a frame of one that a browser opens."""
    frames = "".join(f'<iframe width="900" height="700" srcdoc="{escape(text)}"></iframe>' for text in pages)
    look = (
        "<script>addEventListener('load', () => document.documentElement.setAttribute('data-seen', JSON.stringify("
        f"[...document.querySelectorAll('iframe')].map(f => f.contentWindow).map(({script})))));</script>"
    )
    (tmp_path / "frames.html").write_text(f"<!DOCTYPE html><html><body>{frames}{look}</body></html>")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [
        "--window-size=1200,900",
        "--virtual-time-budget=2000",
        "--dump-dom",
        (tmp_path / "frames.html").as_uri(),
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    return json.loads(unescape(re.search(r'data-seen="([^"]*)"', dom)[1]))


LOOK = """w => ({
  pictures: %s.map(z => { w.explorer.decode(z, 2); const c = w.document.getElementById("picture");
    return Array.from(c.getContext("2d").getImageData(0, 0, c.width, c.height).data).filter((_, i) => i %% 4 == 0); }),
  worst: w.explorer.worst, wrong: !w.document.getElementById("wrong").hidden,
  between: [w.explorer.between(0, 1, 0), w.explorer.between(0, 1, 1)],
  requested: w.performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:")),
  wide: w.document.documentElement.scrollWidth <= w.innerWidth,
})"""


@browser
def test_the_pictures_are_pythons(runs, tmp_path):
    files = [write_explorer(**run) for run in runs.values()]
    texts = [file.read_text() for file in files]
    script = LOOK.replace("decode(z, 2)", "decode(z, w.document.getElementById('context') ? 2 : 0)") % json.dumps(
        POINTS
    )
    for (name, run), text, found in zip(runs.items(), texts, opened(texts, script, tmp_path), strict=True):
        right = python(name, run, torch.tensor(POINTS)).flatten(1) * 255
        assert (torch.tensor(found["pictures"]) - right).abs().max() <= 1, name
        assert found["worst"] < 1e-4 and not found["wrong"] and found["requested"] == [] and found["wide"], name
        site = "z2" if name == "layers" else "z"
        means = posterior_moments(run["model"], run["guide"], run["data"].train, sites=[site])[f"{site}.mean"]
        if name != "layers":  # whose means are those given draws
            torch.testing.assert_close(torch.tensor(found["between"][0]), means[0])
        check_alone(Page(text))
        assert ("at the means that it gives them" in text) == (name == "layers")


@pytest.mark.slow
@browser
def test_a_page_that_computes_otherwise_says_so(runs, tmp_path):
    text = write_explorer(**runs["own"]).read_text()
    found = opened([text, text.replace("Math.expm1(n.input_scale * x)", "x")], LOOK % json.dumps(POINTS[:1]), tmp_path)
    assert [each["wrong"] for each in found] == [False, True]


def test_a_decoder_that_a_page_cannot_run(runs, monkeypatch, caplog):
    monkeypatch.setattr(explorer, "MOST_NUMBERS", 10)
    text = write_explorer(**runs["given"]).read_text()
    assert "more than a page should hold" in caplog.text and "what is between them is a mixture" in Page(text).text
    data = json.loads(re.search(r'id="explorer-data">(.*?)</script>', text)[1])
    assert data["program"] is None and data["grid"]["side"] == explorer.SIDE and 'data-unit="' not in text


def test_what_has_no_page(runs):
    run = runs["layers"]
    with pytest.raises(InputError, match="latent site"):
        write_explorer(**run, site="z3")
    x = torch.rand(20, 5)
    model = models.VAE((5,), latent_dim=2, hidden_dims=(3,), likelihood=pyro_vae.likelihoods.Gaussian())
    guide = guides.GaussianGuide(model, hidden_dims=(3,))
    points = trained(run["run"].parent / "points", model, guide, x)
    with pytest.raises(InputError, match="no images"):
        write_explorer(**points)

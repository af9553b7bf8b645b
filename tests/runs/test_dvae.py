"""The dVAE from its recipe to samples under a learned prior; schedules of buffers in YAML; the published size."""

import json
import shutil

import pyro
import pyro.distributions as dist
import pytest
import torch
import yaml
from command_line import run, write
from safetensors.torch import load_file

import pyro_vae
from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError
from pyro_vae.guides import DVAEGuide, EmptyGuide
from pyro_vae.models import DVAE, CodeModel
from pyro_vae.priors import UniformPrior, WaveNet
from pyro_vae.recipes import read_recipe
from pyro_vae.runs import Run
from pyro_vae.runs.codes import extract_codes
from pyro_vae.runs.config import NOT_CONFIGURED, experiment_parser, parse_config
from pyro_vae.runs.prior_stage import as_code_data
from pyro_vae.runs.sections import instantiate
from pyro_vae.training import Cosine, Linear, fit

FIT = {"epochs": 2, "batch_size": 10, "device": "cpu"}
COSINE = {"class_path": "pyro_vae.training.Cosine", "init_args": {"start": 1.0, "stop": 0.0625, "epochs": 2}}
SMALL = {
    "data": {"name": "mnist5k", "limit": 40},
    "model": {
        "class_path": "pyro_vae.models.DVAE",
        "init_args": {"num_codes": 5, "code_dim": 3, "halvings": 2, "channels": 4, "num_blocks": 1},
    },
    "guide": {"class_path": "pyro_vae.guides.DVAEGuide"},
    "fit": FIT | {"schedules": {"guide.temperature": COSINE}},
}
PRIOR = {
    "prior": {"class_path": "pyro_vae.priors.GatedPixelCNN", "init_args": {"channels": 4, "num_layers": 2}},
    "fit": FIT,
}


def test_from_recipe_to_samples(tmp_path, capsys):
    out = tmp_path / "run"
    assert run("train", write(tmp_path, "dvae.yaml", SMALL), "--out", out) == 0
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["guide.temperature"] for record in records] == [1.0, pytest.approx(0.53125)]
    _, guide = pyro_vae.load(out)
    last = Cosine(1.0, 0.0625, 2)(1.75)
    assert guide.temperature.item() == pytest.approx(last)  # of the last step
    assert run("train-prior", write(tmp_path, "prior.yaml", PRIOR), "--on", out) == 0
    _, guide = pyro_vae.load(out)
    kept = load_file(out / "priors" / "codes.safetensors")["test/codes"]
    x = torch.as_tensor(Run(out).data().test.batch(slice(None))["x"])
    with torch.no_grad():
        assert torch.equal(kept, guide.encoder(x).argmax(1))
    capsys.readouterr()
    assert run("evaluate", out, "--particles", "3", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kl"]["codes"] > 0
    assert run("sample", out, "--num", "4", "--y", "3") == 0
    assert run("figures", out) == 0


class Uncertain(torch.nn.Module):
    """Programs of one code that is 0 with a probability of x, whatever x is then."""

    def __init__(self):
        super().__init__()
        self.priors = torch.nn.ModuleDict({"codes": UniformPrior(3, (1,))})

    def forward(self, x=None, *, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            pyro.sample("codes", self.priors["codes"]())
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([1]).to_event(1), obs=x)


class Drawn(torch.nn.Module):
    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            q = torch.stack([x, 0.75 * (1 - x), 0.25 * (1 - x)], -1)  # (B, 1, 3)
            pyro.sample("codes", dist.Categorical(q).to_event(1))


def test_draws_have_the_guides_probabilities():
    x = torch.tensor([0.1, 0.55, 0.9]).unsqueeze(1)
    codes = extract_codes(Uncertain(), Drawn(), Split({"x": x}), ["codes"], draws=20_000)["codes"]
    assert codes.shape == (3, 20_000, 1) and codes.dtype == torch.int32
    share = torch.stack([(codes[..., 0] == k).double().mean(1) for k in range(3)], 1)
    wanted = torch.cat([x, 0.75 * (1 - x), 0.25 * (1 - x)], 1).double()
    torch.testing.assert_close(share, wanted, atol=5 * 0.5 / 20_000**0.5, rtol=0)
    certain = torch.tensor([1.0, 0.0] * 30).unsqueeze(1)  # several data a batch: each has draws of its own
    codes = extract_codes(Uncertain(), Drawn(), Split({"x": certain}), ["codes"], draws=7)["codes"]
    assert torch.equal(codes == 0, (certain == 1).unsqueeze(1).expand(60, 7, 1)) and (codes[1::2] == 2).any()
    modes = extract_codes(Uncertain(), Drawn(), Split({"x": x}), ["codes"])["codes"]
    assert modes.tolist() == [[1], [0], [0]]


def test_codes_are_taken_of_the_models_data_only():
    with pytest.raises(InputError, match=r"'x'"):
        extract_codes(Uncertain(), Drawn(), Split({"x": torch.rand(4, 2)}), ["codes"])


def test_a_prior_of_draws_is_the_one_that_the_bound_wants():
    """KL(q(z|x) || prior), mean over data, is least under the mean of q; that of most probable codes is far off."""
    x = torch.linspace(0.55, 0.95, 200).unsqueeze(1)
    model, guide, data = Uncertain(), Drawn(), Split({"x": x})
    q = torch.cat([x, 0.75 * (1 - x), 0.25 * (1 - x)], 1).double()
    least = (q * (q / q.mean(0)).log()).sum(1).mean().item()
    kl = {}
    for draws in (0, 30):
        codes = {"train": extract_codes(model, guide, data, ["codes"], draws=draws)}
        code_data = as_code_data(codes, "codes", [], Data(data), several=draws > 0)
        assert code_data.train.shape == (1,) and len(code_data.train) == 200
        prior = WaveNet(3, (1,), channels=4, num_layers=1)
        options = {
            "epochs": 60,
            "batch_size": 50,
            "learning_rate": 0.03,
            "device": "cpu",
            "compile": "off",
            "progress": False,
        }
        fit(CodeModel(prior), EmptyGuide(), code_data, seed=0, **options)
        with torch.no_grad():
            log_p = prior.eval()().log_prob(torch.arange(3).unsqueeze(1)).double()
        kl[draws] = (q * (q.log() - log_p)).sum(1).mean().item()
    assert kl[30] == pytest.approx(least, abs=0.02)
    assert kl[0] > least + 0.3


def test_draws_on_the_command_line(tmp_path, capsys):
    out = tmp_path / "run"
    assert run("train", write(tmp_path, "dvae.yaml", SMALL), "--out", out) == 0
    prior = write(tmp_path, "prior.yaml", PRIOR)
    capsys.readouterr()
    assert run("train-prior", prior, "--on", out, "--draws", "-1") == 2
    assert "draws" in capsys.readouterr().err
    assert run("train-prior", prior, "--on", out) == 0  # leaves the most probable codes in the cache
    shutil.rmtree(out / "priors" / "codes")
    assert run("train-prior", prior, "--on", out, "--draws", "3") == 0
    kept = load_file(out / "priors" / "codes.safetensors")
    assert kept["train/codes"].shape == (40, 3, 7, 7) and kept["test/codes"].shape == (40, 7, 7)
    assert (kept["train/codes"][:, 0] != kept["train/codes"][:, 1]).any()
    assert yaml.safe_load((out / "priors" / "codes" / "config.yaml").read_text())["draws"] == 3
    assert run("evaluate", out, "--particles", "2") == 0
    (out / "priors" / "codes" / "summary.json").unlink()  # as if it had been interrupted
    (out / "priors" / "codes.safetensors").unlink()
    assert run("train-prior", "--on", out, "--resume") == 0
    again = load_file(out / "priors" / "codes.safetensors")
    assert all(torch.equal(again[name], kept[name]) for name in kept)


def test_no_draws_of_a_guide_that_is_certain():
    class Certain(Drawn):
        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("codes", dist.Delta((x > 0.5).long(), event_dim=1))

    with pytest.raises(InputError, match="draws=2: the guide is certain of codes, all draws would be the same"):
        extract_codes(Uncertain(), Certain(), Split({"x": torch.rand(5, 1)}), ["codes"], draws=2)


def options_of(config):
    parsed = parse_config(experiment_parser(config), config, "test")
    return dict(vars(instantiate("fit", parsed, fit, NOT_CONFIGURED, {})))


def test_schedules_of_buffers_in_yaml():
    linear = {"class_path": "pyro_vae.training.Linear", "init_args": {"start": 0.0, "stop": 1.0, "epochs": 3}}
    config = SMALL | {"fit": {"schedules": {"guide.temperature": COSINE, "model.a.b": linear, "guide.c": 0.5}}}
    schedules = options_of(config)["schedules"]
    assert [type(s) for s in schedules.values()] == [Cosine, Linear, float]
    assert list(schedules) == ["guide.temperature", "model.a.b", "guide.c"]
    assert schedules["guide.temperature"](1.0) == pytest.approx(0.53125)


def test_an_unknown_buffer_leaves_no_run(tmp_path, capsys):
    config = SMALL | {"fit": FIT | {"schedules": {"guide.temprature": COSINE}}}
    assert run("train", write(tmp_path, "dvae.yaml", config), "--out", tmp_path / "run") == 1
    assert (
        "unknown buffer in schedules 'guide.temprature'. Did you mean 'guide.temperature'?" in capsys.readouterr().err
    )
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_the_recipes_schedules():
    for name in ("dvae", "dvae-published"):
        options = options_of(read_recipe(name))
        temperature = options["schedules"]["guide.temperature"]
        assert temperature(0) == 1 and temperature(1e9) == 1 / 16
        if name == "dvae-published":
            updates = {s: s.end * 162_770 / 512 for s in (temperature, options["kl_weight"], options["learning_rate"])}
            assert list(updates.values()) == pytest.approx([150_000, 5_000, 1_200_000], rel=0.002)
            assert options["kl_weight"](1e9) == 6.6


def test_the_published_size():
    """Shapes only: nothing is computed."""
    with torch.device("meta"):
        model = DVAE((3, 256, 256))
        guide = DVAEGuide(model)
        assert model.grid == (32, 32) and model.feature_shape == (6, 256, 256)
        logits = guide.encoder(torch.empty(1, 3, 256, 256))
        assert logits.shape == (1, 8192, 32, 32)
        assert model.decoder(model.embed(logits)).shape == (1, 6, 256, 256)

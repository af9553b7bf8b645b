"""The dVAE from its recipe to samples under a learned prior; schedules of buffers in YAML; the published size."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

import pyro_vae
from pyro_vae.cli import main
from pyro_vae.guides import DVAEGuide
from pyro_vae.inference import Cosine, Linear, fit
from pyro_vae.models import DVAE
from pyro_vae.recipes import Run
from pyro_vae.recipes.catalogue import read_recipe
from pyro_vae.recipes.experiment import NOT_CONFIGURED, experiment_parser, instantiate, parse_config

FIT = {"epochs": 2, "batch_size": 10, "device": "cpu"}
COSINE = {"class_path": "pyro_vae.inference.Cosine", "init_args": {"start": 1.0, "stop": 0.0625, "epochs": 2}}
SMALL = {
    "data": {"name": "mnist5k", "limit": 40},
    "model": {
        "class_path": "pyro_vae.models.DVAE",
        "init_args": {"num_codes": 5, "code_dim": 3, "width": 4, "groups": 3, "blocks": 1},
    },
    "guide": {"class_path": "pyro_vae.guides.DVAEGuide"},
    "fit": FIT | {"schedules": {"guide.temperature": COSINE}},
}
PRIOR = {
    "prior": {"class_path": "pyro_vae.priors.GatedPixelCNN", "init_args": {"channels": 4, "num_layers": 2}},
    "fit": FIT,
}


def run(*arguments):
    return main([str(a) for a in arguments])


def write(folder, name, config):
    file = folder / name
    file.write_text(yaml.safe_dump(config))
    return file


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


def options_of(config):
    parsed = parse_config(experiment_parser(config), config, "test")
    return dict(vars(instantiate("fit", parsed, fit, NOT_CONFIGURED, {})))


def test_schedules_of_buffers_in_yaml():
    linear = {"class_path": "pyro_vae.inference.Linear", "init_args": {"start": 0.0, "stop": 1.0, "epochs": 3}}
    config = SMALL | {"fit": {"schedules": {"guide.temperature": COSINE, "model.a.b": linear, "guide.c": 0.5}}}
    schedules = options_of(config)["schedules"]
    assert [type(s) for s in schedules.values()] == [Cosine, Linear, float]
    assert list(schedules) == ["guide.temperature", "model.a.b", "guide.c"]
    assert schedules["guide.temperature"](1.0) == pytest.approx(0.53125)


def test_an_unknown_buffer_leaves_no_run(tmp_path, capsys):
    config = SMALL | {"fit": FIT | {"schedules": {"guide.temprature": COSINE}}}
    assert run("train", write(tmp_path, "dvae.yaml", config), "--out", tmp_path / "run") == 2
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

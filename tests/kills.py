"""Commands that are killed at random moments and then gone on with: python tests/kills.py SCENARIO KILLS SEED.

Every process is forked from this one, so that a trial takes about as long as its command. After each kill all that is
there must be readable, and what the command leaves when it is gone on with must be what it leaves undisturbed.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from made_scenes import made_scenes
from PIL import Image
from safetensors.torch import load_file

import pyro_vae
from pyro_vae.cli import main
from pyro_vae.recipes import read_recipe
from pyro_vae.runs import Run

FIT = {"epochs": 6, "batch_size": 20, "compile": "off", "device": "cpu", "checkpoint_every": 0.0}
NOT_COMPARED = ("seconds", "id", "measured", "made", "date")  # of JSON: when, and how long


def vae(folder):
    config = read_recipe("vae")
    config["data"] |= {"limit": 200, "binarization": "threshold"}
    for part in ("model", "guide"):
        config[part]["init_args"]["hidden_dims"] = [16]
    return write(folder, "vae", config | {"fit": FIT})


OPTIMIZER = {
    "optimizer": "torch.optim.RAdam",
    "lr_scheduler": "ReduceLROnPlateau",
    "lr_scheduler_options": {"patience": 0, "factor": 0.7, "threshold": 0.05},
    "param_groups": {"guide.*": {"lr": 3e-3}, "model.decoder.*": {"weight_decay": 0.1}},
    "grad_accumulation": 3,
}


def optimizers(folder):
    config = yaml.safe_load(Path(vae(folder)).read_text())
    return write(folder, "optimizers", config | {"fit": {**FIT, "epochs": 12, **OPTIMIZER}})


def streaming(folder):
    """Data that are read from a mapped file, and binarized anew for every batch."""
    x = np.random.default_rng(0).integers(0, 256, (250, 1, 28, 28), dtype=np.uint8)
    np.save(folder / "x.npy", x)
    config = yaml.safe_load(Path(vae(folder)).read_text())
    config["data"] = {"name": str(folder / "x.npy"), "in_memory": False, "binarization": "dynamic"}
    return write(folder, "streaming", config)


def hierarchy(folder):
    config = read_recipe("lvae")
    config["data"] |= {"limit": 100, "binarization": "threshold"}
    small = {"latent_dims": [4, 2], "hidden_dims": [16, 8]}
    for part in ("model", "guide"):
        options = config[part]["init_args"]
        options |= {name: value for name, value in small.items() if name in options}
    config["fit"] = FIT
    config["first"] = {name: config[name] for name in ("model", "guide", "objective")} | {"fit": {**FIT, "epochs": 4}}
    return write(folder, "first", config)


def codes(folder):
    config = read_recipe("vqvae")
    config["data"] |= {"limit": 60}
    config["model"]["init_args"] |= {"channels": 8, "num_codes": 16}
    return write(folder, "codes", config | {"fit": {**FIT, "epochs": 1}})


def prior(folder):
    config = read_recipe("pixelcnn")
    config["prior"]["init_args"] |= {"channels": 8, "num_layers": 2}
    return write(folder, "prior", config | {"fit": FIT})


def latent_prior(folder):
    config = read_recipe("mixture")
    config["prior"]["init_args"] |= {"num_components": 3}
    return write(folder, "mixture", config | {"fit": FIT})


def captioned(folder):
    """A dVAE of scenes with captions."""
    scenes, pairs = made_scenes(4), [(a, b) for a in range(8) for b in range(8) if a != b]
    objects, layout = torch.tensor([[a, b, -1, -1] for a, b in pairs]), torch.arange(len(pairs)) % 2
    (folder / "data").mkdir()
    for i, image in enumerate(scenes.draw(layout, objects).permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(folder / "data" / f"{i:02d}.png")
    lines = [f"{i:02d}.png\t{caption}" for i, caption in enumerate(scenes.captions(layout, objects))]
    (folder / "data" / "captions.txt").write_text("\n".join(lines))
    network = {"num_codes": 5, "code_dim": 3, "halvings": 1, "channels": 8, "num_blocks": 1}
    model = {"class_path": "pyro_vae.models.DVAE", "init_args": network}
    guide = {"class_path": "pyro_vae.guides.DVAEGuide"}
    fit = {**FIT, "epochs": 1}
    return write(folder, "dvae", {"data": {"name": str(folder / "data")}, "model": model, "guide": guide, "fit": fit})


def text_prior(folder):
    transformer = {"width": 8, "num_layers": 1, "heads": 2}
    prior = {"class_path": "pyro_vae.priors.TransformerPrior", "init_args": transformer}
    fit = {**FIT, "epochs": 1}
    return write(folder, "text", {"prior": prior, "text": {"vocabulary_size": 300}, "fit": fit})


def ranker(folder):
    sizes = {"dim": 4, "hidden_dims": [4], "width": 8, "num_layers": 1, "heads": 2}
    return write(folder, "ranker", {"ranker": sizes, "fit": {**FIT, "epochs": 20}})


def write(folder, name, config):
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return str(file)


def resume(run):
    return ["resume", run]


SCENARIOS = {  # commands before, the command, how it is gone on with if its config.yaml is there, and where that is
    "train": ((), lambda f: ["train", vae(f), "--out", "RUN"], resume, "config.yaml"),
    "optimizers": ((), lambda f: ["train", optimizers(f), "--out", "RUN"], resume, "config.yaml"),
    "streaming": ((), lambda f: ["train", streaming(f), "--out", "RUN"], resume, "config.yaml"),
    "first": ((), lambda f: ["train", hierarchy(f), "--out", "RUN"], resume, "config.yaml"),
    "resume": (
        (lambda f: ["train", vae(f), "--out", "RUN"],),
        lambda f: ["resume", "RUN", "--fit.epochs", "12"],
        lambda run: ["resume", run, "--fit.epochs", "12"],
        "config.yaml",
    ),
    "train-prior": (
        (lambda f: ["train", codes(f), "--out", "RUN"],),
        lambda f: ["train-prior", prior(f), "--on", "RUN"],
        lambda run: ["train-prior", "--on", run, "--resume"],
        "priors/codes/config.yaml",
    ),
    "train-prior-latent": (
        (lambda f: ["train", vae(f), "--out", "RUN"],),
        lambda f: ["train-prior", latent_prior(f), "--on", "RUN"],
        lambda run: ["train-prior", "--on", run, "--resume"],
        "priors/z/config.yaml",
    ),
    "train-ranker": (
        (
            lambda f: ["train", captioned(f), "--out", "RUN"],
            lambda f: ["train-prior", text_prior(f), "--on", "RUN"],
        ),
        lambda f: ["train-ranker", ranker(f), "--on", "RUN"],
        lambda run: ["train-ranker", "--on", run, "--resume"],
        "ranker/config.yaml",
    ),
    "evaluate": (
        (lambda f: ["train", vae(f), "--out", "RUN"],),
        lambda f: ["evaluate", "RUN", "--particles", "300"],
        None,
        "",
    ),
    "report": (
        (lambda f: ["train", vae(f), "--out", "RUN"],),
        lambda f: ["report", "RUN", "--particles", "50"],
        None,
        "",
    ),
}


def forked(arguments):
    """Run a command in a process of its own."""
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        if not os.environ.get("LOUD"):
            os.dup2(null, 1), os.dup2(null, 2)
        status = 1
        try:
            status = main(arguments)
        except SystemExit as exit_:
            status = exit_.code
        finally:
            os._exit(status)
    return child


def whole(arguments):
    _, status = os.waitpid(forked(arguments), 0)
    assert status == 0, (arguments, status)


def readable(run):
    """All that is there after a kill can be read."""
    if (run / "config.yaml").is_file():
        pyro_vae.load(run)
        Run(run).records()
    for file in run.rglob("*"):
        if file.suffix == ".json":
            json.loads(file.read_text())
        elif file.suffix == ".npz" and not file.name.startswith("."):
            assert np.load(file).files


def result(run):
    """What a command leaves, without times and temporary files."""

    def plain(value):
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items() if not any(word in k for word in NOT_COMPARED)}
        return [plain(v) for v in value] if isinstance(value, list) else value

    left = {}
    for file in sorted(path for path in run.rglob("*") if not path.name.startswith(".")):
        name = str(file.relative_to(run))
        if file.suffix == ".safetensors":
            left[name] = {k: v.tolist() for k, v in load_file(file).items()}  # the order of metadata is by chance
        elif file.suffix == ".json" and not name.startswith("report"):
            left[name] = plain(json.loads(file.read_text()))
        elif file.suffix == ".jsonl":
            left[name] = [plain(json.loads(line)) for line in file.read_text().splitlines()]
        elif file.suffix == ".npz":
            left[name] = {k: v.tolist() for k, v in np.load(file).items() if k not in NOT_COMPARED}
        elif file.suffix == ".html":
            left[name] = True
    return left


def trials(scenario, kills, seed):
    before, command, go_on, begun = SCENARIOS[scenario]
    chance, done = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def said(make, run):
            return [str(run) if word == "RUN" else word for word in make(folder)]

        for make in before:
            whole(said(make, folder / "base"))
        run = folder / "run"  # the same name in all trials, as it stands in pages

        def fresh():
            shutil.rmtree(run, ignore_errors=True)
            if (folder / "base").exists():
                shutil.copytree(folder / "base", run)

        fresh()
        started = time.monotonic()
        whole(said(command, run))
        seconds, expected = time.monotonic() - started, result(run)
        for trial in range(kills):
            fresh()
            moment = chance.uniform(0.02, 0.8 * seconds)
            child = forked(said(command, run))
            time.sleep(moment)
            os.kill(child, signal.SIGKILL)
            done += os.waitpid(child, 0)[1] == signal.SIGKILL
            readable(run)
            ended = (run / begun).parent / "summary.json" if begun else None
            if go_on is None or not (run / begun).is_file():
                whole(said(command, run))
            elif not scenario.startswith("train-") or not ended.is_file():
                whole(go_on(str(run)))
            found = result(run)
            differ = [key for key in expected | found if expected.get(key) != found.get(key)]
            assert not differ, f"{scenario}, seed {seed}, trial {trial}, killed after {moment:.3f} s: {differ}"
            left = [str(path) for path in run.rglob(".pyro_vae-*")]
            if left:
                print(f"left behind: {left}")
    print(f"{scenario}: {kills} trials, {done} killed while at work, seed {seed}, undisturbed {seconds:.1f} s")


if __name__ == "__main__":
    trials(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

"""Run directories made by an attacker: without trust they run no code, write nowhere else, and are refused in a line.

A row of a table is what is put where, and what must be said. To add an attack, add a row: ``MARKER`` in a text is
replaced by the path of a file that the attack is to make, ``ELSEWHERE`` by a folder outside the run. Modules named
``evil``, ``évil`` and ``pyro_vae_evil`` are importable, and make that file.
"""

import dataclasses
import importlib
import inspect
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import types
import typing
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pages import CHROMIUM, Page, check_alone
from safetensors.torch import load_file, save_file

import pyro_vae
from pyro_vae.cli import main
from pyro_vae.data import load_data
from pyro_vae.data.registry import HANDED as HANDED_TO_LOADERS
from pyro_vae.data.registry import sources
from pyro_vae.data.sources import speech
from pyro_vae.errors import InputError
from pyro_vae.plots import without_matplotlibrc
from pyro_vae.reports.stored import prior_commands, train_command
from pyro_vae.runs import Run
from pyro_vae.runs.config import NOT_CONFIGURED
from pyro_vae.runs.known import foreign_names, known_classes
from pyro_vae.runs.learned_priors import FROM_DATA
from pyro_vae.text_to_image.ranker import load_ranker
from pyro_vae.training.checkpoint import ABOUT
from pyro_vae.training.experiment import state_digest

DATA = {"name": "mnist5k", "binarization": "threshold", "limit": 20}
FIT = {"epochs": 1, "batch_size": 10, "device": "cpu", "compile": "off", "checkpoint_every": 0.0}
VAE = {
    "model": {"class_path": "pyro_vae.models.VAE", "init_args": {"latent_dim": 2, "hidden_dims": [4]}},
    "guide": {"class_path": "pyro_vae.guides.GaussianGuide", "init_args": {"hidden_dims": [4]}},
    "fit": FIT,
}
CODES = {
    "model": {"class_path": "pyro_vae.models.VQVAE", "init_args": {"num_codes": 4, "code_dim": 2, "channels": 4}},
    "guide": {"class_path": "pyro_vae.guides.VQGuide"},
    "fit": FIT,
}
PRIOR = {
    "prior": {"class_path": "pyro_vae.priors.GatedPixelCNN", "init_args": {"channels": 4, "num_layers": 1}},
    "conditional": False,
    "fit": FIT,
}
EVIL = "from torch import nn\nopen({!r}, 'w').close()\nclass Mine(nn.Module): pass\ndef run(*_, **__): pass\n"
MODULES = ("evil", "évil", "pyro_vae_evil")
QUIET = ("--particles", "2")
DOORS = {  # commands that read the configuration of a run
    "evaluate": QUIET,
    "sample": ("--num", "2"),
    "resume": (),
    "figures": (),
    "report": QUIET,
    "reconstruct": ("--num", "2"),
    "ais": ("--num_chains", "2", "--num_temperatures", "2", "--limit", "2"),
}
STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.startfile", "pty.spawn"}
_watched = {"on": False, "seen": []}


def _hook(event, arguments):
    if _watched["on"] and event in STARTS:
        _watched["seen"].append((event, str(arguments)[:200]))


sys.addaudithook(_hook)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Runs to copy and to spoil: a VAE, a VQ-VAE with a learned prior, and one with a pair that was trained before."""
    folder = tmp_path_factory.mktemp("hostile")
    configs = {"vae": VAE, "codes": CODES, "first": {"first": VAE, **VAE}}
    for name, config in configs.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"data": DATA, **config}))
        assert main(["train", str(folder / f"{name}.yaml"), "--out", str(folder / name)]) == 0
    (folder / "prior.yaml").write_text(yaml.safe_dump(PRIOR))
    assert main(["train-prior", str(folder / "prior.yaml"), "--on", str(folder / "codes")]) == 0
    return folder


class Place:
    """A copy of the runs, the marker, and a folder elsewhere."""

    def __init__(self, root, trained):
        self.root, self.marker, self.elsewhere = root, root / "MARKER-MADE", root / "elsewhere"
        self.trained, self.elsewhere_before = trained, {}
        self.elsewhere.mkdir()
        (self.elsewhere / "000.wav").write_text("the user's own")
        self.elsewhere_before = contents(self.elsewhere)

    def run(self, name="vae"):
        if not (self.root / name).exists():
            shutil.copytree(self.trained / name, self.root / name)
        return self.root / name

    def filled(self, value):
        """A row's value, with the paths of this place."""
        if isinstance(value, str):
            return value.replace("MARKER", str(self.marker)).replace("ELSEWHERE", str(self.elsewhere))
        if isinstance(value, dict):
            return {self.filled(k): self.filled(v) for k, v in value.items()}
        return [self.filled(each) for each in value] if isinstance(value, list) else value

    def nothing_ran(self):
        assert not self.marker.exists(), "code was run"
        assert _watched["seen"] == [], "a program was started"
        assert contents(self.elsewhere) == self.elsewhere_before, "something was written or removed elsewhere"


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    place = Place(tmp_path, trained)
    modules = tmp_path / "modules"
    modules.mkdir()
    for name in MODULES:
        (modules / f"{name}.py").write_text(EVIL.format(str(place.marker)))
        monkeypatch.delitem(sys.modules, name, raising=False)
    work = tmp_path / "work"
    work.mkdir()
    for name in ("word", "word.yaml", "word.json"):
        (work / name).write_text("class_path: evil.Mine\n")
    monkeypatch.syspath_prepend(str(modules))
    monkeypatch.chdir(work)
    monkeypatch.setattr(sys, "path", list(sys.path))
    _watched.update(on=True, seen=[])
    yield place
    _watched["on"] = False
    place.nothing_ran()


def contents(folder):
    return {str(p.relative_to(folder)): p.is_file() and p.read_bytes() for p in sorted(folder.rglob("*"))}


def put(config, key, value):
    """Set an entry of a configuration by its keys, joined by slashes; ``~`` before the key takes it out."""
    *sections, last = key.removeprefix("~").split("/")
    for section in sections:
        config = config.setdefault(section, {}) if isinstance(config.get(section), dict) else _made(config, section)
    if key.startswith("~"):
        config.pop(last, None)
    else:
        config[last] = value


def _made(config, section):
    config[section] = {}
    return config[section]


def changed(file, entries):
    config = yaml.safe_load(file.read_text())
    for key, value in entries.items():
        put(config, key, value)
    file.write_text(yaml.safe_dump(config, allow_unicode=True))


def refused(capsys, *arguments):
    """What a command says when it refuses: one line, printable, no traceback."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) in (1, 2), arguments
    captured = capsys.readouterr()
    said = next(line for line in captured.err.splitlines() if line.startswith("error: "))
    assert "Traceback" not in captured.err and captured.out == ""
    assert said.isprintable(), "the message would drive a terminal"
    return said


def refused_by_load(run):
    with pytest.raises(InputError) as caught:
        pyro_vae.load(run)
    return str(caught.value)


# ---------------------------------------------------------------------------- what a configuration names
BAD = {"class_path": "evil.Mine"}
POPEN = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "MARKER"]}}
CONFIGS = [  # entries of config.yaml by their keys; what must be said
    # a class in every place
    ({"model": "evil.Mine"}, ["evil.Mine", "under model"]),
    ({"model": BAD}, ["evil.Mine", "model.class_path"]),
    ({"model": POPEN}, ["subprocess.Popen", "model.class_path"]),
    ({"guide": BAD}, ["evil.Mine", "guide.class_path"]),
    ({"objective": BAD}, ["evil.Mine", "objective.class_path"]),
    ({"objective": "évil.Mine"}, ["vil.Mine", "under objective"]),
    ({"~model": 0, "~guide": 0, "pair": BAD}, ["evil.Mine", "pair.class_path"]),
    ({"~model": 0, "~guide": 0, "pair": "evil.Mine"}, ["evil.Mine", "under pair"]),
    ({"seed": "evil.Mine"}, ["evil.Mine", "under seed"]),
    ({"seed": BAD}, ["evil.Mine", "seed.class_path"]),
    ({"fit": "evil.Mine"}, ["evil.Mine", "under fit"]),
    ({"fit": -2.5}, ["section 'fit'", "-2.5"]),
    ({"fit": None}, ["section 'fit'", "None"]),
    ({"first": {**VAE, "fit": [BAD]}}, ["section 'first.fit'"]),
    ({"fit": "word"}, ["word", "under fit", "name of a file"]),
    ({"fit/learning_rate": BAD}, ["evil.Mine", "fit.learning_rate.class_path"]),
    ({"fit/kl_weight": "evil.Mine"}, ["evil.Mine", "fit.kl_weight"]),
    ({"fit/schedules": {"guide.x": BAD}}, ["evil.Mine", "fit.schedules.guide.x"]),
    ({"fit/optimizer": "evil.Mine"}, ["evil.Mine", "fit.optimizer"]),
    ({"fit/optimizer_options": {"eps": "evil.Mine"}}, ["evil.Mine", "fit.optimizer_options.eps"]),
    ({"fit/optimizer_options": POPEN}, ["subprocess.Popen", "fit.optimizer_options"]),
    ({"fit/optimizer": BAD}, ["evil.Mine", "fit.optimizer.class_path"]),
    ({"fit/optimizer": "torch.optim.lr_scheduler.StepLR"}, ["StepLR", "fit.optimizer"]),
    ({"fit/optimizer": "torch.optim.Optimizer"}, ["torch.optim.Optimizer", "fit.optimizer"]),
    ({"fit/optimizer": "torch.load"}, ["torch.load", "fit.optimizer"]),
    ({"fit/optimizer_options": {"eps": "torch.optim.RAdam"}}, ["torch.optim.RAdam", "fit.optimizer_options.eps"]),
    ({"fit/lr_scheduler": "evil.Mine"}, ["evil.Mine", "fit.lr_scheduler"]),
    ({"fit/lr_scheduler": POPEN}, ["subprocess.Popen", "fit.lr_scheduler.class_path"]),
    ({"fit/lr_scheduler": "torch.optim.lr_scheduler.LambdaLR"}, ["LambdaLR", "fit.lr_scheduler"]),
    ({"fit/lr_scheduler": "torch.optim.RAdam"}, ["torch.optim.RAdam", "fit.lr_scheduler"]),
    ({"fit/lr_scheduler_options": {"scale_fn": "evil.run"}}, ["evil.run", "fit.lr_scheduler_options.scale_fn"]),
    ({"fit/lr_scheduler_interval": "evil.Mine"}, ["evil.Mine", "fit.lr_scheduler_interval"]),
    ({"fit/param_groups": {"guide.*": {"lr": "evil.Mine"}}}, ["evil.Mine", "fit.param_groups.guide.*.lr"]),
    ({"fit/param_groups": {"guide.*": BAD}}, ["evil.Mine", "fit.param_groups.guide.*.class_path"]),
    ({"fit/param_groups": "evil.Mine"}, ["evil.Mine", "fit.param_groups"]),
    ({"fit/grad_accumulation": "evil.Mine"}, ["evil.Mine", "fit.grad_accumulation"]),
    ({"model": "torch.optim.RAdam"}, ["torch.optim.RAdam", "under model"]),
    ({"objective": {"class_path": "torch.optim.RAdam"}}, ["torch.optim.RAdam", "objective.class_path"]),
    ({"first": {**VAE, "fit": {"optimizer": "evil.Mine"}}}, ["evil.Mine", "first.fit.optimizer"]),
    ({"first": {**VAE, "model": "torch.optim.RAdam"}}, ["torch.optim.RAdam", "first.model"]),
    ({"fit/precision": "evil.Mine"}, ["evil.Mine", "fit.precision"]),
    ({"fit/device": "evil.Mine"}, ["evil.Mine", "fit.device"]),
    ({"fit/compile": BAD}, ["evil.Mine", "fit.compile"]),
    ({"first": {**VAE, "model": BAD}}, ["evil.Mine", "first.model.class_path"]),
    ({"first": {**VAE, "guide": "evil.Mine"}}, ["evil.Mine", "first.guide"]),
    ({"first": {"pair": POPEN, "fit": FIT}}, ["subprocess.Popen", "first.pair"]),
    ({"first": {**VAE, "fit": {"learning_rate": BAD}}}, ["evil.Mine", "first.fit.learning_rate"]),
    ({"first": {**VAE, "data": {"name": "evil.Mine"}}}, ["section", "first", "data"]),
    ({"first": {**VAE, "first": VAE}}, ["section", "first"]),
    ({"first": "evil.Mine"}, ["first", "sections"]),
    ({"prior": BAD}, ["prior's recipe"]),
    ({"ranker": BAD}, ["ranker's recipe"]),
    ({"text": BAD}, ["section", "text"]),
    ({"evil.Mine": 1}, ["section", "evil.Mine"]),
    ({"model.class_path": "evil.Mine"}, ["section", "model.class_path"]),
    # within a class of the package
    ({"model/init_args/likelihood": BAD}, ["evil.Mine", "model.init_args.likelihood"]),
    ({"model/init_args/likelihood": "evil.Mine"}, ["evil.Mine", "model.init_args.likelihood"]),
    ({"model/init_args/decoder": BAD}, ["evil.Mine", "model.init_args.decoder"]),
    ({"model/init_args/activation": "evil.run"}, ["evil.run", "model.init_args.activation"]),
    ({"model/init_args/hidden_dims": [4, BAD]}, ["evil.Mine", "model.init_args.hidden_dims"]),
    ({"model/init_args/hidden_dims": [[[{"a": [BAD]}]]]}, ["evil.Mine", "model.init_args.hidden_dims"]),
    ({"model/init_args": "evil.Mine"}, ["evil.Mine", "model.init_args"]),
    ({"model/dict_kwargs": {"likelihood": BAD}}, ["evil.Mine", "model.dict_kwargs"]),
    ({"model/class_path": ["evil.Mine"]}, ["evil.Mine", "model.class_path"]),
    ({"model/class_path": BAD}, ["evil.Mine", "model.class_path"]),
    ({"model/class_path": {"class_path": "VAE"}}, ["config.yaml", "model"]),
    ({"model/class_path": None}, ["config.yaml", "model"]),
    ({"model/class_path": 5}, ["config.yaml", "model"]),
    ({"model/init_args/likelihood.class_path": "evil.Mine"}, ["evil.Mine", "likelihood.class_path"]),
    ({"model/init_args.likelihood": BAD}, ["evil.Mine", "init_args.likelihood"]),
    ({"fit/learning_rate.class_path": "evil.Mine"}, ["evil.Mine", "fit.learning_rate.class_path"]),
    ({"fit/learning_rate.class_path": "Popen"}, ["config.yaml"]),
    ({"model/evil.Mine": {}}, ["config.yaml", "evil"]),
    ({"guide/init_args/model": "VAE"}, ["config.yaml", "model"]),
    # what a module of the package has imported, and functions of it
    ({"model": "pyro_vae.data.sources.speech.subprocess.Popen"}, ["speech.subprocess.Popen", "under model"]),
    ({"model/class_path": "pyro_vae.files.os.system"}, ["files.os.system", "model.class_path"]),
    ({"model/class_path": "pyro_vae.models.gaussian.nn.Linear"}, ["nn.Linear", "model.class_path"]),
    ({"model/class_path": "pyro_vae.models.VAE.__init__.__globals__"}, ["__globals__", "model.class_path"]),
    ({"guide/class_path": "pyro_vae.cli.main"}, ["pyro_vae.cli.main", "guide.class_path"]),
    ({"guide/class_path": "pyro_vae.runs.Run"}, ["pyro_vae.runs.Run", "guide.class_path"]),
    (
        {"model": {"class_path": "pyro_vae.runs.config.Function", "init_args": {"path": "evil.run"}}},
        ["config.Function", "model.class_path"],
    ),
    ({"objective/class_path": "pyro_vae.training.fit"}, ["training.fit", "objective.class_path"]),
    (
        {"model/init_args/likelihood": {"class_path": "pyro_vae.training.checkpoint.save_weights"}},
        ["save_weights", "model.init_args.likelihood"],
    ),
    ({"fit/learning_rate": {"class_path": "pyro_vae.files.write_json"}}, ["write_json", "fit.learning_rate"]),
    # other libraries' classes by a word, which the parser may know already
    ({"model": "Linear"}, ["config.yaml", "Linear"]),
    ({"model/init_args/decoder": {"class_path": "Sequential"}}, ["Sequential"]),
    ({"model/init_args/decoder": {"class_path": "Function", "init_args": {"path": "word"}}}, ["config.yaml"]),
    ({"objective/class_path": "Popen"}, ["config.yaml", "Popen"]),
    ({"fit/learning_rate": {"class_path": "_Ramp", "init_args": {}}}, ["config.yaml"]),
    # texts that a parser may read as more
    ({"model": '{"class_path": "evil.Mine"}'}, ["evil.Mine", "under model"]),
    ({"model": "class_path: evil.Mine"}, ["evil.Mine", "under model"]),
    ({"model": "!!python/object/apply:os.system ['touch MARKER']"}, ["os.system", "under model"]),
    ({"seed": "!!python/object/apply:os.system ['touch MARKER']"}, ["os.system", "under seed"]),
    ({"model/init_args/hidden_dims": "[!!python/name:evil.Mine ]"}, ["evil.Mine", "hidden_dims"]),
    ({"model": "evil:Mine"}, ["config.yaml", "evil:Mine"]),
    ({"model": " evil.Mine"}, ["evil.Mine", "under model"]),
    ({"model": "evil.Mine\n"}, ["evil.Mine", "under model"]),
    ({"model": "evil\u2024Mine"}, ["Mine", "under model"]),
    ({"model": "pyro_vae_evil.Mine"}, ["pyro_vae_evil.Mine", "under model"]),
    ({"model": "word"}, ["word", "under model", "name of a file"]),
    ({"model": "word.yaml"}, ["word.yaml", "under model"]),
    ({"model/init_args": "word"}, ["word", "model.init_args", "name of a file"]),
    ({"model/init_args/likelihood": "./word.yaml"}, ["word.yaml", "likelihood"]),
    ({"model/init_args/likelihood": "~/word"}, ["~/word", "likelihood"]),
    ({"model": "file:///etc/passwd"}, ["file:///etc/passwd", "under model"]),
    ({"model": "\x00evil"}, ["evil"]),
    ({"model": "\x1b]0;owned\x07\x1b[2J.x"}, ["owned", "under model"]),
    ({"\x1b[2Jkey": 1}, ["section", "key"]),
    ({"model/init_args/\x1b[2J": 1}, ["config.yaml"]),
    # the free section
    ({"data": "evil.Mine"}, ["section 'data'"]),
    ({"data": None}, ["section 'data'"]),
    ({"data": [BAD]}, ["section 'data'"]),
    ({"data/name": BAD}, ["section 'data'"]),
    ({"data/root": POPEN}, ["section 'data'"]),
    ({"data/limit": "!!python/object/apply:os.system ['touch MARKER']"}, ["config.yaml", "limit"]),
    ({"data/limit": '{"class_path": "evil.Mine"}'}, ["config.yaml", "limit"]),
    ({"data/layout": "evil.Mine"}, ["config.yaml", "layout"]),
    ({"data/binarization": "evil.Mine"}, ["config.yaml", "binarization"]),
    ({"data/root.class_path": "evil.Mine"}, ["config.yaml", "root"]),
    ({"data/class_path": "evil.Mine"}, ["config.yaml", "class_path"]),
    # facts beside the configuration
    ({"data_shape": [{"class_path": "evil.Mine"}]}, ["data_shape"]),
    ({"data_shape": ["evil.Mine"]}, ["data_shape"]),
    ({"data_shape": [2**70]}, ["config.yaml"]),
    ({"data_shape": [float("inf")]}, ["config.yaml", "data_shape"]),
    ({"data_shape": [2**40]}, ["config.yaml", "data_shape"]),
    ({"sound": {"sample_rate": 2**40}}, ["config.yaml", "sound"]),
    ({"data_shape": [2**40, 2**40]}, ["config.yaml"]),
    ({"sound": POPEN}, ["sound"]),
    ({"sound": {"sample_rate": "evil.Mine"}}, ["sound"]),
    ({"classes": 5}, ["classes"]),
    ({"data_digest": ["evil.Mine"]}, ["data_digest"]),
    # numbers that no machine has room for
    ({"model/init_args/hidden_dims": [-1]}, ["hidden_dims"]),
    ({"model/init_args/hidden_dims": [2**62, 2**62]}, ["config.yaml", "model"]),
    ({"model/init_args/hidden_dims": [3 * 10**6] * 2}, ["config.yaml", "model.init_args.hidden_dims", "1,000,000"]),
    ({"model/init_args/hidden_dims": [1] * 1001}, ["config.yaml", "model.init_args.hidden_dims", "1,001 entries"]),
    (
        {"model": {"class_path": "pyro_vae.models.BIVA", "init_args": {"num_blocks": 2**40}}},
        ["config.yaml", "model.init_args.num_blocks"],
    ),
    ({"first": {**VAE, "model": {"class_path": "VAE", "init_args": {"latent_dim": 2**40}}}}, ["first.model.init_args"]),
    ({"model/init_args/latent_dim": -(2**40)}, ["config.yaml", "model.init_args.latent_dim"]),
    ({"guide/init_args/min_scale": float("nan")}, ["config.yaml", ".nan"]),
    ({"guide/init_args/min_scale": "nan"}, ["config.yaml", "min_scale"]),
    ({"guide/init_args/min_scale": 2.0}, ["config.yaml", "min_scale"]),
    (
        {"objective": {"class_path": "pyro_vae.objectives.IWAE", "init_args": {"num_particles": -1}}},
        ["config.yaml", "num_particles"],
    ),
]


@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_a_configuration(number, place, capsys):
    entries, words = CONFIGS[number]
    run = place.run()
    changed(run / "config.yaml", place.filled(entries))
    said = refused_by_load(run)
    assert all(word in said for word in words), said
    if number % 2:  # one reader serves them all: half of the rows, for time
        return
    command = [*DOORS][number // 2 % len(DOORS)]
    said = refused(capsys, command, run, *DOORS[command])
    assert all(word.strip("\x00\x1b") in said for word in words), said


# ---------------------------------------------------------------------------- YAML itself
DEEP = "[" * 1000 + "]" * 1000
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
TEXTS = {  # what is written at the end of config.yaml, and what must be said
    "tag that applies": ("x: !!python/object/apply:os.system ['touch MARKER']\n", ["python/object/apply"]),
    "tag that makes": ("x: !!python/object/new:evil.Mine []\n", ["python/object/new"]),
    "tag of an object": ("x: !!python/object:evil.Mine {}\n", ["python/object"]),
    "tag of a name": ("x: !!python/name:evil.Mine\n", ["python/name"]),
    "tag of a module": ("x: !!python/module:evil\n", ["python/module"]),
    "tag of a tuple": ("x: !!python/tuple [1]\n", ["python/tuple"]),
    "tag of one's own": ("x: !evil {}\n", ["!evil"]),
    "tag declared": ("...\n%TAG ! tag:yaml.org,2002:python/\n---\nx: !name:evil.Mine\n", ["config.yaml"]),
    "two documents": ("---\nmodel: evil.Mine\n", ["config.yaml"]),
    "key twice": ("model: evil.Mine\n", ["evil.Mine", "under model"]),
    "merge": ("x: &x {class_path: evil.Mine}\nmodel: {<<: *x}\n", ["section", "'x'"]),
    "merge in place": ("model: {<<: {class_path: evil.Mine}}\n", ["evil.Mine", "model.class_path"]),
    "alias": ("guide: &x evil.Mine\nmodel: *x\n", ["evil.Mine"]),
    "alias of itself": ("model: &x {class_path: VAE, init_args: *x}\n", ["nested"]),
    "alias of itself in a fact": ("classes: &x [*x]\n", ["nested"]),
    "aliases of aliases": (BOMB + "model: *a11\n", ["entries"]),
    "aliases of aliases in a fact": ("classes:\n- &a0 [x, x]\n" + BOMB + "recipe: *a11\n", ["config.yaml"]),
    "deep": (f"model: {DEEP}\n", ["nested"]),
    "deep in a fact": (f"version: {'[' * 60}{']' * 60}\n", ["nested"]),
    "number of 10,000 digits": (f"version: 0x{'f' * 10_000}\n", ["config.yaml"]),
    "key that is a number": ("fit: {1: evil.Mine}\n", ["key 1"]),
    "key that is nothing": ("fit: {~: evil.Mine}\n", ["key None"]),
    "key that is a list": ("fit: {[evil.Mine]: 1}\n", ["config.yaml"]),
    "bytes": ("seed: !!binary aGVsbG8=\n", ["config.yaml"]),
    "set": ("seed: !!set {evil.Mine}\n", ["config.yaml"]),
    "date": ("seed: 2001-01-01\n", ["config.yaml"]),
    "month 13": ("seed: 2001-13-01\n", ["config.yaml"]),
    "megabytes": ("# " + "x" * 2**20 + "\n", ["config.yaml", "characters"]),
    "number by sixties": ("version: 1" + ":1" * 200_000 + "\n", ["config.yaml", "400,001 digits"]),
    "fraction by sixties": ("version: 1" + ":1" * 200_000 + ".5\n", ["config.yaml", "digits"]),
    "text by sixties": ('seed: "1' + ":1" * 200_000 + '"\n', ["config.yaml", "400,001 characters"]),
    "omap": ("model: !!omap [class_path: evil.Mine]\n", ["evil.Mine"]),
}


@pytest.mark.parametrize("name", TEXTS)
def test_yaml(name, place, capsys):
    text, words = TEXTS[name]
    run = place.run()
    file = run / "config.yaml"
    file.write_text(file.read_text() + place.filled(text))
    said = refused_by_load(run)
    assert all(word in said for word in words), said
    assert "config.yaml" in refused(capsys, "evaluate", run, *QUIET)


# ---------------------------------------------------------------------------- configurations of parts
PARTS = {  # the run, the part's directory, entries of its config.yaml, what must be said, and the door
    "prior": ("codes", "priors/codes", {"prior": BAD}, ["evil.Mine", "prior.class_path"], "load"),
    "prior by a name": ("codes", "priors/codes", {"prior": "evil.Mine"}, ["evil.Mine", "under prior"], "load"),
    "prior of a module": (
        *("codes", "priors/codes", {"prior": "pyro_vae.priors.base.nn.Linear"}, ["nn.Linear", "under prior"], "load"),
    ),
    "argument of a prior": (
        *("codes", "priors/codes", {"prior/init_args/channels": BAD}, ["evil.Mine", "prior.init_args"], "sample"),
    ),
    "text of a prior": ("codes", "priors/codes", {"text": BAD}, ["evil.Mine", "text.class_path"], "evaluate"),
    "fit of a prior": ("codes", "priors/codes", {"fit/kl_weight": BAD}, ["evil.Mine", "fit.kl_weight"], "report"),
    "draws of a prior": ("codes", "priors/codes", {"draws": "evil.Mine"}, ["evil.Mine", "draws"], "figures"),
    "data of a prior": ("codes", "priors/codes", {"data": {"name": "evil.Mine"}}, ["section", "data"], "load"),
    "ranker of a prior": ("codes", "priors/codes", {"ranker": BAD}, ["section", "ranker"], "load"),
    "labels of a prior": ("codes", "priors/codes", {"num_classes": "evil.Mine"}, ["num_classes"], "load"),
    "tokenizer of a prior": ("codes", "priors/codes", {"tokenizer": "evil.Mine"}, ["tokenizer"], "load"),
    "sizes of a tokenizer": ("codes", "priors/codes", {"tokenizer": {"digest": 1}}, ["tokenizer.json"], "load"),
    "texts of no length": ("text", "priors/codes", {"tokenizer/text_length": None}, ["text_length"], "load"),
    "no words": ("text", "priors/codes", {"~tokenizer/num_words": 0}, ["num_words"], "load"),
    "words without end": ("text", "priors/codes", {"tokenizer/num_words": 2**40}, ["num_words"], "load"),
    "a name for words": ("text", "priors/codes", {"tokenizer/num_words": "x"}, ["num_words"], "load"),
    "labels without end": ("codes", "priors/codes", {"num_classes": 2**40}, ["num_classes"], "load"),
    "a large prior": ("codes", "priors/codes", {"prior/init_args/channels": 4096}, ["far larger"], "load"),
    "a deep prior": ("codes", "priors/codes", {"prior/init_args/num_layers": 10**6}, ["far larger"], "load"),
    "weights of a prior": ("codes", "priors/codes", {"trained_on": BAD}, ["another codebook"], "load"),
    "prior to go on with": ("codes", "priors/codes", {"prior": BAD}, ["evil.Mine", "prior.class_path"], "train-prior"),
    "first, to go on with": ("first", "first", {"model": BAD}, ["evil.Mine", "model.class_path"], "resume-first"),
    "first, by a name": ("first", "first", {"objective": "evil.Mine"}, ["evil.Mine", "objective"], "resume-first"),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part(name, place, capsys):
    base, folder, entries, words, door = PARTS[name]
    if base == "text":
        base, entries = "codes", {"tokenizer": _vocabulary(place.run("codes")), **entries}
    run = place.run(base)
    changed(run / folder / "config.yaml", place.filled(entries))
    if door == "load":
        said = refused_by_load(run)
    elif door == "train-prior":
        (run / folder / "summary.json").unlink()
        said = refused(capsys, "train-prior", "--on", run, "--resume")
    elif door == "resume-first":
        for path in ("checkpoints", "model.safetensors", "metrics.jsonl", "summary.json"):
            shutil.rmtree(run / path) if (run / path).is_dir() else (run / path).unlink()
        said = refused(capsys, "resume", run)
    else:
        said = refused(capsys, door, run, *DOORS[door])
    assert all(word in said for word in [*words, base]), said


RANKERS = {
    "dropout": ({"dropout": BAD}, ["evil.Mine", "dropout.class_path"]),
    "argument": ({"ranker": {"dim": "evil.Mine"}}, ["evil.Mine", "ranker.dim"]),
    "class": ({"ranker": BAD}, ["evil.Mine", "ranker.class_path"]),
    "fit": ({"ranker": {}, "fit/kl_weight": "évil.Mine"}, ["vil.Mine", "fit.kl_weight"]),
    "model": ({"ranker": {}, "model": BAD}, ["section", "model"]),
    "no words": ({"~tokenizer/num_words": 0}, ["num_words"]),
    "words": ({"tokenizer/num_words": "x"}, ["num_words"]),
    "words without end": ({"tokenizer/num_words": 2**40}, ["num_words"]),
    "facts": ({"tokenizer": [1]}, ["tokenizer"]),
    "size": ({"ranker": {"dim": -1}}, ["ranker"]),
    "large": ({"ranker": {"num_layers": 10**5}}, ["far larger"]),
    "size without end": ({"ranker": {"num_layers": 2**40}}, ["ranker.num_layers"]),
}


def _vocabulary(run):
    """Put a tokenizer into a run; what it says of it."""
    from pyro_vae.data import Tokenizer
    from pyro_vae.runs.codes import saved

    pytest.importorskip("tokenizers")
    tokenizer = Tokenizer.train(["a red cat", "a blue dog"], vocabulary_size=260)
    return saved(run / "priors" / "tokenizer.json", tokenizer)


@pytest.mark.parametrize("name", RANKERS)
def test_a_ranker(name, place):
    entries, words = RANKERS[name]
    run = place.run()
    (run / "ranker").mkdir()
    (run / "ranker" / "summary.json").write_text("{}")
    shutil.copy(run / "model.safetensors", run / "ranker")
    facts = _vocabulary(run)
    (run / "ranker" / "config.yaml").write_text(yaml.safe_dump({"version": "0", "tokenizer": facts, "ranker": {}}))
    changed(run / "ranker" / "config.yaml", entries)
    with pytest.raises(InputError) as caught:
        load_ranker(Run(run))
    assert all(word in str(caught.value) for word in [*words, "ranker"]), caught.value


# ---------------------------------------------------------------------------- other files
def untrained(run):
    weights = load_file(run / "model.safetensors")
    save_file(weights, run / "model.safetensors", {ABOUT: json.dumps({"trained": False})})


class Bad:
    """An object that, unpickled, makes the marker."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def _pickled(path, place):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(Bad(place.marker)))


def _objects(path, place):
    np.savez(path, x=np.array([Bad(place.marker)], dtype=object), log_likelihood=np.array([Bad(place.marker)]))


def _checkpoint(path, place):
    for name in ("last.pt", "previous.pt"):
        torch.save({"progress": {"epoch": 1}, "experiment": Bad(place.marker)}, path.parent / name)


def _cifar(path, place):
    batches = path / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        (batches / name).write_bytes(pickle.dumps(Bad(place.marker)))


def _speech(path, place):
    for name in ("speech", "speech.npz"):
        (path / name).mkdir(parents=True)
    _objects(path / "speech" / "speech-8000-8192.npz", place)


def _tokenizer(path, place):
    path.parent.mkdir(exist_ok=True)
    body = {"format": "pyro_vae tokenizer 1", "text_length": 5, "characters": "ab", "tokenizer": {"model": BAD}}
    path.write_text(json.dumps(body))


def _text(text):
    return lambda path, place: path.write_text(place.filled(text))


def _speech_cache(x):
    def make(path, place):
        script = [list(dataclasses.asdict(said).values()) for said in speech.takes()]
        recipe = json.dumps([speech.PEAK, 8000, 8192, speech.SPEAKERS, speech.WORDS, script])
        path.parent.mkdir(parents=True)
        np.savez(path, x=x, recipe=np.array(recipe))

    return {"data/name": "speech", "data/root": "RUN/sets", "data/binarization": "none"}, make


FILES = {  # the file, how it is made, entries of config.yaml, the command, what must be said
    "weights, pickled": ("model.safetensors", _pickled, {}, "evaluate", ["model.safetensors", "damaged"]),
    "weights, of torch.save": ("model.safetensors", _checkpoint, {}, "sample --num 2", None),
    "checkpoint, pickled": ("checkpoints/last.pt", _pickled, {}, "resume --fit.epochs 2", None),
    "checkpoints": ("checkpoints/last.pt", _checkpoint, {}, "resume --fit.epochs 2", ["last.pt", "damaged"]),
    "data of objects": ("x.npz", _objects, {"data/name": "RUN/x.npz"}, "evaluate", ["x.npz", "config.yaml"]),
    "data pickled": ("x.npy", _pickled, {"data/name": "RUN/x.npy"}, "figures", ["x.npy"]),
    "data of torch": ("x.pt", _pickled, {"data/name": "RUN/x.pt"}, "resume", ["x.pt", ".npz or .npy"]),
    "data of Python": ("x.py", _text(EVIL), {"data/name": "RUN/x.py"}, "resume", ["x.py", ".npz or .npy"]),
    "data of the network": ("x", _text(""), {"data/name": "https://localhost/x.npz"}, "evaluate", ["localhost"]),
    "data of a pickled set": ("sets", _cifar, {"data/name": "cifar10", "data/root": "RUN/sets"}, "evaluate", ["CIFAR"]),
    "metrics of markup": ("metrics.jsonl", _text("{}\n"), {}, "figures", ["metrics.jsonl, line 1"]),
    "metrics without a number": (
        *("metrics.jsonl", _text('{"epoch": 1, "x": NaN}\n'), {}, "resume --fit.epochs 2", ["line 1", "finite"]),
    ),
    "endless metrics": ("metrics.jsonl", _text('{"epoch": 1, "x": 1e999}\n'), {}, "figures", ["line 1", "finite"]),
    "deep metrics": ("metrics.jsonl", _text("[" * 100_000 + "\n{}\n"), {}, "figures", ["nested"]),
    "numbers of each datum": ("evaluation-test.npz", _objects, {}, "compare", None),
    "evaluation": ("evaluation-test.json", _text("[]"), {}, "report", ["evaluation-test.json"]),
    "evaluation of texts": (
        "evaluation-test.json",
        _text('{"log_likelihood": "<b>", "standard_error": 1, "num_particles": "x", "num_data": 1}'),
        *({}, "report", ["evaluation-test.json"]),
    ),
    "evaluation of lists": (
        "evaluation-test.json",
        _text('{"log_likelihood": 1, "standard_error": 1, "num_particles": 2, "num_data": 1, "kl": ["evil.Mine"]}'),
        *({}, "report", ["evaluation-test.json"]),
    ),
    **{
        f"evaluation with metrics of {what}": (
            "evaluation-test.json",
            _text(
                '{"log_likelihood": 1, "standard_error": 1, "num_particles": 2, "num_data": 1, "metrics": ' + told + "}"
            ),
            *({}, "report", ["evaluation-test.json"]),
        )
        for what, told in {
            "lists": "[[]]",
            "texts": '{"a": "<b>"}',
            "rows of numbers": '{"a": {"rows": {"b": 1}}}',
            "rows in a list": '{"a": {"rows": ["b"]}}',
        }.items()
    },
    "evaluation, deep": ("evaluation-test.json", _text("[" * 100_000), {}, "report", ["nested"]),
    "measurement of texts": (
        "ais-test.json",
        _text('{"a": {"b": {"c": "<b>"}}, "standard_error": "x"}'),
        {},
        "report",
        None,
    ),
    "summary of texts": ("summary.json", _text('{"seconds": "x", "epochs": {"<b>": []}}'), {}, "report", ["summary"]),
    "summary of lists": ("summary.json", _text("[]"), {}, "report", ["summary.json"]),
    **{
        f"recordings of {x.dtype}": ("sets/speech/speech-8000hz-8192.npz", make, entries, "evaluate", ["damaged"])
        for x in (np.zeros((3, 8192), np.int16), np.array(["a"] * 2400))
        for entries, make in [_speech_cache(x)]
    },
    "a user's home": ("x", _text(""), {"data/name": "~nouser/x"}, "evaluate", ["~nouser", "no such user"]),
    "a root at home": ("x", _text(""), {"data/root": "~nouser/x"}, "evaluate", ["~nouser", "no such user"]),
    "pixels": ("x", _text(""), {"data/image_size": 2**63}, "evaluate", ["image_size", "2,147,483,647"]),
    "many pixels": (
        "x",
        _text(""),
        {"data/image_size": 2**30, "data/binarization": "none"},
        "evaluate",
        ["image_size"],
    ),
    "no betas": ("x", _text(""), {"fit/optimizer_options": {"betas": []}}, "resume --fit.epochs 2", ["betas"]),
    "no truth": ("x", _text(""), {"fit/optimizer_options": {"amsgrad": "x"}}, "resume --fit.epochs 2", ["amsgrad"]),
    "a device": ("x", _text(""), {"fit/device": "tpu"}, "resume --fit.epochs 2", ["device 'tpu'"]),
    "tokenizer": ("priors/tokenizer.json", _tokenizer, {}, "evaluate", ["tokenizer.json", "usable"]),
    "tokenizer, pickled": ("priors/tokenizer.json", _pickled, {}, "evaluate", ["tokenizer.json", "usable"]),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file(name, place, capsys, monkeypatch):
    file, make, entries, command, words = FILES[name]
    monkeypatch.setenv("HOME", str(place.root))  # no data sets of the user's
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    run = place.run()
    if (run / file).is_file():
        (run / file).unlink()
    make(run / file, place)
    if command.startswith("resume") and "fit" in "".join(entries):  # as it was begun
        shutil.rmtree(run / "checkpoints")
        for path in ("metrics.jsonl", "summary.json"):
            (run / path).unlink()
        untrained(run)
    changed(
        run / "config.yaml", {k: v.replace("RUN", str(run)) if isinstance(v, str) else v for k, v in entries.items()}
    )
    command, *options = command.split()
    paths = [run, place.trained / "vae", "--out", place.root] if command == "compare" else [run]
    options = options or (QUIET if command in ("evaluate", "report", "compare") else ())
    monkeypatch.setattr("pyro_vae.reports.report.in_report", lambda: ["training_curves"])
    if words is None:  # it may be used, or refused
        assert main([str(each) for each in (command, *paths, *options)]) in (0, 1)
        assert "Traceback" not in capsys.readouterr().err
    else:
        said = refused(capsys, command, *paths, *options)
        assert all(word in said for word in words), said


# ---------------------------------------------------------------------------- what a checkpoint holds
STATES = {  # what of a checkpoint, whose digest is right, is replaced by what; what must be said
    "a moment of another size": ("optimizer/state/1/exp_avg", torch.zeros(2), ["exp_avg", "shape"]),
    "a moment that is longer": ("optimizer/state/1/exp_avg_sq", torch.zeros(10_000), ["exp_avg_sq", "shape"]),
    "a moment that is none": ("optimizer/state/1/exp_avg", None, ["checkpoint"]),
    "a moment of a text": ("optimizer/state/1/exp_avg", "evil.Mine", ["checkpoint"]),
    "a moment of nothing": ("~optimizer/state/1/exp_avg", None, ["exp_avg"]),
    "another moment": ("optimizer/state/1/evil.Mine", torch.zeros(2), ["evil.Mine"]),
    "a count of several": ("optimizer/state/1/step", torch.zeros(2), ["checkpoint"]),
    "groups": ("optimizer/param_groups", [{"params": ["evil.Mine"]}], ["checkpoint"]),
    "weights": ("weights/model.decoder.out.bias", torch.zeros(1), ["checkpoint"]),
    "noise": ("rng/cpu", torch.zeros(5056, dtype=torch.uint8), ["checkpoint"]),
    "short noise": ("rng/cpu", torch.zeros(1, dtype=torch.uint8), ["checkpoint"]),
    "best weights": ("best_weights", ["evil.Mine"], ["checkpoint"]),
    "progress": ("progress/epoch", "evil.Mine", ["epoch"]),
    "facts": ("experiment/config.yaml seed", 10**30, ["damaged"]),
    "an index that is far": ("progress/index", 10**9, ["index"]),
    "an index before": ("progress/index", -1, ["index"]),
    "an index between": ("progress/index", 1.5, ["index"]),
    "sums without a batch": ("progress/sums", [1.0], ["sums"]),
    "sums of texts": ("progress", {"epoch": 0, "index": 1, "sums": ["x"]}, ["sums"]),
    "sums of others": ("progress", {"epoch": 0, "index": 1, "step": 1, "sums": [1.0] * 99}, ["99 sums"]),
    "an endless time": ("progress/seconds", float("inf"), ["seconds"]),
    "a time that is none": ("progress/seconds", 10**400, ["seconds"]),
    "an end of nothing": ("progress", {"epoch": "x", "finished": "all x epochs"}, ["epoch"]),
    "names of terms": ("names", [1], ["names of terms"]),
    "a tensor without memory": ("weights/x", torch.zeros(1).expand(2**30), ["damaged"]),
    "a tensor beyond all": ("weights/x", torch.zeros(1).expand(2**31, 2**31), ["damaged"]),
    "many tensors in one memory": ("ema", [torch.zeros(10**6)] * 100, ["damaged"]),
    "an odd type": ("weights/x", torch.zeros(2).to(torch.float8_e4m3fn), ["damaged"]),
}


@pytest.mark.parametrize("name", STATES)
def test_a_checkpoint(name, place, capsys, caplog):
    """A fused optimizer writes through bare pointers: what a file says of its moments is checked before."""
    key, value, words = STATES[name]
    run = place.run()
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    del state["digest"]
    place_of = state
    *sections, last = key.removeprefix("~").split("/")
    for section in sections:
        place_of = place_of[int(section) if section.isdigit() else section]
    place_of[last] = value
    if key.startswith("~"):
        del place_of[last]
    digest = "x" if "damaged" in words else state_digest(state)
    torch.save({**state, "digest": digest}, run / "checkpoints" / "last.pt")
    (run / "checkpoints" / "previous.pt").unlink(missing_ok=True)
    caplog.clear()
    said = refused(capsys, "resume", run, "--fit.epochs", "2")
    assert all(word in said for word in words), said
    assert "those that were saved" not in caplog.text, "its tensors were read"


@pytest.mark.parametrize("sizes", [[20_000, 20_000], [1] * 600])
def test_what_is_resumed_is_as_large_as_its_weights(sizes, place, capsys):
    run = place.run()
    changed(run / "config.yaml", {"model/init_args/hidden_dims": sizes, "guide/init_args/hidden_dims": sizes})
    assert "far larger than model.safetensors" in refused(capsys, "resume", run)


def test_a_checkpoint_that_is_packed(place, capsys, caplog):
    run = place.run()
    with zipfile.ZipFile(run / "checkpoints" / "last.pt") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(run / "checkpoints" / "last.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    (run / "checkpoints" / "previous.pt").unlink(missing_ok=True)
    assert "last.pt is damaged" in refused(capsys, "resume", run, "--fit.epochs", "2")
    assert "packed" in caplog.text


IN_PLACE_OF_FILES = {  # the file, what is made in its place, the command, what must be said
    "a log without end": ("metrics.jsonl", lambda path: path.symlink_to("/dev/zero"), "figures", "metrics.jsonl"),
    "a log that waits": ("metrics.jsonl", os.mkfifo, "figures", "metrics.jsonl"),
    "a log that is a folder": ("metrics.jsonl", Path.mkdir, "figures", "metrics.jsonl"),
    "a log that is huge": ("metrics.jsonl", lambda path: _sparse(path, 2**29), "figures", "at most 256 MiB"),
    "a checkpoint that waits": ("checkpoints/last.pt", os.mkfifo, "resume", "damaged"),
    "weights that wait": (
        *("model.safetensors", lambda path: (os.mkfifo(path), shutil.rmtree(path.parent / "checkpoints"))),
        *("resume", "without checkpoints"),
    ),
}


def _sparse(path, size):
    with path.open("wb") as file:
        file.truncate(size)


@pytest.mark.parametrize("name", IN_PLACE_OF_FILES)
def test_in_place_of_a_file(name, place, capsys):
    file, make, command, words = IN_PLACE_OF_FILES[name]
    run = place.run()
    (run / file).unlink()
    (run / "checkpoints" / "previous.pt").unlink(missing_ok=True)
    make(run / file)
    assert words in refused(capsys, command, run)


def test_a_moment_that_shares_its_memory(place):
    """A tensor of the right shape all of whose numbers are in one place: the step gets one of its own."""
    run = place.run()
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    del state["digest"]
    for moments in state["optimizer"]["state"].values():
        for name in ("exp_avg", "exp_avg_sq"):
            moments[name] = torch.zeros(1).expand(moments[name].shape)
    torch.save({**state, "digest": state_digest(state)}, run / "checkpoints" / "last.pt")
    assert main(["resume", str(run), "--fit.epochs", "3"]) == 0
    model, _ = pyro_vae.load(run)
    assert all(p.isfinite().all() for p in model.parameters())


# ---------------------------------------------------------------------------- links inside a run
LINKS = {  # what is a link to a folder (or a file) elsewhere, of which run, the command, what must be said
    "figures of figures": ("vae", "figures", "figures", ["figures is a link"]),
    "figures of sample": ("vae", "figures", "sample --num 2", ["figures is a link"]),
    "figures of reconstruct": ("vae", "figures", "reconstruct --num 2", ["figures is a link"]),
    "figures of gap": (
        *("vae", "figures", "gap --limit 2 --num_chains 2 --num_temperatures 2 --particles [2] --num_steps 1"),
        ["figures is a link"],
    ),
    "sounds of sample": ("sound", "samples", "sample --num 2", ["samples is a link"]),
    "sounds of reconstruct": ("sound", "reconstructions", "reconstruct --num 2", ["reconstructions is a link"]),
    "checkpoints": ("vae", "checkpoints", "resume --fit.epochs 2", ["checkpoints is a link"]),
    "metrics": ("vae", "metrics.jsonl", "resume --fit.epochs 2", ["metrics.jsonl is a link"]),
    "weights": ("vae", "model.safetensors", "resume --fit.epochs 2", ["model.safetensors is a link"]),
    "first": ("first", "first", "resume", ["first is a link"]),
    "priors": ("bare", "priors", "train-prior PRIOR --on", ["priors is a link"]),
    "a prior": ("bare", "priors/codes", "train-prior PRIOR --on", ["codes is a link"]),
    "codes": ("bare", "priors/codes.safetensors", "train-prior PRIOR --on", ["codes.safetensors is a link"]),
    "ranker": ("vae", "ranker", "train-ranker --on", ["ranker is a link"]),
}


@pytest.mark.parametrize("name", LINKS)
def test_a_link(name, place, capsys):
    base, at, command, words = LINKS[name]
    run = place.run({"bare": "codes", "sound": "vae"}.get(base, base))
    if base == "sound":
        changed(run / "config.yaml", {"sound": {"sample_rate": 8000}})
    if base == "bare":
        shutil.rmtree(run / "priors")
    if base == "first":  # as if it had been stopped before the main pair's first step
        for path in ("checkpoints", "model.safetensors", "metrics.jsonl", "summary.json", "first"):
            shutil.rmtree(run / path) if (run / path).is_dir() else (run / path).unlink()
    target = place.elsewhere
    if (run / at).is_dir():
        shutil.move(run / at, place.root / "kept")
    if (run / at).is_file() or at.endswith(".safetensors"):
        target = place.elsewhere / "file"
        (run / at).parent.mkdir(exist_ok=True)
        shutil.copy(place.trained / "vae" / "model.safetensors", target)
        place.elsewhere_before = contents(place.elsewhere)
        (run / at).unlink(missing_ok=True)
    (run / at).parent.mkdir(exist_ok=True)
    (run / at).symlink_to(target)
    said = refused(capsys, *command.replace("PRIOR", str(place.trained / "prior.yaml")).split(), run)
    assert all(word in said for word in words), said


def test_links_to_files_are_replaced(place):
    """What is written as a whole takes the link's place; what the link leads to is left as it was."""
    run = place.run()
    for name in ("evaluation-test.json", "evaluation-test.npz", "samples.npz", "reconstructions.npz"):
        (place.elsewhere / name).write_text("the user's own")
        (run / name).symlink_to(place.elsewhere / name)
    place.elsewhere_before = contents(place.elsewhere)
    assert main(["evaluate", str(run), *QUIET]) == 0
    assert main(["sample", str(run), "--num", "2"]) == 0
    assert main(["reconstruct", str(run), "--num", "2"]) == 0
    assert not (run / "evaluation-test.json").is_symlink() and not (run / "samples.npz").is_symlink()


# ---------------------------------------------------------------------------- pages
RAN = "document.documentElement.setAttribute('data-ran','HOSTILE')"
MARKUP = {  # texts that are to be seen as they are
    "script": f"<script>{RAN}</script>",
    "attribute": f'" onmouseover="{RAN}" x="',
    "image": f"'><img src=x onerror={RAN}>",
    "end of a style": f"</style></pre></td></title><svg onload={RAN}>",
    "comment": "--><!-- HOSTILE",
    "entity": "&lt;b&gt;HOSTILE&#60;script&#62;",
    "template": "$style ${body} $HOSTILE %s {0}",
    "control": "\x1b[31mHOSTILE\u202e\u0007",
}
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "footer", "h1", "h2", "h3", "h4", "p", "a"),
    *("nav", "section", "div", "span", "b", "strong", "pre", "details", "summary", "figure", "figcaption", "img"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "br", "link"),
}


ATTRIBUTES = {"class", "id", "href", "src", "alt", "lang", "rel", "charset", "name", "content", "scope"}


class Strict(Page):
    """A page that has no element and no attribute but those that the package writes."""

    def handle_starttag(self, tag, attributes):
        super().handle_starttag(tag, attributes)
        assert tag in TAGS, tag
        for name, value in attributes:
            assert not name.startswith("on") and name != "x", name
            assert name in ATTRIBUTES, name
            assert "HOSTILE" not in value or name == "alt", (name, value)

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")


@pytest.fixture
def few_figures(monkeypatch):
    monkeypatch.setattr("pyro_vae.reports.report.in_report", lambda: ["training_curves"])


def _spoiled(run, text):
    """Put a text wherever a page takes one from."""
    changed(run / "config.yaml", {"recipe": text, "version": text, "classes": [text] * 10, "data_digest/train": text})
    numbers = {"log_likelihood": -1.5, "standard_error": 0.1, "num_particles": 2, "num_data": 20, "elbo": -2.0}
    told = {**numbers, "split": text, "device": text, "bits_of": f"{text} given {text}", "bits_per_dim": 1.0}
    told |= {"kl": {text: 1.0, "z": 1.0}, "reconstruction": {text: 1.0}, "given": [text], "warnings": [text]}
    told |= {"data_digest": text, "weights_digest": text, "seed": 0, "density": True}
    told |= {"metrics": {text: {"rows": {text: text}, "summary": {text: [text]}}}}
    for part in ("test", "validation"):
        (run / f"evaluation-{part}.json").write_text(json.dumps(told))
    other = {**numbers, text: text, "rows": [{text: text, "bound": text}], "inner": {text: text}, "warnings": [text]}
    (run / "ais-test.json").write_text(json.dumps(other))
    (run / "summary.json").write_text(json.dumps({"epochs": 1, "steps": 2, "seconds": 1.0, "stopped": text}))
    line = {"epoch": 1, "step": 2, "seconds": 1.0, "train/loss": 1.0, f"train/kl/{text}": 1.0}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    folder = run / "priors" / "".join(c for c in text if c not in "/\0")
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"recipe": text, "fit": {"epochs": text, text: text}}))


@pytest.mark.parametrize("name", MARKUP)
def test_a_report(name, place, few_figures, capsys):
    text = MARKUP[name]
    run = place.run().rename(place.root / "".join(c for c in text if c not in "/\0"))
    _spoiled(run, text)
    assert main(["report", str(run)]) == 0
    page = Strict((run / "report.html").read_text(encoding="utf-8"))
    check_alone(page)
    assert "HOSTILE" in page.text and page.text.isprintable() is False  # lines
    assert "\x1b" not in "".join(capsys.readouterr().err.splitlines())


@pytest.mark.parametrize("name", ["script", "attribute", "template"])
def test_a_comparison(name, place):
    text = MARKUP[name]
    named = "".join(c for c in text if c not in "/\0")
    runs = [place.run().rename(place.root / f"{named}{i}") for i in range(2)]
    for i, run in enumerate(runs):
        changed(run / "config.yaml", {"recipe": f"{text}{i}", "version": text, "seed": i})
        (run / "summary.json").write_text(json.dumps({"epochs": 1, "stopped": text}))
    assert main(["compare", *map(str, runs), "--out", str(place.root), "--limit", "3", *QUIET]) == 0
    page = Strict((place.root / "comparison.html").read_text(encoding="utf-8"))
    check_alone(page)
    assert "HOSTILE" in page.text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")
def test_a_browser_runs_nothing_of_them(place, few_figures, tmp_path):
    """All of them at once, in every text of a report and of a comparison, with the pointer over every element."""
    text = "".join(MARKUP.values())
    named = "".join(c for c in text if c not in "/\0")[:200]
    runs = [place.run().rename(place.root / f"{named}{i}") for i in range(2)]
    for i, run in enumerate(runs):
        changed(run / "config.yaml", {"recipe": f"{text}{i}", "version": text, "seed": i})
    assert main(["compare", *map(str, runs), "--out", str(place.root), "--limit", "3", *QUIET]) == 0
    _spoiled(runs[0], text[:250])
    assert main(["report", str(runs[0])]) == 0
    (tmp_path / "open.html").write_text(f"<!DOCTYPE html><html><body><p>{text}</p></body></html>")
    assert _ran(tmp_path / "open.html", tmp_path)[0]
    for page in (runs[0] / "report.html", place.root / "comparison.html"):
        ran, dom = _ran(page, tmp_path)
        assert not ran and "HOSTILE" in Strict(dom).text


def _ran(file, folder):
    """Whether a page's texts have run in a browser, and what it has made of the page."""
    look = """<script>addEventListener("load", () => document.querySelectorAll("*").forEach(e => ["mouseover",
        "click", "focus", "toggle"].forEach(n => e.dispatchEvent(new Event(n)))))</script>"""
    looked = folder / "looked.html"
    looked.write_text(file.read_text(encoding="utf-8").replace("</body>", look + "</body>"), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--virtual-time-budget=2000", "--dump-dom", looked.as_uri()]
    started = list(_watched["seen"])
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    _watched["seen"][:] = started  # the browser is the test's
    return 'data-ran="HOSTILE"' in dom.split("<head>")[0], dom.replace(look, "")


RECIPES = {  # what a recipe that a run names may hold; the page says that it is not here
    "class": yaml.safe_dump({"data": DATA, **VAE, "model": BAD}),
    "function": "model: evil.run\nguide: evil.run\ndata: {name: mnist5k}\n",
    "pair": "pair: evil.Mine\ndata: {name: mnist5k}\n",
    "prior": "prior: evil.Mine\n",
    "tag": "x: !!python/object/apply:os.system ['touch MARKER']\n",
    "aliases": BOMB + "model: *a11\n",
    "itself": "&x {model: *x}\n",
    "number": "5\n",
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_that_a_run_names(name, place):
    run = place.run("codes")
    (run / "evil.yaml").write_text(place.filled(RECIPES[name]))
    changed(run / "config.yaml", {"recipe": str(run / "evil.yaml")})
    changed(run / "priors" / "codes" / "config.yaml", {"recipe": str(run / "evil.yaml")})
    said = [train_command(Run(run)), *prior_commands(Run(run))]
    assert len(said) == 2 and all("not here" in command and "--trust" not in command for command in said)


# ---------------------------------------------------------------------------- the surroundings
LIBRARIES = ("tokenizers", "arviz", "scipy", "yaml", "torch", "pyro", "espeak", "sitecustomize", "mnist5k")


def test_modules_in_a_run_directory(place, monkeypatch):
    """A run in the working directory: what lies in it is not imported."""
    run = place.run()
    for name in LIBRARIES:
        (run / f"{name}.py").write_text(EVIL.format(str(place.marker)))
        (run / name).mkdir()
        (run / name / "__init__.py").write_text(EVIL.format(str(place.marker)))
    monkeypatch.chdir(run)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])  # what --trust added in other tests
    before = list(sys.path)
    pyro_vae.load(".")
    assert main(["evaluate", ".", *QUIET]) == 0
    assert main(["sample", ".", "--num", "2"]) == 0
    assert main(["resume", "."]) == 0
    assert sys.path == before and "" not in sys.path


def test_matplotlibrc_in_a_run_directory(place, monkeypatch):
    """Matplotlib reads such a file of the working directory at its import; before version 3.11 it could run code."""
    (place.root / "modules" / "matplotlib.py").write_text("import os\nread = os.path.exists('matplotlibrc')\n")
    monkeypatch.delitem(sys.modules, "matplotlib")
    (place.root / "work" / "matplotlibrc").write_text("")
    importlib.reload(without_matplotlibrc)
    assert sys.modules["matplotlib"].read is False and Path.cwd() == place.root / "work"


@pytest.mark.slow
def test_matplotlibrc_in_the_working_directory_of_the_command(place):
    """The counterpart, of Matplotlib itself."""
    _watched["on"] = False
    run = place.run()
    (run / "matplotlibrc").write_text("figure.titlesize: 77\n")
    code = (
        "import sys; sys.path = [p for p in sys.path if p]; from pyro_vae.cli import main; import matplotlib, os\n"
        "print(matplotlib.rcParams['figure.titlesize'], os.getcwd())"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(pyro_vae.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], cwd=run, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["large", str(run)], done.stderr


def test_the_log_does_not_drive_a_terminal(place, monkeypatch, capsys):
    monkeypatch.setattr(logging.root, "handlers", [])
    assert main(["recipes"]) == 0
    logging.getLogger("pyro_vae").warning("data %s\nline", "\x1b[2J\u202e\udcff é 猫")
    assert capsys.readouterr().err == "data \\x1b[2J\\u202e\\udcff é 猫\nline\n"


# ---------------------------------------------------------------------------- what a configuration can set
SIMPLE = {int, float, bool, str, type(None)}
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
HANDED = {"data_shape", "data_mean", "model", *FROM_DATA}  # by the package, never by a configuration


def _kinds(annotation):
    """The types in an annotation: ``int``, ``list``, a class of the package; a Literal's are its values'."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return {type(value) for value in inner}
    found = set() if origin in (None, typing.Union, types.UnionType) else {origin}
    return found.union(*(_kinds(each) for each in inner if each is not ...)) if inner else {annotation}


def _hints(function):
    code = function.__init__ if inspect.isclass(function) else function
    return typing.get_type_hints(code) if inspect.isfunction(code) else {}


def _open_arguments(function, left_out):
    """Arguments that could be set to more than numbers, words, lists, mappings and known classes."""
    houses = {cls for cls in known_classes().values() if inspect.isclass(cls)}
    allowed = SIMPLE | houses | {torch.nn.Module, list, tuple, dict, *typing.get_args(typing.Sequence | typing.Mapping)}
    hints, found = _hints(function), []
    for argument in inspect.signature(function).parameters.values():
        if argument.name in left_out or (argument.kind in VARIADIC and function.__init__ is torch.nn.Module.__init__):
            continue  # torch's modules themselves take none
        kinds = _kinds(hints[argument.name]) if argument.name in hints else {"nothing"}
        strange = {k for k in kinds if k not in allowed and getattr(k, "__module__", "") != "collections.abc"}
        if strange or kinds & {typing.Any, object} or typing.get_origin(hints.get(argument.name)) is typing.Callable:
            found.append(f"{function.__module__}.{function.__name__}: {argument.name} ({strange})")
    return found


def test_no_known_class_has_an_argument_through_which_code_could_be_named():
    found = [words for cls in {*known_classes().values()} for words in _open_arguments(cls, HANDED)]
    assert found == []


def test_what_is_told_of_data_and_training_is_simple():
    assert _open_arguments(load_data, {"root"}) == []
    for each in sources():
        assert _open_arguments(each.load, HANDED_TO_LOADERS) == []
    assert _kinds(_hints(load_data)["root"]) == {str, Path, type(None)}
    from pyro_vae.training import fit

    assert _open_arguments(fit, NOT_CONFIGURED) == []


def test_torchs_optimizers_and_schedulers_are_harmless_where_they_belong_alone(place):
    paths = {"optimizer": "torch.optim.RAdam", "lr_scheduler": "torch.optim.lr_scheduler.StepLR"}
    assert foreign_names({"fit": paths}) == foreign_names({"first": {"fit": paths}}) == []
    assert foreign_names({"model": {"fit": paths}}) == foreign_names(paths) == list(paths.values())
    assert foreign_names({"fit": {"x": paths}}) == foreign_names({"first": {"first": {"fit": paths}}}) != []
    assert foreign_names({"fit": dict(zip(paths, reversed(paths.values()), strict=True))}) != []
    assert not any(path in known_classes() for path in paths.values())


def test_only_words_numbers_and_known_classes_are_harmless(place):
    assert foreign_names({"a": ["pyro_vae.models.VAE", "1e-3", "nan", "", "ab-c_d:e+1", None, 1, True]}) == []
    strange = ["a.b", "a/b", "a b", "{}", "é", "~", "$x", "\n", "word"]
    assert foreign_names({"a": strange, "data": {"name": "a.b"}}) == strange

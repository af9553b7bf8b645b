"""Priors learned for a run: one command, a part of the run, and never at its expense."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from command_line import files, run, write
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import pyro_vae
from pyro_vae.data import Data, Split
from pyro_vae.evaluation import log_likelihood
from pyro_vae.priors import GatedPixelCNN, UniformPrior
from pyro_vae.runs import Run
from pyro_vae.runs import codes as codes_module
from pyro_vae.runs.prior_stage import as_code_data
from pyro_vae.training.experiment import state_digest
from pyro_vae.training.loop import Trainer

FIT = {"epochs": 2, "batch_size": 10, "device": "cpu", "checkpoint_every": 0.0}
SMALL = {"channels": 4, "block_channels": 3, "num_blocks": 1, "code_dim": 3}
VQ = {
    "data": {"name": "mnist5k", "binarization": "threshold", "limit": 40},
    "model": {
        "class_path": "pyro_vae.models.VQVAE",
        "init_args": {"num_codes": 5, "likelihood": {"class_path": "pyro_vae.likelihoods.Bernoulli"}, **SMALL},
    },
    "guide": {"class_path": "pyro_vae.guides.VQGuide"},
    "fit": FIT,
}
VQ2 = VQ | {
    "model": {
        "class_path": "pyro_vae.models.VQVAE2",
        "init_args": {"num_codes": [4, 5], "likelihood": {"class_path": "pyro_vae.likelihoods.Bernoulli"}, **SMALL},
    },
    "guide": {"class_path": "pyro_vae.guides.VQ2Guide"},
}
PRIOR = {
    "prior": {"class_path": "pyro_vae.priors.GatedPixelCNN", "init_args": {"channels": 4, "num_layers": 2}},
    "fit": FIT,
}


@pytest.fixture(scope="module")
def stage_one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage-one")
    for name, config in (("vq", VQ), ("vq2", VQ2)):
        assert run("train", write(folder, f"{name}.yaml", config), "--out", folder / name) == 0
    return folder


@pytest.fixture
def vq(stage_one, tmp_path):
    shutil.copytree(stage_one / "vq", tmp_path / "vq")
    return tmp_path / "vq"


@pytest.fixture
def recipe(tmp_path):
    return write(tmp_path, "prior.yaml", PRIOR)


def test_a_learned_prior_becomes_a_part_of_the_run(vq, recipe, capsys):
    before, (model, guide) = files(vq), pyro_vae.load(vq)
    assert isinstance(model.priors["codes"], UniformPrior)
    data = Run(vq).data()
    uniform = log_likelihood(model, guide, data, num_particles=1)
    assert run("train-prior", recipe, "--on", vq) == 0
    model, guide = pyro_vae.load(vq)
    prior = model.priors["codes"]
    assert isinstance(prior, GatedPixelCNN) and prior.num_classes == 10 and not prior.training
    assert files(vq) == before
    learned = log_likelihood(model, guide, data, num_particles=1)
    codes = codes_module.extract_codes(model, guide, data.test, ["codes"])
    difference = prior(y=codes["y"]).log_prob(codes["codes"]) + 49 * np.log(5)
    wanted = uniform.per_datum + difference.double()
    torch.testing.assert_close(learned.per_datum, wanted, atol=1e-3, rtol=0)  # nothing else has changed
    capsys.readouterr()
    assert run("evaluate", vq, "--particles", "1", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kl"]["codes"] == pytest.approx((49 * np.log(5) - difference.mean()).item(), rel=1e-4)
    assert run("sample", vq, "--num", "6", "--y", "3") == 0
    with np.load(vq / "samples.npz") as drawn:
        assert drawn["codes"].shape == (6, 7, 7) and drawn["x"].shape[0] == 6
    assert run("figures", vq) == 0


def test_an_unconditional_one_needs_no_label(vq, recipe):
    assert run("train-prior", recipe, "--on", vq, "--conditional", "false") == 0
    model, _ = pyro_vae.load(vq)
    assert model.priors["codes"].num_classes is None
    assert run("sample", vq, "--num", "4") == 0


def test_the_levels_of_a_hierarchy_one_after_the_other(stage_one, tmp_path, recipe, caplog):
    shutil.copytree(stage_one / "vq2", tmp_path / "vq2")
    assert run("train-prior", recipe, "--on", tmp_path / "vq2", "--site", "codes_top") == 0
    model, _ = pyro_vae.load(tmp_path / "vq2")
    assert [type(p) for p in model.priors.values()] == [GatedPixelCNN, UniformPrior]
    assert "no prior is learned of codes_bottom yet" in caplog.text
    assert run("train-prior", recipe, "--on", tmp_path / "vq2", "--prior.num_layers", "3") == 0
    model, guide = pyro_vae.load(tmp_path / "vq2")
    top, bottom = model.priors.values()
    assert list(model.priors) == ["codes_top", "codes_bottom"]
    assert len(top.layers) == 2 and len(bottom.layers) == 3
    assert set(bottom.context) == {"y", "codes_top"} and set(top.context) == {"y"}
    assert log_likelihood(model, guide, Run(tmp_path / "vq2").data(), num_particles=1).per_datum.isfinite().all()
    assert run("sample", tmp_path / "vq2", "--y", "1,2", "--num", "4") == 0


def test_an_interrupted_second_stage_leaves_the_first_and_goes_on_to_the_same_end(vq, recipe, tmp_path, monkeypatch):
    shutil.copytree(vq, tmp_path / "straight")
    assert run("train-prior", recipe, "--on", tmp_path / "straight") == 0
    before, finish = files(vq), Trainer._finish_epoch

    def interrupted(self, started):
        finish(self, started)
        self.interrupts.pressed = True

    monkeypatch.setattr(Trainer, "_finish_epoch", interrupted)
    with pytest.raises(SystemExit):
        run("train-prior", recipe, "--on", vq)
    monkeypatch.undo()
    assert files(vq) == before
    model, _ = pyro_vae.load(vq)
    assert isinstance(model.priors["codes"], UniformPrior)  # until the other one is trained to its end
    assert run("train-prior", recipe, "--on", vq) == 1  # says that there is one to resume
    assert run("train-prior", "--on", vq, "--resume") == 0
    summaries = [json.loads((p / "priors/codes/summary.json").read_text()) for p in (vq, tmp_path / "straight")]
    assert summaries[0] | {"seconds": 0} == summaries[1] | {"seconds": 0}
    assert summaries[0]["recipe"] == str(recipe)
    ours, theirs = (load_file(p / "priors/codes/model.safetensors") for p in (vq, tmp_path / "straight"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert files(vq) == before


def test_a_refused_prior_leaves_no_trace_of_itself(vq, recipe, capsys):
    assert run("train-prior", recipe, "--on", vq, "--fit.epochs", "0") == 1
    assert "epochs must be a positive integer" in capsys.readouterr().err
    assert not (vq / "priors" / "codes" / "config.yaml").exists()
    assert run("train-prior", recipe, "--on", vq) == 0


@pytest.mark.slow
def test_two_devices(stage_one, tmp_path, recipe):
    """The second process runs the same command; it must not stumble over what the first one has begun."""
    shutil.copytree(stage_one / "vq2", tmp_path / "vq2")
    command = [sys.executable, "-m", "pyro_vae", "train-prior", recipe, "--on", tmp_path / "vq2"]
    environment = {k: v for k, v in os.environ.items() if k != "LOCAL_RANK"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*map(str, command), "--fit.num_devices", "2"], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    model, _ = pyro_vae.load(tmp_path / "vq2")
    assert [type(p) for p in model.priors.values()] == [GatedPixelCNN, GatedPixelCNN]


def test_codes_are_extracted_once(vq, recipe, monkeypatch):
    assert run("train-prior", recipe, "--on", vq) == 0
    shutil.rmtree(vq / "priors" / "codes")
    monkeypatch.setattr(codes_module, "extract_codes", None)
    assert run("train-prior", recipe, "--on", vq) == 0
    (vq / "priors" / "codes.safetensors").write_bytes(b"cut short")
    shutil.rmtree(vq / "priors" / "codes")
    with pytest.raises(TypeError):
        run("train-prior", recipe, "--on", vq)


def test_codes_of_other_weights_are_not_taken_from_memory(vq, recipe):
    assert run("train-prior", recipe, "--on", vq) == 0
    kept = load_file(vq / "priors" / "codes.safetensors")
    weights = load_file(vq / "model.safetensors")
    weights["model.quantizer.codebook"] = weights["model.quantizer.codebook"].flip(0)  # the same codes, renamed
    save_file(weights, vq / "model.safetensors")
    shutil.rmtree(vq / "priors" / "codes")
    assert run("train-prior", recipe, "--on", vq) == 0
    codes = load_file(vq / "priors" / "codes.safetensors")
    for part in ("train", "validation", "test"):
        assert torch.equal(codes[f"{part}/codes"], 4 - kept[f"{part}/codes"])


def test_codes_as_data_keep_their_part_of_the_data_and_what_is_beside_them():
    parts = ("train", "validation", "test")
    codes = {
        part: {"codes_top": torch.full((4, 2), i), "codes_bottom": torch.full((4, 4), 3 + i), "y": torch.full((4,), i)}
        for i, part in enumerate(parts)
    }
    coded = Data(**{part: Split({"x": torch.zeros(4, 1)}, captions=[part] * 4) for part in parts})
    data = as_code_data(codes, "codes_bottom", ["codes_top"], coded)
    for i, part in enumerate(parts):
        assert data.splits[part].captions == (part,) * 4
        batch = getattr(data, part).batch(slice(None))
        assert {name: value.unique().tolist() for name, value in batch.items()} == {
            "x": [3 + i], "codes_top": [i], "y": [i],
        }  # fmt: skip


def test_a_prior_of_another_codebook_is_refused(vq, recipe, capsys):
    assert run("train-prior", recipe, "--on", vq) == 0
    weights = load_file(vq / "model.safetensors")
    save_file(
        {name: value + 0.1 if value.is_floating_point() else value for name, value in weights.items()},
        vq / "model.safetensors",
    )
    assert run("evaluate", vq, "--particles", "1") == 1
    assert "trained on another codebook" in capsys.readouterr().err


def test_a_label_that_the_prior_has_never_seen_is_refused(vq, recipe, capsys):
    assert run("train-prior", recipe, "--on", vq) == 0
    assert run("sample", vq, "--y", "10") == 1
    assert "class labels from 0 to 9" in capsys.readouterr().err
    file = vq / "priors" / "codes" / "model.safetensors"
    weights = load_file(file)
    name = next(n for n in weights if n.endswith("seen"))
    weights[name][4] = False
    save_file(weights, file)
    assert run("sample", vq, "--y", "4") == 1
    assert "0, 1, 2, 3, 5" in capsys.readouterr().err
    assert run("sample", vq) == 1  # none given
    assert "--y" in capsys.readouterr().err


def test_a_prior_that_cannot_be_read_is_an_error_and_not_another_model(vq, recipe, capsys):
    assert run("train-prior", recipe, "--on", vq) == 0
    config = vq / "priors" / "codes" / "config.yaml"
    content = config.read_text()
    config.unlink()
    assert run("evaluate", vq) == 1 and "but no config.yaml" in capsys.readouterr().err
    config.write_text(content)
    (vq / "priors" / "codes" / "model.safetensors").unlink()
    assert run("evaluate", vq) == 1 and "model.safetensors does not exist" in capsys.readouterr().err


def test_labels_without_an_example_in_training_are_unseen(vq, recipe):
    assert run("train-prior", recipe, "--on", vq) == 0
    cache = vq / "priors" / "codes.safetensors"
    codes = load_file(cache)
    with safe_open(cache, "pt") as file:
        made = file.metadata()
    for name in ("train/y", "validation/y"):
        codes[name][codes[name] == 4] = 3
    save_file(codes, cache, made | {"digest": state_digest(dict(sorted(codes.items())))})
    shutil.rmtree(vq / "priors" / "codes")
    assert run("train-prior", recipe, "--on", vq) == 0
    model, _ = pyro_vae.load(vq)
    assert model.priors["codes"].seen.tolist() == [label != 4 for label in range(10)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vae", "--on", "{vq}"), "no section 'prior'"),
        (("{recipe}", "--on", "{vq}", "--site", "codes_bottom"), "unknown code site 'codes_bottom'"),
        (("--on", "{vq}", "--resume"), "none is begun"),
        (("{recipe}", "--on", "{vq}", "--resume", "--fit.epochs", "9"), "options that it was begun with"),
        (("--on", "{vq}"), "the recipe comes first"),
        (("{recipe}", "--on", "{vq}", "--prior.kernel", "4"), "kernel must be odd"),
        (("{recipe}", "--on", "{empty}"), "not a run directory"),
    ],
)
def test_what_cannot_be_trained_is_said(vq, recipe, tmp_path, capsys, arguments, message):
    given = [a.format(vq=vq, recipe=recipe, empty=tmp_path / "empty") for a in arguments]
    assert run("train-prior", *given) in (1, 2)  # 2: not understood
    assert message in capsys.readouterr().err
    assert pyro_vae.load(vq)


def test_a_prior_is_not_conditional_on_labels_that_are_not_known(tmp_path, recipe, capsys):
    config = {**VQ, "data": {**VQ["data"], "num_labels": 5}}
    assert run("train", write(tmp_path, "few.yaml", config), "--out", tmp_path / "few") == 0
    assert run("train-prior", tmp_path / "few", recipe) == 1
    assert "some labels of the training data are not known" in capsys.readouterr().err
    assert run("train-prior", tmp_path / "few", recipe, "--conditional", "false") == 0


def test_a_model_without_codes_has_no_prior_to_learn(tmp_path, recipe, capsys):
    config = VQ | {
        "model": {"class_path": "pyro_vae.models.VAE", "init_args": {"latent_dim": 2, "hidden_dims": [4]}},
        "guide": {"class_path": "pyro_vae.guides.GaussianGuide", "init_args": {"hidden_dims": [4]}},
    }
    assert run("train", write(tmp_path, "vae.yaml", config), "--out", tmp_path / "vae") == 0
    assert run("train-prior", recipe, "--on", tmp_path / "vae") == 1
    assert "VAE has no codes" in capsys.readouterr().err
    assert run("train", recipe, "--out", tmp_path / "x") == 1
    assert "train-prior" in capsys.readouterr().err


def test_an_unfinished_first_stage_is_refused(vq, recipe, capsys):
    (vq / "summary.json").unlink()
    assert run("train-prior", recipe, "--on", vq) == 1
    assert "not trained to its end" in capsys.readouterr().err


def test_what_a_kill_leaves_of_a_file_is_no_prior(vq, recipe):
    """Whichever file was being written: the run can be read, training begins, and nothing of it stays."""
    files = ("codes/config.yaml", "codes/summary.json", "codes.safetensors", "tokenizer.json")
    left = [(vq / "priors" / name).with_name(f".pyro_vae-abcd1234-{name.split('/')[-1]}") for name in files]
    for file in left:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("half a fi")
        pyro_vae.load(vq)
    assert run("train-prior", recipe, "--on", vq) == 0
    pyro_vae.load(vq)
    assert not list(vq.rglob(".pyro_vae-*"))


@pytest.mark.parametrize("change", ["a code", "rows"])
def test_kept_codes_that_were_changed_are_made_anew(vq, recipe, caplog, change):
    assert run("train-prior", recipe, "--on", vq) == 0
    cache = vq / "priors" / "codes.safetensors"
    with safe_open(cache, "pt") as file:
        about, codes = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    changed = {key: value.clone() if change == "a code" else value[:3].clone() for key, value in codes.items()}
    changed["train/codes"][0, 0, 0] += 1
    save_file(changed, cache, about)
    shutil.rmtree(vq / "priors" / "codes")
    assert run("train-prior", recipe, "--on", vq) == 0
    assert "is not as it was written: the codes are made anew" in caplog.text
    assert all(torch.equal(value, codes[key]) for key, value in load_file(cache).items())


@pytest.mark.parametrize("lost", ["all", "the last"])
def test_a_refused_resume_leaves_the_prior_s_configuration(vq, recipe, capsys, lost):
    assert run("train-prior", recipe, "--on", vq) == 0
    folder = vq / "priors" / "codes"
    (folder / "summary.json").unlink()
    if lost == "all":
        shutil.rmtree(folder / "checkpoints")
    else:  # and an option is another
        (folder / "checkpoints" / "last.pt").rename(folder / "checkpoints" / "previous.pt")
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace("batch_size: 10", "batch_size: 5"))
    before = (folder / "config.yaml").read_bytes()
    capsys.readouterr()
    assert run("train-prior", "--on", vq, "--resume") == 1
    assert (folder / "config.yaml").read_bytes() == before
    pyro_vae.load(vq)


def test_a_prior_is_told_from_another_of_its_run(vq, recipe, caplog):
    assert run("train-prior", recipe, "--on", vq) == 0
    caplog.clear()
    pyro_vae.load(vq)
    assert "trained otherwise" not in caplog.text
    config = vq / "priors" / "codes" / "config.yaml"
    config.write_text(config.read_text().replace("batch_size: 10", "batch_size: 5"))
    pyro_vae.load(vq)
    assert "trained otherwise than its configuration says: config.yaml fit.batch_size was 10 and is 5" in caplog.text

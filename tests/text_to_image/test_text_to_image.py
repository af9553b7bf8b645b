"""Text to image on the command line: a dVAE, a prior over captions and codes, a ranker, and the best of many."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from command_line import run, write
from made_scenes import made_scenes
from PIL import Image
from safetensors.torch import load_file

import pyro_vae
from pyro_vae.data import Tokenizer
from pyro_vae.evaluation import log_likelihood
from pyro_vae.priors import TransformerPrior, UniformPrior
from pyro_vae.runs import Run
from pyro_vae.text_to_image.ranker import load_ranker
from pyro_vae.text_to_image.ranking import draw_best
from pyro_vae.training.loop import Trainer

FIT = {"epochs": 1, "batch_size": 20, "device": "cpu", "compile": "off", "checkpoint_every": 0.0}
TRANSFORMER = {"width": 8, "num_layers": 1, "heads": 2, "condition_dropout": 0.2}
PRIOR = {
    "prior": {"class_path": "pyro_vae.priors.TransformerPrior", "init_args": TRANSFORMER},
    "text": {"vocabulary_size": 300, "dropout": 0.2},
    "fit": FIT,
}
RANKER = {"ranker": {"dim": 4, "hidden_dims": [4], "width": 8, "num_layers": 1, "heads": 2}, "fit": FIT}
CAPTION = "red bar left of grey"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of images with captions, a run on it, and recipes."""
    folder, scenes = tmp_path_factory.mktemp("text"), made_scenes(4)
    pairs = [(a, b) for a in range(8) for b in range(8) if a != b]
    objects = torch.tensor([[a, b, -1, -1] for a, b in pairs])
    layout = torch.arange(len(pairs)) % 2
    images = scenes.draw(layout, objects).permute(0, 2, 3, 1).numpy()
    (folder / "data").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / "data" / f"{i:02d}.png")
    lines = [f"{i:02d}.png\t{caption}" for i, caption in enumerate(scenes.captions(layout, objects))]
    (folder / "data" / "captions.txt").write_text("\n".join(lines))
    write(folder, "prior.yaml", PRIOR), write(folder, "ranker.yaml", RANKER)
    network = {"num_codes": 5, "code_dim": 3, "halvings": 1, "channels": 8, "num_blocks": 1}
    config = {
        "data": {"name": str(folder / "data")},
        "model": {"class_path": "pyro_vae.models.DVAE", "init_args": network},
        "guide": {"class_path": "pyro_vae.guides.DVAEGuide"},
        "fit": FIT,
    }
    assert run("train", write(folder, "dvae.yaml", config), "--out", folder / "plain") == 0
    shutil.copytree(folder / "plain", folder / "text")
    assert run("train-prior", folder / "prior.yaml", "--on", folder / "text") == 0
    return folder


@pytest.fixture
def plain(folder, tmp_path):
    return shutil.copytree(folder / "plain", tmp_path / "plain")


@pytest.fixture
def text(folder, tmp_path):
    return shutil.copytree(folder / "text", tmp_path / "text")


def refused(capsys, *arguments):
    capsys.readouterr()
    assert run(*arguments) == 1
    return capsys.readouterr().err


def test_the_prior_is_one_over_texts_and_a_part_of_the_run(text):
    model, guide = pyro_vae.load(text)
    prior, tokenizer = model.priors["codes"], Run(text).tokenizer()
    assert isinstance(prior, TransformerPrior)
    assert (prior.text_length, prior.num_words) == (tokenizer.text_length, tokenizer.vocabulary_size)
    data = Run(text).data()
    batch = data.test.batch(slice(None))
    assert torch.equal(batch["text"], tokenizer.encode(data.test.captions, new_characters=True))
    joint = log_likelihood(model, guide, data, num_particles=1).per_datum
    model.priors["codes"] = UniformPrior(5, prior.shape)
    uniform = log_likelihood(model, guide, data, num_particles=1, seed=0)
    model.priors["codes"] = prior
    assert joint.isfinite().all() and (joint != uniform.per_datum).all()


def test_evaluate_tells_what_it_is_of(text, capsys):
    capsys.readouterr()
    assert run("evaluate", text, "--particles", "2", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["given"] == [] and set(told["reconstruction"]) == {"text", "x"}
    prior, batch = pyro_vae.load(text)[0].priors["codes"], Run(text).data().test.batch(slice(None))
    with torch.no_grad():
        assert told["reconstruction"]["text"] == pytest.approx(prior.text_log_prob(batch["text"]).mean().item(), 1e-5)


def test_from_texts_to_the_best_of_many(text, folder, capsys):
    assert "has no ranker that could tell the best of 4: pyro-vae train-ranker " in refused(
        capsys, "sample", text, "--text", CAPTION, "--best-of", "4"
    )
    assert run("sample", text, "--text", CAPTION, "--num", "3") == 0
    with np.load(text / "samples.npz") as drawn:
        assert drawn["x.mean"].shape == (1, 3, 3, 8, 8) and "score" not in drawn
    assert run("train-ranker", folder / "ranker.yaml", "--on", text) == 0
    assert "a ranker is learned already" in refused(capsys, "train-ranker", "--on", text)
    (text / "figures" / "samples.png").unlink()
    options = ["--num", "2", "--best-of", "4", "--guidance", "1", "--temperature", "0.9", "--top_p", "0.9"]
    assert run("sample", text, "--text", f"{CAPTION}; pink above cyan", "--text", "grey above pink", *options) == 0
    assert (text / "figures" / "samples.png").is_file()
    with np.load(text / "samples.npz") as drawn:
        texts, images, scores = drawn["text"].tolist(), torch.tensor(drawn["x.mean"]), torch.tensor(drawn["score"])
    assert texts == [CAPTION, "pink above cyan", "grey above pink"]
    assert images.shape == (3, 2, 3, 8, 8) and (scores[:, 0] >= scores[:, 1]).all()
    scorer = load_ranker(Run(text))
    learned = weights_of(text / "ranker")["model.text_encoder.tokens"]
    assert torch.equal(scorer.model.text_encoder.tokens, learned)
    again = scorer(images.flatten(0, 1), [told for told in texts for _ in range(2)]).reshape(3, 2)
    torch.testing.assert_close(again, scores)


def test_options_of_drawing_are_those_of_python(text):
    how = {"seed": 3, "temperature": 1.7, "top_k": 4, "top_p": 0.8, "guidance": 2.0}
    given = [word for name, value in how.items() for word in (f"--{name}", value)]
    assert run("sample", text, "--text", CAPTION, "--num", "8", *given) == 0
    with np.load(text / "samples.npz") as drawn:
        codes = torch.tensor(drawn["codes"])
    model, tokenizer = Run(text).programs()[0], Run(text).tokenizer()

    def draw(**options):
        return draw_best(model, tokenizer, [CAPTION], 8, **options).sites["codes"]

    assert torch.equal(draw(**how), codes)
    for name in how:  # and all of them matter
        assert not torch.equal(draw(**{k: v for k, v in how.items() if k != name}), codes), name


def test_without_a_text_captions_are_drawn(text):
    assert run("sample", text, "--num", "3") == 0
    with np.load(text / "samples.npz") as drawn:
        assert drawn["text"].shape == (3, Run(text).tokenizer().text_length)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", ""], "is empty: describe the picture in words"),
        (["--text", f"{CAPTION};"], "text 2 of 2 is empty"),
        (["--text", "grey " * 40], "is too long: it has 40 tokens"),
        (["--text", "жук"], "which is in no caption of the training data"),
        (["--text", CAPTION, "--best-of", "0"], "--best-of must be a positive integer, got 0"),
        (["--text", CAPTION, "--batch_size", "0"], "batch_size must be a positive integer, got 0"),
        (["--text", CAPTION, "--guidance", "-1"], "guidance must not be negative"),
        (["--best-of", "3"], "--best-of is of images of a text: say --text, too"),
        (["--text", CAPTION, "--y", "3"], "--y is not for this model"),
    ],
)
def test_what_cannot_be_drawn_is_refused(text, capsys, options, message):
    assert message in refused(capsys, "sample", text, *options)


def test_a_run_without_text(plain, folder, capsys):
    assert "knows no texts: learn a prior over texts and codes first" in refused(
        capsys, "sample", plain, "--text", CAPTION
    )
    assert "knows no texts" in refused(capsys, "train-ranker", "--on", plain)
    assert "guidance: no site of the model can be guided" in refused(capsys, "sample", plain, "--guidance", "1")
    pixelcnn = PRIOR | {"prior": {"class_path": "pyro_vae.priors.GatedPixelCNN", "init_args": {"channels": 4}}}
    file = write(plain.parent, "pixelcnn.yaml", pixelcnn)
    assert "GatedPixelCNN is no prior over texts" in refused(capsys, "train-prior", file, "--on", plain)
    (folder / "data" / "captions.txt").rename(folder / "data" / "aside")
    try:
        assert "have no captions" in refused(capsys, "train-prior", folder / "prior.yaml", "--on", plain)
    finally:
        (folder / "data" / "aside").rename(folder / "data" / "captions.txt")
    assert not (plain / "priors" / "tokenizer.json").exists() and not (plain / "priors" / "codes").exists()
    assert run("train-prior", folder / "prior.yaml", "--on", plain) == 0


def test_options_of_the_text(plain, folder, capsys):
    options = ["--text.text_length", "30", "--text.dropout", "0.4"]
    assert run("train-prior", folder / "prior.yaml", "--on", plain, *options) == 0
    prior = pyro_vae.load(plain)[0].priors["codes"]
    assert prior.text_length == Run(plain).tokenizer().text_length == 30
    assert yaml.safe_load((plain / "priors/codes/config.yaml").read_text())["text"]["dropout"] == 0.4
    shutil.rmtree(plain / "priors" / "codes")
    options[1] = "31"
    assert "tokens and texts of 30, for all priors of the run" in refused(
        capsys, "train-prior", folder / "prior.yaml", "--on", plain, *options
    )
    off = ["--text.vocabulary_size", "null", "--prior.condition_dropout", "0"]
    shutil.rmtree(plain / "priors")
    assert run("train-prior", folder / "prior.yaml", "--on", plain, *off) == 0
    assert pyro_vae.load(plain)[0].priors["codes"].text_length is None and "text" not in Run(plain).data().test.keys


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def test_dropout_of_merges_takes_part_in_training(folder, plain, text):
    """Other weights come of training without it."""
    assert run("train-prior", folder / "prior.yaml", "--on", plain, "--text.dropout", "0") == 0
    with_, without = (weights_of(path / "priors" / "codes") for path in (text, plain))
    assert not torch.equal(with_["model.prior.text_head.1.bias"], without["model.prior.text_head.1.bias"])
    rankers = []
    for dropout in ("0", "0.5"):
        assert run("train-ranker", folder / "ranker.yaml", "--on", text, "--dropout", dropout) == 0
        rankers.append(weights_of(text / "ranker")["model.text_encoder.head.bias"])
        shutil.rmtree(text / "ranker")
    assert not torch.equal(*rankers)


def test_another_tokenizer_is_refused(text, capsys):
    Tokenizer.train(["another caption"], text_length=5).save(text / "priors" / "tokenizer.json")
    assert "is another tokenizer than" in refused(capsys, "sample", text, "--text", "another")
    (text / "priors" / "tokenizer.json").unlink()
    assert "is missing, the tokenizer that" in refused(capsys, "sample", text, "--text", "another")


@pytest.mark.parametrize(("command", "part"), [("train-prior", "priors/codes"), ("train-ranker", "ranker")])
def test_what_was_interrupted_goes_on_to_the_same_end(folder, tmp_path, monkeypatch, command, part):
    recipe = folder / ("prior.yaml" if command == "train-prior" else "ranker.yaml")
    begin = folder / ("plain" if command == "train-prior" else "text")
    for name in ("straight", "halted"):
        shutil.copytree(begin, tmp_path / name)
    assert run(command, recipe, "--on", tmp_path / "straight", "--fit.epochs", "2") == 0
    finish = Trainer._finish_epoch

    def interrupted(self, started):
        finish(self, started)
        self.interrupts.pressed = True

    monkeypatch.setattr(Trainer, "_finish_epoch", interrupted)
    with pytest.raises(SystemExit):
        run(command, recipe, "--on", tmp_path / "halted", "--fit.epochs", "2")
    monkeypatch.undo()
    if command == "train-ranker":
        assert load_ranker(Run(tmp_path / "halted")) is None
    assert run(command, recipe, "--on", tmp_path / "halted") == 1
    assert run(command, recipe, "--on", tmp_path / "halted", "--resume") == 2  # a recipe would not be heeded
    assert run(command, "--on", tmp_path / "halted", "--resume") == 0
    ours, theirs = (load_file(tmp_path / name / part / "model.safetensors") for name in ("halted", "straight"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_ranker_is_told_from_one_of_another_configuration(text, folder, caplog):
    assert run("train-ranker", folder / "ranker.yaml", "--on", text) == 0
    assert load_ranker(Run(text)) is not None and "trained otherwise" not in caplog.text
    config = text / "ranker" / "config.yaml"
    saved = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump(saved | {"dropout": 0.25}))
    load_ranker(Run(text))
    assert f"config.yaml dropout was {saved['dropout']} and is 0.25" in caplog.text

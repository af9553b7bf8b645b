"""``pyro-vae sample``, ``reconstruct``, ``interpolate`` and the other commands on a run of texts."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run as pyro_vae
from command_line import write
from PIL import Image

import pyro_vae as pyro_vae_package
from pyro_vae.data import RawData, Vocabulary, registry, source
from pyro_vae.runs import Run

COLOURS, SHAPES = ("red", "blue", "green"), ("circle", "square")


def sentences(count, seed):
    """Sentences of three lengths."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        things = [f"a {generator.choice(COLOURS)} {generator.choice(SHAPES)}" for _ in range(generator.integers(1, 4))]
        found.append(f"{' and '.join(things)}.")
    return found


@pytest.fixture(scope="module")
def texts():
    """A small dataset of sentences, known for as long as these tests run."""
    patch = pytest.MonkeyPatch()
    patch.setattr(registry, "_sources", {each.name: each for each in registry.sources()})

    @source("sentences", "small ones")
    def load_sentences() -> RawData:
        """Load them."""
        parts = {part: sentences(count, i) for i, (part, count) in enumerate({"train": 120, "test": 40}.items())}
        words = Vocabulary.learn(parts["train"]).with_max_length(12)
        return RawData({part: {"x": words.encode(some)} for part, some in parts.items()}, extras=(words,))

    yield
    patch.undo()


def likelihood(features):
    sizes = {"features": features, "embedding_dim": 8, "hidden_dim": 24}
    return {"class_path": "pyro_vae.likelihoods.RecurrentTokens", "init_args": sizes}


@pytest.fixture(scope="module")
def trained(texts, tmp_path_factory):
    """A run of a VAE whose sentences are known by heart."""
    folder = tmp_path_factory.mktemp("texts")
    encoder = {
        "class_path": "pyro_vae.networks.RecurrentEncoder",
        "init_args": {"outputs": 16, "embedding_dim": 8, "hidden_dim": 24},
    }
    vae = {"latent_dim": 8, "hidden_dims": [], "likelihood": likelihood(16)}
    recipe = {
        "data": {"name": "sentences"},
        "model": {"class_path": "pyro_vae.models.VAE", "init_args": vae},
        "guide": {"class_path": "pyro_vae.guides.GaussianGuide", "init_args": {"encoder": encoder}},
        "fit": {"epochs": 60, "batch_size": 20, "learning_rate": 0.01, "device": "cpu", "kl_weight": 0.02},
    }
    assert pyro_vae("train", write(folder, "mine.yaml", recipe), "--trust", "--out", folder / "run") == 0
    return folder / "run"


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def refused(capsys, *arguments):
    capsys.readouterr()
    assert pyro_vae(*arguments) == 1
    return capsys.readouterr().err


def is_picture(path):
    with Image.open(path) as image:
        image.verify()


def test_samples_are_printed_and_written(trained, capsys):
    assert pyro_vae("sample", trained, "--num", "6", "--temperature", "0.3") == 0
    npz, *printed, text, picture = lines(capsys)
    x = torch.from_numpy(np.load(npz)["x"])
    said = Run(trained).tokens.decode(x)
    assert [line.split("  ", 1) for line in printed] == [[f"{i:03d}", each] for i, each in enumerate(said)]
    assert text == str(trained / "samples.txt") and Path(text).read_text().splitlines() == said
    is_picture(picture)
    coldest = []
    for options in (["--temperature", "0.0001"], ["--top-k", "1"]):  # z is drawn alike
        assert pyro_vae("sample", trained, "--num", "6", *options) == 0
        coldest.append(lines(capsys))
    assert coldest[0] == coldest[1]
    assert "--text is of images" in refused(capsys, "sample", trained, "--text", "a red circle")


def test_texts_of_ones_own_go_through_the_latents_and_back(trained, capsys, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "mine.txt").write_text("a red circle.\n\na blue square.\n")
    words = ["--text", "A blue circle.", "--text", "a purple circle.", tmp_path / "mine.txt"]
    assert pyro_vae("reconstruct", trained, *words) == 0
    *printed, npz, text, data, picture = lines(capsys)
    x, made = (torch.from_numpy(np.load(npz)[name]) for name in ("x", "reconstruction"))
    tokens, (model, guide) = Run(trained).tokens, Run(trained).programs()
    expected = pyro_vae_package.reconstruct(model, guide, x, at_mean=True, top_k=1)
    assert torch.equal(made[:, 0], expected) and made.shape == (4, 1, 13)
    names, said = ["text-1", "text-2", "mine-1", "mine-2"], tokens.decode(x)
    assert said == ["a blue circle.", "a <unk> circle.", "a red circle.", "a blue square."]
    pairs = [line.strip() for line in printed]
    back = [f"-> {each}" for each in tokens.decode(expected)]
    assert pairs == [each for i in range(4) for each in (f"{names[i]}  {said[i]}", back[i])]
    assert back[0] == "-> a blue circle." and back[2] == "-> a red circle."
    assert Path(text).read_text().splitlines() == [each[3:] for each in back]
    assert Path(data).read_text().splitlines() == said
    assert "1 words ('purple') are not in the vocabulary" in caplog.text
    is_picture(picture)


def test_draws_of_the_latents_and_of_the_tokens(trained, capsys):
    def made(*options):
        assert pyro_vae("reconstruct", trained, "--num", "40", *options) == 0
        return np.load(trained / "reconstructions.npz")["reconstruction"]

    draws = made("--draws", "3")
    assert draws.shape == (40, 3, 13) and not np.array_equal(draws[:, 0], draws[:, 1])
    assert sum(line.strip().startswith("->") for line in lines(capsys)) == 120
    assert np.array_equal(made(), made("--seed", "1"))  # from the mean, greedily
    hot = made("--temperature", "3")
    assert np.array_equal(hot, made("--temperature", "3")) and not np.array_equal(
        hot, made("--temperature", "3", "--seed", "1")
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--text", " "], "is empty"),
        (["--text", "a red circle and " * 5], "is too long: it has 20 tokens"),
        (["--text", "a", "--split", "test"], "leave them out where files are given, or texts"),
        (["picture.png"], "picture.png: no such file"),
        (["--text", "a red circle.", "--draws", "0"], "--draws must be a positive integer"),
    ],
)
def test_what_cannot_be_reconstructed(trained, capsys, words, said):
    assert said in refused(capsys, "reconstruct", trained, *words)


def test_from_a_text_to_a_datum(trained, capsys):
    assert pyro_vae("interpolate", trained, "a red circle.", "test:5", "--steps", "4") == 0
    npz, *printed, text, picture = lines(capsys)
    found, tokens, (model, guide) = np.load(npz), Run(trained).tokens, Run(trained).programs()
    (start,), (end,) = (tokens.decode(torch.from_numpy(found[name])[None]) for name in ("start", "end"))
    assert start == "a red circle." and end == sentences(40, 1)[5]
    way = ["datum", "0", "0.333", "0.667", "1", "datum"]
    said = [start, *tokens.decode(torch.from_numpy(found["x"])), end]
    assert printed == [f"{place:<5}  {each}" for place, each in zip(way, said, strict=True)]
    x = torch.from_numpy(np.stack([found["start"], found["end"]]))
    ends = pyro_vae_package.reconstruct(model, guide, x, at_mean=True, top_k=1)
    assert np.array_equal(found["x"][[0, -1]], ends)
    assert Path(text).read_text().splitlines() == said
    is_picture(picture)


def test_a_file_that_is_not_there_is_no_text(trained, capsys):
    for name in ("mine.txt", "./mine.CSV"):
        assert pyro_vae("interpolate", trained, name, "test:5") == 1
        assert f"{name}: no such file" in capsys.readouterr().err


def test_figures_and_the_report_show_sentences(trained, capsys):
    assert pyro_vae("report", trained, "--particles", "20") == 0
    page = (trained / "report.html").read_text()
    kinds = ("reconstructions", "samples", "interpolations")
    assert all(f'<figure class="texts" id="figure-token-{kind}">' in page for kind in kinds)
    assert "reconstructions" not in json.loads((trained / "report.json").read_text())["left_out"]
    assert f"<td>{sentences(40, 1)[0]}</td>" in page
    assert 'id="figure-prior-samples"' not in page and 'id="figure-traversals"' not in page


def test_scores_tell_the_sentences(trained, capsys):
    assert pyro_vae("score", trained, "--particles", "20", "--lowest", "2", "--json") == 0
    lowest = json.loads(capsys.readouterr().out)["lowest"]
    assert [row["decoded"] for row in lowest] == [sentences(40, 1)[row["id"]] for row in lowest]
    assert pyro_vae("encode", trained, "--out", trained / "z.npz") == 0
    assert np.load(trained / "z.npz")["z.mean"].shape == (40, 8)

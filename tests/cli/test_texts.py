"""Runs whose data are texts: what they keep, how they are gone on with, and texts of one's own."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
import yaml
from command_line import run, write

from pyro_vae.cli.inputs import given_data
from pyro_vae.cli.texts import of_texts
from pyro_vae.data import Classes, RawData, Split, Tokens, Vocabulary, load_data, source
from pyro_vae.data.token_file import read_tokens, token_facts
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import read_yaml
from pyro_vae.runs import Run
from pyro_vae.runs.directory import check_free
from pyro_vae.training.checkpoint import save_weights

TEXTS = [f"a {size} {colour} {shape}." for size in ("small", "large") for colour in ("red", "blue") for shape in "xyz"]
CONFIG = {
    "model": {
        "class_path": "VAE",
        "init_args": {
            "latent_dim": 2,
            "hidden_dims": [],
            "likelihood": {
                "class_path": "RecurrentTokens",
                "init_args": {"features": 2, "embedding_dim": 3, "hidden_dim": 4},
            },
        },
    },
    "guide": {
        "class_path": "GaussianGuide",
        "init_args": {
            "encoder": {
                "class_path": "RecurrentEncoder",
                "init_args": {"outputs": 4, "embedding_dim": 3, "hidden_dim": 4},
            }
        },
    },
    "fit": {"epochs": 1, "batch_size": 10, "device": "cpu", "compile": "off"},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a file of texts, and that file."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "texts.csv").write_text("text,kind\n" + "".join(f"{t},{t[2:7]}\n" for t in TEXTS * 2))
    data = {"name": str(folder / "texts.csv"), "label_column": "kind", "max_length": 6}
    assert run("train", write(folder, "mine.yaml", {**CONFIG, "data": data}), "--out", folder / "run") == 0
    return folder / "run", folder / "texts.csv"


def test_what_a_run_keeps(trained):
    found, data = Run(trained[0]), load_data(str(trained[1]), label_column="kind", max_length=6)
    vocabulary = data.extra(Tokens)
    assert found.tokens.digest == vocabulary.digest and found.data_shape == (7,)
    assert read_yaml(trained[0] / "config.yaml")["tokens"] == {
        "kind": "words",
        "num_tokens": vocabulary.num_tokens,
        "digest": vocabulary.digest,
    }
    model, _ = found.programs()  # without the data
    assert model.likelihood.num_tokens == vocabulary.num_tokens
    assert found.classes == ("large", "small") == data.extra(Classes).names


def test_going_on(trained, tmp_path):
    path = shutil.copytree(trained[0], tmp_path / "run")
    assert run("resume", path, "--fit.epochs", "2") == 0
    assert Run(path).records()[-1]["epoch"] == 2 and Run(path).tokens is not None


@pytest.mark.parametrize("what", ["words", "none"])
def test_other_data_are_refused(trained, tmp_path, what):
    """Data whose tokens would mean something else, though all shapes are the same."""
    path = shutil.copytree(trained[0], tmp_path / "run")
    config = read_yaml(path / "config.yaml")
    other = tmp_path / "other.csv"
    other.write_text(trained[1].read_text().replace("red", "odd"))
    if what == "words":
        config["data"]["name"] = str(other)
    else:
        del config["tokens"]
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match="do not stand for what they stood for when the run was begun"):
        Run(path).data()


def test_a_damaged_or_missing_file(trained, tmp_path):
    path = shutil.copytree(trained[0], tmp_path / "run")
    values = json.loads((path / "tokens.json").read_text())
    values["tokens"].reverse()
    (path / "tokens.json").write_text(json.dumps(values))
    with pytest.raises(CorruptFileError, match=r"tokens.json is not the one that the run was begun with"):
        _ = Run(path).tokens
    config = read_yaml(path / "config.yaml")
    (path / "tokens.json").write_text(json.dumps(values | {"length": 99}))  # with a configuration that says so
    config["tokens"] = token_facts(read_tokens(path / "tokens.json"))
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(CorruptFileError, match=r"tokens.json: sequences of 99 tokens, but one x of the run has shape"):
        _ = Run(path).tokens
    (path / "tokens.json").unlink()
    with pytest.raises(InputError, match=r"tokens.json: no such file"):
        _ = Run(path).tokens


@pytest.mark.parametrize(
    "facts",
    [
        "words",
        {"kind": "words"},
        {"kind": "os.system", "num_tokens": 5, "digest": ""},
        {"kind": "words", "num_tokens": 2**40, "digest": ""},
        {"kind": "words", "num_tokens": True, "digest": ""},
        {"kind": ["words"], "num_tokens": 5, "digest": ""},
    ],
)
def test_hostile_facts(trained, tmp_path, facts):
    path = shutil.copytree(trained[0], tmp_path / "run")
    (path / "config.yaml").write_text(yaml.safe_dump({**read_yaml(path / "config.yaml"), "tokens": facts}))
    with pytest.raises(CorruptFileError, match=r"damaged .*'tokens'"):
        Run(path)


def test_a_kill_before_the_configuration(trained, tmp_path):
    """Initial weights and a vocabulary that a kill left are in nobody's way; trained ones and one's own files are."""
    module = torch.nn.Linear(2, 2)
    for trained_weights in (False, True):
        save_weights(tmp_path / "model.safetensors", module, module, trained=trained_weights)
        shutil.copy(trained[0] / "tokens.json", tmp_path)
        if trained_weights:
            with pytest.raises(InputError, match=r"holds model.safetensors, tokens.json already"):
                check_free(tmp_path)
        else:
            check_free(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "tokens.json").write_text("mine")
    with pytest.raises(InputError, match=r"holds tokens.json already"):
        check_free(tmp_path / "own")


def test_texts_of_ones_own(trained, tmp_path, caplog):
    found = Run(trained[0])
    lines = ["A small red x.", "a HUGE blue y."]
    (tmp_path / "own.txt").write_text("\n".join(lines))
    with caplog.at_level(logging.INFO):
        split = of_texts(found, tmp_path / "own.txt")
    assert torch.equal(split.tensors["x"], found.tokens.encode(lines)) and split.integers
    assert found.tokens.decode(split.tensors["x"]) == ["a small red x.", "a <unk> blue y."]
    assert "1 words ('huge') are not in the vocabulary, and become token 1" in caplog.text
    table = of_texts(found, trained[1])
    assert table.tensors["y"].tolist() == [int("small" in text) for text in TEXTS * 2]
    for part, known in load_data(str(trained[1]), label_column="kind", max_length=6).splits.items():
        assert torch.equal(of_texts(found, trained[1], part).tensors["x"], known.tensors["x"])
    (tmp_path / "folder").mkdir()
    for i, line in enumerate(lines):
        (tmp_path / "folder" / f"{i}.txt").write_text(line)
    folder = of_texts(found, tmp_path / "folder")
    assert torch.equal(folder.tensors["x"], split.tensors["x"]) and folder.names == ("0.txt", "1.txt")
    np.save(tmp_path / "own.npy", split.tensors["x"].numpy().astype(np.uint16))
    assert torch.equal(of_texts(found, tmp_path / "own.npy").tensors["x"], split.tensors["x"])


def test_texts_that_are_refused(trained, tmp_path):
    found = Run(trained[0])
    (tmp_path / "long.txt").write_text("a red x.\na a a a a a a\n")
    (tmp_path / "a.wav").write_bytes(b"")
    for name, array in (("wide", np.ones((2, 8), int)), ("real", np.ones((2, 7))), ("endless", np.ones((2, 7), int))):
        np.save(tmp_path / f"{name}.npy", array)
    np.save(tmp_path / "large.npy", np.full((2, 7), 2**64 - 5, np.uint64))  # negative as int64
    for name, message in (
        ("long.txt", "'a a a a a a a' is too long: it has 7 tokens .*, but 6 fit"),
        ("none.txt", "no such file"),
        ("a.wav", "the data are texts; give a file of one of these kinds: .txt, .csv, .tsv, .npy"),
        ("wide.npy", "x has 8 numbers a sequence, but the run's have 7"),
        ("real.npy", "integers"),
        ("endless.npy", "datum 0 has no end"),
        ("large.npy", "x holds 18446744073709551611, but the run's tokens are below"),
    ):
        with pytest.raises(InputError, match=message):
            of_texts(found, tmp_path / name)


def test_commands(trained, tmp_path):
    (tmp_path / "own.txt").write_text("a small red x.\na large blue y.\n")
    assert run("encode", trained[0], tmp_path / "own.txt", "--out", tmp_path / "z.npz") == 0
    assert np.load(tmp_path / "z.npz")["z.mean"].shape == (2, 2)
    assert run("score", trained[0], tmp_path / "own.txt", "--particles", 30, "--json") == 0
    with pytest.raises(InputError, match="its tokens do not stand for what the run's do"):
        given_data(Run(trained[0]), ["grammar"])
    with pytest.raises(InputError, match="Did you mean 'grammar'"):
        given_data(Run(trained[0]), ["gramar"])


def test_a_dataset_with_tokens_of_ones_own_kind_leaves_no_run(tmp_path, capsys):
    class Own(Vocabulary):
        kind = "words"
        numbers = joined = strangers = plain = from_plain = None

    @source("of own tokens", "sequences")
    def load() -> RawData:
        tokens = Own(4, True)
        tokens.num_tokens, tokens.describe = 5, lambda train: ""
        return RawData({"train": {"x": torch.tensor([[2, 3, 4, 0]] * 9)}}, extras=(tokens,))

    try:
        file = write(tmp_path, "mine.yaml", {**CONFIG, "data": {"name": "of own tokens"}})
        assert run("train", file, "--out", tmp_path / "run") == 1
        assert "Own: a run keeps tokens of these kinds alone" in capsys.readouterr().err
        assert not (tmp_path / "run" / "config.yaml").exists()
    finally:
        from pyro_vae.data.registry import _sources

        del _sources["of own tokens"]


def test_integers_without_a_vocabulary_need_nothing():
    assert Split({"x": torch.tensor([[2, 0]])}, integers=True).batch(slice(None))["x"].tolist() == [[2, 0]]

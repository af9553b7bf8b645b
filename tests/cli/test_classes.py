"""Labels on the command line: by number, by the name of a class, and hints of what could be said."""

import logging
import shutil

import numpy as np
import pytest
import torch
import yaml
from made_files import BYTES, picture

from pyro_vae.cli import main
from pyro_vae.cli.context import example_y, parse_y
from pyro_vae.errors import InputError
from pyro_vae.programs.context import attribute_context, label_context
from pyro_vae.runs import Run

PETS = ("cat", "cow", "dog")


@pytest.mark.parametrize(
    ("text", "classes", "labels"),
    [
        ("dog", PETS, [2]),
        ("dog, cat,1", PETS, [2, 0, 1]),
        ("2", PETS, [2]),
        ("one, two", ("one", "one, two"), [1]),  # a comma in a name
        ("3", ("3", "7"), [0]),  # a name that is a number
        ("1", ("3", "7"), [1]),
        ("2,0", None, [2, 0]),
    ],
)
def test_names_and_numbers(text, classes, labels):
    context = label_context(len(classes or PETS))
    assert parse_y(text, context, classes=classes).tolist() == labels
    assert parse_y(text, context, 5, classes).tolist() == (labels * 5)[:5]


def test_a_name_that_is_another_number_is_said(caplog):
    with caplog.at_level(logging.INFO):
        parse_y("7", label_context(2), classes=("3", "7"))
    assert [r.getMessage() for r in caplog.records] == ["--y: '7' is the name of a class, whose label is 1"]


@pytest.mark.parametrize("classes", [None, PETS, ("a", "b"), ("only",)])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 10, 100])
def test_examples_are_right(classes, count):
    count = len(classes or range(count))
    for example in example_y(label_context(count), classes).split(" or --y "):
        parse_y(example, label_context(count), classes=classes)
    assert example_y(label_context(10)) == "7 or --y 0,1,2"
    assert torch.is_tensor(parse_y(example_y(attribute_context(3)), attribute_context(3)))


def test_unknown_classes_and_labels():
    with pytest.raises(InputError, match=r"unknown class 'dgo'\. Did you mean 'dog'"):
        parse_y("dgo", label_context(3), classes=PETS)
    with pytest.raises(InputError, match="class labels from 0 to 2"):
        parse_y("3", label_context(3), classes=PETS)
    with pytest.raises(InputError, match=r"e.g. --y 2 or --y 0,1,2; got 'dog'"):
        parse_y("dog", label_context(3))


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "pets"
    for place, name in enumerate(PETS):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            (folder / name / f"{i}$\\frac{i}.png").write_bytes(picture(BYTES * 0 + 80 * place, "png"))
    return folder


def trained(folder, pets, model, guide, sizes, binarization):
    config = {
        "data": {"name": str(pets), "binarization": binarization},
        "model": {"class_path": f"pyro_vae.models.{model}", "init_args": sizes},
        "guide": {"class_path": f"pyro_vae.guides.{guide}"},
        "fit": {"epochs": 1, "batch_size": 10, "device": "cpu", "compile": "off"},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", str(folder / "mine.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_a_run_knows_its_classes(pets, tmp_path, capsys):
    condition = {"class_path": "pyro_vae.networks.OneHot", "init_args": {"num_classes": 3}}
    sizes = {"latent_dim": 2, "hidden_dims": [4], "condition": condition}
    run = trained(tmp_path, pets, "ConditionalVAE", "ConditionalGuide", sizes, "threshold")
    assert Run(run).classes == PETS
    assert main(["sample", str(run), "--y", "dog,cat", "--num", "3"]) == 0
    assert np.load(run / "samples.npz")["y"].tolist() == [2, 0, 2]
    assert main(["sample", str(run)]) == 1
    assert "say which, e.g. --y dog or --y cat,cow,dog" in capsys.readouterr().err
    file = pets / "cow" / "3$\\frac3.png"
    assert main(["reconstruct", str(run), "--y", "cow", str(file), str(file)]) == 0
    found = np.load(run / "reconstructions.npz")
    assert found["y"].tolist() == [1, 1] and found["name"].tolist() == [file.stem, f"{file.stem}-2"]
    assert main(["reconstruct", str(run), "--num", "2"]) == 0
    test = Run(run).data().test
    assert np.load(run / "reconstructions.npz")["name"].tolist() == [test.names[0], test.names[1]]
    assert main(["evaluate", str(run), "--particles", "3"]) == 0
    assert np.load(run / "evaluation-test.npz")["name"].tolist() == list(test.names)
    shutil.copytree(run, tmp_path / "again")
    assert (
        main(["compare", str(run), str(tmp_path / "again"), "--out", str(tmp_path)]) == 0
    )  # reads both files' numbers, and no names


def test_reconstruction_asks_no_label_of_the_prior_alone(pets, tmp_path, capsys, caplog):
    sizes = {"channels": 4, "num_codes": 4}
    run = trained(tmp_path, pets, "VQVAE", "VQGuide", sizes, "none")
    file = str(pets / "dog" / "1$\\frac1.png")
    assert main(["reconstruct", str(run), file]) == 0
    before = dict(np.load(run / "reconstructions.npz"))
    prior = ["--fit.epochs", "1", "--prior.channels", "4", "--prior.num_layers", "1", "--fit.device", "cpu"]
    assert main(["train-prior", "pixelcnn", "--on", str(run), *prior]) == 0
    capsys.readouterr()
    assert main(["sample", str(run)]) == 1
    assert "say which, e.g. --y dog or" in capsys.readouterr().err
    for label, line in (([], 0), (["--y", "cow"], 1)):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert main(["reconstruct", str(run), *label, file]) == 0
        assert sum("passed over: only the prior takes it" in r.getMessage() for r in caplog.records) == line
        after = np.load(run / "reconstructions.npz")
        assert all(np.array_equal(before[name], after[name]) for name in before) and "y" not in after

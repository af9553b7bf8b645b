"""``pyro-vae score``: the numbers of ``evaluate``, for data of every kind that a command line can name."""

import csv
import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pyro_vae.cli import main
from pyro_vae.data import load_data
from pyro_vae.data.wav import write_wavs
from pyro_vae.evaluation import log_likelihood
from pyro_vae.runs import Run

FIT = {"epochs": 1, "batch_size": 10, "device": "cpu"}
NUMBERS = ["log_likelihood", "effective_sample_size", "pareto_k"]


def trained(folder, data, model="VAE", guide="GaussianGuide", **sizes):
    config = {
        "model": {
            "class_path": f"pyro_vae.models.{model}",
            "init_args": {"latent_dim": 2, "hidden_dims": [6], **sizes},
        },
        "guide": {"class_path": f"pyro_vae.guides.{guide}", "init_args": {"hidden_dims": [6]}},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(config | {"data": data, "fit": FIT}))
    assert main(["train", str(folder / "mine.yaml"), "--trust", "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    return trained(folder, {"name": "mnist5k", "binarization": "static", "binarization_seed": 3, "limit": 30})


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A run on a folder of images, by class, and the folder."""
    folder = tmp_path_factory.mktemp("pets")
    generator = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 5)):
        for name in ("cat", "dog"):
            (folder / "data" / part / name).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(generator.integers(0, 256, (9, 12), dtype=np.uint8))
                image.save(folder / "data" / part / name / f"{i}.png")
    data = {"name": str(folder / "data"), "binarization": "dynamic", "image_size": 8}
    return trained(folder, data, "ConditionalVAE", "ConditionalGuide"), folder / "data"


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """A run on an array file, and the array."""
    folder = tmp_path_factory.mktemp("vectors")
    x = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    np.save(folder / "mine.npy", x)
    likelihood = {"class_path": "pyro_vae.likelihoods.Gaussian"}
    return trained(folder, {"name": str(folder / "mine.npy")}, likelihood=likelihood), x


def scored(tmp_path, run, *words, particles=60):
    out = tmp_path / "scores.npz"
    line = ["score", str(run), *map(str, words), "--out", str(out), "--force", "--particles", str(particles)]
    assert main([*line, "--device", "cpu"]) == 0
    return dict(np.load(out))


def evaluated(run, *words, split="test"):
    line = ["evaluate", str(run), "--particles", "60", "--device", "cpu", "--split", split]
    assert main([*line, *words]) == 0
    return dict(np.load(run / f"evaluation-{split}.npz"))


def same(ours, theirs):
    return all(np.array_equal(ours[name], theirs[name], equal_nan=True) for name in NUMBERS)


def refused(capsys, run, *words, status=1):
    capsys.readouterr()
    assert main(["score", str(run), *map(str, words)]) == status
    return capsys.readouterr().err


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_runs_own_data_have_the_numbers_of_evaluate(digits, tmp_path, split):
    ours = scored(tmp_path, digits, "--split", split, "--seed", "2")
    theirs = evaluated(digits, "--seed", "2", split=split)
    assert same(ours, theirs) and ours["id"].tolist() == list(range(30)) and set(ours) == {"id", *NUMBERS}
    assert same(scored(tmp_path, digits, "mnist5k", "--limit", "30", "--split", split, "--seed", "2"), theirs)


def test_a_folder_and_its_files_one_by_one(pets, tmp_path):
    run, folder = pets
    theirs = evaluated(run)
    names = [f"test/{name}/{i}.png" for name in ("cat", "dog") for i in range(5)]
    own, by_folder = scored(tmp_path, run), scored(tmp_path, run, folder)
    assert same(own, theirs) and own["id"].tolist() == names
    assert same(by_folder, theirs) and by_folder["id"].tolist() == names
    files = [folder / name for name in names]
    one_by_one = scored(tmp_path, run, *files, "--y", ",".join(["cat"] * 5 + ["dog"] * 5))
    assert same(one_by_one, theirs) and one_by_one["id"].tolist() == [str(file) for file in files]
    other = scored(tmp_path, run, *files, "--y", "cat")
    assert np.array_equal(other["log_likelihood"][:5], theirs["log_likelihood"][:5])
    assert not np.array_equal(other["log_likelihood"][5:], theirs["log_likelihood"][5:])
    assert same(scored(tmp_path, run, folder, "--split", "train"), evaluated(run, split="train"))


def test_classes_of_another_folder_are_known_by_name(pets, tmp_path, capsys):
    """The only class of a folder is its class 0; the model knows it as class 1."""
    run, folder = pets
    theirs = scored(tmp_path, run, folder)
    dogs = tmp_path / "dogs"
    (dogs / "dog").mkdir(parents=True)
    for i in range(5):
        (dogs / "dog" / f"{i}.png").write_bytes((folder / "test" / "dog" / f"{i}.png").read_bytes())
    files = [folder / "test" / "dog" / f"{i}.png" for i in range(5)]
    assert same(scored(tmp_path, run, dogs), scored(tmp_path, run, *files, "--y", "dog"))
    assert not same(scored(tmp_path, run, dogs), scored(tmp_path, run, *files, "--y", "cat"))
    assert theirs["id"].tolist()[:1] == ["test/cat/0.png"]
    (dogs / "dog").rename(dogs / "wolf")
    assert "the model needs y" in refused(capsys, run, dogs)


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_an_array_file_is_taken_whole_and_a_part_of_it_as_it_is_split(vectors, tmp_path, kind):
    run, x = vectors
    file = tmp_path / f"some.{kind}"
    np.save(file, x) if kind == "npy" else np.savez(file, x=x)
    whole = scored(tmp_path, run, file)
    expected = log_likelihood(*Run(run).programs(), torch.from_numpy(x), num_particles=60)
    assert np.array_equal(whole["log_likelihood"], expected.per_datum.numpy())
    assert same(scored(tmp_path, run, file, "--split", "test"), evaluated(run))


def test_arrays_of_images_are_prepared_like_the_runs(digits, tmp_path):
    raw = load_data("mnist5k").test.tensors["x"][:30].numpy()
    for name, x in {"grey": raw[:, 0], "channels": raw, "last": raw.transpose(0, 2, 3, 1)}.items():
        np.save(tmp_path / f"{name}.npy", x)
        assert same(scored(tmp_path, digits, tmp_path / f"{name}.npy"), evaluated(digits))


def test_parts_of_an_array_file(vectors, tmp_path, capsys):
    run, x = vectors
    np.savez(tmp_path / "parts.npz", x_train=x[:30], x_test=x[30:])
    found = scored(tmp_path, run, tmp_path / "parts.npz")
    expected = log_likelihood(*Run(run).programs(), torch.from_numpy(x[30:]), num_particles=60)
    assert np.array_equal(found["log_likelihood"], expected.per_datum.numpy())
    told = refused(capsys, run, tmp_path / "parts.npz", "--split", "validation")
    assert "has no validation part; it has: train, test" in told


def test_completion_data(tmp_path):
    sizes = {"prior_hidden_dims": [4], "baseline_hidden_dims": [4]}
    data = {"name": "mnist5k", "binarization": "threshold", "limit": 12, "observed_quadrants": 2}
    run = trained(tmp_path, data, "CompletionVAE", "CompletionGuide", **sizes)
    np.save(tmp_path / "x.npy", load_data("mnist5k").test.tensors["x"][:12].numpy())
    assert same(scored(tmp_path, run, tmp_path / "x.npy"), evaluated(run))
    assert same(scored(tmp_path, run), evaluated(run))


def test_data_that_are_read_later(tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for i in range(30):
        image = Image.fromarray(generator.integers(0, 256, (6, 6), dtype=np.uint8))
        image.save(tmp_path / "data" / f"{i:02d}.png")
    run = trained(tmp_path, {"name": str(tmp_path / "data"), "binarization": "dynamic", "in_memory": False})
    theirs = evaluated(run)
    assert same(scored(tmp_path, run), theirs)
    names = scored(tmp_path, run)["id"].tolist()
    assert same(scored(tmp_path, run, *(tmp_path / "data" / name for name in names)), theirs)


def test_tables_and_what_is_printed(digits, tmp_path, capsys):
    out = tmp_path / "new" / "scores.csv"
    capsys.readouterr()
    assert main(["score", str(digits), "--out", str(out), "--particles", "60", "--lowest", "3"]) == 0
    said = capsys.readouterr().out
    theirs = evaluated(digits)
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [int(row["id"]) for row in rows] == list(range(30))
    assert all(np.array_equal([float(row[name]) for row in rows], theirs[name], equal_nan=True) for name in NUMBERS)
    lowest = theirs["log_likelihood"].argsort()[:3]
    listed = said.split("the 3 lowest of 30:\n")[1].splitlines()[1:]
    assert [line.split()[:2] for line in listed] == [[str(i), f"{theirs['log_likelihood'][i]:.2f}"] for i in lowest]
    assert main(["score", str(digits), "--particles", "60", "--json", "--lowest", "3"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["num_particles"] == 60 and [row["id"] for row in result["lowest"]] == lowest.tolist()
    assert result["log_likelihood"] == pytest.approx(theirs["log_likelihood"].mean())


def test_parquet(digits, tmp_path, capsys, monkeypatch):
    pandas = pytest.importorskip("pandas")
    from pyro_vae.cli import output

    monkeypatch.setattr(output, "find_spec", lambda name: None if name == "pyarrow" else name)
    told = refused(capsys, digits, "--out", tmp_path / "s.parquet")
    assert "needs pyarrow: pip install pyarrow" in told and not (tmp_path / "s.parquet").exists()
    monkeypatch.setattr(output, "find_spec", lambda name: name)
    monkeypatch.setattr(pandas.DataFrame, "to_parquet", lambda self, file, engine, index: self.to_pickle(file))
    assert main(["score", str(digits), "--out", str(tmp_path / "s.parquet"), "--particles", "60"]) == 0
    table = pandas.read_pickle(tmp_path / "s.parquet", compression=None)
    assert list(table.columns) == ["id", *NUMBERS] and len(table) == 30
    assert np.array_equal(table["log_likelihood"], evaluated(digits)["log_likelihood"])


def test_no_file_is_replaced_unless_it_is_said(digits, tmp_path, capsys):
    (tmp_path / "mine.csv").write_text("mine")
    assert "is there already" in refused(capsys, digits, "--out", tmp_path / "mine.csv")
    assert (tmp_path / "mine.csv").read_text() == "mine"
    assert main(["score", str(digits), "--out", str(tmp_path / "mine.csv"), "--force", "--limit", "3"]) == 0
    assert (tmp_path / "mine.csv").read_text().startswith("id,log_likelihood")
    assert "must end in .npz or .csv or .parquet" in refused(capsys, digits, "--out", tmp_path / "mine.txt")


def test_refusals(digits, pets, vectors, tmp_path, capsys):
    run, folder = pets
    file = folder / "test" / "cat" / "0.png"
    np.save(tmp_path / "wide.npy", np.zeros((3, 7), np.float32))
    x = tmp_path / "wide.npy"
    assert "the model needs y (class labels from 0 to 9)" in refused(capsys, run, file)
    assert "--y says 2 values for 3 data: say one for all, or one for each" in refused(
        capsys, run, file, file, file, "--y", "cat,dog"
    )
    assert "leave it out where files are given" in refused(capsys, run, file, "--split", "test", "--y", "cat")
    assert "one x has shape (7,), but the run's have (5,)" in refused(capsys, vectors[0], x)
    assert "how files would become such is not known" in refused(capsys, vectors[0], file)
    assert "give image or WAV files, or else one folder" in refused(capsys, digits, file, x)
    assert "Did you mean 'mnist5k'?" in refused(capsys, digits, "mnist5")
    assert "no such file" in refused(capsys, digits, tmp_path / "none.png")
    assert "no such file" in refused(capsys, digits, tmp_path / "none.npy")
    assert "9 x 12 pixels" in refused(capsys, digits, file)
    assert "it is not conditional" in refused(capsys, digits, "--y", "3")
    assert "lowest must be a positive integer" in refused(capsys, digits, "--lowest", "0")


def test_sound(tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 12), ("test", 4)):
        waves = {f"{part}{i}": 0.3 * torch.randn(70 + i, generator=generator).clamp(-3, 3) for i in range(count)}
        write_wavs(tmp_path / "data" / part, waves, 8000)
    data = {"name": str(tmp_path / "data"), "encoding": "mu_law", "length": 64}
    run = trained(tmp_path, data, likelihood={"class_path": "pyro_vae.likelihoods.Categorical"})
    theirs = evaluated(run)
    files = sorted((tmp_path / "data" / "test").iterdir())
    assert same(scored(tmp_path, run, *files), theirs) and same(scored(tmp_path, run, tmp_path / "data"), theirs)
    np.save(tmp_path / "x.npy", np.zeros((3, 1, 64), np.float32))
    assert "the run's data are sound; give WAV files" in refused(capsys, run, tmp_path / "x.npy")

"""``pyro-vae encode``: what its files hold, of a conditional, a hierarchical and a VQ run."""

import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pyro_vae.cli import main, output
from pyro_vae.data import load_data
from pyro_vae.programs.program import as_programs
from pyro_vae.programs.traces import traced
from pyro_vae.runs import Run

SMALL = {"name": "mnist5k", "binarization": "threshold", "limit": 60}
FIT = {"epochs": 1, "batch_size": 10, "device": "cpu"}
BERNOULLI = {"class_path": "pyro_vae.likelihoods.Bernoulli"}
PAIRS = {
    "conditional": (
        ("ConditionalVAE", {"latent_dim": 2, "hidden_dims": [6]}),
        ("ConditionalGuide", {"hidden_dims": [6]}),
    ),
    "hierarchical": (
        ("HierarchicalVAE", {"latent_dims": [4, 2], "hidden_dims": [6, 6]}),
        ("LadderGuide", {"hidden_dims": [6, 6]}),
    ),
    "vq": (
        (
            "VQVAE",
            {
                "num_codes": 8,
                "code_dim": 4,
                "channels": 8,
                "likelihood": {"class_path": "pyro_vae.likelihoods.Bernoulli"},
            },
        ),
        ("VQGuide", {}),
    ),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Trained runs by name, made when they are asked for."""
    made = {}

    def run(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            (model, sizes), (guide, more) = PAIRS[name]
            config = {
                "model": {"class_path": f"pyro_vae.models.{model}", "init_args": sizes},
                "guide": {"class_path": f"pyro_vae.guides.{guide}", "init_args": more},
            }
            (folder / "mine.yaml").write_text(yaml.safe_dump(config | {"data": SMALL, "fit": FIT}))
            assert main(["train", str(folder / "mine.yaml"), "--trust", "--out", str(folder / "run")]) == 0
            made[name] = folder / "run"
        return made[name]

    return run


def encoded(tmp_path, run, *words):
    out = tmp_path / "z.npz"
    assert main(["encode", str(run), *map(str, words), "--out", str(out), "--force", "--device", "cpu"]) == 0
    return dict(np.load(out))


def guides_sites(run):
    """The guide's sites on the run's test data, from a trace by hand."""
    _, guide = as_programs(*Run(run).programs())
    with torch.no_grad():
        nodes = traced(guide, **load_data(**SMALL).test.batch(slice(None))).nodes
    return {name: node["fn"] for name, node in nodes.items() if node["type"] == "sample" and name != "data"}


def test_a_conditional_run(runs, tmp_path, capsys):
    run = runs("conditional")
    found, q = encoded(tmp_path, run), guides_sites(run)["z"].base_dist
    assert set(found) == {"id", "z.mean", "z.scale"} and found["id"].tolist() == list(range(60))
    np.testing.assert_allclose(found["z.mean"], q.loc.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["z.scale"], q.scale.numpy(), rtol=1e-5)
    labels = load_data(**SMALL).test.tensors["y"]
    other = encoded(tmp_path, run, "--y", ",".join(str(9 - int(y)) for y in labels))
    assert not np.allclose(other["z.mean"], found["z.mean"])
    said = encoded(tmp_path, run, "--y", ",".join(str(int(y)) for y in labels))
    assert np.array_equal(said["z.mean"], found["z.mean"])
    for i in (0, 3):
        Image.fromarray(load_data("mnist5k").test.tensors["x"][i, 0].numpy()).save(tmp_path / f"{i}.png")
    files = [tmp_path / "0.png", tmp_path / "3.png"]
    by_files = encoded(tmp_path, run, *files, "--y", f"{int(labels[0])},{int(labels[3])}")
    np.testing.assert_allclose(by_files["z.mean"], found["z.mean"][[0, 3]], rtol=1e-5, atol=1e-6)
    assert by_files["id"].tolist() == [str(file) for file in files]
    capsys.readouterr()
    assert main(["encode", str(run), *map(str, files), "--out", str(tmp_path / "other.npz")]) == 1
    assert "the model needs y" in capsys.readouterr().err and not (tmp_path / "other.npz").exists()


def test_a_hierarchical_run(runs, tmp_path):
    run = runs("hierarchical")
    found = encoded(tmp_path, run, "--seed", "5")
    assert {name: array.shape for name, array in found.items()} == {
        "id": (60,), "z1.mean": (60, 4), "z1.scale": (60, 4), "z2.mean": (60, 2), "z2.scale": (60, 2)
    }  # fmt: skip
    top = guides_sites(run)["z2"].base_dist
    np.testing.assert_allclose(found["z2.mean"], top.loc.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["z2.scale"], top.scale.numpy(), rtol=1e-5)
    assert np.array_equal(encoded(tmp_path, run, "--seed", "5")["z1.mean"], found["z1.mean"])


def test_a_vq_run(runs, tmp_path):
    run = runs("vq")
    found, codes = encoded(tmp_path, run, "--batch-size", "5"), guides_sites(run)["codes"].mean
    assert found["codes"].dtype == np.int64 and np.array_equal(found["codes"], codes.numpy())
    assert "codes.mean" not in found and found["id"].shape == (60,)


def test_a_learned_prior_asks_for_y_where_it_has_a_part(runs, tmp_path, capsys):
    """In a log-likelihood, and not in codes."""
    shutil.copytree(runs("vq"), tmp_path / "run")
    learn = ["train-prior", str(tmp_path / "run"), "pixelcnn", "--prior.channels", "8", "--prior.num_layers", "1"]
    assert main([*learn, "--fit.epochs", "1", "--fit.device", "cpu"]) == 0
    test = load_data("mnist5k").test.tensors
    np.save(tmp_path / "x.npy", test["x"][:60].numpy())
    line = ["score", str(tmp_path / "run"), str(tmp_path / "x.npy"), "--out", str(tmp_path / "s.npz")]
    capsys.readouterr()
    assert main(line) == 1
    assert "the model needs y (class labels from 0 to 9), which is not in the data" in capsys.readouterr().err
    assert main([*line, "--y", ",".join(str(int(y)) for y in test["y"][:60])]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--particles", "1"]) == 0
    ours, theirs = (dict(np.load(tmp_path / name)) for name in ("s.npz", "run/evaluation-test.npz"))
    assert np.array_equal(ours["log_likelihood"], theirs["log_likelihood"])
    found = encoded(tmp_path, tmp_path / "run", tmp_path / "x.npy")
    assert np.array_equal(found["codes"], encoded(tmp_path, runs("vq"))["codes"])


def test_a_table_has_a_column_for_every_number(runs, tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    monkeypatch.setattr(output, "find_spec", lambda name: name)
    monkeypatch.setattr(pandas.DataFrame, "to_parquet", lambda self, file, engine, index: self.to_pickle(file))
    for name in ("conditional", "vq"):
        arrays, out = encoded(tmp_path, runs(name)), tmp_path / f"{name}.parquet"
        assert main(["encode", str(runs(name)), "--out", str(out), "--device", "cpu"]) == 0
        table = pandas.read_pickle(out, compression=None)
        assert len(table) == 60 and table["id"].tolist() == list(range(60))
        for site, array in arrays.items():
            for place in np.ndindex(array.shape[1:]):
                column = f"{site}[{','.join(map(str, place))}]" if place else site
                assert np.array_equal(table[column], array[(slice(None), *place)])
        assert table.shape[1] == sum(int(np.prod(array.shape[1:])) for array in arrays.values())


def test_a_real_parquet_file(runs, tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    assert main(["encode", str(runs("conditional")), "--out", str(tmp_path / "z.parquet")]) == 0
    assert list(pandas.read_parquet(tmp_path / "z.parquet").columns)[:2] == ["id", "z.mean[0]"]


def test_no_packages_no_table_and_no_file_replaced(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(output, "find_spec", lambda name: None)
    line = ["encode", str(runs("conditional")), "--out"]
    assert main([*line, str(tmp_path / "z.parquet")]) == 1
    assert "needs pandas and pyarrow: pip install pandas pyarrow" in capsys.readouterr().err
    (tmp_path / "z.npz").write_text("mine")
    assert main([*line, str(tmp_path / "z.npz")]) == 1
    assert "is there already" in capsys.readouterr().err and (tmp_path / "z.npz").read_text() == "mine"
    assert main([*line, str(tmp_path / "z.csv")]) == 1 and main(line[:-1]) == 2


@pytest.mark.parametrize("name", ["file", "allow_pickle", "a/b", "z.mean"])
def test_arrays_of_any_name(name, tmp_path):
    output.write_numbers(tmp_path / "some.NPZ", ["a", "ü"], {name: np.array([[1.5], [2.5]])})
    with np.load(tmp_path / "some.NPZ") as found:
        assert found[name].tolist() == [[1.5], [2.5]] and found["id"].tolist() == ["a", "ü"]
    with pytest.raises(ValueError, match="rename the site"):
        output.write_numbers(tmp_path / "some.npz", [0, 1], {"id": np.zeros(2)})

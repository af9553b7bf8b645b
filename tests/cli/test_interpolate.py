"""``pyro-vae interpolate`` of images: between data and files, of one latent and of several; what has no way."""

import numpy as np
import pytest
import torch
from command_line import run as pyro_vae
from command_line import write
from PIL import Image

from pyro_vae.data import load_data
from pyro_vae.evaluation.encoding import mean_path
from pyro_vae.evaluation.latent_space import interpolate as way
from pyro_vae.runs import Run

SMALL = {"name": "mnist5k", "binarization": "threshold", "limit": 30}
PAIRS = {
    "conditional": (("ConditionalVAE", {"latent_dim": 2, "hidden_dims": [6]}), ("ConditionalGuide", [6])),
    "hierarchical": (("HierarchicalVAE", {"latent_dims": [4, 2], "hidden_dims": [6, 6]}), ("LadderGuide", [6, 6])),
    "vq": (("VQVAE", {"num_codes": 8, "code_dim": 4, "channels": 8}), ("VQGuide", None)),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Trained runs by name, made when they are asked for."""
    made = {}

    def run(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            (model, sizes), (guide, dims) = PAIRS[name]
            if name == "vq":
                sizes = sizes | {"likelihood": {"class_path": "pyro_vae.likelihoods.Bernoulli"}}
            config = {
                "data": SMALL,
                "model": {"class_path": f"pyro_vae.models.{model}", "init_args": sizes},
                "guide": {
                    "class_path": f"pyro_vae.guides.{guide}",
                    "init_args": {} if dims is None else {"hidden_dims": dims},
                },
                "fit": {"epochs": 1, "batch_size": 10, "device": "cpu"},
            }
            assert pyro_vae("train", write(folder, "mine.yaml", config), "--out", folder / "run") == 0
            made[name] = folder / "run"
        return made[name]

    return run


def refused(capsys, *arguments):
    capsys.readouterr()
    assert pyro_vae(*arguments) == 1
    return capsys.readouterr().err


def test_every_latent_goes_from_one_mean_to_the_other(runs, capsys):
    run = runs("hierarchical")
    assert pyro_vae("interpolate", run, "test:3", "train:7", "--steps", "5") == 0
    assert capsys.readouterr().out.split() == [
        str(run / name) for name in ("interpolation.npz", "figures/interpolation.png")
    ]
    data, (model, guide) = load_data(**SMALL), Run(run).programs()
    batches = [split.batch(slice(i, i + 1)) for split, i in ((data.test, 3), (data.train, 7))]
    starts, ends = (mean_path(model, guide, batch) for batch in batches)
    found = np.load(run / "interpolation.npz")
    assert {*starts} <= {*found} and len(starts) == 2
    for name in starts:
        torch.testing.assert_close(torch.from_numpy(found[name]), way(starts[name], ends[name], 5)[0])
        assert found[name][0].tobytes() == starts[name][0].numpy().tobytes()
    assert np.array_equal(found["start"], batches[0]["x"][0]) and np.array_equal(found["end"], batches[1]["x"][0])
    assert found["x"].shape == (5, 1, 28, 28) and 0 <= found["x"].min() and found["x"].max() <= 1
    with Image.open(run / "figures" / "interpolation.png") as image:
        image.verify()


def test_files_and_labels(runs, capsys, tmp_path):
    run = runs("conditional")
    digits = load_data(**SMALL).test
    for i in range(2):
        array = (255 * digits.batch(slice(i, i + 1))["x"][0, 0]).to(torch.uint8).numpy()
        Image.fromarray(array).save(tmp_path / f"{i}.png")
    files = [tmp_path / "0.png", tmp_path / "1.png"]
    assert "the model needs y" in refused(capsys, "interpolate", run, *files)
    assert pyro_vae("interpolate", run, *files, "--y", "3") == 0
    three = np.load(run / "interpolation.npz")
    assert pyro_vae("interpolate", run, *files, "--y", "5", "--kind", "linear") == 0
    five = np.load(run / "interpolation.npz")
    assert three["x"].shape == (8, 1, 28, 28) and not np.array_equal(three["x"], five["x"])
    np.testing.assert_allclose(five["z"][3], five["z"][0] + 3 / 7 * (five["z"][7] - five["z"][0]), atol=1e-6)


def test_what_has_no_way_and_what_is_not_there(runs, capsys):
    assert "no latent site has real values of its own" in refused(capsys, "interpolate", runs("vq"), "test:0", "test:1")
    run = runs("hierarchical")
    for words, said in {
        ("test:0", "test:30"): "test:30: the test part has 30 data, 0 to 29",
        ("test:0", "none.png"): "none.png: no such file",
        ("test:0", "other:1"): "other:1: no such file",
        ("test:0", "test:1", "--steps", "1"): "--steps must be at least 2",
        ("test:0", "test:1", "--temperature", "0.5"): "no site of the model can be tempered",
        ("test:0", "test:1", "--beams", "2", "--top-k", "3"): "leave out --top-k and --top-p",
    }.items():
        assert said in refused(capsys, "interpolate", run, *words), words

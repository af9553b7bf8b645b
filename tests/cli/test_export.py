"""``pyro-vae export`` and ``explore``: a run's files, and what is said of them."""

import json

import pytest
import torch
from command_line import run, write

from pyro_vae.data import load_data
from pyro_vae.runs import Run

DATA = {"name": "mnist5k", "binarization": "threshold", "limit": 30}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    model = {"class_path": "pyro_vae.models.VAE", "init_args": {"latent_dim": 2, "hidden_dims": [6]}}
    guide = {"class_path": "pyro_vae.guides.GaussianGuide", "init_args": {"hidden_dims": [6]}}
    fit = {"epochs": 1, "batch_size": 10, "device": "cpu", "compile": "off"}
    file = write(folder, "mine.yaml", {"data": DATA, "model": model, "guide": guide, "fit": fit})
    assert run("train", file, "--trust", "--out", folder / "run") == 0
    return folder / "run"


def test_a_run_is_exported(trained, capsys):
    assert run("export", trained, "--to", "torch.export") == 0
    files = [trained / "export" / name for name in ("encoder.pt2", "decoder.pt2", "sampler.pt2", "metadata.json")]
    assert capsys.readouterr().out.split() == [str(file) for file in files]
    x, (_, guide) = load_data(**DATA).test.tensors["x"].float(), Run(trained).programs()
    with torch.no_grad():
        mean = guide.encoder(x).chunk(2, -1)[0]
    torch.testing.assert_close(torch.export.load(files[0]).module()(x)[0], mean, rtol=1e-6, atol=1e-6)
    said = json.loads(files[-1].read_text())
    assert said["data"] == {
        "name": "mnist5k", "shape": [1, 28, 28], "binarization": "threshold",
        "values": "grey levels and colours from 0 to 255 are x/255; then binarized, if it is said here",
    }  # fmt: skip
    assert said["run"]["model"] == "pyro_vae.models.VAE" and said["parts"]["encoder"]["checked"]["data"] == 30
    assert run("export", trained, "--to", "onnx") == 1
    assert "is there already" in capsys.readouterr().err
    assert run("export", trained, "--to", "torch.export", "--force") == 0


def test_a_run_is_explored(trained, capsys):
    assert run("explore", trained) == 0
    page = trained / "explorer.html"
    assert capsys.readouterr().out.strip() == str(page) and "VAE on mnist5k" in page.read_text()
    assert run("explore", trained, "--site", "w") == 1 and "unknown latent site" in capsys.readouterr().err

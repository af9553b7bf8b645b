"""``pyro-vae reconstruct`` of images: splits, files, context."""

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pyro_vae.cli import main
from pyro_vae.data import load_data
from pyro_vae.evaluation.generate import reconstruct
from pyro_vae.runs import Run
from pyro_vae.training.batches import derived_seed

FIT = {"epochs": 1, "batch_size": 10, "device": "cpu"}
SMALL = {"name": "mnist5k", "binarization": "threshold", "limit": 20}


def trained(folder, model, guide, sizes, data=None):
    classes = {"model": f"pyro_vae.models.{model}", "guide": f"pyro_vae.guides.{guide}"}
    config = {part: {"class_path": path, "init_args": sizes[part]} for part, path in classes.items()}
    (folder / "mine.yaml").write_text(yaml.safe_dump(config | {"data": SMALL | (data or {}), "fit": FIT}))
    assert main(["train", str(folder / "mine.yaml"), "--trust", "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    sizes = {"model": {"latent_dim": 2, "hidden_dims": [4]}, "guide": {"hidden_dims": [4]}}
    return trained(tmp_path_factory.mktemp("plain"), "VAE", "GaussianGuide", sizes)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    sizes = {"model": {"latent_dim": 2, "hidden_dims": [4]}, "guide": {"hidden_dims": [4]}}
    return trained(tmp_path_factory.mktemp("labelled"), "ConditionalVAE", "ConditionalGuide", sizes)


@pytest.fixture(scope="module")
def completing(tmp_path_factory):
    model = {"latent_dim": 2, "hidden_dims": [4], "prior_hidden_dims": [4], "baseline_hidden_dims": [4]}
    sizes = {"model": model, "guide": {"hidden_dims": [4]}}
    data = {"observed_quadrants": 2}
    return trained(tmp_path_factory.mktemp("completing"), "CompletionVAE", "CompletionGuide", sizes, data)


def drawn(run, *arguments):
    assert main(["reconstruct", str(run), *map(str, arguments)]) == 0
    with Image.open(run / "figures" / "reconstruction.png") as image:
        image.verify()
    return dict(np.load(run / "reconstructions.npz"))


def refused(capsys, run, *arguments):
    capsys.readouterr()
    assert main(["reconstruct", str(run), *map(str, arguments)]) == 1
    return capsys.readouterr().err


@pytest.fixture
def digit(tmp_path):
    image = load_data("mnist5k").test.tensors["x"][7, 0].numpy()
    Image.fromarray(image).save(tmp_path / "digit.png")
    return tmp_path / "digit.png"


def test_data_of_the_run(plain):
    arrays = drawn(plain, "--num", "5")
    assert arrays["name"].tolist() == ["test-00", "test-04", "test-08", "test-12", "test-16"]
    batch = load_data(**SMALL).test.batch(torch.tensor([0, 4, 8, 12, 16]))
    assert np.array_equal(arrays["x"], batch["x"].numpy()) and np.array_equal(arrays["y"], batch["y"].numpy())
    expected = reconstruct(*Run(plain).programs(), batch, seed=derived_seed(0, 0))
    np.testing.assert_allclose(arrays["x.mean"], expected.numpy())
    assert not np.array_equal(arrays["x.mean"], drawn(plain, "--num", "5", "--seed", "1")["x.mean"])
    assert not (plain / "reconstructions").exists()  # no sound
    assert len(drawn(plain, "--split", "validation")["x"]) == 16 and len(drawn(plain, "--num", "500")["x"]) == 20


def test_an_image_file_is_binarized_like_the_data(plain, digit):
    arrays = drawn(plain, digit)
    expected = load_data("mnist5k", binarization="threshold").test.batch(slice(7, 8))["x"]
    assert arrays["name"].tolist() == ["digit"] and np.array_equal(arrays["x"], expected.numpy())


def test_labels(labelled, digit, capsys):
    assert "the model needs y (class labels from 0 to 9), which is not in the data: say it, e.g. --y 7" in refused(
        capsys, labelled, digit
    )
    arrays = drawn(labelled, digit, digit, "--y", "3")
    assert arrays["y"].tolist() == [3, 3] and arrays["name"].tolist() == ["digit", "digit-2"]
    own = drawn(labelled, "--num", "3")
    assert own["y"].tolist() == load_data(**SMALL).test.tensors["y"][[0, 6, 13]].tolist()
    other = drawn(labelled, "--num", "3", "--y", "1,2")
    assert other["y"].tolist() == [1, 2, 1] and np.array_equal(other["x"], own["x"])
    assert not np.array_equal(other["x.mean"], own["x.mean"])
    assert "argument 'y' takes class labels from 0 to 9" in refused(capsys, labelled, digit, "--y", "11")


def test_completion_of_a_file(completing, digit, capsys):
    arrays = drawn(completing, digit)
    assert np.array_equal(arrays["x.mean"][arrays["mask"]], arrays["x"][arrays["mask"]])  # what is given stays
    assert "it is made from the data" in refused(capsys, completing, digit, "--y", "1")


def test_refusals(plain, tmp_path, capsys):
    Image.fromarray(np.zeros((30, 28), np.uint8)).save(tmp_path / "tall.png")
    assert "tall.png: is 30 x 28 pixels (height x width), but the data are 28 x 28" in refused(
        capsys, plain, tmp_path / "tall.png"
    )
    (tmp_path / "digit.png").write_bytes(b"no image")
    assert "digit.png: not a readable image" in refused(capsys, plain, tmp_path / "digit.png")
    assert "is not a run directory" in refused(capsys, tmp_path)


def test_grey_files_are_no_data_of_a_model_of_binary_ones(tmp_path, capsys):
    """The run's images are black and white by themselves, so nothing binarizes what is given beside them."""
    black_and_white = np.random.default_rng(0).integers(0, 2, (20, 6, 6), dtype=np.uint8) * 255
    (tmp_path / "data").mkdir()
    for i, image in enumerate(black_and_white):
        Image.fromarray(image).save(tmp_path / "data" / f"{i}.png")
    data = {"name": str(tmp_path / "data"), "binarization": "none", "limit": None}
    sizes = {"model": {"latent_dim": 2, "hidden_dims": [4]}, "guide": {"hidden_dims": [4]}}
    run = trained(tmp_path, "VAE", "GaussianGuide", sizes, data)
    arrays = drawn(run, tmp_path / "data" / "3.png", "--seed", "2", tmp_path / "data" / "4.png")
    assert np.array_equal(arrays["x"][:, 0], black_and_white[3:5] / 255) and arrays["name"].tolist() == ["3", "4"]
    Image.fromarray(np.full((6, 6), 128, np.uint8)).save(tmp_path / "grey.png")
    told = refused(capsys, run, tmp_path / "data" / "3.png", tmp_path / "grey.png")
    assert "lie outside the support" in told and "Bernoulli" in told


def test_options_between_files(labelled, digit):
    arrays = drawn(labelled, "--y=3", digit, "--seed", "1", digit)
    assert arrays["y"].tolist() == [3, 3] and len(arrays["name"]) == 2


def test_vectors_in_an_array_file(tmp_path, capsys, digit):
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32))
    model = {"latent_dim": 2, "hidden_dims": [4], "likelihood": {"class_path": "pyro_vae.likelihoods.Gaussian"}}
    data = {"name": str(tmp_path / "mine.npy"), "binarization": "none"}
    run = trained(tmp_path, "VAE", "GaussianGuide", {"model": model, "guide": {"hidden_dims": [4]}}, data)
    assert drawn(run)["x.mean"].shape == (4, 8)
    assert "how files would become such is not known; use --split" in refused(capsys, run, digit)
    whole = tmp_path / "train_only.npz"
    np.savez(whole, x_train=np.zeros((9, 8), np.float32))
    only = tmp_path / "only"
    only.mkdir()
    run = trained(only, "VAE", "GaussianGuide", {"model": model, "guide": {}}, data | {"name": str(whole)})
    assert "the run's data have no test part; choose another --split" in refused(capsys, run)

"""Every command on a run of fields given an image, and what is given from files."""

import json
import logging

import numpy as np
import pytest
import torch
import yaml
from image_context import SIDES, fields, recipe, trained, write_fields
from PIL import Image

import pyro_vae
from pyro_vae.cli import main

NUM = 5


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("commands"))


def command(capsys, *arguments):
    """What a command prints; it must end well."""
    capsys.readouterr()
    assert main([str(each) for each in arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def refused(capsys, *arguments):
    """What a command says that it refuses."""
    capsys.readouterr()
    assert main([str(each) for each in arguments]) == 1
    return capsys.readouterr().err


def save(path, array):
    Image.fromarray(array).save(path)
    return path


def grey_picture(path, sides=SIDES):
    rows = torch.linspace(0, 255, sides[0]).byte()[:, None].expand(sides).numpy()
    return save(path, np.ascontiguousarray(rows))


# ---------------------------------------------------------------------------- what a model is given, from a file
def test_draws_given_a_picture_are_the_verbs(run, tmp_path, capsys):
    command(capsys, "sample", run, "--given", grey_picture(tmp_path / "grey.png"), "--num", NUM, "--seed", 3)
    arrays = np.load(run / "samples.npz")
    image = torch.linspace(0, 255, SIDES[0]).byte().float()[:, None].expand(SIDES) / 255
    assert np.allclose(arrays["image"], image.expand(NUM, 1, *SIDES))
    model, _ = pyro_vae.load(run)
    drawn = pyro_vae.sample(model, NUM, batch={"image": torch.from_numpy(arrays["image"])}, seed=3)
    assert np.allclose(arrays["x"], drawn["x"]) and arrays["x"].shape == (NUM, 2, *SIDES)
    assert arrays["x"].std(0).mean() > 0.01


def test_several_things_given_have_their_draws_one_after_another(run, tmp_path, capsys):
    image = fields(3, 5)["image"]
    np.savez(tmp_path / "given.npz", image=image.numpy(), other=np.zeros(3))
    command(capsys, "sample", run, "--given", tmp_path / "given.npz", "--num", 2)
    arrays = np.load(run / "samples.npz")
    assert np.allclose(arrays["image"], image.repeat_interleave(2, 0)) and arrays["x"].shape[0] == 6


def test_one_thing_given_needs_no_leading_dimension(run, tmp_path, capsys):
    np.savez(tmp_path / "given.npz", image=fields(3, 5)["image"][0].numpy())
    command(capsys, "sample", run, "--given", tmp_path / "given.npz")
    assert np.load(run / "samples.npz")["x"].shape == (8, 2, *SIDES)


def test_a_larger_picture_is_cut_and_resized_and_the_log_says_so(run, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO)
    command(capsys, "sample", run, "--given", grey_picture(tmp_path / "large.png", (40, 90)), "--num", 1)
    assert "40 x 90 pixels" in caplog.text and "resized to 8 x 6" in caplog.text
    image = np.load(run / "samples.npz")["image"][0, 0]
    assert np.allclose(image, np.linspace(0, 1, 40).reshape(8, 5).mean(1)[:, None], atol=0.02)  # no row was cut off


def test_colours_become_grey_where_grey_is_given(run, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO)
    colour = np.zeros((*SIDES, 3), np.uint8)
    colour[..., 1] = 255
    command(capsys, "sample", run, "--given", save(tmp_path / "green.png", colour), "--num", 1)
    assert "luma" in caplog.text
    assert np.allclose(np.load(run / "samples.npz")["image"], 0.587, atol=2e-3)


def test_what_is_given_wrongly_is_refused(run, tmp_path, capsys):
    def given(**arrays):
        np.savez(tmp_path / "given.npz", **arrays)
        return refused(capsys, "sample", run, "--given", tmp_path / "given.npz")

    image = fields(3, 5)["image"].numpy()
    assert "no such file" in refused(capsys, "sample", run, "--given", tmp_path / "none.png")
    assert "given image" in given(picture=image)
    right = "images, from 0 to 1: floating point of shape (N, 1, 8, 6); got "
    assert f"{right}shape (N, 1, 8, 5)" in given(image=image[..., :5])
    assert f"{right}values from" in given(image=255 * image)
    image[1, 0, 2, 3] = np.nan
    assert "NaN or infinite" in given(image=image)
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG")
    assert "not a readable image" in refused(capsys, "sample", run, "--given", tmp_path / "damaged.png")
    assert "y is not for this model" in refused(
        capsys, "sample", run, "--y", 1, "--given", grey_picture(tmp_path / "grey.png")
    )


def test_images_of_another_range_are_refused_before_training(tmp_path, capsys):
    """Pictures given later are from 0 to 1: they would be all but black to a model of levels to 255."""
    data = write_fields(tmp_path / "fields.npz", image=lambda image: 255 * image)
    (tmp_path / "fields.yaml").write_text(yaml.safe_dump(recipe(data)))
    said = refused(capsys, "train", tmp_path / "fields.yaml", "--out", tmp_path / "run")
    assert "takes images, from 0 to 1" in said and "got values from" in said


def test_a_grey_picture_is_refused_where_one_with_colours_is_needed(tmp_path, capsys):
    run = trained(tmp_path, changed={"image": lambda image: image.expand(-1, 3, -1, -1)})
    assert "grey picture" in refused(capsys, "sample", run, "--given", grey_picture(tmp_path / "grey.png"))
    colour = save(tmp_path / "colour.png", np.full((*SIDES, 3), (0, 255, 51), np.uint8))
    command(capsys, "sample", run, "--given", colour, "--num", 2)
    image = torch.from_numpy(np.load(run / "samples.npz")["image"])
    assert torch.allclose(image.mean((0, 2, 3)), torch.tensor([0.0, 1.0, 0.2]))


def test_given_is_of_conditional_models(tmp_path, capsys):
    (tmp_path / "vae.yaml").write_text(
        "data: {name: x.npz}\nmodel: {class_path: VAE, init_args: {latent_dim: 1, hidden_dims: [3]}}\n"
        "guide: {class_path: GaussianGuide, init_args: {hidden_dims: [3]}}\nfit: {epochs: 1}\n"
    )
    np.savez(tmp_path / "x.npz", x=np.zeros((20, 4), bool))
    name = f"--data.name={tmp_path / 'x.npz'}"
    assert main(["train", str(tmp_path / "vae.yaml"), name, "--out", str(tmp_path / "run")]) == 0
    assert "given nothing" in refused(
        capsys, "sample", tmp_path / "run", "--given", grey_picture(tmp_path / "grey.png")
    )


# ---------------------------------------------------------------------------- the other commands
def test_samples_are_given_the_datas_images(run, capsys):
    command(capsys, "sample", run, "--num", 4)
    arrays = np.load(run / "samples.npz")
    held_out = fields(12, 2)["image"].numpy()
    assert np.array_equal(arrays["image"], held_out[[0, 3, 6, 9]])


def test_evaluate_names_what_its_number_is_a_density_of(run, capsys):
    told = json.loads(command(capsys, "evaluate", run, "--particles", 20, "--json"))
    assert told["given"] == ["image"] and np.isfinite(told["log_likelihood"])


def test_files_of_ones_own_bring_their_images(run, tmp_path, capsys):
    some = {name: value.numpy() for name, value in fields(7, 9).items()}
    np.savez(tmp_path / "mine.npz", **some)
    told = json.loads(command(capsys, "score", run, tmp_path / "mine.npz", "--particles", 20, "--json"))
    model, guide = pyro_vae.load(run)
    own = pyro_vae.log_likelihood(
        model, guide, {name: torch.from_numpy(value) for name, value in some.items()}, num_particles=20, seed=0
    )
    assert told["log_likelihood"] == pytest.approx(float(own.per_datum.mean()), abs=1e-3)
    command(capsys, "encode", run, tmp_path / "mine.npz", "--out", tmp_path / "z.npz")
    latents = pyro_vae.encode(model, guide, {name: torch.from_numpy(value) for name, value in some.items()})
    assert np.allclose(np.load(tmp_path / "z.npz")["z.mean"], latents["z"], atol=1e-5)


def test_files_of_ones_own_go_through_the_latents(run, tmp_path, capsys):
    some = {name: value.numpy() for name, value in fields(3, 9).items()}
    np.savez(tmp_path / "mine.npz", **some)
    command(capsys, "reconstruct", run, tmp_path / "mine.npz", "--seed", 2)
    arrays = np.load(run / "reconstructions.npz")
    assert arrays["name"].tolist() == ["mine-0", "mine-1", "mine-2"] and np.array_equal(arrays["image"], some["image"])
    for i in range(2):
        np.savez(tmp_path / f"{i}.npz", **{name: value[i : i + 1] for name, value in some.items()})
    command(capsys, "interpolate", run, tmp_path / "0.npz", tmp_path / "1.npz", "--steps", 3)
    found = np.load(run / "interpolation.npz")
    assert np.array_equal(found["start"], some["x"][0]) and np.array_equal(found["end"], some["x"][1])
    assert "give a file with one" in refused(capsys, "interpolate", run, tmp_path / "0.npz", tmp_path / "mine.npz")


def test_files_without_their_images_are_refused(run, tmp_path, capsys):
    np.savez(tmp_path / "mine.npz", x=fields(7, 9)["x"].numpy())
    for words in (["score", run, tmp_path / "mine.npz"], ["encode", run, tmp_path / "mine.npz", "--out", "z.npz"]):
        assert "needs image" in refused(capsys, *words)


def test_images_of_another_size_are_refused(run, tmp_path, capsys):
    some = {name: value.numpy() for name, value in fields(7, 9).items()}
    np.savez(tmp_path / "mine.npz", x=some["x"], image=some["image"][..., :5])
    assert "of shape (N, 1, 8, 6); got shape (N, 1, 8, 5)" in refused(capsys, "score", run, tmp_path / "mine.npz")


@pytest.mark.parametrize(
    "words",
    [
        ("reconstruct", "--num", 3),
        ("interpolate", "test:1", "test:4", "--steps", 3),
        ("figures",),
        ("report", "--particles", 10),
        ("ais", "--limit", 2, "--num-chains", 2, "--num-temperatures", 5),
        ("bidirectional", "--num", 2, "--num-chains", 2, "--num-temperatures", 5),
    ],
    ids=lambda words: words[0],
)
def test_the_command_ends_well(run, capsys, words):
    command(capsys, words[0], run, *words[1:])


def test_interpolations_say_whose_image_is_given(run, capsys, caplog):
    caplog.set_level(logging.INFO)
    command(capsys, "interpolate", run, "test:1", "test:4", "--steps", 3)
    assert "all steps are given image of the first datum" in caplog.text
    arrays = np.load(run / "interpolation.npz")
    model, _ = pyro_vae.load(run)
    made = pyro_vae.decode(
        model,
        {"z": torch.from_numpy(arrays["z"])},
        batch={"image": fields(12, 2)["image"][1:2].expand(3, -1, -1, -1)},
    )
    assert np.allclose(arrays["x"], made, atol=1e-5)

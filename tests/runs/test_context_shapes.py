"""Shapes of what data have beside x, which classes are handed; how data are looked at, which runs keep."""

import pytest
import torch
import yaml
from image_context import SIDES, fields, recipe, trained, write_fields

import pyro_vae
from pyro_vae.data import Data, Pictures, Split, picture_kind
from pyro_vae.data.picture_kinds import picture_facts, pictures_of
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.runs.config import build, data_facts, experiment_parser, load_configured_data, parse_config
from pyro_vae.runs.run import Run

MIXTURE = {
    "class_path": "MixtureDensityPrior",
    "init_args": {
        "num_components": 2,
        "argument": "image",
        "condition": {"class_path": "ContextEncoder", "init_args": {"channels": [6], "dim": 5}},
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("image_context"), prior=MIXTURE)


def built(config, **facts):
    return build(parse_config(experiment_parser(config), config, "here"), **facts)


def test_a_class_is_handed_the_shape_of_the_entry_it_is_named_after(tmp_path):
    config = recipe(write_fields(tmp_path / "fields.npz"), prior=MIXTURE)
    data = load_configured_data(parse_config(experiment_parser(config), config, "here"))
    model = built(config, **data_facts(data)).model
    assert model.image_shape == model.latent_prior.condition.image_shape == (1, *SIDES)


def test_what_is_said_is_kept():
    config = recipe("fields.npz", image_shape=[3, 8, 6])
    model = built(config, data_shape=(2, *SIDES), context_shapes={"image": (1, *SIDES)}).model
    assert model.image_shape == (3, 8, 6)


def test_without_such_an_entry_the_error_names_it():
    with pytest.raises(InputError, match=r"image_shape, the shape of one datum's 'image'; the data have .* only x, y"):
        built(recipe("fields.npz"), data_shape=(2, *SIDES), context_shapes={"y": ()})


def test_what_a_class_needs_beside_shapes_is_still_required():
    config = recipe("fields.npz") | {"model": {"class_path": "MLPDecoder", "init_args": {"hidden_dims": [3]}}}
    with pytest.raises(InputError, match="in_dim"):
        parse_config(experiment_parser(config), config, "here")


def test_a_run_is_rebuilt_without_its_data(run):
    (run.parent / "fields.npz").rename(run.parent / "elsewhere.npz")
    try:
        opened = Run(run)
        assert opened.context_shapes == {"image": (1, *SIDES)}
        assert opened.programs()[0].image_shape == (1, *SIDES)
    finally:
        (run.parent / "elsewhere.npz").rename(run.parent / "fields.npz")


def changed(run, tmp_path, **head):
    copy = tmp_path / "run"
    copy.mkdir()
    config = yaml.safe_load((run / "config.yaml").read_text()) | head
    (copy / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in config.items() if v is not ...}))
    return copy


@pytest.mark.parametrize("shapes", [{"image": [1, -8, 6]}, {"image": "big"}, {"image": [1, 2.5]}, 3, ["image"]])
def test_damaged_shapes_are_refused(run, tmp_path, shapes):
    with pytest.raises(CorruptFileError, match=r"context_shapes|image_shape"):
        Run(changed(run, tmp_path, context_shapes=shapes))


def test_a_run_of_before_has_none(run, tmp_path):
    old = Run(changed(run, tmp_path, context_shapes=...))
    assert old.context_shapes == {} and "context_shapes" not in old._described() and old.pictures is None


def test_images_of_another_shape_in_another_part_are_refused_before_training(tmp_path):
    other = {"x": torch.rand(4, 2, 8, 6), "image": torch.rand(4, 1, 8, 7)}
    data = Data(Split(fields(20, 0)), Split(other), name="fields")
    config = recipe(write_fields(tmp_path / "fields.npz"))
    pair = built(config, **data_facts(data))
    with pytest.raises(InputError, match=r"shape \(N, 1, 8, 6\); got shape \(N, 1, 8, 7\)"):
        pyro_vae.fit(pair.model, pair.guide, data, epochs=1, progress=False)


# ---------------------------------------------------------------------------- how data are looked at
@picture_kind
class Beside(Pictures):
    """The image, and the first channel of x at its right, ``gain`` times as bright."""

    kind = "test-beside"

    def __init__(self, gain):
        self.gain = gain

    def images(self, x, batch):
        first = (x[..., :1, :, :].abs() * self.gain).clamp(0, 1)
        return torch.cat([batch["image"].expand(first.shape), first], -1)

    def plain(self):
        return {"gain": self.gain}

    @classmethod
    def from_plain(cls, values):
        if not isinstance(values["gain"], float):
            raise TypeError("gain is a number")
        return cls(values["gain"])


def looked_at(run, tmp_path):
    config = Run(run).config
    data = load_configured_data(config)
    data = Data(data.train, data.validation, data.test, name="fields", extras=(Beside(0.5),))
    return Run.create(tmp_path / "looked_at", config, "here", data)


def test_a_run_keeps_how_its_data_are_looked_at(run, tmp_path):
    kept = looked_at(run, tmp_path)
    assert isinstance(kept.pictures, Beside) and kept.pictures.gain == 0.5


@pytest.mark.parametrize(
    "facts", [{"kind": "unheard"}, {"kind": "test-beside"}, {"kind": "test-beside", "gain": "x"}, 3]
)
def test_damaged_pictures_are_refused(run, tmp_path, facts):
    with pytest.raises(CorruptFileError, match="pictures"):
        Run(changed(run, tmp_path, pictures=facts))


def test_pictures_that_cannot_be_read_again_are_refused():
    class Unregistered(Beside):
        kind = "unregistered"

    with pytest.raises(InputError, match="picture_kind"):
        picture_facts(Unregistered(1.0))
    with pytest.raises(InputError, match="already"):

        @picture_kind
        class Other(Pictures):
            kind = "test-beside"

    assert pictures_of(picture_facts(Beside(2.0))).gain == 2.0

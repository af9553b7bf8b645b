"""What is drawn of data that are no pictures by themselves: each datum with what it belongs to."""

import pytest
import torch
from image_context import MODEL, SIDES, fields

import pyro_vae
from pyro_vae.data import Data, Pictures, Split
from pyro_vae.errors import NotApplicable
from pyro_vae.guides import FieldGuide
from pyro_vae.models import FieldVAE
from pyro_vae.plots.registry import Shown, figures, known_of
from pyro_vae.plots.view import View
from pyro_vae.programs.program import as_programs


class Coded(Pictures):
    """A picture whose red is the datum's image and whose green is its first channel."""

    kind = "test-coded"

    def images(self, x, batch):
        image = batch["image"]
        assert x.shape[-4] == len(image)  # the data are last of what comes before the event
        red = image.expand(*x.shape[:-3], *image.shape[-3:])
        return torch.cat([red, x[..., :1, :, :].clamp(0, 1), torch.zeros_like(red)], -3)

    def plain(self):
        return {}

    @classmethod
    def from_plain(cls, values):
        return cls()


DATA = fields(6, 0)


def test_several_values_of_a_datum_have_its_context():
    view = View((2, *SIDES), DATA, Coded())
    values = torch.rand(6, 4, 2, *SIDES)  # 4 of each datum
    seen = view(values, 2)
    assert seen.shape == (6, 4, 3, *SIDES) and view.limits == (0.0, 1.0)
    assert torch.equal(seen[:, :, 0], DATA["image"][:, None, 0].expand(6, 4, *SIDES))
    assert torch.equal(seen[:, :, 1], values[:, :, 0])
    assert torch.equal(view(values[:, 0].flatten(1)), seen[:, 0])  # a site may have them flat


def test_without_pictures_values_are_drawn_as_they_are():
    x = torch.rand(6, 1, *SIDES) * 3
    view = View((1, *SIDES), {"x": x})
    assert torch.equal(view(x), x) and view.limits[1] == pytest.approx(float(x.max()))


def test_what_cannot_be_seen_is_said():
    with pytest.raises(NotApplicable, match="nothing says how they become pictures"):
        View((4, 3, *SIDES), {})
    with pytest.raises(NotApplicable, match="needs 'image'"):
        View((2, *SIDES), {}, Coded())(DATA["x"])


@pytest.fixture(scope="module")
def shown():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FieldVAE((2, *SIDES), (1, *SIDES), **MODEL)
        guide = FieldGuide(model, channels=(6,), context_dim=5)
    with_labels = Split(DATA | {"y": torch.arange(6) % 2}, name="fields")
    data = Data(with_labels, name="fields", extras=(Coded(),))
    return Shown(*as_programs(model, guide), data.train, [], **known_of(data))


DRAWN = ["reconstructions", "prior_samples", "scaled_samples", "interpolations", "traversals", "worst_data"]
DRAWN += ["attribute_arithmetic", "context_draws"]


@pytest.mark.parametrize("name", DRAWN)
def test_figures_draw_pictures(shown, name):
    figure = figures()[name].draw(shown)
    image = torch.from_numpy(figure.axes[0].get_images()[0].get_array())  # (height, width, 3)
    inner = (image != 1).any(-1)
    assert float(image[..., 2][inner].max()) < 1e-6 or name == "context_draws"  # no blue in any picture
    reds = image[..., 0][inner].unique()
    known = torch.cat([DATA["image"].flatten(), torch.tensor([0.0, 1.0])])
    distance = (reds[:, None] - known.to(reds)).abs().min(1).values
    assert float(distance.max()) < 1e-6 or name == "context_draws"  # each red is one of the data's images


@pytest.mark.parametrize("name", DRAWN)
def test_without_pictures_they_are_not_drawn(shown, name):
    plain = Shown(shown.model, shown.guide, shown.split, [])
    with pytest.raises(NotApplicable, match=r"data of shape \(2, 8, 6\)"):
        figures()[name].draw(plain)


def test_a_model_given_images_has_no_manifold(shown):
    with pytest.raises(NotApplicable, match="needs image"):
        figures()["manifold"].draw(shown)


def test_interpolations_say_whose_image_is_given(shown):
    title = figures()["interpolations"].draw(shown).get_suptitle()
    assert "p(x | z, image); image of the datum at the left" in title


def test_loggers_and_runs_draw_them(tmp_path):
    model = FieldVAE((2, *SIDES), (1, *SIDES), **MODEL)
    data = Data(Split(fields(20, 1)), Split(DATA), name="fields", extras=(Coded(),))
    seen = []

    class Logger:
        experiment = property(lambda self: self)

        def log_metrics(self, metrics, step):
            pass

        def add_figure(self, tag, figure, step):
            seen.append((tag, figure))

    guide = FieldGuide(model, channels=(6,), context_dim=5)
    pyro_vae.fit(model, guide, data, epochs=1, logger=Logger(), log_images_every=1, progress=False)
    assert [tag for tag, _ in seen] == ["reconstructions", "prior_samples"]

"""CIE Lab against scikit-image; colour images as colours given lightness; shapes with known palettes."""

import numpy as np
import pytest
import skimage.color
import torch
from PIL import Image
from scipy.stats import chisquare, norm

from pyro_vae.data import LabPictures, RawData, lab_to_rgb, load_data, outside_gamut, rgb_to_lab, source
from pyro_vae.data import registry as sources
from pyro_vae.data.sources import coloured_shapes
from pyro_vae.errors import InputError


def every_level(step=15):
    levels = torch.arange(0, 256, step, dtype=torch.float64) / 255
    return torch.cartesian_prod(levels, levels, levels).T.reshape(3, -1, len(levels))


def test_lab_is_that_of_scikit_image():
    rgb = every_level()
    truth = skimage.color.rgb2lab(rgb.movedim(0, -1).numpy())
    ours = rgb_to_lab(rgb).movedim(0, -1).numpy()
    light = truth[..., 0] > 10
    np.testing.assert_allclose(ours[light], truth[light], atol=1e-4)
    np.testing.assert_allclose(ours, truth, atol=2e-4)  # where it is dark: its constants are rounded, ours are exact
    np.testing.assert_allclose(rgb_to_lab(rgb.float()).movedim(0, -1).numpy()[light], truth[light], atol=1e-3)


def test_there_and_back():
    rgb = every_level()
    lab = rgb_to_lab(rgb)
    torch.testing.assert_close(lab_to_rgb(lab), rgb, rtol=0, atol=1e-9)
    assert not outside_gamut(lab).any()
    truth = skimage.color.lab2rgb(lab.movedim(0, -1).numpy())
    np.testing.assert_allclose(lab_to_rgb(lab).movedim(0, -1).numpy(), truth, atol=1e-4)
    batched = rgb.expand(2, 5, *rgb.shape).float()
    assert (lab_to_rgb(rgb_to_lab(batched)) - batched).abs().max() < 1e-5
    assert ((lab_to_rgb(rgb_to_lab(batched)) * 255).round() == (batched * 255).round()).all()


def test_colours_that_no_screen_has_are_clipped_and_counted():
    lab = torch.tensor([[50.0, 0.0, 120.0], [50.0, 0.0, 0.0], [90.0, -100.0, 0.0]]).T.view(3, 1, 3)
    assert outside_gamut(lab).tolist() == [[True, False, True]]
    rgb = lab_to_rgb(lab)
    assert rgb.isfinite().all() and 0 <= rgb.min() and rgb.max() <= 1


def images(n, channels, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, channels, size, size), generator=generator, dtype=torch.uint8)


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setattr(sources, "_sources", {each.name: each for each in sources.sources()})

    def make(x, **more):
        @source("made-pictures", "pictures of a test")
        def load() -> RawData:
            return RawData({"train": {"x": x, **more}, "test": {"x": x[:3]}})

    return make


def test_any_source_of_colour_images(made):
    x = images(6, 3, 12)
    made(x, y=torch.arange(6))
    data = load_data("made-pictures", colours="lab", limit=4)
    batch = data.train.batch(slice(None))
    assert batch["x"].shape == (4, 2, 12, 12) and batch["image"].shape == (4, 1, 12, 12)
    assert batch["x"].dtype == batch["image"].dtype == torch.float32 and batch["y"].tolist() == [0, 1, 2, 3]
    lab = skimage.color.rgb2lab((x[:4] / 255.0).movedim(1, -1).numpy())
    np.testing.assert_allclose(100 * batch["image"][:, 0].numpy(), lab[..., 0], atol=2e-3)
    np.testing.assert_allclose(128 * batch["x"].movedim(1, -1).numpy(), lab[..., 1:], atol=2e-3)
    pictures = data.extra(LabPictures)
    assert ((pictures.images(batch["x"], batch) * 255).round() == x[:4]).all()
    several = pictures.images(batch["x"].expand(7, -1, -1, -1, -1), batch)
    assert several.shape == (7, 4, 3, 12, 12) and LabPictures.from_plain(pictures.plain()).kind == "lab"
    assert load_data("made-pictures", colours="lab", image_size=6).train.shape == (2, 6, 6)
    assert "CIE Lab" in data.description


def test_a_folder_of_colour_images_and_of_grey_ones(tmp_path):
    for i, x in enumerate(images(20, 3)):
        Image.fromarray(x.permute(1, 2, 0).numpy()).save(tmp_path / f"{i:02}.png")
    assert load_data(str(tmp_path), colours="lab", image_size=8).train.shape == (2, 8, 8)
    for file in tmp_path.iterdir():
        Image.open(file).convert("L").save(file)
    with pytest.raises(InputError, match="grey images, which have none"):
        load_data(str(tmp_path), colours="lab")


@pytest.mark.parametrize(
    "x, options, said",
    [
        (images(6, 1), {}, "grey images, which have none; leave colours out"),
        (images(6, 3)[..., 0], {}, "no images of three channels"),
        (images(6, 3).float(), {}, "from 0 to 1"),
        (images(6, 3), {"binarization": "threshold"}, "binarization is not for colours"),
        (images(6, 3), {"observed_quadrants": 1}, "observed_quadrants is not for colours"),
        (images(6, 3), {"colours": "hsv"}, "colours 'hsv'"),
    ],
)
def test_what_has_no_colours(made, x, options, said):
    made(x)
    with pytest.raises(InputError, match=said):
        load_data("made-pictures", **{"colours": "lab", **options})


def test_an_image_of_the_datas_own_is_not_lost(tmp_path):
    np.savez(tmp_path / "pairs.npz", x=images(20, 3).numpy(), image=images(20, 1).numpy())
    assert load_data(str(tmp_path / "pairs.npz")).train.shape == images(1, 3).shape[1:]
    with pytest.raises(InputError, match="these data have an 'image' of their own"):
        load_data(str(tmp_path / "pairs.npz"), colours="lab")


def test_sequences_have_no_colours():
    with pytest.raises(InputError, match="colours is not for these data"):
        load_data("grammar", colours="lab", limit=10)


@pytest.fixture(scope="module")
def shapes():
    return load_data("coloured-shapes", images=1500)


def test_palettes_are_drawn_with_their_probabilities(shapes):
    batch = shapes.train.batch(slice(None))
    for shape, known in enumerate(coloured_shapes.PALETTES):
        mine = batch["palette"][batch["y"] == shape]
        counts = torch.bincount(mine, minlength=len(known)).numpy()
        assert chisquare(counts, len(mine) * np.array([weight for weight, *_ in known])).pvalue > 0.001
    assert all(sum(weight for weight, *_ in known) == pytest.approx(1) for known in coloured_shapes.PALETTES)


def test_the_density_is_the_mixture_of_scipy(shapes):
    batch = shapes.test.batch(slice(0, 20))
    found = coloured_shapes.palette_densities(batch["x"], batch["image"], batch["y"]).numpy()
    for i in range(20):
        covered = (0.75 - batch["image"][i].double().numpy()) / 0.2
        for m, (weight, inside, outside) in enumerate(coloured_shapes.PALETTES[int(batch["y"][i])]):
            mean = np.stack([(covered * inside[c] + (1 - covered) * outside[c])[0] / 128 for c in (0, 1)])
            truth = np.log(weight) + norm(mean, 0.03).logpdf(batch["x"][i].double().numpy()).sum()
            assert found[i, m] == pytest.approx(truth, abs=1e-3)
    assert (found.argmax(1) == batch["palette"].numpy()).all()
    assert np.isneginf(found[batch["y"].numpy() == 2][:, 2:]).all()


def test_the_grey_image_says_nothing_of_the_palette_and_screens_have_the_colours(shapes):
    batch, pictures = shapes.test.batch(slice(None)), shapes.extra(LabPictures)
    assert outside_gamut(pictures.lab(batch["x"], batch)).float().mean() < 2e-3  # by noise
    log_weights, means = coloured_shapes.palettes(batch["image"], batch["y"])
    for m in range(4):
        has = log_weights[:, m].isfinite()
        lab = pictures.lab(means[has, m], {"image": batch["image"][has]})
        assert not outside_gamut(lab).any()
        grey = rgb_to_lab(lab_to_rgb(lab))[:, :1] / 100  # the lightness of the coloured picture is the grey image
        torch.testing.assert_close(grey, batch["image"][has], rtol=0, atol=1e-4)


def test_parts_do_not_overlap_and_are_the_same_again(shapes):
    images = [shapes.splits[part].column("image").flatten(1) for part in ("train", "test")]
    both = torch.cat(images)
    assert len(both.unique(dim=0)) == len(both)
    again = load_data("coloured-shapes", images=1500)
    assert torch.equal(again.test.column("x"), shapes.test.column("x"))
    with pytest.raises(InputError, match="at most 20,000"):
        load_data("coloured-shapes", images=20_001)

"""Figures of what latents do: what is drawn is what was computed, and what does not apply is said."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.collections import PathCollection

import pyro_vae
from pyro_vae import plots as figures
from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation import LatentStatistics, SiteStatistics, latent_statistics
from pyro_vae.evaluation.encoding import posterior_samples, principal_components
from pyro_vae.evaluation.generate import sample
from pyro_vae.evaluation.latent_space import attribute_correlation, attribute_vectors, interpolate
from pyro_vae.plots import NotApplicable
from pyro_vae.plots.axes import panels
from pyro_vae.plots.posterior import density

SHAPE = (1, 4, 4)


def model(x=None, num_samples=1):
    """z3 (1) and z2 (2), a code and z1 (5); the first five pixels are the sigmoid of z1."""
    with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
        z3 = pyro.sample("z3", dist.Normal(0.0, 1.0))
        z2 = pyro.sample("z2", dist.Normal(z3[..., None].expand(*z3.shape, 2), 1.0).to_event(1))
        pyro.sample("code", dist.Categorical(torch.ones(4)))
        z1 = pyro.sample("z1", dist.Normal(torch.cat([z2, z2, z2[..., :1]], -1), 0.5).to_event(1))
        mean = torch.nn.functional.pad(z1, (0, 11)).sigmoid().unflatten(-1, SHAPE)
        return pyro.sample("x", dist.Normal(mean, 0.1).to_event(3), obs=x)


def bottom_up(x):
    """The posterior of z1 is the first five pixels, sharp; the others follow."""
    with pyro.plate("data", len(x), dim=-1):
        z1 = pyro.sample("z1", dist.Normal(x.flatten(1)[..., :5], 1e-3).to_event(1))
        pyro.sample("code", dist.Categorical(torch.ones(4)))
        z2 = pyro.sample("z2", dist.Normal(z1[..., :2], 0.5).to_event(1))
        pyro.sample("z3", dist.Normal(z2.sum(-1), 1.0))


@pytest.fixture
def split():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3
    x = torch.rand(60, *SHAPE, generator=generator) + y[:, None, None, None]
    return Split({"x": x, "y": y, "tags": torch.rand(60, 4, generator=generator) < 0.5}, name="toy")


def canvas(figure):
    return torch.as_tensor(figure.axes[0].images[0].get_array())[..., 0]


def tile(picture, row, column, size=4):
    return picture[row * (size + 1) : row * (size + 1) + size, column * (size + 1) : column * (size + 1) + size]


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


# ------------------------------------------------------------------ panels
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 11, 29])
def test_there_are_as_many_panels_as_asked(count):
    figure, places = panels(count, 2, 2)
    assert len(places) == len(figure.axes) == count


# ------------------------------------------------------------------ KL over epochs
def test_heat_map_holds_the_records():
    records = [
        {"epoch": e, "train/loss": 1.0, **{f"train/kl/z{i}": 10.0 ** (i - 4) * e for i in (5, 4, 3, 2, 1)}}
        for e in range(3, 9)
    ]
    (axes, bar) = figures.kl_heatmap(records).axes
    (image,) = axes.images
    expected = np.array([[r[f"train/kl/z{i}"] for r in records] for i in (5, 4, 3, 2, 1)])
    np.testing.assert_array_equal(np.asarray(image.get_array()), expected)
    assert [t.get_text() for t in axes.get_yticklabels()] == ["z5", "z4", "z3", "z2", "z1"]
    assert tuple(image.get_extent()[:2]) == (2.5, 8.5)
    assert "nats" in bar.get_ylabel()
    shades = image.norm(expected[:, -1])  # each ten times the next: all told apart, the largest is the brightest
    assert shades[0] == 1.0 and (np.diff(shades) < -0.05).all()


def test_heat_map_of_gaps_negative_values_and_dead_sites():
    records = [{"epoch": e, "train/kl/z": v} for e, v in ((1, 0.0), (2, -0.001), (4, 0.0))]
    (image,) = figures.kl_heatmap(records).axes[0].images
    values = np.ma.filled(image.get_array().astype(float), np.nan)
    np.testing.assert_array_equal(values, [[0.0, -0.001, np.nan, 0.0]])
    with pytest.raises(NotApplicable, match="no KL of a latent site"):
        figures.kl_heatmap([{"epoch": 1, "train/loss": 2.0}])


# ------------------------------------------------------------------ KL of units
def test_units_are_drawn_in_falling_order_with_the_active_ones_in_colour():
    kl = torch.tensor([0.001, 2.0, 0.5, 0.02], dtype=torch.float64)
    site = SiteStatistics(kl.sum().item(), kl, True, None, torch.tensor([0.0, 1.0, 0.02, 0.005]))
    single = SiteStatistics(0.3, torch.tensor(0.3, dtype=torch.float64), True, None, torch.tensor(0.5))
    figure = figures.kl_per_unit(LatentStatistics({"z2": single, "z1": site}, 10, 7, "toy"))
    top, low = figure.axes
    assert top.get_title() == "z2: 1 of 1 units active, 0.30 nats"
    assert low.get_title() == "z1: 2 of 4 units active, 2.52 nats"
    every, active = (patch.get_data().values.tolist() for patch in low.patches)
    assert every == [2.0, 0.5, 0.02, 0.001] and active == [2.0, 0.5, 0.0, 0.0]
    assert "7 data" in figure.get_suptitle()


def test_units_of_a_hierarchy(split):
    statistics = latent_statistics(model, bottom_up, split)
    figure = figures.kl_per_unit(statistics)
    assert [t.split(":")[0] for t in titles(figure)] == ["z3", "z2", "code", "z1"]
    assert titles(figure)[2] == f"code: {abs(statistics.sites['code'].kl):.2f} nats"


# ------------------------------------------------------------------ layers
def test_layers_are_drawn_from_posterior_samples(split):
    drawn = posterior_samples(model, bottom_up, split, seed=2)
    figure = figures.layer_pca(model, bottom_up, split, seed=2)
    by_name = dict(zip(["z3", "z2", "code", "z1"], figure.axes, strict=True))
    offsets = torch.as_tensor(by_name["z2"].collections[0].get_offsets().data)
    torch.testing.assert_close(offsets, drawn["z2"].double())
    offsets = torch.as_tensor(by_name["z1"].collections[0].get_offsets().data)
    torch.testing.assert_close(offsets, principal_components(drawn["z1"]).scores.double())
    assert sum(patch.get_height() for group in by_name["z3"].containers for patch in group) == 60
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0", "1", "2"]


def test_layers_come_in_the_model_s_order_whatever_their_names_and_the_guide_s_order(split):
    names = ["top", "z1", "z10", "z2", "a"]

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            for name in names:
                pyro.sample(name, dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.zeros(SHAPE), 1.0).to_event(3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            for name in reversed(names):
                pyro.sample(name, dist.Normal(x.flatten(1)[:, :2], 1.0).to_event(1))

    figure = figures.layer_pca(model, guide, split)
    assert titles(figure) == [f"{name} (2 dimensions)" for name in names]
    assert list(latent_statistics(model, guide, split).sites) == names
    assert list(pyro_vae.ELBO().terms(model, guide, x=split.batch(slice(0, 4))["x"]).kl) == names
    assert list(pyro_vae.IWAE(2).terms(model, guide, x=split.batch(slice(0, 4))["x"]).kl) == names


# ------------------------------------------------------------------ aggregated posterior
def test_density_of_gaussian_draws():
    draws = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws = draws * torch.tensor([1.0, 0.5]) + torch.tensor([2.0, -1.0])
    x, y = torch.linspace(-3, 7, 120, dtype=torch.float64), torch.linspace(-4, 2, 90, dtype=torch.float64)
    found = density(draws, x, y)
    assert found.shape == (120, 90)
    assert (found.sum() * (x[1] - x[0]) * (y[1] - y[0])).item() == pytest.approx(1.0, abs=0.01)
    highest = found.max().item()
    assert highest == pytest.approx(1 / (2 * math.pi * 0.5), rel=0.12)
    i, j = divmod(int(found.argmax()), 90)
    assert abs(x[i] - 2) < 0.4 and abs(y[j] + 1) < 0.2


def test_aggregated_posterior_has_a_panel_per_real_site(split):
    unlabelled = Split({"x": split.batch(slice(None))["x"]})
    figure = figures.aggregated_posterior(model, bottom_up, unlabelled, num_draws=500)
    assert titles(figure) == ["z3 (1 dimension)", "z2 (2 dimensions)", "z1 (5 dimensions)"]
    z3, z2, z1 = figure.axes
    assert len(z1.images) == len(z2.images) == 1 and not z3.images
    assert all(any(c.get_paths() for c in axes.collections) for axes in (z1, z2))  # the prior's contours
    assert texts_of(z2) == ("z2[0]", "z2[1]") and "of the variance" in z1.get_xlabel()


def texts_of(axes):
    return axes.get_xlabel(), axes.get_ylabel()


def test_draws_over_the_prior_have_its_density_and_the_classes_colours():
    prior = pyro_vae.priors.PinwheelPrior(4, tangential_scale=0.2)
    torch.manual_seed(0)
    vae = pyro_vae.models.ClassPriorVAE(SHAPE, prior, hidden_dims=(8,))
    guide = pyro_vae.guides.GaussianGuide(vae, hidden_dims=(8,))
    split = Split({"x": torch.rand(50, *SHAPE).round(), "y": torch.arange(50) % 5 - 1})
    axes = figures.draws_over_prior(vae, guide, split).axes[0]
    (image,) = axes.images
    left, right, low, high = image.get_extent()
    heights = torch.as_tensor(image.get_array()).double()
    x, y = torch.linspace(left, right, heights.shape[1]), torch.linspace(low, high, heights.shape[0])
    truth = prior().log_prob(torch.cartesian_prod(x, y)).exp().view(len(x), len(y)).T
    torch.testing.assert_close(heights.square(), truth.double(), rtol=1e-3, atol=1e-4)
    *lines, points = axes.collections
    assert len(lines) == 4
    for k, line in enumerate(lines):  # around the class's mean, turned by 2 pi k / 4
        middle = torch.as_tensor(line.get_paths()[0].vertices).mean(0)
        mean = 1.4 * torch.tensor([math.cos(math.pi * k / 2), math.sin(math.pi * k / 2)])
        assert (middle - mean).norm() < 0.15
    colours = [tuple(c[:3]) for c in points.get_facecolor()]
    drawn = posterior_samples(vae, guide, split, seed=0)["z"]
    assert torch.allclose(torch.as_tensor(np.asarray(points.get_offsets())).float(), drawn, atol=1e-5)
    own = [tuple(line.get_edgecolor()[0][:3]) for line in lines]
    grey = (0.4, 0.4, 0.4)
    assert all(c == (own[k] if k >= 0 else grey) for c, k in zip(colours, split.batch(slice(None))["y"], strict=True))
    plain = pyro_vae.models.VAE(SHAPE, 2, hidden_dims=(8,))  # no labels: no lines
    axes = figures.draws_over_prior(plain, pyro_vae.guides.GaussianGuide(plain, hidden_dims=(8,)), split).axes[0]
    assert len(axes.collections) == 1


def test_draws_over_a_prior_that_cannot_be_shown_are_refused(split):
    vae = pyro_vae.models.VAE(SHAPE, 3, hidden_dims=(8,))
    guide = pyro_vae.guides.GaussianGuide(vae, hidden_dims=(8,))
    with pytest.raises(NotApplicable, match=r"first latent of 2 real numbers per datum, 'z' has shape \(3,\)"):
        figures.draws_over_prior(vae, guide, split)
    with pytest.raises(NotApplicable, match="'z3' has shape"):
        figures.draws_over_prior(model, bottom_up, split)
    conditional = pyro_vae.models.ConditionalVAE(SHAPE, latent_dim=2, hidden_dims=(8,))
    guide = pyro_vae.guides.ConditionalGuide(conditional, hidden_dims=(8,))
    with pytest.raises(NotApplicable, match="the model needs y: it has no"):
        figures.draws_over_prior(conditional, guide, split)
    with pytest.raises(NotApplicable, match="2 data are too few"):
        figures.draws_over_prior(model, bottom_up, split.subset(2))


def test_aggregated_posterior_shows_where_it_misses_the_prior():
    """q(z) is two points' clouds at +-3 on the first axis; the prior is N(0, I)."""

    def prior(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x, 0.3).to_event(1))

    x = torch.tensor([[3.0, 0.0], [-3.0, 0.0]]).repeat(20, 1)
    (axes,) = figures.aggregated_posterior(prior, guide, Split({"x": x}), num_draws=2000).axes
    (image,) = axes.images
    heights, (left, right, low, high) = torch.as_tensor(image.get_array()), image.get_extent()
    column = torch.linspace(left, right, heights.shape[1])
    row = torch.linspace(low, high, heights.shape[0])
    peak_row, peak_column = divmod(int(heights.argmax()), heights.shape[1])
    assert abs(abs(column[peak_column]) - 3) < 0.4 and abs(row[peak_row]) < 0.4
    assert heights[:, (column.abs() < 1)].max() < 0.05 * heights.max()
    outer = max(axes.collections[0].get_paths(), key=lambda path: np.ptp(path.vertices[:, 0])).vertices
    radius = np.sqrt((outer**2).sum(1)).mean()
    assert radius == pytest.approx(math.sqrt(-2 * math.log(0.05)), rel=0.15)  # encloses 95 % of N(0, I)


def test_aggregated_posterior_of_labelled_data_has_their_colours():
    """One draw of each datum; in the plane in which both clouds spread most, which the prior's may say."""

    def prior(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), torch.tensor([1.0, 0.1, 5.0])).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x, 1e-3).to_event(1))

    y = torch.arange(40) % 2
    x = torch.stack([4.0 * y - 2, torch.zeros(40), torch.zeros(40)], 1)
    axes = figures.aggregated_posterior(prior, guide, Split({"x": x, "y": y}), num_draws=400).axes[0]
    scatter = next(c for c in axes.collections if isinstance(c, PathCollection))
    points, colours = scatter.get_offsets(), scatter.get_facecolors()
    assert len(points) == 40 and not axes.images
    assert all((colours[y == k] == colours[y == k][0]).all() for k in (0, 1)) and (colours[0] != colours[1]).any()
    assert np.abs(points[:, 0]).max() < 0.5  # the prior's long axis, along which q(z) is a point
    assert np.abs(points[y == 1, 1] - points[y == 0, 1]).mean() == pytest.approx(4.0, abs=0.1)


# ------------------------------------------------------------------ scaled samples
def test_scaled_samples_hold_the_same_noise_in_every_row():
    figure = figures.scaled_samples(model, scales=(0.2, 1.0), n=3, seed=4)
    picture = canvas(figure)
    assert picture.shape == (9, 14)
    for row, scale in enumerate((0.2, 1.0)):
        means = sample(model, 3, seed=4, scales={"z1": scale, "z2": scale, "z3": scale})["x.mean"]
        for column in range(3):
            torch.testing.assert_close(tile(picture, row, column), means[column, 0])
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["0.2", "1"]
    one = canvas(figures.scaled_samples(model, scales=(0.2,), sites=["z1"], n=3, seed=4))
    torch.testing.assert_close(tile(one, 0, 1), sample(model, 3, seed=4, scales={"z1": 0.2})["x.mean"][1, 0])


def test_scaled_samples_of_vectors_and_of_nothing_to_scale():
    def codes(x=None, num_samples=1):
        with pyro.plate("data", num_samples, dim=-1):
            z = pyro.sample("codes", dist.Categorical(torch.ones(4)).expand([num_samples]))
            return pyro.sample("x", dist.Normal(z[:, None].float(), 1.0).expand([num_samples, 7]).to_event(1), obs=x)

    def vectors(x=None, num_samples=1):
        with pyro.plate("data", num_samples, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(z[:, None].expand(-1, 7), 1.0).to_event(1), obs=x)

    assert len(figures.scaled_samples(vectors, scales=(0.5, 1.0), n=4).axes) == 8
    with pytest.raises(NotApplicable, match="no latent site has a prior with a scale"):
        figures.scaled_samples(codes)
    with pytest.raises(InputError, match="unknown latent site 'z9'"):
        figures.scaled_samples(model, sites=["z9"])


# ------------------------------------------------------------------ interpolations
@pytest.mark.parametrize("kind", ["linear", "spherical"])
def test_interpolations_decode_the_path_between_two_data(split, kind):
    figure = figures.interpolations(model, bottom_up, split, kind, pairs=2, steps=4)
    picture = canvas(figure)
    assert picture.shape == (2 * 5 - 1, 6 * 5 - 1)
    x = split.tensors["x"][[0, 15, 30, 45]]
    path = interpolate(x[:2].flatten(1)[:, :5], x[2:].flatten(1)[:, :5], 4, kind)
    for row in range(2):
        torch.testing.assert_close(tile(picture, row, 0), x[row, 0].clamp(max=1))
        torch.testing.assert_close(tile(picture, row, 5), x[2 + row, 0].clamp(max=1))
        for step in range(4):
            found = tile(picture, row, 1 + step).flatten()[:5]
            torch.testing.assert_close(found, path[row, step].sigmoid())
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()][1:3] == ["0", "0.333"]


def test_interpolations_of_chosen_sites_and_of_none(split):
    fixed = canvas(figures.interpolations(model, bottom_up, split, pairs=1, steps=3, sites=["z3"]))
    torch.testing.assert_close(tile(fixed, 0, 1)[2:], tile(fixed, 0, 3)[2:])  # pixels that no latent moves
    assert not torch.equal(tile(fixed, 0, 1)[0], tile(fixed, 0, 3)[0])
    with pytest.raises(InputError, match=r"unknown latent site 'z4'.*Known: code, z1, z2, z3"):
        figures.interpolations(model, bottom_up, split, sites=["z4"])
    with pytest.raises(InputError, match="unknown kind of interpolation 'cubic'"):
        figures.interpolations(model, bottom_up, split, "cubic")
    with pytest.raises(NotApplicable, match="one datum only"):
        figures.interpolations(model, bottom_up, split.subset(1))


# ------------------------------------------------------------------ attributes
def test_attribute_arithmetic_moves_one_datum_along_every_vector(split):
    alphas = (-1.0, 0.0, 2.0)
    figure = figures.attribute_arithmetic(model, bottom_up, split, alphas, datum=7)
    picture = canvas(figure)
    assert picture.shape == (3 * 5 - 1, 3 * 5 - 1)
    z = split.tensors["x"].flatten(1)[:, :5]
    vectors = attribute_vectors(z, split.tensors["y"]).vectors
    for row in range(3):
        for column, alpha in enumerate(alphas):
            found = tile(picture, row, column).flatten()[:5]
            torch.testing.assert_close(found, (z[7] + alpha * vectors[row]).sigmoid(), rtol=1e-4, atol=1e-5)
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["-1", "0", "+2"]
    of_tags = canvas(figures.attribute_arithmetic(model, bottom_up, split, alphas, labels="tags"))
    assert of_tags.shape == (4 * 5 - 1, 3 * 5 - 1)


def test_attribute_correlation_draws_the_matrix(split):
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z1", dist.Normal(x.flatten(1)[:, :5], 1.0).to_event(1))
            pyro.sample("z3", dist.Normal(x.flatten(1)[:, 6], 1.0))

    z = split.tensors["x"].flatten(1)[:, [0, 1, 2, 3, 4, 6]]
    for labels, count in (("y", 3), ("tags", 4)):
        figure = figures.attribute_correlation(model, guide, split, labels=labels)
        found = torch.as_tensor(figure.axes[0].images[0].get_array())
        assert found.shape == (count, count)
        expected = attribute_correlation(attribute_vectors(z, split.tensors[labels]).vectors)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("figure", [figures.attribute_arithmetic, figures.attribute_correlation])
def test_without_labels_there_are_no_attributes(figure, split):
    grey = Split({"x": split.tensors["x"], "y": torch.rand(60)})
    for data, words in ((Split({"x": split.tensors["x"]}), "no labels 'y'"), (grey, "neither integer classes")):
        with pytest.raises(NotApplicable, match=words):
            figure(model, bottom_up, data)
    with pytest.raises(InputError, match="attribute 0: all of the 60 data have it"):
        figure(model, bottom_up, Split({"x": split.tensors["x"], "y": torch.zeros(60, dtype=torch.int64)}))


def test_diagnostic_figures_leave_no_state(split):
    state = torch.random.get_rng_state()
    for draw in (figures.layer_pca, figures.aggregated_posterior, figures.interpolations):
        assert draw(model, bottom_up, split) is not None
    for draw in (figures.attribute_arithmetic, figures.attribute_correlation):
        assert draw(model, bottom_up, split) is not None
    assert figures.scaled_samples(model) is not None
    assert torch.equal(state, torch.random.get_rng_state())

"""Figures of codes: what is drawn is what was computed, and what does not apply is said."""

import logging

import pyro
import pyro.distributions as dist
import pytest
import torch
from code_pairs import OneLevel, Signals, Table, TwoLevels, WithPriors, WithPriorsGuide, bottom_up, images, three_layers
from PIL import Image

from pyro_vae import plots as figures
from pyro_vae.data import Data, Split
from pyro_vae.evaluation import code_statistics
from pyro_vae.evaluation.generate import sample
from pyro_vae.plots import NotApplicable
from pyro_vae.plots.images import code_colours, mosaic, pick


def canvas(axes):
    return torch.as_tensor(axes.images[0].get_array())


def tile(picture, row, column, height=8, width=8):
    top, left = row * (height + 1), column * (width + 1)
    return picture[top : top + height, left : left + width]


def why_not(figure, *arguments, **options):
    with pytest.raises(NotApplicable) as caught:
        figure(*arguments, **options)
    return str(caught.value)


# ------------------------------------------------------------------ colours
@pytest.mark.parametrize("count", [1, 8, 512, 4096])
def test_colours_are_visible_and_all_different(count):
    colours = torch.from_numpy(code_colours(count))
    assert colours.shape == (count, 3) and (colours >= 0).all() and (colours <= 1).all()
    assert len(colours.unique(dim=0)) == count
    brightness = colours @ torch.tensor([0.2126, 0.7152, 0.0722], dtype=colours.dtype)
    assert (brightness > 0.1).all() and (brightness < 0.97).all()  # neither black nor the paper's white
    neighbours = (colours[1:] - colours[:-1]).norm(dim=1)
    assert (neighbours > 0.25).all()
    few = torch.cdist(colours[:16], colours[:16]).fill_diagonal_(1.0)
    assert few.min() > 0.12


# ------------------------------------------------------------------ maps of codes
def test_maps_show_each_level_s_codes_below_their_data():
    two, split = TwoLevels(), images()
    figure = figures.code_maps(two.model, two.guide, split, n=4)
    assert len(figure.axes) == 12
    x = pick(split, 4)["x"]
    told = two.quantized(x)
    for i in range(4):
        torch.testing.assert_close(canvas(figure.axes[i]), torch.as_tensor(mosaic(x[i : i + 1], 1)))
        for row, name, count in ((1, "codes_top", 5), (2, "codes_bottom", 8)):
            expected = torch.from_numpy(code_colours(count))[told[name][i]]
            torch.testing.assert_close(canvas(figure.axes[4 * row + i]), expected)
    labels = [figure.axes[i].get_ylabel() for i in (0, 4, 8)]
    assert labels == ["data", "codes_top\n2 x 2, K = 5", "codes_bottom\n4 x 4, K = 8"]
    assert "toy test" in figure.get_suptitle()


@pytest.mark.parametrize("shape", [(16,), (1, 16)])
def test_sequences_of_codes_are_strips_below_their_signal(shape):
    pair = Signals(shape)
    x = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    figure = figures.code_maps(pair.model, pair.guide, Split({"x": x}))
    for i in range(5):
        assert figure.axes[i].lines[0].get_ydata() == pytest.approx(x[i].flatten().tolist())
        expected = torch.from_numpy(code_colours(6))[pair.codes(x)[i]]
        torch.testing.assert_close(canvas(figure.axes[5 + i]), expected[None])
    assert figure.axes[5].get_ylabel() == "codes\n8, K = 6"


def test_signals_of_one_channel_are_drawn_as_curves():
    pair = Signals((1, 16))
    x = torch.rand(3, 1, 16, generator=torch.Generator().manual_seed(0))
    figure = figures.reconstructions(pair.model, pair.guide, Split({"x": x}))
    data, mean = (line.get_ydata() for line in figure.axes[1].lines)
    assert data == pytest.approx(x[1, 0].tolist())
    assert mean == pytest.approx(pair.levels[pair.codes(x)[1]].repeat_interleave(2).tolist())
    assert len(figures.prior_samples(pair.model, n=4).axes) == 4


def test_maps_that_do_not_apply(caplog):
    vectors = Split({"x": torch.rand(5, 2)})
    assert why_not(figures.code_maps, three_layers, bottom_up, vectors) == "the model has no codes"
    pair = OneLevel()

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("codes", dist.Categorical(torch.ones(2, 2, 2, 5)).to_event(3))
            pyro.sample("x", dist.Normal(torch.zeros(1, 8, 8), 1.0).to_event(3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("codes", dist.Delta(torch.zeros(len(x), 2, 2, 2, dtype=torch.int64), event_dim=3))

    assert "those of codes are on no grid" in why_not(figures.code_maps, model, guide, images())
    split = Split({"x": torch.rand(5, 4, 8, 8)})

    def four_channels(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("codes", dist.Categorical(torch.ones(4, 4, 8)).to_event(2))
            pyro.sample("x", dist.Normal(torch.zeros(4, 8, 8), 1.0).to_event(3), obs=x)

    def its_guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("codes", dist.Delta(pair.quantized(x[:, :1])[0], event_dim=2))

    assert "(4, 8, 8) are neither images nor signals" in why_not(figures.code_maps, four_channels, its_guide, split)


# ------------------------------------------------------------------ usage
def test_usage_is_drawn_in_falling_order_on_a_logarithmic_axis():
    two = TwoLevels()
    statistics = code_statistics(two.model, two.guide, images())
    statistics.sites["codes_bottom"].counts[:2] = 0
    figure = figures.codebook_usage(statistics)
    for axes, (name, site) in zip(figure.axes, statistics.sites.items(), strict=True):
        told = (
            f"{site.num_used} of {site.num_codes} in use ({100 * site.usage:.0f} %), perplexity {site.perplexity:.1f}"
        )
        assert axes.get_title() == f"{name}\n{told}"
        assert axes.get_yscale() == "log"
        heights = axes.patches[0].get_data().values.tolist()
        counts = sorted(site.counts.tolist(), reverse=True)
        assert [h if h > 0.5 else 0 for h in heights] == counts
        assert axes.lines[0].get_ydata()[0] == site.counts.sum() / site.num_codes
    assert [len(axes.patches) for axes in figure.axes] == [1, 2]  # the second one shades what is never used
    assert "usage of the codes over 30 data" in figure.get_suptitle()


def test_usage_of_nothing(caplog):
    statistics = code_statistics(three_layers, bottom_up, torch.rand(5, 2))
    assert why_not(figures.codebook_usage, statistics) == "the model has no codes"


# ------------------------------------------------------------------ levels
def test_levels_are_columns_from_the_data_to_all():
    two, split = TwoLevels(), images()
    figure = figures.reconstructions_by_level(two.model, two.guide, split, n=5)
    picture = canvas(figure.axes[0])[..., 0].float()
    x = pick(split, 5)["x"]
    told, every = two.quantized(x), two.quantized(pick(split, 500)["x"])
    mean = every["z_bottom"].mean(0).expand(5, -1, -1, -1)
    columns = [x, two.mean(told["z_top"], mean), two.mean(told["z_top"], told["z_bottom"])]
    for row in range(5):
        for i, column in enumerate(columns):
            torch.testing.assert_close(tile(picture, row, i), column[row, 0].clamp(0, 1), rtol=1e-4, atol=1e-5)
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["data", "codes_top\nonly", "all"]
    assert figure.get_suptitle().endswith("levels left out: vectors of codes at the mean over data")


def test_levels_of_a_gaussian_hierarchy_and_of_a_deep_one(caplog):
    split = Split({"x": torch.rand(4, 2)}, name="toy")
    figure = figures.reconstructions_by_level(three_layers, bottom_up, split)
    assert [axes.get_title() for axes in figure.axes[:4]] == ["data", "z3\nonly", "down to\nz2", "all"]
    assert figure.get_suptitle().endswith("levels left out: drawn from the model")

    def deep(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = torch.zeros(2)
            for i in range(20, 0, -1):
                z = pyro.sample(f"z{i}", dist.Normal(z, 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            for i in range(1, 21):
                pyro.sample(f"z{i}", dist.Normal(x, 1.0).to_event(1))

    figure = figures.reconstructions_by_level(deep, guide, split)
    names = [axes.get_title() for axes in figure.axes[:7]]
    assert names == ["data", "z20\nonly", "down to\nz16", "down to\nz12", "down to\nz9", "down to\nz5", "all"]
    one = OneLevel()
    assert (
        why_not(figures.reconstructions_by_level, one.model, one.guide, images())
        == "the model has only one level of latents"
    )


# ------------------------------------------------------------------ priors
def test_both_priors_are_drawn_and_the_learned_one_is_put_back():
    model = WithPriors(Table(8, (4, 4)))
    learned = model.priors["codes"]
    figure = figures.uniform_and_learned(model, seed=3)
    assert model.priors["codes"] is learned
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("uniform prior", "learned prior")
    expected = {"learned": sample(model, 36, seed=3)["x.mean"]}
    expected["uniform"] = sample(WithPriors(), 36, seed=3)["x.mean"]
    for axes, name in ((left, "uniform"), (right, "learned")):
        torch.testing.assert_close(canvas(axes), torch.as_tensor(mosaic(expected[name], 6)))
    assert "codes" in figure.get_suptitle()


def test_labels_go_by_columns_and_unseen_ones_are_left_out():
    model = WithPriors(Table(8, (4, 4), num_classes=4))
    model.priors["codes"].seen[1] = False
    figure = figures.uniform_and_learned(model)
    for axes in figure.axes:
        assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "2", "3"] and axes.get_xlabel() == "y"
    y = torch.tensor([0, 2, 3]).repeat(6)
    expected = sample(model, 18, batch={"y": y})["x.mean"]
    torch.testing.assert_close(canvas(figure.axes[1]), torch.as_tensor(mosaic(expected, 3)))


def test_priors_that_are_all_uniform_or_not_held(caplog):
    line = "the model has no learned prior over codes"
    assert why_not(figures.uniform_and_learned, WithPriors()) == line
    assert why_not(figures.uniform_and_learned, OneLevel().model) == line


# ------------------------------------------------------------------ what is for vectors
@pytest.mark.parametrize(
    "draw",
    [
        figures.interpolations,
        figures.latent_scatter,
        figures.layer_pca,
        figures.aggregated_posterior,
        figures.attribute_arithmetic,
        figures.attribute_correlation,
    ],
)
def test_figures_of_vectors_leave_codes_and_their_vectors_out(draw):
    pair = TwoLevels()
    line = why_not(draw, pair.model, pair.guide, images())
    assert line == "no latent site has real values of its own"


def test_a_pair_with_codes_and_a_gaussian_shows_the_gaussian_alone():
    one = OneLevel()

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            codes = pyro.sample("codes", dist.Categorical(torch.ones(4, 4, 8)).to_event(2))
            pyro.sample("z", dist.Delta(one.codebook[codes].movedim(-1, -3), event_dim=3))
            mean = w.sum(-1)[..., None, None, None].expand(*w.shape[:-1], 1, 8, 8)
            return pyro.sample("x", dist.Normal(mean, 1.0).to_event(3), obs=x)

    def guide(x):
        codes, z = one.quantized(x)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("codes", dist.Delta(codes, event_dim=2))
            pyro.sample("z", dist.Delta(z, event_dim=3))
            pyro.sample("w", dist.Normal(x.flatten(1)[..., :2], 0.1).to_event(1))

    for draw in (figures.latent_scatter, figures.layer_pca, figures.aggregated_posterior):
        figure = draw(model, guide, images())
        assert [axes.get_title() for axes in figure.axes] == ["w (2 dimensions)"]
    assert figures.interpolations(model, guide, images()) is not None
    assert figures.attribute_arithmetic(model, guide, images()) is not None


DRAWN = [
    "training_curves",
    "kl_heatmap",
    "reconstructions",
    "reconstructions_by_level",
    "code_maps",
    "codebook_usage",
    "prior_samples",
]


def test_all_figures_that_apply_are_drawn(tmp_path, caplog):
    pair = TwoLevels()
    records = [{"epoch": e, "train/loss": 9.0 - e, "train/kl/codes": 33.0, "train/kl/z": 0.0} for e in range(1, 5)]
    state = torch.random.get_rng_state()
    with caplog.at_level(logging.INFO):
        written = figures.draw_all(pair.model, pair.guide, Data(images(), test=images()), records, tmp_path)
    assert torch.equal(state, torch.random.get_rng_state())
    assert sorted(path.stem for path in written) == sorted(DRAWN)
    for path in written:
        with Image.open(path) as image:
            assert min(image.size) > 150 and max(image.size) < 2500
    lines = [r for r in caplog.records if r.name.startswith("pyro_vae")]
    assert all(r.getMessage().startswith("no figure '") and r.levelno == logging.INFO for r in lines)


def test_a_conditional_prior_is_given_its_labels_from_the_data(tmp_path):
    model = WithPriors(Table(8, (4, 4), num_classes=3))
    written = figures.draw_all(model, WithPriorsGuide(model), Data(images()), [], tmp_path)
    names = {path.stem for path in written}
    assert names >= {"prior_samples", "uniform_and_learned", "reconstructions", "progression"}

import logging
import math
import statistics
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from pyro_vae import plots as figures
from pyro_vae.data import Data, Split
from pyro_vae.models import VAE
from pyro_vae.plots import NotApplicable, registry
from pyro_vae.plots.images import mosaic, pick
from pyro_vae.priors import VampPrior


def pair(shape, latent=2, prior=None):
    """A plain-function pair: the first numbers of x are the sigmoid of z, the others 1/2."""
    size = math.prod(shape)
    prior = prior or dist.Normal(torch.zeros(latent), 1.0).to_event(1)

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = pyro.sample("z", prior)
            padded = torch.nn.functional.pad(z, (0, size - latent)).sigmoid()
            return pyro.sample("x", dist.Normal(padded.unflatten(-1, shape), 0.1).to_event(len(shape)), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.flatten(1)[:, :latent] + 0.5, 0.01).to_event(1))

    return model, guide


def data(shape, n=30, labels=True, name="toy test"):
    generator = torch.Generator().manual_seed(0)
    tensors = {"x": torch.rand(n, *shape, generator=generator)}
    if labels:
        tensors["y"] = torch.arange(n) % 3
    return Split(tensors, name=name)


def records(n=20, warm_up=0):
    rows = []
    for epoch in range(1, n + 1):
        rows.append(
            {
                "epoch": epoch,
                "step": 10 * epoch,
                "train/loss": 100 + 50 / epoch,
                "train/log_likelihood/x": -90 - 40 / epoch,
                "train/kl/z": 10 + 10 / epoch,
                "validation/loss": 104 + 50 / epoch,
                "validation/kl/z": 9 + 10 / epoch,
                "kl_weight": min(1.0, epoch / warm_up) if warm_up else 1.0,
                "learning_rate": 1e-3,
            }
        )
    rows[n // 2]["best"] = rows[n // 2 + 1]["best"] = True
    return rows


def texts(axes):
    return [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]


def curves(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


# ------------------------------------------------------------------ training curves
def test_training_curves_hold_the_records():
    rows = records(12, warm_up=5)
    loss, kl = figures.training_curves(rows).axes
    drawn = curves(loss)
    assert drawn["train"] == [[r["epoch"], r["train/loss"]] for r in rows]
    assert drawn["validation"] == [[r["epoch"], r["validation/loss"]] for r in rows]
    best = [v for k, v in drawn.items() if k.startswith("best")]
    assert best == [[[8, rows[7]["validation/loss"]]]]  # the last of those that were best at their time
    assert curves(kl)["z"] == [[r["epoch"], r["train/kl/z"]] for r in rows]
    assert curves(kl)["_z"] == [[r["epoch"], r["validation/kl/z"]] for r in rows]
    assert all("nats per datum" in axes.get_ylabel() for axes in (loss, kl))
    (band,) = loss.patches  # the weight reaches 1 in epoch 5
    assert band.get_x() + band.get_width() == 4


def test_training_curves_without_validation_with_gaps_and_with_a_steep_start():
    rows = [{k: v for k, v in r.items() if "validation" not in k and k != "best"} for r in records(40)]
    rows[0]["train/loss"], rows[5]["train/loss"] = 1e6, float("nan")
    del rows[7]["train/kl/z"]
    loss, kl = figures.training_curves(rows).axes
    assert list(curves(loss)) == ["train"] and len(curves(loss)["train"]) == 39
    assert loss.get_ylim()[1] < 200 and not loss.patches
    assert len(curves(kl)["z"]) == 39


def test_training_curves_of_one_epoch_of_no_epoch_and_of_no_latent():
    assert figures.training_curves(records(3)[:1]) is not None
    assert len(figures.training_curves([{"epoch": 1, "train/loss": 3.0}]).axes) == 1
    with pytest.raises(NotApplicable, match="no records"):
        figures.training_curves([])


# ------------------------------------------------------------------ images
@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_mosaic_places_clipped_images(channels):
    images = torch.rand(5, *channels, 4, 6, generator=torch.Generator().manual_seed(0)) * 2 - 0.5
    canvas = torch.from_numpy(mosaic(images, columns=3))
    assert canvas.shape == (2 * 4 + 1, 3 * 6 + 2, 3)
    for i in range(5):
        top, left = (i // 3) * 5, (i % 3) * 7
        place = canvas[top : top + 4, left : left + 6]
        expected = images[i].clamp(0, 1)
        expected = expected.movedim(0, -1) if channels else expected[..., None]
        assert torch.equal(place, expected.expand(4, 6, 3))
    assert (canvas[5:, 14:] == 1).all() and (canvas[4] == 1).all()


def test_pick_is_spread_over_the_split():
    split = Split({"x": torch.arange(100.0)[:, None]})
    assert pick(split, 4)["x"][:, 0].tolist() == [0, 25, 50, 75]
    assert len(pick(split, 1000)["x"]) == 100


def test_reconstructions_show_data_above_their_means():
    shape = (1, 4, 5)
    split = data(shape)
    figure = figures.reconstructions(*pair(shape), split, n=3)
    (axes,) = figure.axes
    canvas = torch.as_tensor(axes.images[0].get_array())
    x = pick(split, 3)["x"]
    assert canvas.shape == (9, 17, 3)
    torch.testing.assert_close(canvas[:4, 6:11, 0], x[1, 0])
    below = canvas[5:, 6:11, 0].flatten()
    expected = (x[1].flatten()[:2] + 0.5).sigmoid()
    assert (below[:2] - expected).abs().max() < 0.02  # z is drawn with deviation 0.01
    assert (below[2:] == 0.5).all()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["data", "reconstruction"]
    assert "toy test" in figure.get_suptitle() and "mean of p(x | z)" in figure.get_suptitle()


def test_pseudo_inputs_are_shown_as_they_are():
    prior = VampPrior((2,), data_shape=(1, 8, 6), num_components=6, start="random")
    model = VAE((1, 8, 6), 2, hidden_dims=(4,), prior=prior)
    figure = figures.pseudo_inputs(model, n=5)
    shown = torch.as_tensor(figure.axes[0].images[0].get_array())  # 3 columns with a gap of a pixel between them
    torch.testing.assert_close(shown[:8, 7:13, 0].float(), prior.pseudo_inputs[1, 0].detach())
    assert figure.get_suptitle() == "5 of 6 pseudo-inputs"
    with pytest.raises(NotApplicable, match="no prior"):
        figures.pseudo_inputs(VAE((1, 8, 6), 2, hidden_dims=(4,)))


def test_prior_samples_are_a_grid_of_means():
    model, _ = pair((3, 4, 4))
    figure = figures.prior_samples(model, n=10)
    canvas = torch.as_tensor(figure.axes[0].images[0].get_array())
    assert canvas.shape == (3 * 5 - 1, 4 * 5 - 1, 3)
    assert "mean of p(x | z)" in figure.get_suptitle()
    assert (canvas[0, 2:4] == 0.5).all() and not (canvas[0, 0] == canvas[0, 5]).all()
    again = torch.as_tensor(figures.prior_samples(model, n=10).axes[0].images[0].get_array())
    other = torch.as_tensor(figures.prior_samples(model, n=10, seed=1).axes[0].images[0].get_array())
    assert torch.equal(canvas, again) and not torch.equal(canvas, other)


def test_vectors_are_drawn_as_curves():
    model, guide = pair((8,))
    split = data((8,))
    figure = figures.reconstructions(model, guide, split, n=7)
    drawn = curves(figure.axes[1])
    assert [v for _, v in drawn["data"]] == pytest.approx(pick(split, 7)["x"][1].tolist())
    assert [v for _, v in drawn["reconstruction"]][2:] == [0.5] * 6
    assert len(figures.prior_samples(model, n=9).axes) == 9
    assert len(figures.prior_samples(model, n=5000).axes) == 64


# ------------------------------------------------------------------ latents
def test_scatter_of_two_dimensions_is_the_posterior_means_coloured_by_label():
    split = data((1, 3, 3), n=31)
    figure = figures.latent_scatter(*pair((1, 3, 3)), split)
    (axes,) = figure.axes
    points = axes.collections[0]
    expected = split.tensors["x"].flatten(1)[:, :2] + 0.5
    assert torch.allclose(torch.as_tensor(points.get_offsets().data).float(), expected)
    colours = [tuple(c[:3]) for c in points.get_facecolors().tolist()]
    assert len(set(colours)) == 3 and colours[0] == colours[3] != colours[1]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["0", "1", "2"]
    marks = [mark.get_color()[:3] for mark in legend.legend_handles]
    assert marks[0] == pytest.approx(colours[0]) and marks[2] == pytest.approx(colours[2])
    assert texts(axes)[1:] == ["z[0]", "z[1]"]


def test_scatter_of_more_dimensions_is_principal_components():
    split = data((1, 3, 3), n=40, labels=False)
    figure = figures.latent_scatter(*pair((1, 3, 3), latent=5), split)
    (axes,) = figure.axes
    z = split.tensors["x"].flatten(1)[:, :5]
    values = torch.linalg.eigvalsh(z.T.cov()).flip(0)
    offsets = torch.as_tensor(axes.collections[0].get_offsets().data).float()
    torch.testing.assert_close(offsets.var(0), values[:2])
    assert f"{100 * values[0] / values.sum():.1f} % of the variance" in axes.get_xlabel()
    assert not figure.legends


def test_scatter_has_a_panel_per_site_and_a_histogram_for_one_dimension():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z2", dist.Normal(0.0, 1.0))
            pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.zeros(4), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z2", dist.Normal(x[:, 0], 1.0))
            pyro.sample("z1", dist.Normal(x[:, :2], 1.0).to_event(1))

    figure = figures.latent_scatter(model, guide, data((4,)), max_points=12)
    one, two = figure.axes
    assert [sum(patch.get_height() for patch in group) for group in one.containers] == [4, 4, 4]
    assert "number of data" in texts(one) and texts(two)[1:] == ["z1[0]", "z1[1]"]
    assert len(two.collections[0].get_offsets()) == 12


def test_too_many_classes_are_not_coloured(caplog):
    split = Split({"x": torch.rand(50, 4), "y": torch.arange(50)})
    with caplog.at_level(logging.INFO):
        figure = figures.latent_scatter(*pair((4,)), split)
    assert not figure.legends and "50 classes" in caplog.text


# ------------------------------------------------------------------ manifold
def test_manifold_grid_is_the_inverse_normal_cdf():
    grid = figures.manifold_grid(5).reshape(5, 5, 2)
    inverse = statistics.NormalDist().inv_cdf
    axis = torch.tensor([inverse(0.02 + 0.24 * i) for i in range(5)])
    torch.testing.assert_close(grid[:, :, 0], axis.expand(5, 5))
    torch.testing.assert_close(grid[:, :, 1], axis.flip(0)[:, None].expand(5, 5))


def test_manifold_decodes_the_prior_s_quantiles():
    prior = dist.Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])).to_event(1)
    model, _ = pair((1, 3, 3), prior=prior)
    (axes,) = figures.manifold(model, n=4).axes
    canvas = torch.as_tensor(axes.images[0].get_array())[..., 0]
    assert canvas.shape == (12, 12)
    inverse = statistics.NormalDist().inv_cdf
    right = torch.tensor([1.0 + 0.5 * inverse(u) for u in (0.02, 0.34, 0.66, 0.98)]).sigmoid()
    up = torch.tensor([-2.0 + 3 * inverse(u) for u in (0.98, 0.66, 0.34, 0.02)]).sigmoid()
    torch.testing.assert_close(canvas[0, ::3], right)  # the first pixel of the top row's images is z[0]
    torch.testing.assert_close(canvas[::3, 1], up)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (pair((1, 3, 3), latent=3)[0], r"'z' has event shape \(3,\)"),
        (pair((8,))[0], "no images"),
        (pair((1, 3, 3), prior=dist.Uniform(torch.zeros(2), 1.0).to_event(1))[0], "Gaussian prior"),
    ],
)
def test_manifold_says_why_it_does_not_apply(model, words):
    with pytest.raises(NotApplicable, match=words):
        figures.manifold(model)


# ------------------------------------------------------------------ all of them
ALL = [
    "training_curves",
    "kl_heatmap",
    "kl_per_unit",
    "reconstructions",
    "worst_data",
    "prior_samples",
    "scaled_samples",
    "interpolations",
    "traversals",
    "latent_scatter",
    "layer_pca",
    "aggregated_posterior",
    "draws_over_prior",
    "attribute_arithmetic",
    "manifold",
]  # others are for other pairs: seven


@pytest.mark.parametrize("shape", [(1, 8, 8), *(pytest.param(s, marks=pytest.mark.slow) for s in [(3, 6, 9), (8, 8)])])
def test_all_figures_become_valid_files_and_leave_no_state(shape, tmp_path):
    test = data(shape)
    state = torch.random.get_rng_state()
    dataset = Data(data(shape, name="toy train"), test=test)
    written = figures.draw_all(*pair(shape), dataset, records(), tmp_path / "figures")
    assert torch.equal(state, torch.random.get_rng_state())
    assert len(pyro.get_param_store()) == 0
    assert sorted(path.stem for path in written) == sorted(ALL)
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == sorted(f"{n}.png" for n in ALL)
    for path in written:
        with Image.open(path) as image:
            image.verify()
        with Image.open(path) as image:
            assert image.format == "PNG" and min(image.size) > 150 and max(image.size) < 2500
            assert len(set(image.convert("L").tobytes())) > 5
    first = [path.read_bytes() for path in written]
    figures.draw_all(*pair(shape), dataset, records(), tmp_path / "figures")
    assert first == [path.read_bytes() for path in written]


def test_what_does_not_apply_is_said_in_one_line_each(tmp_path, caplog):
    model, guide = pair((5, 4, 4), latent=3)
    with caplog.at_level(logging.INFO):
        written = figures.draw_all(model, guide, Data(data((5, 4, 4)), test=data((5, 4, 4))), [], tmp_path)
    drawn = ["kl_per_unit", "latent_scatter", "layer_pca", "aggregated_posterior", "attribute_correlation"]
    assert sorted(path.stem for path in written) == sorted(drawn)
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("pyro_vae")]
    assert len(lines) == len(registry.figures()) - len(drawn) and all(line.startswith("no figure") for line in lines)


def test_a_model_that_needs_its_data_has_all_figures_of_one_that_does_not(tmp_path):
    full, guide = pair((1, 8, 8))
    dataset = Data(data((1, 8, 8)))
    written = figures.draw_all(lambda x: full(x), guide, dataset, records(), tmp_path / "a")
    others = figures.draw_all(full, guide, dataset, records(), tmp_path / "b")
    assert sorted(path.stem for path in written) == sorted([path.stem for path in others])
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(written, others, strict=True))


def test_a_model_that_looks_at_its_data_has_the_figures_that_do_not_generate(tmp_path, caplog):
    _, guide = pair((1, 8, 8))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = z.sum(-1)[..., None, None, None] + x.roll(1, -1)
            return pyro.sample("x", dist.Normal(mean, 1.0).to_event(3), obs=x)

    written = figures.draw_all(model, guide, Data(data((1, 8, 8))), records(), tmp_path)
    drawn = [
        "training_curves",
        "kl_heatmap",
        "kl_per_unit",
        "reconstructions",
        "worst_data",
        "latent_scatter",
        "layer_pca",
    ]
    assert sorted(path.stem for path in written) == sorted(drawn)
    assert "looks at its data (site 'x'" in caplog.text and "argument num_samples" in caplog.text


def test_a_model_that_needs_context_is_given_it_from_the_data(tmp_path):
    def model(x=None, *, y, num_samples=1):
        with pyro.plate("data", len(y), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = (z.sum(-1) + y)[:, None, None].expand(-1, 4, 4)
            return pyro.sample("x", dist.Normal(mean, 1.0).to_event(2), obs=x)

    _, guide = pair((4, 4))
    written = figures.draw_all(model, guide, Data(data((4, 4))), records(), tmp_path)
    drawn = {path.stem for path in written}
    assert drawn >= {
        "prior_samples",
        "scaled_samples",
        "interpolations",
        "aggregated_posterior",
        "attribute_arithmetic",
    }


def test_an_unwritable_folder_is_said_and_nothing_is_left(tmp_path, monkeypatch):
    def full_disk(self, path, **options):
        path.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    model, guide = pair((1, 8, 8))
    (old,) = figures.draw_all(model, guide, Data(data((1, 8, 8))), records(), tmp_path)[:1]
    before = old.read_bytes()
    monkeypatch.setattr(Figure, "savefig", full_disk)
    with pytest.raises(ValueError, match=r"training_curves\.png.*No space left"):
        figures.draw_all(model, guide, Data(data((1, 8, 8))), records(), tmp_path)
    assert old.read_bytes() == before and len(list(tmp_path.iterdir())) == len(ALL)


def test_one_figure_s_failure_does_not_take_the_others(tmp_path, caplog, monkeypatch):
    def fails(*args, **kwargs):
        raise ZeroDivisionError("of the model's own\nand more")

    class NotToBeDrawn(Figure):
        def savefig(self, *args, **kwargs):
            raise ValueError

    model, guide = pair((1, 8, 8))
    every = [path.stem for path in figures.draw_all(model, guide, Data(data((1, 8, 8))), records(), tmp_path / "all")]
    for name, drawn in (("reconstructions", fails), ("manifold", lambda **_: NotToBeDrawn())):
        monkeypatch.setitem(registry._entries, name, replace(registry.figures()[name], function=drawn))
    caplog.set_level(logging.DEBUG, logger="pyro_vae")
    written = figures.draw_all(model, guide, Data(data((1, 8, 8))), records(), tmp_path / "some")
    left = [name for name in every if name not in ("reconstructions", "manifold")]
    assert sorted(path.stem for path in written) == sorted(left)
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in told] == [
        "no figure 'reconstructions': ZeroDivisionError: of the model's own",
        "no figure 'manifold': ValueError",
    ]
    assert all(record.exc_info is None for record in told)
    assert "Traceback" in caplog.text and "and more" in caplog.text


def test_labels_that_are_known_for_some_data_only(tmp_path, caplog):
    classes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])

    def model(x=None, y=None, known=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("y", dist.Categorical(logits=z @ classes.T), obs=y, obs_mask=known)
            mean = z.sum(-1)[:, None, None].expand(-1, 4, 4)
            return pyro.sample("x", dist.Normal(mean, 1.0).to_event(2), obs=x)

    def guide(x, y=None, known=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.flatten(1)[:, :2], 1.0).to_event(1))
            pyro.sample("y_unobserved", dist.Categorical(logits=x.flatten(1)[:, :3]))

    tensors = {**data((4, 4)).tensors, "known": torch.arange(30) % 4 == 0}
    with caplog.at_level(logging.DEBUG, logger="pyro_vae"):
        written = figures.draw_all(model, guide, Data(Split(tensors)), records(), tmp_path)
    assert {path.stem for path in written} >= {"reconstructions", "prior_samples", "worst_data", "latent_scatter"}
    assert "Traceback" not in caplog.text  # nothing failed of what is not ours


def test_an_error_of_the_program_s_own_is_told_as_it_is(tmp_path, caplog):
    """Also one that looks as if a figure were not given something."""
    model, _ = pair((1, 8, 8))

    def fails(x):
        raise AttributeError("of the guide's own")

    figures.draw_all(model, fails, Data(data((1, 8, 8))), records(), tmp_path)
    assert "no figure 'kl_per_unit': AttributeError: of the guide's own" in caplog.text


@pytest.mark.parametrize("dims", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_data_of_one_or_two_numbers_are_points(dims, tmp_path, caplog):
    """x = z + noise: reconstructions lie near the data, draws have the model's spread; a number alone is no curve."""

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(dims), 3.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 0.1).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.1).to_event(1))

    x = torch.linspace(-2, 2, 50)[:, None].expand(-1, dims).clone()
    figure = figures.points(model, guide, Split({"x": x}), n=2000)
    assert [axes.get_xlabel() for axes in figure.axes] == [
        name + "[0]" * (dims == 2) for name in ("x", "mean of p(x | z)", "draw of p(x)")
    ]
    if dims == 2:
        data, mean, drawn = (torch.as_tensor(axes.collections[0].get_offsets().data) for axes in figure.axes)
        torch.testing.assert_close(data.float(), x)
        assert (mean - data).abs().max() < 0.6 and len(drawn) == 2000 and abs(drawn.std() - 9.01**0.5) < 0.15
    with caplog.at_level(logging.INFO, "pyro_vae"):
        written = {path.stem for path in figures.draw_all(model, guide, Data(Split({"x": x})), [], tmp_path)}
    assert "points" in written and ("prior_samples" in written) == (dims == 2)
    assert ("no figure 'prior_samples': data of shape (1,) are numbers: see the figure 'points'" in caplog.text) == (
        dims == 1
    )


def test_real_numbers_beyond_one_are_not_clipped():
    """Images of standardized data, and sequences: black and white are their least and greatest."""
    x = torch.randn(8, 5, 3)
    figure = figures.reconstructions(*_copying((5, 3)), Split({"x": x}))
    low, high = x.min(), x.max()
    canvas = torch.as_tensor(figure.axes[0].images[0].get_array())[:5, :3, 0]
    torch.testing.assert_close(canvas, (x[0] - low) / (high - low))


def _copying(shape):
    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(shape), 1.0).to_event(2))
            return pyro.sample("x", dist.Normal(z, 0.1).to_event(2), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.1).to_event(2))

    return model, guide


@pytest.mark.parametrize("steps", [False, True])
def test_what_a_mask_leaves_out_is_a_gap(steps):
    """Entries that are missing, which the data have as zeros: the data's line stops, the reconstruction goes on."""
    x = torch.randn(6, 5)
    known = torch.rand(6, 5) < 0.6
    known[0] = torch.tensor([True, False, True, True, True])

    def model(x=None, known=None, num_samples=1):
        there = torch.ones(num_samples, 5, dtype=torch.bool) if known is None else known
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(5), 1.0).to_event(1))
            if not steps:
                return pyro.sample("x", dist.Normal(z, 0.1).mask(there).to_event(1), obs=x)
            for t in range(5):
                with pyro.poutine.mask(mask=there[:, t]):
                    pyro.sample(f"x_{t}", dist.Normal(z[..., t], 0.1), obs=None if x is None else x[:, t])

    def guide(x, known):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.1).to_event(1))

    figure = figures.reconstructions(model, guide, Split({"x": x * known, "known": known}))
    data, mean = (torch.tensor(line.get_ydata()) for line in figure.axes[0].lines)
    assert data.isnan().tolist() == [False, True, False, False, False] and mean.isfinite().all()
    torch.testing.assert_close(data[known[0]].float(), x[0][known[0]])

"""Figures of conditional models: what they hold, and that they are drawn only where they apply."""

import logging

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import plots as figures
from pyro_vae.data import Data, Split
from pyro_vae.guides import CompletionGuide, ConditionalGuide, EmptyGuide
from pyro_vae.models import VAE, CompletionBaseline, CompletionVAE, ConditionalVAE
from pyro_vae.networks import Attributes, OneHot
from pyro_vae.plots import NotApplicable, registry
from pyro_vae.plots.completion import MISSING
from pyro_vae.programs.context import attribute_context, label_context

SHAPE = (1, 6, 4)


def picture(figure):
    return torch.as_tensor(figure.axes[0].images[0].get_array()).float()


def cells(figure, rows, columns):
    """The images of a grid, ``(rows, columns, H, W, 3)``."""
    image = picture(figure)
    height, width = SHAPE[1] + 1, SHAPE[2] + 1
    assert image.shape[:2] == (rows * height - 1, columns * width - 1)
    return torch.stack(
        [
            torch.stack([image[r * height :, c * width :][: SHAPE[1], : SHAPE[2]] for c in range(columns)])
            for r in range(rows)
        ]
    )


def titles(figure):
    return [t.get_text() for t in figure.axes[0].get_xticklabels()]


def observed(n=12):
    x = (torch.rand(n, *SHAPE) < 0.5).float()
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[..., :2] = True
    return Split({"x": x}, mask=mask, name="toy")


def completion():
    sizes = {"hidden_dims": (4,), "prior_hidden_dims": (4,), "baseline_hidden_dims": (4,)}
    model = CompletionVAE(SHAPE, 2, **sizes)
    with torch.no_grad():
        model.decoder.mlp.out.weight.mul_(5)  # draws that differ visibly
    return model, CompletionGuide(model, hidden_dims=(4,))


def test_completions_hold_input_prediction_draws_and_truth():
    split = observed()
    figure = figures.completions(completion()[0], split, rows=4, draws=3)
    assert titles(figure) == ["observed", "prediction", "completion 1", "completion 2", "completion 3", "truth"]
    grid = cells(figure, 4, 6)
    x = split.batch(torch.tensor([0, 3, 6, 9]))["x"].movedim(1, -1).expand(-1, -1, -1, 3)
    torch.testing.assert_close(grid[:, 5], x)
    torch.testing.assert_close(grid[:, 0, :, 2:], torch.tensor(MISSING).expand(4, 6, 2, 3))
    for column in range(6):
        torch.testing.assert_close(grid[:, column, :, :2], x[:, :, :2])  # the observed part is in its place
    assert not torch.allclose(grid[:, 2], grid[:, 3])


def test_completions_of_a_model_without_latents():
    figure = figures.completions(CompletionBaseline(SHAPE, baseline_hidden_dims=(4,)), observed(), rows=2)
    assert titles(figure) == ["observed", "prediction", "truth"]


def labelled(context, mean):
    def model(x=None, *, y):
        with pyro.plate("data", len(y), dim=-1):
            z = pyro.sample("z", dist.Uniform(0.0, 0.3))
            return pyro.sample("x", dist.Normal(mean(y, z).expand(*SHAPE, -1).movedim(-1, 0), 0.1).to_event(3), obs=x)

    model.context = {"y": context}
    return model


def test_progression_over_classes_holds_z():
    model = labelled(label_context(3), lambda y, z: z + 0.3 * y)
    figure = figures.progression(model, Split({"x": torch.zeros(5, *SHAPE)}), rows=4)
    assert titles(figure) == ["y = 0", "y = 1", "y = 2"]
    grid = cells(figure, 4, 3)[:, :, 0, 0, 0]
    torch.testing.assert_close(grid[:, 1] - grid[:, 0], torch.full((4,), 0.3))
    torch.testing.assert_close(grid[:, 2] - grid[:, 0], torch.full((4,), 0.6))
    assert len(grid[:, 0].unique()) == 4


def test_progression_over_attributes_goes_from_least_to_greatest():
    y = torch.tensor([[0.0, 10.0], [1.0, 30.0], [0.2, 20.0]])
    model = labelled(attribute_context(2), lambda y, z: 0.6 * y[:, 0] + y[:, 1] / 100 + 0 * z)
    figure = figures.progression(model, Split({"x": torch.zeros(3, *SHAPE), "y": y}), steps=3)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["y[0]", "y[1]"]
    grid = cells(figure, 2, 3)[:, :, 0, 0, 0]
    expected = [[0.0 + 0.2, 0.3 + 0.2, 0.6 + 0.2], [0.24 + 0.1, 0.24 + 0.2, 0.24 + 0.3]]  # means: 0.4 and 20
    torch.testing.assert_close(grid, torch.tensor(expected))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (
            lambda: (m := ConditionalVAE(SHAPE, OneHot(3), 3, hidden_dims=(4,)), ConditionalGuide(m)),
            ["reconstructions", "prior_samples", "latent_scatter", "progression"],
        ),
        (lambda: completion(), ["reconstructions", "prior_samples", "latent_scatter", "completions"]),
        (
            lambda: (CompletionBaseline(SHAPE, baseline_hidden_dims=(4,)), EmptyGuide()),
            ["reconstructions", "prior_samples", "completions"],
        ),
    ],
)
def test_all_that_apply_are_drawn(make, names, tmp_path, caplog):
    model, guide = make()
    split = observed()
    if "mask" not in model.context:
        split = Split({"x": split.tensors["x"], "y": torch.arange(12) % 3})
    with caplog.at_level(logging.INFO):
        written = figures.draw_all(model, guide, Data(split, test=split), [], tmp_path)
    both_kinds = {"reconstructions", "prior_samples", "latent_scatter", "progression", "completions", "manifold"}
    drawn = [path.stem for path in written if path.stem in both_kinds]
    assert sorted(drawn) == sorted(names)  # the diagnostics have tests of their own
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("pyro_vae")]
    assert len(lines) == len(registry.figures()) - len(written)
    assert all(line.startswith("no figure") for line in lines), lines


@pytest.mark.parametrize("draw", [figures.progression, figures.completions])
def test_an_unconditional_model_has_none(draw):
    with pytest.raises(NotApplicable, match="the model takes no"):
        draw(VAE(SHAPE, 2, hidden_dims=(4,)), observed())


def test_vectors_of_attributes_that_are_no_images_have_none():
    split = Split({"x": torch.zeros(5, 7), "y": torch.zeros(5, 2)})
    with pytest.raises(NotApplicable, match="no images"):
        figures.progression(ConditionalVAE((7,), Attributes(2), 2, hidden_dims=()), split)

"""Figures of discrete latents that are summed over, and what they are drawn of."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import plots
from pyro_vae.data import Split
from pyro_vae.errors import InputError, NotApplicable
from pyro_vae.evaluation import analogies
from pyro_vae.guides import EmptyGuide, GaussianGuide, SemiSupervisedGuide, StackedSemiSupervisedGuide
from pyro_vae.models import VAE, GaussianMixtureVAE, SemiSupervisedVAE, StackedSemiSupervisedVAE

SHAPE = (1, 4, 5)
FACES = torch.eye(3).repeat_interleave(7, 1)[:, :20].reshape(3, *SHAPE)  # what each class looks like


class Faces:
    """y ~ Categorical, s ~ Normal (style), w | y ~ Normal: x has the face of y in the brightness of s."""

    def model(self, x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])))
            s = pyro.sample("s", dist.Normal(0.0, 1.0))
            pyro.sample("w", dist.Normal(y.float(), 1.0))  # follows from y, and says nothing of x
            mean = 0.3 + 0.05 * s[..., None, None, None] + 0.5 * FACES[y]
            return pyro.sample("x", dist.Normal(mean, 0.01).to_event(3), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("s", dist.Normal(20 * (x.flatten(1).mean(1) - 0.3 - 0.5 * 7 / 20), 0.3))
            pyro.sample("w", dist.Normal(torch.zeros(len(x)), 1.0))

    def draw(self, n=50):
        y, s = torch.randint(0, 3, (n,)), torch.randn(n)
        return 0.3 + 0.05 * s[:, None, None, None] + 0.5 * FACES[y] + 0.01 * torch.randn(n, *SHAPE), y, s


@pytest.fixture
def faces():
    return Faces()


def test_an_analogy_keeps_what_does_not_follow_from_the_class(faces):
    x, _, s = faces.draw()
    found = analogies(faces.model, faces.guide, x, seed=3)
    assert found.site == "y" and found.kept == ("s",) and found.values.tolist() == [0, 1, 2]
    expected = 0.3 + 0.05 * s[:, None, None, None, None] + 0.5 * FACES  # (N, 3, *SHAPE)
    assert (found.mean - expected).abs().max() < 0.1  # 0.5 would be another class
    assert ((found.mean[:, 1] - found.mean[:, 0]) - 0.5 * (FACES[1] - FACES[0])).abs().max() < 1e-6  # one s for all


@pytest.mark.parametrize(
    ("model", "guide", "kept"),
    [
        (SemiSupervisedVAE, SemiSupervisedGuide, ("z",)),
        (StackedSemiSupervisedVAE, StackedSemiSupervisedGuide, ("z2",)),
    ],
)
@pytest.mark.parametrize("labels", [None, "some"])
def test_analogies_of_partly_labelled_data(model, guide, kept, labels):
    torch.manual_seed(0)
    model = model(SHAPE, num_classes=3, latent_dim=2, hidden_dims=(6,))
    batch = {"x": (torch.rand(5, *SHAPE) > 0.5).float()}
    if labels:
        batch["y"] = torch.tensor([0, -1, 2, -1, 1])
    found = analogies(model, guide(model, hidden_dims=(6,)), batch)
    assert found.site == "y" and found.kept == kept and found.mean.shape == (5, 3, *SHAPE)


def test_analogies_of_a_mixture_prior_keep_nothing():
    torch.manual_seed(0)
    model = GaussianMixtureVAE(SHAPE, num_components=4, latent_dim=2, hidden_dims=(6,))
    guide = GaussianGuide(model, hidden_dims=(6,))
    split = Split({"x": torch.rand(5, *SHAPE) > 0.5})
    assert analogies(model, guide, split).kept == ()
    columns = [t.get_text() for t in plots.analogies(model, guide, split).axes[0].get_xticklabels()]
    assert columns == ["c = 0", "c = 1", "c = 2", "c = 3"]  # no column of data, of which nothing is kept


def test_values_come_in_the_order_of_the_support(faces):
    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(torch.tensor([0.2, 0.5, 0.3])))
            return pyro.sample("x", dist.Normal(y @ FACES.flatten(1), 0.1).to_event(1), obs=x)

    x = torch.randn(4, 20)
    found = analogies(model, EmptyGuide(), x)
    assert torch.equal(found.values, torch.eye(3)) and found.kept == ()
    assert torch.equal(found.mean, FACES.flatten(1).expand(4, 3, 20))


def test_an_unknown_site_is_named(faces):
    x, *_ = faces.draw(4)
    with pytest.raises(InputError, match=r"'s'.*Known: y"):
        analogies(faces.model, faces.guide, x, site="s")


def test_a_row_of_clusters_holds_the_data_of_one_value(faces):
    torch.manual_seed(1)
    x, y, _ = faces.draw(60)
    figure = plots.clusters(faces.model, faces.guide, Split({"x": x}, name="toy"), columns=5)
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels == [f"y = {k}: {(y == k).double().mean():.0%}" for k in range(3)]
    image = torch.as_tensor(figure.axes[0].images[0].get_array())[..., 0]
    for row in range(3):
        cells = [image[row * 5 : row * 5 + 4, c * 6 : c * 6 + 5] for c in range(5)]
        for cell in cells:
            bright = torch.stack([(cell * f[0]).sum() / f.sum() for f in FACES])
            assert bright.argmax() == row


def test_a_cluster_without_data_is_left_blank(faces):
    torch.manual_seed(1)
    x, y, _ = faces.draw(60)
    split = Split({"x": torch.cat([x[y == 0], x[y == 2][:2]])})
    image = torch.as_tensor(plots.clusters(faces.model, faces.guide, split, columns=5).axes[0].images[0].get_array())
    assert (image[5:9] == 1).all() and (image[10:, 12:] == 1).all() and not (image[10:, :11] == 1).all()


def test_labels_are_not_shown_to_the_model_whose_clusters_are_drawn():
    torch.manual_seed(0)
    model = SemiSupervisedVAE(SHAPE, num_classes=3, latent_dim=2, hidden_dims=(6,))
    guide = SemiSupervisedGuide(model, hidden_dims=(6,))
    x = torch.rand(30, *SHAPE) > 0.5
    drawn = [plots.clusters(model, guide, Split({"x": x, "y": torch.full((30,), k)})) for k in (0, 2, -1)]
    images = [torch.as_tensor(figure.axes[0].images[0].get_array()) for figure in drawn]
    assert torch.equal(images[0], images[1]) and torch.equal(images[0], images[2])


def test_curves_have_a_panel_each(faces):
    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            y = pyro.sample("y", dist.Bernoulli(0.5))
            return pyro.sample("x", dist.Normal(4 * y[..., None].expand(*y.shape, 6), 1.0).to_event(1), obs=x)

    split = Split({"x": torch.cat([torch.zeros(3, 6), torch.full((2, 6), 4.0)])})
    assert len(plots.clusters(model, EmptyGuide(), split, columns=3).axes) == 6
    assert len(plots.analogies(model, EmptyGuide(), split, n=2).axes) == 4


@pytest.mark.parametrize("draw", [plots.clusters, plots.analogies])
def test_without_such_latents_there_is_nothing_to_show(draw):
    model = VAE(SHAPE, latent_dim=2, hidden_dims=(6,))
    with pytest.raises(NotApplicable, match="summed over"):
        draw(model, GaussianGuide(model, hidden_dims=(6,)), Split({"x": torch.rand(5, *SHAPE) > 0.5}))
    many = GaussianMixtureVAE(SHAPE, num_components=21, latent_dim=2, hidden_dims=(6,))
    with pytest.raises(NotApplicable, match="c has 21 values"):
        draw(many, GaussianGuide(many, hidden_dims=(6,)), Split({"x": torch.rand(5, *SHAPE) > 0.5}))

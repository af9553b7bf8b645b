"""Labels that some data have: observed there, summed elsewhere, in one batch."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae
from pyro_vae.data import load_data
from pyro_vae.errors import InputError
from pyro_vae.evaluation import posterior_probabilities
from pyro_vae.guides import GaussianGuide, SemiSupervisedGuide
from pyro_vae.models import GaussianMixtureVAE, SemiSupervisedVAE
from pyro_vae.networks import diagonal_normal
from pyro_vae.runs.measurements import measure

SHAPE = (1, 4, 4)


@pytest.fixture
def pair():
    model = SemiSupervisedVAE(SHAPE, num_classes=3, latent_dim=2, hidden_dims=(8,))
    return model, SemiSupervisedGuide(model, hidden_dims=(8,))


@pytest.fixture
def x():
    return (torch.rand(6, *SHAPE) > 0.5).float()


Y = torch.tensor([0, 2, 1, -1, -1, -1])


def calmed(model, guide, share):
    """A pair whose guide is the prior of z, and whose decoder looks at z by a share of its weights."""
    with torch.no_grad():
        [m for m in guide.encoder.modules() if isinstance(m, torch.nn.Linear)][-1].weight.zero_()
        [m for m in guide.encoder.modules() if isinstance(m, torch.nn.Linear)][-1].bias.zero_()
        next(m for m in model.decoder.modules() if isinstance(m, torch.nn.Linear)).weight[:, :2] *= share


@pytest.mark.parametrize("estimate", [pyro_vae.log_likelihood, pyro_vae.elbo])
def test_a_mixed_batch_is_the_two_apart(pair, x, estimate):
    model, guide = pair
    calmed(model, guide, 0.0)  # so that nothing depends on the draws of z
    whole = estimate(model, guide, {"x": x, "y": Y}, num_particles=3).per_datum
    parts = [estimate(model, guide, {"x": x[i], "y": Y[i]}, num_particles=3).per_datum for i in (slice(3), slice(3, 6))]
    torch.testing.assert_close(whole, torch.cat(parts), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("share", "within"), [(0.0, 1e-5), (0.3, 0.03)])
def test_a_label_adds_up(pair, x, share, within):
    """log p(x) is the log of the sum over y of p(x, y)."""
    model, guide = pair
    calmed(model, guide, share)

    def measured(y):
        batch = {"x": x, "y": torch.full((6,), y)}
        return pyro_vae.log_likelihood(model, guide, batch, num_particles=4000).per_datum

    each, whole = torch.stack([measured(y) for y in range(3)], 1), measured(-1)
    torch.testing.assert_close(whole, each.logsumexp(1), atol=within, rtol=0)
    unknown = {"x": x, "y": torch.full((6,), -1)}
    p = posterior_probabilities(model, guide, unknown, num_particles=4000)["y_unobserved"]
    torch.testing.assert_close(p.double(), each.softmax(1), atol=within, rtol=0)


@pytest.mark.parametrize("by_guide", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_what_is_known_has_no_posterior_probability(by_guide, together):
    """By obs_mask; the others' are those of a mixture, also where particles are run as further data."""
    weights, y = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0, 1, 2, 0, 1])
    known, x = torch.tensor([True, False, True, False, False]), torch.randn(5, 2)

    def model(x=None, y=None, known=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            y = pyro.sample("y", dist.Categorical(weights), obs=y, obs_mask=known)
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            if not together and z.dim() > 2:
                raise RuntimeError("one batch dimension only")
            return pyro.sample("x", dist.Normal(0 * z + y[..., None], 1.0).to_event(1), obs=x)

    def guide(x, known):
        with pyro.plate("data", len(x)):
            if by_guide:
                pyro.sample("y_unobserved", dist.Categorical(weights.flip(0)), infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))

    batch = {"x": x, "y": y, "known": known}
    p = posterior_probabilities(model, guide, batch, num_particles=7)["y_unobserved"]
    exact = (weights.log() - 0.5 * (x[:, None] - torch.arange(3)[:, None]).square().sum(-1)).softmax(-1)
    assert p[known].isnan().all()
    torch.testing.assert_close(p[~known], exact[~known], atol=1e-5, rtol=0)


def test_the_bound_is_kingmas(pair, x):
    """Labelled: log p(y) + E log p(x | z, y) - KL; unlabelled: sum_y q(y | x) (that - log q(y | x))."""
    model, guide = pair
    log_q = guide.classifier(x).log_softmax(-1)

    def labelled(y):
        c = guide.condition(y)
        q = diagonal_normal(guide.encoder(x, c), guide.min_scale)
        loc, scale = q.loc, q.scale
        z = loc + scale * torch.randn(3000, *loc.shape)
        logits = model.decoder(torch.cat([z, c.expand(3000, *c.shape)], -1))
        log_x = torch.distributions.Bernoulli(logits=logits).log_prob(x).sum((-3, -2, -1)).mean(0)
        kl = 0.5 * (loc.square() + scale.square() - 1 - 2 * scale.log()).sum(-1)
        return log_x - kl - math.log(3)

    with torch.no_grad():
        each = torch.stack([labelled(torch.full((6,), y)) for y in range(3)], 1)
        by_hand = torch.where(
            Y >= 0, each.gather(1, Y.clamp(min=0)[:, None])[:, 0], (log_q.exp() * (each - log_q)).sum(1)
        )
    ours = pyro_vae.elbo(model, guide, {"x": x, "y": Y}, num_particles=3000).per_datum
    torch.testing.assert_close(ours.float(), by_hand, atol=0.15, rtol=0)


def test_labels_train_the_classifier_and_only_in_training(pair, x):
    model, guide = pair
    result = pyro_vae.fit(model, guide, {"x": x, "y": Y}, epochs=1, batch_size=6, progress=False, device="cpu")
    assert result.records[-1]["train/penalty/classification"] > 0
    assert "y_unobserved" in pyro_vae.elbo(model, guide, {"x": x, "y": Y}).kl


def test_generated_by_class_and_without(pair):
    model, _ = pair
    assert pyro_vae.sample(model, 4)["x"].shape == (4, *SHAPE)
    assert pyro_vae.sample(model, 2, batch={"y": torch.tensor([0, 2])})["x"].shape == (2, *SHAPE)


def test_a_missing_marker_where_there_is_none_is_refused(x):
    model = pyro_vae.models.ConditionalVAE(SHAPE, pyro_vae.networks.OneHot(3), latent_dim=2, hidden_dims=(8,))
    guide = pyro_vae.guides.ConditionalGuide(model, hidden_dims=(8,))
    with pytest.raises(InputError, match="class labels from 0 to 2"):
        pyro_vae.log_likelihood(model, guide, {"x": x, "y": Y})
    model = SemiSupervisedVAE(SHAPE, num_classes=3, latent_dim=2, hidden_dims=(8,))
    with pytest.raises(InputError, match="-1 where one is not known"):
        pyro_vae.elbo(model, SemiSupervisedGuide(model, hidden_dims=(8,)), {"x": x, "y": Y - 1})


def test_few_labels_are_the_first_of_each_class():
    data = load_data("mnist5k", num_labels=25)
    known = data.train.tensors["y"] >= 0
    counts = data.train.tensors["y"][known].bincount(minlength=10)
    assert known.sum() == 25 and set(counts.tolist()) == {2, 3}
    assert bool((data.test.tensors["y"] >= 0).all()) and "25 training labels are known" in data.description
    with pytest.raises(InputError, match="at most 4,000"):
        load_data("mnist5k", num_labels=4001)


def test_measured_with_accuracy_and_clusters():
    data = load_data("mnist5k", limit=40, num_labels=20, image_size=8, binarization="static")
    model = SemiSupervisedVAE((1, 8, 8), latent_dim=2, hidden_dims=(8,))
    found = measure(model, SemiSupervisedGuide(model, hidden_dims=(8,)), data, particles=5).result["metrics"]
    assert 0 <= found["accuracy"]["summary"]["mean"] <= 1 and "clusters" not in found
    mixture = GaussianMixtureVAE((1, 8, 8), num_components=4, latent_dim=2, hidden_dims=(8,))
    found = measure(mixture, GaussianGuide(mixture, hidden_dims=(8,)), data, particles=5).result["metrics"]
    assert 0 < found["clusters"]["summary"]["purity"]["c"] <= 1 and "accuracy" not in found


def test_scores_of_clusters_by_hand():
    from pyro_vae.evaluation.discrete import Clusters

    perfect = Clusters({"c": torch.tensor([[0, 5], [5, 0], [0, 0]])})
    assert perfect.purity["c"] == 1 and math.isclose(perfect.normalized_information["c"], 1, abs_tol=1e-9)
    blind = Clusters({"c": torch.tensor([[2, 2], [2, 2]])})
    assert blind.purity["c"] == 0.5 and math.isclose(blind.normalized_information["c"], 0, abs_tol=1e-9)

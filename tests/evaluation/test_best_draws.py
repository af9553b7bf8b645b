"""The error of the best of several draws given a context, against all choices of them, and known kinds of draws."""

import itertools
import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae
from pyro_vae.data import LabPictures, Split
from pyro_vae.errors import InputError, NotApplicable
from pyro_vae.evaluation import best_of_draws
from pyro_vae.evaluation.best_draws import BestOfDraws, draws_given_context
from pyro_vae.models import FieldRegressor, GenerativeModel
from pyro_vae.programs.context import Context

WEIGHTS = torch.tensor([0.5, 0.3, 0.2])


class OneOfThree(GenerativeModel):
    """x is the image at one of three signs and sizes, exactly known: palettes of a picture."""

    def __init__(self, weights=WEIGHTS):
        super().__init__()
        self.weights, self.context = weights, {"image": Context("images", (1, 4, 4))}

    def forward(self, x=None, *, image):
        with self.data_plate(image):
            u = pyro.sample("u", dist.Uniform(torch.zeros(1), 1.0).to_event(1))  # (..., batch, 1)
            which = torch.bucketize(u, self.weights.cumsum(0)).clamp(max=2)
            factor = torch.tensor([-1.0, 1.0, 3.0])[which][..., None, None]  # (..., batch, 1, 1, 1)
            return pyro.sample("x", dist.Normal(factor * image, 0.01).to_event(3), obs=x)


def data(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = 0.5 + torch.rand(n, 1, 4, 4, generator=generator)
    which = torch.multinomial(WEIGHTS, n, replacement=True, generator=generator)
    return {"x": torch.tensor([-1.0, 1.0, 3.0])[which].view(-1, 1, 1, 1) * image, "image": image}, which


def test_it_is_the_mean_over_all_choices():
    errors = torch.rand(3, 6, dtype=torch.float64).sort(1).values
    found = BestOfDraws(errors, torch.zeros(3))
    for n in range(1, 7):
        every = torch.stack([errors[:, list(some)].min(1).values for some in itertools.combinations(range(6), n)])
        torch.testing.assert_close(found.best_of(n), every.mean(0))
    assert found.counts == [1, 2, 4, 6] and BestOfDraws(errors[:, :4], errors[:, 0]).counts == [1, 2, 4]


def test_it_falls_as_the_kinds_probabilities_say():
    """A draw of the datum's own kind has no error at all: n draws miss it with probability (1 - w)^n."""
    batch, which = data(4000)
    found = best_of_draws(OneOfThree(), batch, num_draws=4, seed=1)
    for n in (1, 2, 4):
        missed = (found.best_of(n) > 1e-6).double() if n == 4 else None
        if missed is not None:
            expected = (1 - WEIGHTS[which].double()) ** 4
            error = math.sqrt(float((expected * (1 - expected)).sum())) / len(which)
            assert abs(float(missed.mean() - expected.mean())) < 4 * error
    size = batch["image"].double().square().mean((1, 2, 3)).sqrt()
    distance = (torch.tensor([-1.0, 1.0, 3.0])[:, None] - torch.tensor([-1.0, 1.0, 3.0])).abs().double()  # of kinds
    one = (size * (distance[which] * WEIGHTS.double()).sum(1)).mean()
    assert float(found.best_of(1).mean()) == pytest.approx(float(one), rel=0.05)
    spread = (WEIGHTS * torch.tensor([1.0, 1.0, 9.0])).sum() - (WEIGHTS * torch.tensor([-1.0, 1.0, 3.0])).sum() ** 2
    assert float((found.variance / size.square()).mean()) == pytest.approx(float(spread), rel=0.05)


def test_equal_kinds_are_hit_as_one_over_m_says():
    m = 3
    image = torch.ones(3000, 1, 4, 4)
    which = torch.arange(3000) % m
    x = torch.tensor([-1.0, 1.0, 3.0])[which].view(-1, 1, 1, 1) * image
    found = best_of_draws(OneOfThree(torch.full((3,), 1 / 3)), {"x": x, "image": image}, num_draws=6)
    hit = found.errors < 1e-6  # (num_data, draws), ascending: the hits come first
    for n in (1, 2, 4, 6):
        chance = torch.tensor([1 - math.comb(6 - int(k), n) / math.comb(6, n) for k in hit.sum(1)]).mean()
        assert abs(float(chance) - (1 - (1 - 1 / m) ** n)) < 4 * 0.5 / math.sqrt(3000)


def test_a_regressor_has_one_answer():
    torch.manual_seed(0)
    model = FieldRegressor((2, 8, 8), (1, 8, 8), channels=(4,), context_dim=4)
    batch = {"x": torch.randn(5, 2, 8, 8), "image": torch.rand(5, 1, 8, 8)}
    found = best_of_draws(model, batch, num_draws=3, batch_size=4)  # data in pieces of one
    mean = pyro_vae.sample(model, 5, batch={"image": batch["image"]})["x.mean"]
    torch.testing.assert_close(found.best_of(3), (mean - batch["x"]).double().square().mean((1, 2, 3)).sqrt())
    assert float(found.variance.abs().max()) < 1e-12
    seen = best_of_draws(model, batch, num_draws=2, pictures=LabPictures())
    pictures = LabPictures()
    error = (pictures.images(mean, batch) - pictures.images(batch["x"], batch)).double().square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(seen.best_of(1), error)
    assert [*best_of_draws(model, batch, num_draws=1).rows] == ["error of a draw"]
    assert "pictures" in seen.to_dict()["unit"] and json.dumps(seen.to_dict())


def test_what_it_is_not_for():
    batch = {"x": torch.rand(5, 1, 8, 8).round(), "y": torch.arange(5)}
    model = pyro_vae.models.ConditionalVAE((1, 8, 8), pyro_vae.networks.OneHot(5), latent_dim=2, hidden_dims=(4,))
    with pytest.raises(InputError, match="real numbers"):
        best_of_draws(model, batch)
    with pytest.raises(NotApplicable, match="no real numbers"):
        draws_given_context(model, Split(batch), 0)
    with pytest.raises(InputError, match="num_draws"):
        best_of_draws(OneOfThree(), data(5)[0], num_draws=0)
    with pytest.raises(InputError, match="best of 5"):
        best_of_draws(OneOfThree(), data(5)[0], num_draws=2).best_of(5)
    assert set(draws_given_context(OneOfThree(), Split(data(5)[0]), 0).rows) == {
        "error of a draw",
        *(f"error of the best of {n} draws" for n in (2, 4, 8)),
        "deviation of draws",
    }

"""Models given an image, against a closed form: every estimator's number is of each datum's own image."""

import numpy as np
import pyro
import pytest
import torch
from image_context import MODEL, SIDES, fields
from pyro import distributions as dist
from scipy.stats import multivariate_normal
from torch import nn

import pyro_vae
from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation.latent_space import decode_path, paths_between
from pyro_vae.guides import FieldGuide
from pyro_vae.models import FieldVAE
from pyro_vae.objectives import ELBO, IWAE
from pyro_vae.programs.context import Context

N, SHAPE, DIM, NOISE = 9, (2, 3, 2), 2, 0.7


class Linear(nn.Module):
    """z | image ~ N(A image, I); x | z, image ~ N(B z + C image, NOISE^2): both linear in the flattened image."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        size = 12
        for name, shape in {"A": (DIM, size), "B": (size, DIM), "C": (size, size)}.items():
            self.register_buffer(name, torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        self.context = {"image": Context("pictures", SHAPE)}

    def forward(self, x=None, *, image):
        given = image.flatten(-3)  # (batch, size)
        with pyro.plate("data", len(image), dim=-1):
            z = pyro.sample("z", dist.Normal(given @ self.A.T, 1.0).to_event(1))
            mean = z @ self.B.T + given @ self.C.T
            return pyro.sample("x", dist.Normal(mean.unflatten(-1, SHAPE), NOISE).to_event(3), obs=x)

    def posterior(self, x, image):
        """Mean (n, DIM) and covariance of z."""
        given = image.flatten(1)
        precision = torch.eye(DIM).to(self.B) + self.B.T @ self.B / NOISE**2
        rest = x.flatten(1) - given @ self.C.T
        mean = (given @ self.A.T + rest @ self.B / NOISE**2) @ precision.inverse()
        return mean, precision.inverse()

    def exact(self, data):
        """log p(x | image), (n,)."""
        x, given = data["x"].flatten(1).double(), data["image"].flatten(1).double()
        a, b, c = (each.double() for each in (self.A, self.B, self.C))
        mean, cov = given @ a.T @ b.T + given @ c.T, b @ b.T + NOISE**2 * torch.eye(12)
        return np.array([multivariate_normal(m, cov).logpdf(v) for m, v in zip(mean, x, strict=True)])


class Posterior(nn.Module):
    """The model's posterior, or a wider one."""

    def __init__(self, model, wider=1.0):
        super().__init__()
        self.model, self.wider = [model], wider

    def forward(self, x, *, image):
        mean, cov = self.model[0].posterior(x, image)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.MultivariateNormal(mean, self.wider**2 * cov))


def made(n=N, seed=0, dtype=torch.float64):
    """Data of the model, with different images."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(n, *SHAPE, generator=generator, dtype=torch.float64).to(dtype)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return {"x": Linear(dtype)(image=image), "image": image}


MODEL_, DATA = Linear(), made()
EXACT = MODEL_.exact(DATA)
SMALL = 40_000  # bytes: chunks of a datum or two


@pytest.mark.parametrize("budget", [SMALL, 1 << 28])
@pytest.mark.parametrize("vectorize", [True, False])
def test_log_likelihood(budget, vectorize):
    found = pyro_vae.log_likelihood(
        MODEL_, Posterior(MODEL_), DATA, num_particles=7, memory_budget=budget, vectorize=vectorize
    )
    assert np.allclose(found.per_datum, EXACT, atol=1e-8)


def test_log_likelihood_of_a_guide_that_is_not_exact():
    found = pyro_vae.log_likelihood(
        MODEL_, Posterior(MODEL_, 1.5), DATA, num_particles=20_000, memory_budget=SMALL * 50
    )
    assert np.allclose(found.per_datum, EXACT, atol=0.05)


def test_with_other_images_it_is_another_number():
    other = DATA | {"image": DATA["image"].roll(1, 0)}
    found = pyro_vae.log_likelihood(MODEL_, Posterior(MODEL_), other, num_particles=3)
    assert np.allclose(found.per_datum, MODEL_.exact(other), atol=1e-8)
    assert (np.abs(MODEL_.exact(other) - EXACT) > 1).all()


def test_elbo_and_score():
    guide = Posterior(MODEL_)
    assert np.allclose(
        pyro_vae.elbo(MODEL_, guide, DATA, num_particles=4, analytic_kl=False).per_datum, EXACT, atol=1e-8
    )
    found = pyro_vae.score(MODEL_, guide, DATA, num_particles=5, memory_budget=SMALL, progress=False)
    assert np.allclose(found.likelihood.per_datum, EXACT, atol=1e-8)


@pytest.mark.parametrize("objective", [ELBO(num_particles=3, analytic_kl=False), IWAE(num_particles=6)])
def test_objectives_with_particles(objective):
    assert float(objective(MODEL_, Posterior(MODEL_))(**DATA)) == pytest.approx(-EXACT.mean(), abs=1e-8)


def test_annealing():
    found = pyro_vae.ais(
        MODEL_, Posterior(MODEL_), DATA, num_chains=3, num_temperatures=4, memory_budget=SMALL, progress=False
    )
    assert np.allclose(found.per_datum, EXACT, atol=1e-6)


def test_bidirectional_bounds_of_simulated_data_are_of_the_images_given():
    found = pyro_vae.bidirectional(
        MODEL_, Posterior(MODEL_), N, batch={"image": DATA["image"]}, num_chains=3, num_temperatures=4,
        memory_budget=SMALL, progress=False,
    )  # fmt: skip
    assert np.allclose(found.lower, found.upper, atol=1e-6)  # exact start: of each datum log p(x | its image)
    with pytest.raises(InputError, match="image"):
        pyro_vae.bidirectional(MODEL_, Posterior(MODEL_), N, num_temperatures=4, progress=False)


def test_bidirectional_needs_as_many_images_as_data():
    with pytest.raises(InputError, match="image"):
        pyro_vae.bidirectional(
            MODEL_, Posterior(MODEL_), 4, batch={"image": DATA["image"]}, num_temperatures=4, progress=False
        )


def test_encode_decode_and_paths():
    guide = Posterior(MODEL_)
    mean, _ = MODEL_.posterior(**DATA)
    assert torch.allclose(pyro_vae.encode(MODEL_, guide, DATA, batch_size=4)["z"], mean)
    given = {"image": DATA["image"]}
    expected = (mean @ MODEL_.B.T + DATA["image"].flatten(1) @ MODEL_.C.T).unflatten(-1, SHAPE)
    assert torch.allclose(pyro_vae.decode(MODEL_, {"z": mean}, batch=given), expected)
    start, end = ({name: value[i::2][:4] for name, value in DATA.items()} for i in range(2))
    path, _ = paths_between(MODEL_, guide, start, end, 3, kind="linear")
    halfway = (mean[0::2][:4] + mean[1::2][:4]) / 2
    made = decode_path(MODEL_, path, batch=start)[:, 1]
    assert torch.allclose(made, (halfway @ MODEL_.B.T + start["image"].flatten(1) @ MODEL_.C.T).unflatten(-1, SHAPE))


def test_samples_are_of_their_own_images():
    drawn = pyro_vae.sample(MODEL_, N, batch={"image": DATA["image"]}, batch_size=4)
    expected = drawn["z"] @ MODEL_.B.T + DATA["image"].flatten(1) @ MODEL_.C.T
    assert torch.allclose(drawn["x.mean"].flatten(1), expected)
    with pytest.raises(InputError, match="image"):
        pyro_vae.sample(MODEL_, N, batch={"image": DATA["image"][:4]})


class Pairs(torch.utils.data.Dataset):
    def __len__(self):
        return N

    def __getitem__(self, place):
        return {name: value[place] for name, value in DATA.items()}


def test_streams_keep_images_with_their_data():
    batches = [{name: value[i : i + 4] for name, value in DATA.items()} for i in range(0, N, 4)]
    for data in (Pairs(), torch.utils.data.DataLoader(Pairs(), batch_size=2), batches):
        found = pyro_vae.log_likelihood(MODEL_, Posterior(MODEL_), data, num_particles=3)
        assert np.allclose(found.per_datum, EXACT, atol=1e-8)


# ---------------------------------------------------------------------------- training, and what is refused
def small(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = FieldVAE((2, *SIDES), (1, *SIDES), **MODEL)
        return model, FieldGuide(model, channels=(6,), context_dim=5)


def split_of(**changed):
    return fields(24, 0) | changed


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (torch.rand(24, 1, 8, 7), r"shape \(N, 1, 8, 6\); got shape \(N, 1, 8, 7\)"),
        (torch.rand(24, 3, 8, 6), "got shape"),
        (torch.rand(24, 8, 6), "got shape"),
        (torch.randint(9, (24, 1, 8, 6)), "got torch.int64"),
        (torch.full((24, 1, 8, 6), torch.nan), "datum 0 of a batch has NaN"),
        (torch.full((24, 1, 8, 6), torch.inf), "NaN or infinite"),
    ],
    ids=["width", "channels", "axes", "integers", "nan", "infinite"],
)
def test_images_that_do_not_fit_are_refused_everywhere(image, said):
    model, guide = small()
    data = split_of(image=image)
    for call in (
        lambda: pyro_vae.fit(model, guide, data, epochs=1, progress=False),
        lambda: pyro_vae.log_likelihood(model, guide, data, num_particles=2),
        lambda: pyro_vae.elbo(model, guide, data),
        lambda: pyro_vae.score(model, guide, data, num_particles=2, progress=False),
        lambda: pyro_vae.encode(model, guide, data),
        lambda: pyro_vae.ais(model, guide, data, num_temperatures=3, progress=False),
        lambda: pyro_vae.sample(model, 24, batch={"image": data["image"]}),
    ):
        with pytest.raises(InputError, match=said):
            call()


def test_one_bad_image_among_many_is_found():
    model, guide = small()
    data = split_of()
    data["image"][17, 0, 3, 3] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        pyro_vae.fit(model, guide, data, epochs=1, progress=False)
    with pytest.raises(InputError, match="NaN"):
        pyro_vae.log_likelihood(model, guide, data, num_particles=2)


def test_pictures_stored_as_levels_are_the_same_data():
    levels = (fields(24, 0)["image"] * 255).round().to(torch.uint8)
    model, guide = small()
    a, b = (
        pyro_vae.log_likelihood(model, guide, split_of(image=image), num_particles=3).per_datum
        for image in (levels, levels.float() / 255)
    )
    assert torch.equal(a, b)
    results = [
        pyro_vae.fit(*small(), Data(Split(split_of(image=image))), epochs=2, batch_size=7, progress=False)
        for image in (levels, levels.float() / 255)
    ]
    assert results[0].records[-1]["train/loss"] == pytest.approx(results[1].records[-1]["train/loss"], abs=1e-6)


def test_a_guide_is_refitted_to_a_model_given_images():
    model, guide = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = pyro_vae.refit_guide(model, split_of(), guide, epochs=3, learning_rate=0.01, batch_size=8, progress=False)
    assert result.records[-1]["train/loss"] < result.records[0]["train/loss"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

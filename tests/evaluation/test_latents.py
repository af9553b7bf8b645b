import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation.encoding import encode, mean_path, posterior_samples, principal_components


def points(n, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.linspace(3, 0.5, dim)
    return torch.randn(n, dim, generator=generator) * scales @ torch.randn(dim, dim, generator=generator) + 5


def no_model(x=None):
    raise AssertionError("encoding needs the guide alone")


def test_encode_gives_the_posterior_mean_of_a_linear_gaussian_model():
    w, noise = torch.tensor([[1.0, -0.5], [0.3, 2.0], [0.0, 0.7]]), 0.3
    covariance = torch.linalg.inv(w.T @ w / noise**2 + torch.eye(2))

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            mean = x @ w / noise**2 @ covariance
            pyro.sample("z", dist.MultivariateNormal(mean, covariance))

    x = points(23, 3)
    # E[z | x] by regression of z on x under the joint Gaussian, not by the formula of the guide
    expected = x @ torch.linalg.inv(w @ w.T + noise**2 * torch.eye(3)) @ w
    for data in (x, {"x": x}, Split({"x": x}), Data(Split({"x": x[:2]}), test=Split({"x": x}))):
        encoded = encode(no_model, guide, data, batch_size=10)
        assert list(encoded) == ["z"]
        torch.testing.assert_close(encoded["z"], expected, rtol=1e-4, atol=1e-4)


def test_encode_of_several_sites_inner_plates_and_no_means():
    def guide(x):
        pyro.sample("shared", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("helper", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
            z2 = pyro.sample("z2", dist.Normal(x, 1.0).to_event(1))
            with pyro.plate("inner", 4, dim=-2):
                pyro.sample("parts", dist.Normal(x.sum(-1), 1.0))  # (4, batch)
            pyro.sample("code", dist.Categorical(torch.ones(9)))
            pyro.sample("z1", dist.Normal(100 * z2, 1.0).to_event(1))

    x = points(12, 3)
    encoded = encode(no_model, guide, x, batch_size=5)
    assert {name: tuple(v.shape) for name, v in encoded.items()} == {
        "z2": (12, 3),
        "parts": (12, 4),
        "code": (12,),
        "z1": (12, 3),
    }
    assert torch.equal(encoded["z2"], x)
    torch.testing.assert_close(encoded["parts"], x.sum(-1, keepdim=True).expand(-1, 4))
    assert encoded["code"].dtype == torch.int64 and 0 <= encoded["code"].min() <= encoded["code"].max() < 9
    noise = encoded["z1"] / 100 - x  # z1's mean is that of the drawn z2
    assert 0.5 < noise.std() < 1.6 and len(noise.unique()) == noise.numel()


def test_encode_reproduces_and_leaves_the_global_random_state():
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("code", dist.Categorical(torch.ones(1000)))

    before = torch.random.get_rng_state()
    first, again, other = (encode(no_model, guide, torch.zeros(20, 3), seed=seed)["code"] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_encode_without_latents():
    with pytest.raises(InputError, match="no latent site"):
        encode(no_model, lambda x: None, torch.zeros(3, 2))


@pytest.mark.parametrize(("n", "dim", "k"), [(200, 6, 2), (200, 6, 6), (5, 9, 3), (4, 1, 1)])
def test_principal_components_are_the_covariance_s_eigenvectors(n, dim, k):
    z = points(n, dim).double()
    scores, directions, explained = principal_components(z, k)
    covariance = z.T.cov().reshape(dim, dim)
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0)[:k], vectors.flip(1)[:, :k]
    torch.testing.assert_close((directions * vectors).sum(0).abs(), torch.ones(k, dtype=torch.float64))
    torch.testing.assert_close(explained, values / covariance.trace())
    torch.testing.assert_close(scores, (z - z.mean(0)) @ directions)
    torch.testing.assert_close(scores.var(0), values)
    assert (directions.gather(0, directions.abs().argmax(0, keepdim=True)) > 0).all()


def test_principal_components_do_not_depend_on_the_order_of_the_data():
    z = points(50, 4)
    _, directions, _ = principal_components(z)
    torch.testing.assert_close(principal_components(z.flip(0)).directions, directions)


def test_principal_components_of_points_without_spread_and_of_integers():
    assert torch.equal(principal_components(torch.ones(4, 3)).explained, torch.zeros(2))
    codes = torch.tensor([[0, 1], [4, 2], [1, 5]])
    torch.testing.assert_close(principal_components(codes).scores, principal_components(codes.float()).scores)


@pytest.mark.parametrize(
    ("z", "k", "words"),
    [
        (torch.zeros(3), 1, "shape"),
        (torch.zeros(1, 3), 1, "at least 2 data"),
        (torch.zeros(5, 3), 4, r"1 \.\.\. 3"),
        (torch.zeros(5, 3), 0, "got 0"),
    ],
)
def test_principal_components_refuse(z, k, words):
    with pytest.raises(InputError, match=words):
        principal_components(z, k)


def chain(x):
    """z2 ~ N(x, 1), z1 ~ N(10 z2, 0.1), and a code that has no mean."""
    with pyro.plate("data", len(x), dim=-1):
        z2 = pyro.sample("z2", dist.Normal(x, 1.0).to_event(1))
        pyro.sample("helper", dist.Normal(z2, 1.0).to_event(1), infer={"is_auxiliary": True})
        with pyro.plate("inner", 2, dim=-2):
            pyro.sample("z1", dist.Normal(10 * z2, 0.1).to_event(1))
        pyro.sample("code", dist.Categorical(torch.ones(3)))


def test_posterior_samples_belong_together():
    x = points(400, 3)
    drawn = posterior_samples(no_model, chain, x, batch_size=150)
    assert {name: tuple(v.shape) for name, v in drawn.items()} == {"z2": (400, 3), "z1": (400, 2, 3), "code": (400,)}
    noise = drawn["z2"] - x
    assert 0.8 < noise.std() < 1.2
    assert (drawn["z1"] - 10 * drawn["z2"][:, None]).std() < 0.12


def test_mean_path_is_the_guide_without_its_noise():
    x = points(20, 3)
    path = mean_path(no_model, chain, x, batch_size=7)
    assert torch.equal(path["z2"], x) and torch.equal(path["z1"], (10 * x)[:, None].expand(-1, 2, -1))
    assert set(path["code"].tolist()) <= {0, 1, 2} and len(path) == 3
    assert torch.equal(path["z1"], mean_path(no_model, chain, x, seed=1)["z1"])

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from pyro_vae.errors import InputError
from pyro_vae.evaluation.generate import decode, reconstruct, sample

W = torch.tensor([[1.0, -0.5], [0.3, 2.0], [0.0, 0.7]])  # (3, 2)
B = torch.tensor([0.5, -1.0, 2.0])
NOISE = 0.3
PRECISION = W.T @ W / NOISE**2 + torch.eye(2)  # of p(z | x)
COVARIANCE = torch.linalg.inv(PRECISION)
SPREAD = torch.linalg.cholesky(COVARIANCE)


def linear_model(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z @ W.T + B, NOISE).to_event(1), obs=x)


def posterior_mean(x):
    return (x - B) @ W / NOISE**2 @ COVARIANCE


def exact_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.MultivariateNormal(posterior_mean(x), scale_tril=SPREAD))


def sharp_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Delta(posterior_mean(x), event_dim=1))


def two_layers(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
        top = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        low = pyro.sample("z1", dist.Normal(3 * top, 0.01).to_event(1))
        return pyro.sample("x", dist.Normal(low @ W.T, 1.0).to_event(1), obs=x)


class Noisy(PyroModule):
    """A model whose result shows whether it is in training mode."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm1d(3)
        self.dropout = nn.Dropout(0.5)
        self.seen = []

    def forward(self, x=None, num_samples=1):
        self.seen.append((self.training, self.dropout.training, torch.is_grad_enabled()))
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.dropout(self.norm(z)), 1.0).to_event(1), obs=x)


def test_samples_have_the_model_s_moments_and_their_mean_is_that_of_their_latents():
    drawn = sample(linear_model, 20_000, batch_size=3000)
    assert {name: tuple(v.shape) for name, v in drawn.items()} == {
        "z": (20_000, 2),
        "x": (20_000, 3),
        "x.mean": (20_000, 3),
    }
    torch.testing.assert_close(drawn["x.mean"], drawn["z"] @ W.T + B)
    covariance = W @ W.T + NOISE**2 * torch.eye(3)
    error = torch.sqrt((covariance**2 + covariance.diag()[:, None] * covariance.diag()) / 20_000)
    assert ((drawn["x"].T.cov() - covariance).abs() < 5 * error).all()
    assert ((drawn["x"].mean(0) - B).abs() < 5 * (covariance.diag() / 20_000).sqrt()).all()
    residual = (drawn["x"] - drawn["x.mean"]).std()
    assert abs(residual - NOISE) < 5 * NOISE / (2 * 60_000) ** 0.5


def test_reconstruction_decodes_the_posterior():
    x = sample(linear_model, 7)["x"]
    torch.testing.assert_close(reconstruct(linear_model, sharp_guide, {"x": x}), posterior_mean(x) @ W.T + B)
    one = x[:1].expand(20_000, 3)
    drawn = reconstruct(linear_model, exact_guide, {"x": one, "y": torch.zeros(20_000)})
    covariance = W @ COVARIANCE @ W.T
    expected = posterior_mean(x[:1])[0] @ W.T + B
    assert ((drawn.mean(0) - expected).abs() < 5 * (covariance.diag() / 20_000).sqrt()).all()
    torch.testing.assert_close(drawn.T.cov(), covariance, rtol=0.1, atol=2e-3)


def test_reconstruction_does_not_hand_the_data_to_the_likelihood():
    def model(x=None, num_samples=1):
        assert x is None
        return linear_model(None, num_samples)

    x = torch.zeros(4, 3)
    torch.testing.assert_close(reconstruct(model, sharp_guide, {"x": x}), posterior_mean(x) @ W.T + B)


def test_reconstruction_with_a_model_that_needs_its_data():
    def model(x):
        return linear_model(x)

    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(reconstruct(model, sharp_guide, {"x": x}), posterior_mean(x) @ W.T + B)
    with pytest.raises(InputError, match="num_samples"):
        sample(model, 3)


def test_decode_holds_given_latents_and_draws_the_others():
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(decode(linear_model, {"z": z}), z @ W.T + B)
    torch.testing.assert_close(decode(two_layers, {"z1": z}), z @ W.T)
    from_top = decode(two_layers, {"z2": z})
    assert (from_top - 3 * z @ W.T).abs().max() < 0.01 * 2.1 * 5  # z1's noise, through W
    assert not torch.equal(from_top, 3 * z @ W.T)
    assert torch.equal(from_top, decode(two_layers, {"z2": z}))
    assert not torch.equal(from_top, decode(two_layers, {"z2": z}, seed=1))


def test_decode_puts_data_where_inner_plates_want_them():
    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples, dim=-1):
            with pyro.plate("inner", 4, dim=-2):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))  # (4, num_samples, 2)
            return pyro.sample("x", dist.Normal(z.sum(0), 1.0).to_event(1), obs=x)

    drawn = sample(model, 6, batch_size=4)
    assert drawn["z"].shape == (6, 4, 2)
    torch.testing.assert_close(drawn["x.mean"], drawn["z"].sum(1))
    torch.testing.assert_close(decode(model, {"z": drawn["z"]}), drawn["x.mean"])


def test_context_reaches_the_model_in_the_right_rows():
    def model(x=None, *, y, num_samples=1):
        with pyro.plate("data", len(y), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1e-4).to_event(1))
            return pyro.sample("x", dist.Normal(z + y[:, None], 1.0).to_event(1), obs=x)

    y = torch.arange(5.0)
    batch = {"y": y, "x": torch.zeros(3, 1)}  # the data are not the context
    assert torch.equal(sample(model, 5, batch=batch, batch_size=2)["x.mean"][:, 0].round(), y)
    assert torch.equal(decode(model, {"z": torch.zeros(5, 1)}, batch={"y": y})[:, 0], y)
    with pytest.raises(InputError, match=r"needs y .* batch"):
        sample(model, 5)
    with pytest.raises(InputError, match="'y' has 5 rows, but num_samples is 4"):
        sample(model, 4, batch={"y": y})


def test_seeds_reproduce_and_leave_the_global_random_state():
    before = torch.random.get_rng_state()
    x = torch.zeros(4, 3)
    calls = [
        lambda seed: sample(linear_model, 4, seed=seed)["x"],
        lambda seed: reconstruct(linear_model, exact_guide, {"x": x}, seed=seed),
        lambda seed: decode(two_layers, {"z2": x[:, :2]}, seed=seed),
    ]
    for call in calls:
        assert torch.equal(call(3), call(3))
        assert not torch.equal(call(3), call(4))
    assert torch.equal(before, torch.random.get_rng_state())


def test_programs_run_in_evaluation_mode_which_is_put_back_module_by_module():
    model = Noisy()
    model.train()
    model.norm.eval()  # a part that its user has frozen
    drawn = sample(model, 8)
    torch.testing.assert_close(drawn["x.mean"], drawn["z"] / (1 + model.norm.eps) ** 0.5)
    assert model.seen == [(False, False, False)]
    assert (model.training, model.dropout.training, model.norm.training) == (True, True, False)
    assert torch.equal(model.norm.running_mean, torch.zeros(3))
    with pytest.raises(InputError):
        decode(model, {"z": torch.zeros(2, 5)})
    assert (model.training, model.dropout.training, model.norm.training) == (True, True, False)


def test_a_distribution_without_a_mean_gives_its_draw():
    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples, dim=-1):
            return pyro.sample("x", dist.Categorical(torch.ones(3)), obs=x)

    drawn = sample(model, 50)
    assert torch.equal(drawn["x"], drawn["x.mean"])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sample(linear_model, 0), "num_samples must be a positive integer, got 0"),
        (lambda: sample(linear_model, 2, batch_size=-1), "batch_size must be a positive integer, got -1"),
        (lambda: sample(linear_model, 2, site="xx"), "unknown data site 'xx'.* Did you mean 'x'"),
        (lambda: decode(linear_model, {"zz": torch.zeros(2, 2)}), "unknown latent site 'zz'.* Did you mean 'z'"),
        (
            lambda: decode(linear_model, {"z": torch.zeros(2, 3)}),
            r"'z' must have shape \(batch, 2\), got \(2, 3\)",
        ),
        (lambda: decode(two_layers, {"z1": torch.zeros(2, 2), "z2": torch.zeros(3, 2)}), "z1 2, z2 3"),
        (lambda: decode(linear_model, {}), "got nothing"),
    ],
)
def test_errors_say_what_would_be_right(call, words):
    with pytest.raises(InputError, match=words):
        call()

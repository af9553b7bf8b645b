"""Encoders and decoders of others: exact where log p(x) is known, and refused where they would be silently wrong."""

import logging

import pyro
import pytest
import torch
from torch import nn
from torch.nn.functional import dropout

import pyro_vae
from pyro_vae.adapters import from_modules
from pyro_vae.errors import InputError
from pyro_vae.likelihoods import Bernoulli, Gaussian, Likelihood

SCALE = 0.5
AS_S = {  # of a deviation, what an encoder gives
    "log_variance": lambda d: 2 * d.log(),
    "log_deviation": torch.log,
    "deviation": lambda d: d,
    "variance": torch.square,
    "softplus": lambda d: d.expm1().log(),
}


class Linear(nn.Module):
    """x | z ~ N(W z + b, SCALE^2) with orthogonal columns of W: posterior and log p(x) are known."""

    def __init__(self, spread="log_variance"):
        super().__init__()
        columns = torch.linalg.qr(torch.randn(6, 2)).Q * torch.tensor([2.0, 1.0])
        self.weight, self.bias = nn.Parameter(columns), nn.Parameter(torch.randn(6))
        self.spread = spread

    def encode(self, x):
        precision = 1 + self.weight.square().sum(0) / SCALE**2
        mean = (x - self.bias) @ self.weight / SCALE**2 / precision
        return mean, AS_S[self.spread](precision.rsqrt()).expand_as(mean)

    def decode(self, z):
        assert z.dim() == 2  # as most networks of images want it
        return z @ self.weight.T + self.bias

    def log_prob(self, x):
        covariance = self.weight @ self.weight.T + SCALE**2 * torch.eye(6)
        return torch.distributions.MultivariateNormal(self.bias, covariance).log_prob(x)

    def draw(self, count):
        with torch.no_grad():
            return self.decode(torch.randn(count, 2)) + SCALE * torch.randn(count, 6)


def measured(pair, x, **options):
    return pyro_vae.log_likelihood(*pair, x, num_particles=25, progress=False, **options).per_datum.float()


@pytest.mark.parametrize("spread", AS_S)
def test_log_p_is_exact_where_the_encoder_is_the_posterior(spread, caplog):
    vae = Linear(spread)
    x = vae.draw(12)
    pair = from_modules(vae.encode, vae.decode, x, likelihood=Gaussian(SCALE), spread=spread)
    torch.testing.assert_close(measured(pair, x), vae.log_prob(x).detach(), rtol=0, atol=2e-4)
    assert not caplog.records


def test_annealing_takes_the_pair_too():
    vae = Linear()
    x = vae.draw(3)
    model, guide = from_modules(vae.encode, vae.decode, x, likelihood=Gaussian(SCALE))
    found = pyro_vae.ais(model, guide, x, num_chains=2, num_temperatures=4, progress=False)
    torch.testing.assert_close(found.per_datum.float(), vae.log_prob(x).detach(), rtol=0, atol=2e-3)


def test_modules_methods_and_functions_in_one_tensor_or_two_are_one_pair():
    encoder, decoder = nn.Linear(6, 4), nn.Linear(2, 6)
    x = torch.rand(10, 6).round()

    def halves(x):
        return encoder(x)[:, :2], encoder(x)[:, 2:]

    pairs = [(encoder, decoder), (halves, lambda z: decoder(z)), (encoder.forward, decoder.forward)]
    found = [from_modules(*each, x, likelihood=Bernoulli()) for each in pairs]
    numbers = [measured(pair, x) for pair in found]
    assert numbers[0].equal(numbers[1]) and numbers[0].equal(numbers[2])
    for model, guide in found:  # their weights are owned: they move, train and are saved with the programs
        assert decoder.weight in set(model.parameters()) and encoder.weight in set(guide.parameters())
    assert pyro_vae.sample(found[1][0], 3)["x"].shape == (3, 6)


def test_probabilities_are_those_of_the_logits():
    encoder, decoder = nn.Linear(6, 4), nn.Linear(2, 6)
    x = torch.rand(10, 6).round()
    logits = from_modules(encoder, decoder, x, likelihood=Bernoulli())
    ending = nn.Sequential(decoder, nn.Sigmoid())
    probabilities = from_modules(encoder, ending, x, likelihood=Bernoulli(), probabilities=True)
    torch.testing.assert_close(measured(probabilities, x), measured(logits, x), rtol=0, atol=1e-4)


def test_a_probability_of_one_is_no_certainty():
    decoder = nn.Sequential(nn.Linear(2, 6), nn.Sigmoid())
    nn.init.constant_(decoder[0].bias, 90.0)
    x = torch.zeros(4, 6)
    pair = from_modules(nn.Linear(6, 4), decoder, x, likelihood=Bernoulli(), probabilities=True)
    assert measured(pair, x).isfinite().all()


def test_latents_of_a_grid_and_images_flat_or_not():
    encoder = nn.Conv2d(1, 4, 2, stride=2)  # a picture of mean and s, two channels each
    back = nn.ConvTranspose2d(2, 1, 2, stride=2)
    x = torch.rand(5, 1, 4, 4).round()
    pairs = [
        from_modules(lambda x: encoder(x).chunk(2, 1), decode, x, likelihood=Bernoulli())
        for decode in (back, lambda z: back(z).flatten(1))
    ]
    assert measured(pairs[0], x).equal(measured(pairs[1], x))
    assert pyro_vae.encode(*pairs[0], x)["z"].shape == (5, 2, 2, 2)


def test_float64_stays_float64():
    vae = Linear()
    x = vae.draw(6)
    exact = vae.log_prob(x).detach()
    vae, x = vae.double(), x.double()
    pair = from_modules(vae.encode, vae.decode, x, likelihood=Gaussian(SCALE))
    torch.testing.assert_close(measured(pair, x), exact, rtol=0, atol=1e-4)
    assert next(pair[0].parameters()).dtype == torch.float64


def test_modules_left_in_training_mode_are_measured_in_evaluation_mode():
    def made():
        torch.manual_seed(1)
        encoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))
        return encoder, nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 6))

    x = torch.rand(10, 6).round()
    left, right = made(), made()
    for network in right:
        network.eval()
    found = [measured(from_modules(*each, x, likelihood=Bernoulli()), x) for each in (left, right)]
    assert found[0].equal(found[1])
    assert int(left[0][1].num_batches_tracked) == 0  # no statistics have moved
    assert not left[0].training


class Noisy(nn.Linear):
    def forward(self, x):
        return dropout(super().forward(x), 0.5)


def odd(network, change):
    return nn.Sequential(network, change)


class Change(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


NAN = Change(lambda x: x / 0 * 0)
REFUSED = {
    "sigmoid as logits": ({"decoder": lambda: odd(nn.Linear(2, 6), nn.Sigmoid())}, "probabilities=True"),
    "logits as probabilities": ({"probabilities": True}, "probabilities=True, but"),
    "probabilities of a Gaussian": ({"likelihood": Gaussian(), "probabilities": True}, "takes the decoder's outputs"),
    "negative deviations": ({"spread": "deviation"}, "no such thing"),
    "unknown spread": ({"spread": "logvar"}, "Did you mean|unknown spread"),
    "random encoder": ({"encoder": lambda: Noisy(6, 4)}, "encoder gives other numbers in every call"),
    "random decoder": ({"decoder": lambda: Noisy(2, 6)}, "decoder gives other numbers in every call"),
    "not numbers": ({"decoder": lambda: odd(nn.Linear(2, 6), NAN)}, "not finite"),
    "another latent size": ({"decoder": lambda: nn.Linear(3, 6)}, r"decoder cannot be run on .*\(10, 2\)"),
    "another data size": ({"encoder": lambda: nn.Linear(7, 4)}, r"encoder cannot be run on .*\(10, 6\)"),
    "outputs of another size": ({"decoder": lambda: nn.Linear(2, 5)}, r"one tensor of shape \(10, 6\)"),
    "one output": ({"encoder": lambda: nn.Linear(6, 3)}, "must give"),
    "three outputs": ({"encoder": lambda: Change(lambda x: (x, x, x))}, "3 things"),
    "outputs that do not fit": ({"encoder": lambda: Change(lambda x: (x, x[:, :2]))}, "gave shapes"),
    "grey data of a Bernoulli": ({"data": torch.rand(10, 6)}, "Binarize"),
    "no likelihood": ({"likelihood": "bernoulli"}, "likelihood must be"),
    "no network": ({"encoder": 3}, "encoder must be a module"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_silently_wrong_is_refused(case):
    changed, words = REFUSED[case]
    given = {"encoder": lambda: nn.Linear(6, 4), "decoder": lambda: nn.Linear(2, 6), "data": torch.rand(10, 6).round()}
    given |= {"likelihood": Bernoulli()} | changed
    for name in ("encoder", "decoder"):
        given[name] = given[name]() if callable(given[name]) else given[name]
    with pytest.raises(InputError, match=words):
        from_modules(given.pop("encoder"), given.pop("decoder"), given.pop("data"), **given)


def test_another_reading_that_explains_the_encoder_better_is_told(caplog):
    vae = Linear("deviation")
    x = vae.draw(50)
    with caplog.at_level(logging.WARNING):
        from_modules(vae.encode, vae.decode, x, likelihood=Gaussian(SCALE))  # deviations, read as log-variances
    assert "spread='log_variance'" in caplog.text and "as 'deviation'" in caplog.text


def test_weights_that_are_transposed_are_told(caplog):
    vae = Linear()
    x = vae.draw(50)
    turned = nn.Linear(6, 6)
    right = nn.Linear(6, 6)
    with torch.no_grad():
        square = torch.linalg.qr(torch.randn(6, 6)).Q * 3
        right.weight.copy_(square)
        turned.weight.copy_(square.T)
    for last, told in ((right, False), (turned, True)):

        def decode(z, last=last):
            return last(vae.decode(z))

        y = right(x).detach()

        def encode(y):
            return vae.encode((y - right.bias) @ torch.linalg.inv(right.weight).T)

        caplog.clear()
        with caplog.at_level(logging.WARNING):
            from_modules(encode, decode, y, likelihood=Gaussian(1.5))
        assert ("weights are misplaced" in caplog.text) == told


def test_likelihoods_without_an_initial_bias_are_taken():
    class Unit(Likelihood):
        support = torch.distributions.constraints.real

        def forward(self, features, event_dim=3):
            return pyro.distributions.Normal(features, SCALE).to_event(event_dim)

    vae = Linear()
    x = vae.draw(5)
    pair = from_modules(vae.encode, vae.decode, x, likelihood=Unit())
    torch.testing.assert_close(measured(pair, x), vae.log_prob(x).detach(), rtol=0, atol=2e-4)


def test_the_ten_lines_by_hand_are_the_same_pair():
    vae = Linear()
    x = vae.draw(8)

    def model(x=None, num_samples=1):
        pyro.module("vae", vae)
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = z @ vae.weight.T + vae.bias
            return pyro.sample("x", pyro.distributions.Normal(mean, SCALE).to_event(1), obs=x)

    def guide(x):
        mean, log_variance = vae.encode(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", pyro.distributions.Normal(mean, (log_variance / 2).exp()).to_event(1))

    pair = from_modules(vae.encode, vae.decode, x, likelihood=Gaussian(SCALE))
    torch.testing.assert_close(measured(pair, x), measured((model, guide), x), rtol=0, atol=1e-4)

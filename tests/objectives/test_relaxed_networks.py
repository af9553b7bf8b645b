"""Networks of relaxed draws (RELAX): less noisy than baselines, recorded, saved and resumed, and what is refused."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from discrete_pairs import Sigmoid, check_recorded_is_eager
from torch import nn

from pyro_vae import ELBO, IWAE, fit
from pyro_vae.errors import InputError


# --------------------------------------------------------------------------- variance and training
class Relaxed(Sigmoid):
    """The sigmoid belief network with a control variate of the relaxed draw and x, or with a baseline network of x."""

    def __init__(self, kind="nn_relax"):
        super().__init__(baseline=False)
        self.kind = kind
        inputs = 12 if kind == "nn_relax" else 8
        self.network = nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(-2))

    def relax(self, relaxed, x):
        return self.network(torch.cat([relaxed, x.expand(*relaxed.shape[:-1], 8)], -1))

    def guide(self, x):
        network = self.relax if self.kind == "nn_relax" else self.network
        hint = {self.kind: network, "nn_baseline_input": x} if self.kind else {}
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=self.encoder(x)).to_event(1), infer={"baseline": hint})


def total_variance(pair, objective, x, steps=500):
    """Of the encoder's gradient, the network having been fitted for so many steps."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(pair.network.parameters(), lr=0.02)
    for _ in range(steps if pair.kind else 0):
        optimizer.zero_grad()
        objective.differentiable_loss(pair.model, pair.guide, x).backward()
        optimizer.step()
    rows = []
    for _ in range(200):
        loss = objective.differentiable_loss(pair.model, pair.guide, x)
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(pair.encoder.parameters()))]))
    return torch.stack(rows).var(0).sum().item()


@pytest.mark.slow
def test_its_variance_is_below_that_of_a_baseline_network_and_of_further_particles(binary):
    trained = Relaxed("")
    optimizer = torch.optim.Adam(trained.parameters(), lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        ELBO(4).differentiable_loss(trained.model, trained.guide, binary).backward()
        optimizer.step()

    def variance(kind, objective):
        pair = Relaxed(kind)
        for name in ("encoder", "decoder"):
            getattr(pair, name).load_state_dict(getattr(trained, name).state_dict())
        return total_variance(pair, objective, binary)

    plain, nvil, relax = (variance(kind, ELBO(1)) for kind in ("", "nn_baseline", "nn_relax"))
    assert nvil < 0.5 * plain
    assert relax < 0.7 * nvil, (plain, nvil, relax)
    others, both = (variance(kind, ELBO(4)) for kind in ("", "nn_relax"))
    assert both < 0.8 * others, (others, both)


@pytest.mark.parametrize("objective", [ELBO(), ELBO(3), IWAE(3)], ids=["elbo", "particles", "iwae"])
def test_steps_are_recorded_and_give_what_eager_ones_give(binary, objective, caplog):
    check_recorded_is_eager(Relaxed, binary, objective, caplog)


def test_networks_and_temperatures_behind_an_object_are_trained_saved_and_resumed_bit_for_bit(binary, tmp_path):
    def trained(out, *epochs):
        class Bag:  # no module
            pass

        bag, pair = Bag(), Relaxed()
        bag.network, bag.temperature = pair.network, nn.Parameter(torch.tensor(0.7))
        encoder, model = pair.encoder, pair.model
        del pair.network

        def control(relaxed, x):
            return bag.network(torch.cat([relaxed, x.expand(*relaxed.shape[:-1], 8)], -1))

        def guide(x):
            hint = {"nn_relax": control, "nn_baseline_input": x, "relax_temperature": bag.temperature}
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Bernoulli(logits=encoder(x)).to_event(1), infer={"baseline": hint})

        for i, until in enumerate(epochs):
            options = {"epochs": until, "batch_size": 25, "out": tmp_path / out, "resume": i > 0, "progress": False}
            result = fit(model, guide, binary, learning_rate=0.01, **options)
        return result, bag

    whole, bag = trained("whole", 4)
    parts, other = trained("parts", 2, 4)
    assert [r["train/loss"] for r in whole.records] == [r["train/loss"] for r in parts.records]
    for ours, theirs in zip(bag.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(bag.temperature, other.temperature) and bag.temperature.item() != pytest.approx(0.7)
    assert not torch.equal(bag.network[0].weight, Relaxed().network[0].weight)


# --------------------------------------------------------------------------- refusals
def normalized_over_data(relaxed):
    return relaxed.softmax(0)[..., 0]


WRONG = [
    (
        {"nn_relax": nn.Linear(2, 1)},
        r"nn_relax gives \(\d, 1\) of a relaxed draw \(\d, 2\) where \(\d,\), one number a datum",
    ),
    ({"nn_relax": lambda r: 1.0}, "nn_relax gives float of a relaxed draw"),
    ({"nn_relax": lambda r: r.sum()}, r"nn_relax gives \(\) of a relaxed draw"),
    ({"nn_relax": lambda r: torch.zeros(len(r))}, "nn_relax does not look at the relaxed draw"),
    ({"nn_relax": normalized_over_data}, "makes one datum's number of other data's draws"),
    (
        {"nn_relax": nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1), nn.Flatten(-2))},
        "nn_relax has a BatchNorm1d, which makes each datum's number of all data's draws",
    ),
    ({"nn_relax": lambda r: r.sum(-1), "relax_temperature": 0.0}, "relax_temperature must be one positive number"),
    ({"nn_relax": lambda r: r.sum(-1), "relax_temperature": torch.ones(2)}, "relax_temperature must be one positive"),
    ({"relax_temperature": 0.5}, "has relax_temperature without nn_relax"),
    ({"nn_relaxed": 1}, "unknown baseline option of site 'z' 'nn_relaxed'. Did you mean 'nn_relax'"),
]


def fit_once(*pair_and_data):
    fit(*pair_and_data, epochs=1, progress=False)


def bits_model(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.5 * torch.ones(2)).to_event(1))
        return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize(("hint", "message"), WRONG)
def test_control_variates_that_are_none_are_refused(hint, message):
    encoder = nn.Linear(2, 2)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=encoder(x)).to_event(1), infer={"baseline": hint})

    for tool in (fit_once, ELBO().differentiable_loss):
        with pytest.raises(InputError, match=message):
            tool(bits_model, guide, torch.randn(6, 2))


def test_an_output_that_only_fits_one_particle_is_refused():
    encoder, network = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))

    def guide(x):
        with pyro.plate("data", len(x)):
            hint = {"nn_relax": network}
            pyro.sample("z", dist.Bernoulli(logits=encoder(x)).to_event(1), infer={"baseline": hint})

    with pytest.raises(InputError, match=r"nn_relax gives \(18,\) of a relaxed draw \(3, 6, 2\) where \(3, 6\)"):
        ELBO(3).differentiable_loss(bits_model, guide, torch.randn(6, 2))


@pytest.mark.parametrize(
    ("q", "message"),
    [
        (
            lambda rate: dist.Poisson(rate),
            "site 'z' is Poisson, and nn_relax is for draws of Bernoulli, Categorical and",
        ),
        (lambda rate: dist.Geometric(rate / (1 + rate)), "site 'z' is Geometric.*use nn_baseline"),
        (lambda rate: dist.LogNormal(rate, 1.0), "site 'z' is LogNormal.*take it out"),
    ],
)
def test_sites_that_cannot_be_relaxed_are_refused(q, message):
    rate = nn.Parameter(torch.tensor(0.5))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", q(torch.tensor(1.0)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", q(rate.exp().expand(len(x))), infer={"baseline": {"nn_relax": lambda r: r}})

    with pytest.raises(InputError, match=message):
        fit_once(model, guide, torch.randn(6))


@pytest.mark.parametrize("option", ["nn_relax", "nn_baseline"])
@pytest.mark.parametrize("of_model", [True, False])
def test_baselines_made_of_the_densities_parameters_are_refused(option, of_model):
    """Fitting one of them would move the densities: a gradient that is none of the bound."""
    encoder, decoder = nn.Linear(2, 2), nn.Linear(2, 2)

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5 * torch.ones(2)).to_event(1))
            return pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def network(value, *_):
        return (decoder if of_model else encoder)(value).sum(-1)

    def guide(x):
        hint = {option: network, "nn_baseline_input": x}
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=encoder(x)).to_event(1), infer={"baseline": hint})

    name = "decoder" if of_model else "encoder"
    with pytest.raises(
        InputError, match=rf"site 'z': its baseline is made of a parameter '\S*{name}\S*' \(.*of its own"
    ):
        fit_once(model, guide, torch.randn(6, 2))

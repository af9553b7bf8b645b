"""What matching refuses before training, where a number would be wrong; what a divergence of one's own owes."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae
from pyro_vae import fit
from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.objectives import GAN, MMD, Divergence, Matching, TotalCorrelation, WeightedTotalCorrelation
from pyro_vae.programs.pair import examine
from pyro_vae.programs.parameters import module_parameters
from pyro_vae.programs.program import as_programs

QUIET = {"device": "cpu", "progress": False}


def small(prior=None):
    torch.manual_seed(0)
    model = pyro_vae.models.VAE((6,), latent_dim=3, hidden_dims=[8], prior=prior)
    return model, pyro_vae.guides.GaussianGuide(model, hidden_dims=[8])


def digits(n=40):
    return (torch.rand(n, 6, generator=torch.Generator().manual_seed(1)) < 0.4).float()


def discriminator():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(-2))


class Model(nn.Module):
    """x of the sum of all latents: N(0, I) of the sizes that are said, and integers where None is."""

    def __init__(self, **sizes):
        super().__init__()
        self.sizes, self.linear = sizes, nn.Linear(1, 6)

    def forward(self, x=None, *, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            total = 0.0
            for name, size in self.sizes.items():
                if size is None:
                    total = total + pyro.sample(name, dist.Categorical(torch.ones(2)))
                else:
                    total = total + pyro.sample(name, dist.Normal(torch.zeros(size), 1.0).to_event(1)).sum(-1)
            return pyro.sample("x", dist.Normal(self.linear(total[..., None]), 1.0).to_event(1), obs=x)


class Guide(nn.Module):
    """Latents of the data, and, where it is said, of the latent drawn before."""

    def __init__(self, depends, **sizes):
        super().__init__()
        self.depends, self.sizes = depends, sizes
        self.linears = nn.ModuleDict({name: nn.Linear(6, size or 2) for name, size in sizes.items()})

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            before = torch.zeros(())
            for name, size in self.sizes.items():
                h = self.linears[name](x)
                if self.depends:
                    h = h + before[..., None]
                fn = dist.Categorical(logits=h) if size is None else dist.Normal(h, 0.5).to_event(1)
                before = pyro.sample(name, fn)
                before = before.sum(-1) if size else before


class PointMass(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Delta(self.linear(x)).to_event(1))


@pytest.mark.parametrize("sites", [["a", "b"], ["b"]])
def test_weighted_sums_refuse_a_site_that_depends_on_another_draw(sites):
    """Its q(b_i | x_j) would be that of a_j, and no density of datum i's draw."""
    sizes = {"a": 2, "b": 2}
    of = WeightedTotalCorrelation()
    options = {"epochs": 1, **QUIET}
    with pytest.raises(InputError, match=r"distribution at 'b' depends on what else it draws, so that it is not q\(z"):
        fit(Model(**sizes), Guide(True, **sizes), digits(), objective=Matching(of, sites=sites), **options)
    fit(Model(**sizes), Guide(False, **sizes), digits(), objective=Matching(of, sites=sites), **options)
    fit(
        Model(**sizes),
        Guide(True, **sizes),
        digits(),
        objective=Matching(TotalCorrelation([8]), sites=sites),
        **options,
    )


def test_weighted_sums_refuse_a_point_mass():
    with pytest.raises(InputError, match=r"'z': the guide has a point mass there, and no density"):
        fit(small()[0], PointMass(), digits(), objective=Matching(WeightedTotalCorrelation()), epochs=1, **QUIET)


def test_a_site_that_depends_on_a_draw_without_gradient_is_refused():
    """The score function of the discrete draw knows nothing of the divergence."""
    sizes = {"c": None, "z": 3}
    for divergence in (MMD(), GAN([8])):
        with pytest.raises(InputError, match=r"at 'z' depends on what else it draws, 'c' without reparameterized"):
            fit(Model(**sizes), Guide(True, **sizes), digits(), objective=Matching(divergence), epochs=1, **QUIET)
        fit(Model(**sizes), Guide(False, **sizes), digits(), objective=Matching(divergence), epochs=1, **QUIET)


@pytest.mark.parametrize("num_particles", [1, 2])
def test_weighted_sums_beside_a_plate_of_the_models_own(num_particles):
    """Particles stand left of the model's inner plate: the same numbers as without that plate."""

    class Inner(Model):
        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
                h = self.linear(z.sum(-1)[..., None]).unsqueeze(-1)  # ([K, 1,] N, 6, 1)
                h = h.movedim(-3, -1).squeeze(-2)
                with pyro.plate("inner", 6, dim=-2):
                    pyro.sample("x", dist.Normal(h.reshape(-1, 6, len(x)).squeeze(0), 1.0), obs=x.T)

    found, x = [], digits()
    for kind in (Model, Inner):
        torch.manual_seed(0)
        model, guide = kind(z=3), Guide(False, z=3)
        pair = examine(*as_programs(model, guide), {"x": x}, num_data=len(x))
        objective = Matching(WeightedTotalCorrelation(), num_particles=num_particles).prepare(pair, Split({"x": x}))
        torch.manual_seed(1)
        with module_parameters(pair.model, pair.guide):
            traces = pair.traces({"x": x}, num_particles)
        found.append(objective.pair_terms(traces).divergence["total_correlation"].item())
        assert traces.guide.nodes["z"]["value"].dim() == {1: 2, 2: 3 + (kind is Inner)}[num_particles]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_site_is_matched_once():
    with pytest.raises(InputError, match=r"sites are each matched once, got \['z', 'z'\]"):
        Matching(MMD(), sites=["z", "z"])


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int64])
def test_labels_of_any_integers(kind):
    found = []
    for dtype in (torch.int64, kind):
        model, guide = small()
        y = (torch.arange(40) % 3).to(dtype)
        result = fit(model, guide, {"x": digits(), "y": y}, objective=Matching(GAN([8]), labels="y"), epochs=1, **QUIET)
        assert result.networks["discriminator"].layers[0].in_features == 3 + 3 + 1
        found.append(result.records[0]["train/loss"])
    assert found[0] == found[1]


def test_labels_that_validation_has_not_or_alone_are_refused_before_training():
    """A label beyond those of training would stand in the place of unknown ones."""
    y = torch.arange(40)
    for held_out, words in (
        ({"x": digits(), "y": y % 4}, r"validation data go up to 3, and those of the training data to 2"),
        ({"x": digits()}, r"the data have none of that name \(they have x\)"),
        ({"x": digits(), "y": (y % 3).float()}, r"must be whole numbers from 0.*got torch.float32"),
    ):
        model, guide = small()
        before = [p.detach().clone() for p in guide.parameters()]
        data = {"train": {"x": digits(), "y": y % 3}, "validation": held_out}
        with pytest.raises(InputError, match=words):
            fit(model, guide, data, objective=Matching(GAN([8]), labels="y"), epochs=1, **QUIET)
        assert all(torch.equal(a, b) for a, b in zip(before, guide.parameters(), strict=True))


def test_a_prior_that_nothing_trains_is_told(caplog):
    for kl, told in ((0.0, True), (0.5, False)):
        caplog.clear()
        model, guide = small(pyro_vae.priors.MixturePrior((3,), num_components=2))
        before = [p.detach().clone() for p in model.latent_prior.parameters()]
        fit(model, guide, digits(), objective=Matching(MMD(), kl=kl), epochs=2, **QUIET)
        same = all(torch.equal(a, b) for a, b in zip(before, model.latent_prior.parameters(), strict=True))
        assert same == told == ("the prior of 'z' has weights, which only a KL would train" in caplog.text)


def own(**changed):
    """A divergence written this morning."""
    members = {
        "name": "own",
        "network": lambda self, size, classes: nn.Sequential(nn.Linear(size, 1), nn.Flatten(-2)),
        "value": lambda self, draws, network: -network(draws.posterior).mean(),
        "network_loss": lambda self, draws, network: (
            network(draws.posterior).mean() - network(draws.prior).mean(),
            {"own/level": network(draws.prior).mean()},
        ),
    }
    return type("Own", (Divergence,), {k: v for k, v in {**members, **changed}.items() if v is not None})()


OWN = {
    "no name": ({"name": None}, r"Own has no name"),
    "of each datum": ({"value": lambda s, d, n: n(d.posterior)}, r"value must be a tensor of one number.*\(1, 8\)"),
    "of one place": ({"value": lambda s, d, n: n(d.posterior).mean()[None]}, r"Own: value must be .*got shape \(1,\)"),
    "no tensor": ({"value": lambda s, d, n: 0.5}, r"Own: value must be a tensor of one number.*got float"),
    "detached": (
        {"value": lambda s, d, n: n(d.posterior.detach()).mean()},
        r"value has no gradient in draws.posterior",
    ),
    "no loss": ({"network_loss": None}, r"Own has a network and no network_loss"),
    "loss alone": ({"network_loss": lambda s, d, n: n(d.prior).mean()}, r"must give the loss and a dict"),
    "losses": ({"network_loss": lambda s, d, n: (n(d.prior), {})}, r"network_loss must be a tensor of one number"),
    "reports": (
        {"network_loss": lambda s, d, n: (n(d.prior).mean(), {"l": n(d.prior)})},
        r"reports as 'l' must be a tensor of one number",
    ),
    "not the network's": (
        {"network_loss": lambda s, d, n: (d.prior.mean(), {})},
        r"network_loss has no gradient in the network's weights",
    ),
    "the pair's": (
        {"network_loss": lambda s, d, n: (n(d.pair.guide.nodes["z"]["value"]).mean(), {})},
        r"network_loss has a gradient in the weights of model or guide",
    ),
    "a term's name": (
        {"network_loss": lambda s, d, n: (n(d.prior).mean(), {"loss": n(d.prior).mean()})},
        r"reported as 'loss' has the name of a term",
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_a_divergence_of_ones_own_is_looked_at_before_training(name):
    changed, words = OWN[name]
    model, guide = small()
    with pytest.raises(InputError, match=words):
        fit(model, guide, digits(), objective=Matching(own(**changed)), epochs=1, **QUIET)


def test_a_divergence_of_ones_own_is_trained_and_its_network_used_as_it_is():
    model, guide = small()
    result = fit(model, guide, digits(), objective=Matching(own()), epochs=2, **QUIET)
    assert {"train/divergence/own", "train/own/level"} <= result.records[0].keys()

    class Kept(Divergence):
        name = "kept"

        def network(self, size, classes):
            self.critic = nn.Sequential(nn.Linear(size, 1), nn.Flatten(-2))
            return self.critic

        def value(self, draws, network):
            return -self.critic(draws.posterior).mean()

        def network_loss(self, draws, network):
            return network(draws.posterior).mean(), {}

    with pytest.raises(InputError, match=r"value has a gradient in the network's weights: use the network that it is"):
        fit(*small(), digits(), objective=Matching(Kept()), epochs=1, **QUIET)


def test_to_look_at_a_discriminator_does_not_move_its_statistics():
    class Normalized(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.last = nn.BatchNorm1d(3), nn.Linear(3, 1)

        def forward(self, z):
            return self.last(self.norm(z.reshape(-1, 3))).reshape(z.shape[:-1])

    network, x = Normalized(), digits()
    pair = examine(*as_programs(*small()), {"x": x}, num_data=len(x))
    Matching(GAN(discriminator=network)).prepare(pair, Split({"x": x}))
    assert network.norm.num_batches_tracked == 0 and not network.norm.running_mean.any() and network.norm.training


def test_programs_of_float64_have_a_discriminator_of_float64():
    model, guide = small()
    options = {"epochs": 1, "precision": "64-true", **QUIET}
    result = fit(model.double(), guide.double(), digits().double(), objective=Matching(GAN([8])), **options)
    assert {p.dtype for p in result.networks.parameters()} == {torch.float64}


def test_the_discriminator_alone_is_trained_at_a_rate_of_zero():
    model, guide = small()
    before = [p.detach().clone() for p in guide.parameters()]
    network = discriminator()
    first = [p.detach().clone() for p in network.parameters()]
    objective = Matching(GAN(discriminator=network))
    result = fit(model, guide, digits(), objective=objective, learning_rate=0.0, epochs=2, **QUIET)
    assert all(torch.equal(a, b) for a, b in zip(before, guide.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, network.parameters(), strict=True))
    assert result.records[-1]["learning_rate/networks"] == 1e-4


class Freezing:
    """Freezes the discriminator after the first epoch."""

    def __init__(self, network):
        self.network = network

    def on_epoch(self, state):
        self.network.requires_grad_(False)


@pytest.mark.parametrize("updates", [1, 3])
def test_a_discriminator_that_a_callback_freezes_is_saved_and_resumed(updates, tmp_path):
    network = discriminator()

    def trained(network, epochs, **more):
        model, guide = small()
        objective, options = Matching(GAN(discriminator=network, updates=updates)), {"batch_size": 20, **QUIET, **more}
        return fit(model, guide, digits(), objective=objective, epochs=epochs, out=tmp_path / "run", **options)

    trained(network, 1)
    kept = [p.detach().clone() for p in network.parameters()]
    trained(network, 3, resume=True, callbacks=[Freezing(network)])
    assert any(not torch.equal(a, b) for a, b in zip(kept, network.parameters(), strict=True))  # of epoch 2
    other = discriminator()
    result = trained(other, 4, resume=True, callbacks=[Freezing(other)])
    assert result.epochs == 4


def test_a_resume_with_another_discriminator_is_refused(tmp_path):
    def trained(network, epochs, **more):
        objective = Matching(GAN(discriminator=network))
        return fit(*small(), digits(), objective=objective, epochs=epochs, out=tmp_path / "run", **QUIET, **more)

    trained(discriminator(), 1)
    other = discriminator()
    other[1] = nn.Tanh()  # of the same weights
    with pytest.raises(InputError, match=r"another experiment: objective was .*ReLU.*Tanh"):
        trained(other, 2, resume=True)
    assert trained(discriminator(), 2, resume=True).epochs == 2

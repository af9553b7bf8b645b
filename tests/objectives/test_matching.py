"""Matching of the aggregated posterior: gradients apart, recorded steps, labels, and what is refused."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from matching_pairs import QUIET, Given, digits, examined, small, terms_of, traces_of
from torch import nn

import pyro_vae
from pyro_vae import fit
from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.objectives import (
    ELBO,
    GAN,
    MMD,
    DensityRatio,
    Divergence,
    Matching,
    TotalCorrelation,
    WeightedTotalCorrelation,
)
from pyro_vae.programs.parameters import module_parameters
from pyro_vae.training.compiled import Step

ADVERSARIAL = [GAN([8, 8], noise=0.2), DensityRatio([8]), TotalCorrelation([8])]


@pytest.mark.parametrize("divergence", ADVERSARIAL, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("num_particles", [1, 2])
def test_no_gradient_goes_astray(divergence, num_particles):
    """The pair's loss has no gradient in the discriminator, and its loss none in the pair."""
    model, guide = small()
    x = digits()
    pair = examined(model, guide, {"x": x}, num_data=len(x))
    objective = Matching(divergence, weight=3.0, num_particles=num_particles).prepare(pair, Split({"x": x}))
    networks, programs = list(objective.networks.parameters()), [*model.parameters(), *guide.parameters()]
    terms = terms_of(objective, model, guide, x)
    of_loss = torch.autograd.grad(terms.loss, networks + programs, allow_unused=True, retain_graph=True)
    of_network = torch.autograd.grad(terms.network_loss["discriminator"], networks + programs, allow_unused=True)
    count = len(networks)
    assert all(g is None for g in of_loss[:count]) and all(g is None for g in of_network[count:])
    assert all(g is not None and g.abs().sum() > 0 for g in of_network[:count] if g is None or g.dim() > 1)
    # and the guide's gradient of the divergence is there
    elbo = Matching(divergence, weight=0.0).prepare(pair, Split({"x": x}))
    elbo._networks = objective.networks
    assert terms.loss.item() != terms_of(elbo, model, guide, x).loss.item()


def test_the_step_gives_both_gradients_and_they_are_those_of_each_loss():
    model, guide = small()
    x = digits()
    pair = examined(model, guide, {"x": x}, num_data=len(x))
    objective = Matching(GAN([8]), weight=3.0).prepare(pair, Split({"x": x}))
    step = Step(model, guide, objective)
    torch.manual_seed(5)
    with module_parameters(model, guide):
        step(x=x)[0].backward()
    found = {name: p.grad.clone() for name, p in step.named_parameters()}
    torch.manual_seed(5)
    terms = terms_of(objective, model, guide, x)
    own = torch.autograd.grad(
        terms.network_loss["discriminator"], list(objective.networks.parameters()), retain_graph=True
    )
    for (name, _), gradient in zip(objective.networks.named_parameters(), own, strict=True):
        assert torch.equal(found[f"networks.{name}"], gradient)
    for prefix, program in (("model", model), ("guide", guide)):
        gradients = torch.autograd.grad(terms.loss, list(program.parameters()), retain_graph=True)
        for (name, _), gradient in zip(program.named_parameters(), gradients, strict=True):
            assert torch.equal(found[f"{prefix}.{name}"], gradient)


def test_the_loss_is_its_parts():
    model, guide = small()
    x = digits()
    pair = examined(model, guide, {"x": x}, num_data=len(x))
    for kl in (0.0, 0.5, 1.0):
        objective = Matching(MMD(variance=1.0), weight=7.0, kl=kl).prepare(pair, Split({"x": x}))
        terms = terms_of(objective, model, guide, x)
        parts = -terms.log_likelihood["x"] + kl * terms.kl["z"] + 7.0 * terms.divergence["mmd"]
        assert terms.loss.item() == pytest.approx(parts.item(), rel=1e-5)
        assert terms.loss.requires_grad


def test_kl_of_one_and_no_divergence_is_the_elbo():
    model, guide = small()
    x = digits()
    pair = examined(model, guide, {"x": x}, num_data=len(x))
    losses = []
    for objective in (ELBO(), Matching(MMD(), weight=0.0, kl=1.0).prepare(pair, Split({"x": x}))):
        torch.manual_seed(2)
        losses.append(terms_of(objective.on(pair), model, guide, x).loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize(
    "divergence",
    [*ADVERSARIAL, DensityRatio([8], updates=3), MMD(), WeightedTotalCorrelation()],
    ids=lambda d: type(d).__name__,
)
def test_recorded_training_is_eager_training(divergence):
    found = []
    for compile in ("off", "graph"):
        model, guide = small()
        objective = Matching(divergence, weight=2.0, kl=0.5)
        options = {"epochs": 3, "batch_size": 16, "clip_norm": 1.0, "kl_weight": 0.7, **QUIET}
        result = fit(
            model, guide, {"train": digits(), "validation": digits(20)}, objective=objective, compile=compile, **options
        )
        found.append((result, [*model.parameters(), *guide.parameters(), *result.networks.parameters()]))
    (eager, ours), (recorded, theirs) = found
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert eager.records[-1]["validation/loss"] == pytest.approx(recorded.records[-1]["validation/loss"], rel=1e-5)


def test_more_updates_of_the_discriminator_are_made():
    """Of a network alone, by hand: five updates in a step are five steps of its optimizer."""
    counts = {}
    for updates in (1, 5):
        model, guide = small()
        discriminator = nn.Sequential(nn.Linear(3, 1), nn.Flatten(-2))
        calls = []
        discriminator.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        divergence = DensityRatio(discriminator=discriminator, updates=updates)
        fit(model, guide, digits(), objective=Matching(divergence), epochs=2, batch_size=20, compile="off", **QUIET)
        counts[updates] = len(calls)
    assert counts[5] - counts[1] == 4 * (
        4 * 3
    )  # four more in each of four steps, with a call by value and two by the loss


def test_a_winning_and_a_collapsed_discriminator_are_told(caplog):
    model, guide = small()
    far = Given(torch.full((3,), 30.0), torch.eye(3))
    objective = Matching(GAN([16], learning_rate=1e-2), weight=0.0)
    fit(model, far, digits(400), objective=objective, epochs=3, batch_size=20, **QUIET)
    assert "the discriminator wins" in caplog.text
    assert caplog.text.count("the discriminator wins") == 1

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.level = nn.Parameter(torch.zeros(()))

        def forward(self, z):
            return self.level + 0.0 * z.sum(-1)

    fit(model, guide, digits(), objective=Matching(GAN(discriminator=Constant())), epochs=1, **QUIET)
    assert "the discriminator has collapsed" in caplog.text


def test_several_sites_are_matched_together():
    torch.manual_seed(0)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 6)

        def forward(self, x=None, *, num_samples=1):
            with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
                a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                b = pyro.sample("b", dist.Normal(0.0, 1.0))
                return pyro.sample(
                    "x", dist.Bernoulli(logits=self.linear(torch.cat([a, b[..., None]], -1))).to_event(1), obs=x
                )

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                h = self.linear(x)
                pyro.sample("a", dist.Normal(h[..., :2], 0.5).to_event(1))
                pyro.sample("b", dist.Normal(h[..., 2], 0.5))

    model, guide, x = Two(), Guide(), digits()
    pair = examined(model, guide, {"x": x}, num_data=len(x))
    for k in (1, 2):
        objective = Matching(MMD(), sites=["a", "b"], num_particles=k).prepare(pair, Split({"x": x}))
        traces = traces_of(pair, {"x": x}, k)
        draws = objective.draws(traces)
        assert draws.posterior.shape == draws.prior.shape == (k, len(x), 3)
        b = traces.guide.nodes["b"]["value"].reshape(k, len(x))
        assert torch.equal(draws.posterior[..., 2], b)


def test_programs_that_repeat_their_data_for_particles():
    """Particles one after another instead of in a plate: the same draws by datum."""
    torch.manual_seed(0)
    decode, encode = nn.Linear(2, 6), nn.Linear(6, 2)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decode(z.view(len(x), 2))).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(encode(x), 1e-4).to_event(1))

    x = digits()
    pair = examined(model, guide, {"x": x}, num_data=len(x))
    objective = Matching(MMD(), num_particles=3).prepare(pair, Split({"x": x}))
    traces = traces_of(pair, {"x": x}, 3)
    assert traces.copies == 3
    draws = objective.draws(traces)
    assert draws.posterior.shape == (3, len(x), 2)
    for k in range(3):
        torch.testing.assert_close(draws.posterior[k], encode(x), atol=1e-3, rtol=0)


def test_plain_svi_refuses_what_it_would_not_train():
    model, guide = small()
    x = digits()
    pair = examined(model, guide, {"x": x}, num_data=len(x))
    objective = Matching(GAN([8])).prepare(pair, Split({"x": x}))
    with pytest.raises(InputError, match=r"trains networks of its own \(discriminator\).*pyro_vae.fit"):
        with module_parameters(model, guide):
            objective.loss_and_grads(model, guide, x=x)
    with pytest.raises(InputError, match=r"has to see the programs and the data first"):
        terms_of(Matching(GAN([8])), model, guide, x)


class Unsampled(dist.Normal):
    def rsample(self, *shape):
        raise NotImplementedError

    def sample(self, *shape):
        raise NotImplementedError

    def expand(self, batch_shape, _instance=None):
        return super().expand(batch_shape, self._get_checked_instance(Unsampled, _instance))


def unsampled():
    model, guide = small()
    model.prior = lambda **_: Unsampled(torch.zeros(3), 1.0).to_event(1)
    return model, guide


def of_hierarchy():
    model = pyro_vae.models.HierarchicalVAE((6,), latent_dims=[3, 2], hidden_dims=[8, 8])
    return model, pyro_vae.guides.HierarchicalGuide(model, hidden_dims=[8, 8])


WRONG = {
    "weight": (lambda: Matching(GAN(), weight=-1.0), r"weight must be a number, 0 or more, got -1"),
    "kl": (lambda: Matching(GAN(), kl=-0.5), r"kl must be a number, 0 or more"),
    "divergence": (lambda: Matching(ELBO()), r"divergence must be one of pyro_vae.objectives' .*got ELBO"),
    "sites": (lambda: Matching(GAN(), sites="z"), r"sites are names of latent sites"),
    "labels": (lambda: Matching(TotalCorrelation(), labels="y"), r"a TotalCorrelation takes no labels; GAN"),
    "rate": (lambda: GAN(learning_rate=0.0), r"GAN: learning_rate must be positive"),
    "noise": (lambda: GAN(noise=-1.0), r"GAN: noise is a standard deviation"),
    "updates": (lambda: GAN(updates=0), r"GAN: updates must be a positive integer"),
    "kernel": (lambda: MMD(kernel="linear"), r"kernel"),
    "factors": (lambda: MMD(factors=[1.0, -1.0]), r"factors must be positive"),
    "variance": (lambda: MMD(variance=0.0), r"variance must be positive"),
    "weights": (lambda: WeightedTotalCorrelation("all"), r"weights"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    make, words = WRONG[name]
    with pytest.raises(InputError, match=words):
        make()


TRAINED = {
    "size": (small, {}, Matching(GAN(discriminator=nn.Linear(7, 1))), r"does not take codes of 3 numbers \(latent z\)"),
    "shape": (small, {}, Matching(GAN(discriminator=nn.Linear(3, 1))), r"must give one number for each code"),
    "no labels": (small, {}, Matching(GAN(), labels="y"), r"the data have none of that name \(they have x\)"),
    "labels": (
        *(small, {"y": torch.full((40,), -1)}, Matching(GAN(), labels="y")),
        r"labels 'y' must be whole numbers from 0",
    ),
    "site": (small, {}, Matching(GAN(), sites=["w"]), r"latent site.*'w'"),
    "below": (of_hierarchy, {}, Matching(MMD(), sites=["z1"]), r"'z1'.*depends on what the model draws elsewhere"),
    "unsampled": (unsampled, {}, Matching(MMD()), r"cannot be sampled"),
    "one number": (lambda: small(1), {}, Matching(TotalCorrelation()), r"total correlation is of two or more"),
}


@pytest.mark.parametrize("name", TRAINED)
def test_what_cannot_be_matched_is_refused_before_training(name, tmp_path):
    make, more, objective, words = TRAINED[name]
    model, guide = make()
    before = [p.detach().clone() for p in guide.parameters()]
    with pytest.raises(InputError, match=words):
        fit(model, guide, {"x": digits(), **more}, objective=objective, epochs=1, out=tmp_path / "run", **QUIET)
    assert all(torch.equal(a, b) for a, b in zip(before, guide.parameters(), strict=True))
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_flow_guide_has_no_weighted_sums():
    model, _ = small()
    guide = pyro_vae.guides.FlowGuide(model, num_layers=1, flow_dim=4, hidden_dims=[8])
    with pytest.raises(InputError, match=r"independently of each other.*take TotalCorrelation"):
        fit(model, guide, digits(), objective=Matching(WeightedTotalCorrelation()), epochs=1, **QUIET)


def test_labels_and_the_place_of_unknown_ones():
    """With labels the discriminator is given the unit vector of each datum's, the last place for -1."""
    model, guide = small()
    x, y = digits(8), torch.tensor([0, 2, -1, 1, 0, -1, 2, 1])
    pair = examined(model, guide, {"x": x}, num_data=8)
    objective = Matching(GAN([8]), labels="y").prepare(pair, Split({"x": x, "y": y}))
    draws = objective.draws(traces_of(pair, {"x": x, "y": y}))
    assert draws.condition.argmax(-1).tolist() == [0, 2, 3, 1, 0, 3, 2, 1]
    assert draws.condition.sum().item() == 8
    assert objective.networks["discriminator"].layers[0].in_features == 3 + 4
    result = fit(model, guide, {"x": x, "y": y}, objective=Matching(GAN([8]), labels="y"), epochs=2, **QUIET)
    assert math.isfinite(result.records[-1]["train/divergence/generator"])


def test_with_classes_the_draws_of_the_prior_are_those_of_each_label(caplog):
    """Classes far apart: draws stand where their label's class is, those of unknown labels anywhere."""
    torch.manual_seed(0)
    loc = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])
    prior = pyro_vae.priors.ClassMixturePrior(loc, torch.eye(2).expand(3, 2, 2), torch.arange(3))
    model = pyro_vae.models.ClassPriorVAE((6,), prior, hidden_dims=[8])
    guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=[8])
    x, y = digits(60), torch.arange(60) % 4 - 1
    pair = examined(model, guide, {"x": x, "y": y}, num_data=60)
    for k in (1, 3):
        objective = Matching(MMD(), labels="y", num_particles=k).prepare(pair, Split({"x": x, "y": y}))
        draws = objective.draws(traces_of(pair, {"x": x, "y": y}, k))
        nearest = torch.cdist(draws.prior, loc).argmin(-1)  # (K, N)
        assert (nearest == y)[:, y >= 0].all()
        assert len(set(nearest[:, y < 0].flatten().tolist())) > 1
    assert "does not take 'y'" not in caplog.text
    model, guide = small()
    pair = examined(model, guide, {"x": x}, num_data=60)
    Matching(MMD(), labels="y").prepare(pair, Split({"x": x, "y": y}))
    assert "the model does not take 'y'" in caplog.text


def test_a_divergence_of_ones_own_with_a_network():
    class Critic(Divergence):
        name = "critic"

        def network(self, size, classes):
            return nn.Sequential(nn.Linear(size, 1), nn.Flatten(-2))

        def value(self, draws, network):
            return -network(draws.posterior).mean()

        def network_loss(self, draws, network):
            return network(draws.posterior).mean() - network(draws.prior).mean(), {}

    model, guide = small()
    result = fit(model, guide, digits(), objective=Matching(Critic()), epochs=2, **QUIET)
    assert {"train/divergence/critic", "train/network_loss/discriminator"} <= result.records[0].keys()
    assert list(result.networks) == ["discriminator"]


@pytest.mark.parametrize(
    "divergence", [MMD(), TotalCorrelation([8]), WeightedTotalCorrelation()], ids=lambda d: type(d).__name__
)
def test_a_batch_of_one_is_refused_before_training(divergence):
    model, guide = small()
    objective = Matching(divergence)
    with pytest.raises(
        InputError, match=r"at least 2 data in every batch; of the training data in batches of 20 the last has 1"
    ):
        fit(model, guide, digits(41), objective=objective, batch_size=20, epochs=1, **QUIET)
    data = {"train": digits(40), "validation": digits(21)}
    with pytest.raises(InputError, match=r"of the validation data in batches of 20 the last has 1"):
        fit(model, guide, data, objective=objective, batch_size=20, epochs=1, **QUIET)


def test_draws_for_all_values_of_a_discrete_latent_are_refused():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 6)

        def forward(self, x=None, *, num_samples=1):
            with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
                c = pyro.sample("c", dist.Categorical(torch.ones(2)))
                z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
                logits = self.linear(z) + c[..., None]
                return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                c = pyro.sample("c", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
                pyro.sample("z", dist.Normal(self.linear(x) + c[..., None], 0.5).to_event(1))

    with pytest.raises(InputError, match=r"site 'z' has values of shape .* drawn for all values of a discrete latent"):
        fit(Mixed(), Guide(), digits(), objective=Matching(MMD()), epochs=1, **QUIET)

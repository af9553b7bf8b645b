"""Baselines of score functions: Pyro's numbers, their variance, training, files and resuming."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from discrete_pairs import Sigmoid, check_recorded_is_eager
from pyro.infer import TraceGraph_ELBO

from pyro_vae import ELBO, IWAE, fit


def test_a_baseline_network_is_used_and_fitted_as_pyro_does(binary):
    pair, found = Sigmoid(), []
    for objective in (ELBO(1, analytic_kl=False), TraceGraph_ELBO()):
        torch.manual_seed(3)
        pair.zero_grad()
        if isinstance(objective, ELBO):
            objective.differentiable_loss(pair.model, pair.guide, binary).backward()
        else:
            pyro.clear_param_store()
            objective.loss_and_grads(pair.model, pair.guide, binary)
        scale = 1 if isinstance(objective, ELBO) else len(binary)
        found.append([p.grad / scale for p in pair.parameters()])
    assert all(g.abs().max() > 0 for g in found[0])
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)


def test_a_baseline_network_said_by_pyro_module_is_trained(binary):
    """As in Pyro's tutorials: ``pyro.module`` in the guide, of the baseline as of the encoder."""
    pair = Sigmoid()

    def model(x=None, num_samples=1):
        return pair.model(x, num_samples)

    def guide(x):
        pyro.module("encoder", pair.encoder)
        pyro.module("baseline", pair.baseline)
        return pair.guide(x)

    before = [p.clone() for p in pair.parameters()]
    fit(model, guide, binary, epochs=1, learning_rate=0.1, progress=False, device="cpu")
    assert all(not torch.equal(a, b) for a, b in zip(before, pair.parameters(), strict=True))


# --------------------------------------------------------------------------- variance
@pytest.mark.parametrize("better", ["average", "network", "particles", "importance"])
def test_baselines_and_further_particles_lower_the_variance(binary, better):
    """The total variance of the encoder's gradient, at equal numbers of draws, against none of them."""

    def spread(pair, objective, draws):
        batch = binary.repeat(draws, 1)
        torch.manual_seed(5)
        rows = []
        for _ in range(150):
            loss = objective.differentiable_loss(pair.model, pair.guide, batch)
            parts = torch.autograd.grad(loss, list(pair.encoder.parameters()))
            rows.append(torch.cat([g.flatten() for g in parts]))
        return torch.stack(rows[50:]).var(0).sum().item()

    plain = Sigmoid(baseline=False)
    if better == "importance":  # against the same bound with the score of the whole of it

        class Whole(IWAE):
            def pair_terms(self, pair):
                terms = super().pair_terms(pair)
                terms.signals = {"z": -terms.loss.detach().expand(5, len(binary))}
                return terms

        assert spread(plain, IWAE(5), 1) < 0.5 * spread(plain, Whole(5), 1)
        return
    pair = Sigmoid(baseline=better == "network", use_average=better == "average")
    objective = ELBO(4) if better == "particles" else ELBO(1)
    if better == "network":
        optimizer = torch.optim.Adam(pair.baseline.parameters(), lr=0.03)
        for _ in range(200):
            optimizer.zero_grad()
            objective.differentiable_loss(pair.model, pair.guide, binary).backward()
            optimizer.step()
    assert spread(pair, objective, 1) < 0.5 * spread(plain, ELBO(1), 4 if better == "particles" else 1)


# --------------------------------------------------------------------------- training
@pytest.mark.parametrize("objective", [ELBO(), ELBO(3), IWAE(3)], ids=["elbo", "particles", "iwae"])
def test_steps_are_recorded_and_give_what_eager_ones_give(binary, objective, caplog):
    check_recorded_is_eager(lambda: Sigmoid(use_average=True), binary, objective, caplog)


def test_baselines_behind_an_object_are_trained_saved_and_resumed_bit_for_bit(binary, tmp_path):
    def trained(out, *epochs):
        class Bag:  # no module
            pass

        bag, networks = Bag(), Sigmoid(use_average=True)
        bag.baseline, networks.baseline = networks.baseline, None
        encoder, model = networks.encoder, networks.model

        def guide(x):
            hint = {"nn_baseline": bag.baseline, "nn_baseline_input": x, "use_decaying_avg_baseline": True}
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Bernoulli(logits=encoder(x)).to_event(1), infer={"baseline": hint})

        for i, until in enumerate(epochs):
            options = {"epochs": until, "batch_size": 25, "out": tmp_path / out, "resume": i > 0, "progress": False}
            result = fit(model, guide, binary, learning_rate=0.01, **options)
        return result, bag

    whole, bag = trained("whole", 4)
    parts, other = trained("parts", 2, 4)
    for ours, theirs in zip(bag.baseline.parameters(), other.baseline.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(bag.baseline[0].weight, Sigmoid().baseline[0].weight)
    assert [r["train/loss"] for r in whole.records] == [r["train/loss"] for r in parts.records]
    states = [torch.load(tmp_path / out / "checkpoints/last.pt", weights_only=True) for out in ("whole", "parts")]
    assert states[0]["averages"]["z"].item() < -1
    assert torch.equal(states[0]["averages"]["z"], states[1]["averages"]["z"])
    assert any("bag" in name or "baseline" in name for name in states[0]["weights"])


def test_a_decaying_average_is_pyros(binary):
    pair, objective = Sigmoid(baseline=False, use_average=True), ELBO()
    expected = 0.0
    for i in range(3):
        torch.manual_seed(i)
        signal = objective._traces(pair.model, pair.guide, (binary,), {})
        mean = objective.pair_terms(signal).signals["z"].mean().item()
        torch.manual_seed(i)
        objective.differentiable_loss(pair.model, pair.guide, binary)
        expected = 0.8 * expected + 0.2 * mean
        assert objective.averages.of("z").item() == pytest.approx(expected, rel=1e-5)

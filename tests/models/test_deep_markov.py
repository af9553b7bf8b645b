"""The deep Markov model: lengths and padding, a Kalman filter's exact likelihood, every tool."""

import json

import pyro
import pyro.distributions as dist
import pytest
import torch
from kalman import kalman
from torch import nn

import pyro_vae
from pyro_vae.data import Data, Split
from pyro_vae.data.sources.state_space import EMISSION, NOISE_SCALE, STATE_SCALE, TRANSITION
from pyro_vae.errors import InputError, NotApplicable
from pyro_vae.guides import DeepMarkovGuide
from pyro_vae.models import DeepMarkovModel
from pyro_vae.plots import draw_all, sequences
from pyro_vae.reports import write_report

STEPS = 5


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    model = DeepMarkovModel((STEPS, 3), latent_dim=2, hidden_dims=(8,), transition_dim=8)
    return model, DeepMarkovGuide(model, hidden_dim=8)


@pytest.fixture(scope="module")
def batch():
    torch.manual_seed(1)
    return {"x": torch.randn(6, STEPS, 3), "lengths": torch.tensor([5, 3, 1, 4, 5, 2])}


def exact_pair():
    """The linear Gaussian model of state-space, in the places of the deep one's networks, and a rough guide."""
    model = DeepMarkovModel((STEPS, 3), latent_dim=2, hidden_dims=(), transition_dim=4)
    with torch.no_grad():
        transition = model.transition
        for parameter in transition.parameters():
            parameter.zero_()
        transition.gate.out.bias.fill_(-40.0)  # no gate: the linear step
        transition.linear.weight.copy_(TRANSITION)
        transition.scale.bias.fill_(torch.tensor(STATE_SCALE - transition.min_scale).expm1().log().item())
        model.emitter.out.weight.copy_(EMISSION)
        model.emitter.out.bias.zero_()
    model.likelihood = pyro_vae.likelihoods.Gaussian(NOISE_SCALE)
    return model, DeepMarkovGuide(model, hidden_dim=8)


def first_steps(batch):
    """The first 1 … 5 steps of sequences, which are a state-space model's as well."""
    return {"x": batch["x"][:, :STEPS], "lengths": 1 + torch.arange(len(batch["x"])) % STEPS}


# ------------------------------------------------------------------ exact values
def test_the_estimates_are_the_kalman_filters():
    data = first_steps(pyro_vae.load_data("state-space").test.batch(slice(0, 8)))
    exact = kalman(data["x"], data["lengths"])
    torch.manual_seed(0)
    model, guide = exact_pair()
    train = pyro_vae.load_data("state-space").train
    objective, optimizer = pyro_vae.ELBO(), torch.optim.Adam(guide.parameters(), lr=0.02)  # the guide alone is trained
    for step in range(200):
        optimizer.zero_grad()
        objective.differentiable_loss(model, guide, **first_steps(train.batch(torch.arange(10) + 10 * step))).backward()
        optimizer.step()
    result = pyro_vae.log_likelihood(model, guide, data, num_particles=20_000)
    assert (result.per_datum - exact).abs().max() < 0.15
    annealed = pyro_vae.ais(model, guide, data, num_chains=64, num_temperatures=200)
    assert (annealed.per_datum - exact).abs().max() < 0.2


def test_the_filter_is_the_joint_gaussian():
    data = first_steps(pyro_vae.load_data("state-space").test.batch(slice(0, 4)))
    eye = torch.eye(2, dtype=torch.float64)
    states, covs = [eye], {}
    for _ in range(1, STEPS):
        states.append(TRANSITION @ states[-1] @ TRANSITION.T + STATE_SCALE**2 * eye)
    for t in range(STEPS):
        for s in range(t, STEPS):
            cov = EMISSION @ torch.linalg.matrix_power(TRANSITION, s - t) @ states[t] @ EMISSION.T
            covs[s, t], covs[t, s] = cov, cov.T
    joint = torch.cat([torch.cat([covs[s, t] for t in range(STEPS)], 1) for s in range(STEPS)])
    joint = joint + NOISE_SCALE**2 * torch.eye(3 * STEPS)
    for x, length, found in zip(data["x"], data["lengths"], kalman(data["x"], data["lengths"]), strict=True):
        n = 3 * int(length)
        exact = dist.MultivariateNormal(torch.zeros(n).double(), joint[:n, :n]).log_prob(x.double().flatten()[:n])
        assert found.item() == pytest.approx(exact.item(), abs=1e-8)


# ------------------------------------------------------------------ lengths
def other_padding(batch):
    beyond = torch.arange(STEPS) >= batch["lengths"][:, None]
    return {**batch, "x": torch.where(beyond[..., None], 77.0, batch["x"])}


def longer_padding(batch):
    return {**batch, "x": torch.cat([batch["x"], torch.zeros(len(batch["x"]), 4, 3)], 1)}


@pytest.mark.parametrize("padded", [other_padding, longer_padding])
def test_padding_changes_nothing(pair, batch, padded):
    other = padded(batch)
    ours, theirs = (pyro_vae.elbo(*pair, each, num_particles=3) for each in (batch, other))
    torch.testing.assert_close(theirs.per_datum, ours.per_datum, atol=1e-5, rtol=0)
    assert all(bool((value == 0).all()) for name, value in theirs.kl.items() if name not in ours.kl)
    ours, theirs = (pyro_vae.elbo(*pair, each, num_particles=3, analytic_kl=False) for each in (batch, other))
    torch.testing.assert_close(theirs.per_datum, ours.per_datum, atol=1e-5, rtol=0)
    ours, theirs = (pyro_vae.log_likelihood(*pair, each, num_particles=1) for each in (batch, other))
    assert theirs.num_dimensions == ours.num_dimensions == pytest.approx(3 * batch["lengths"].float().mean().item())
    found = []
    for each in (batch, other):
        torch.manual_seed(2)
        loss = pyro_vae.ELBO().differentiable_loss(*pair, **each)
        found.append([loss, *torch.autograd.grad(loss, [p for program in pair for p in program.parameters()])])
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


def test_a_short_sequence_is_the_same_alone(pair, batch):
    """Of a sequence of 3 steps only those: the model of sequences of 3 steps, with the same parameters."""
    model, guide = pair
    short = DeepMarkovModel((3, 3), latent_dim=2, hidden_dims=(8,), transition_dim=8)
    short.load_state_dict(model.state_dict())
    of_short = DeepMarkovGuide(short, hidden_dim=8)
    of_short.load_state_dict(guide.state_dict())
    one = {"x": batch["x"][1:2], "lengths": batch["lengths"][1:2]}
    ours = pyro_vae.elbo(model, guide, one, num_particles=4)
    theirs = pyro_vae.elbo(short, of_short, one["x"][:, :3], num_particles=4)
    torch.testing.assert_close(ours.per_datum, theirs.per_datum, atol=1e-5, rtol=0)


def test_without_lengths_all_steps_count(pair, batch):
    full = {"x": batch["x"], "lengths": torch.full((6,), STEPS)}
    ours, theirs = (pyro_vae.elbo(*pair, each) for each in (full, batch["x"]))
    torch.testing.assert_close(ours.per_datum, theirs.per_datum, atol=1e-5, rtol=0)


@pytest.mark.parametrize("lengths", [[6, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]])
def test_lengths_beyond_the_data_are_refused(pair, batch, lengths):
    with pytest.raises(InputError, match="'lengths' takes lengths of sequences from 1 to 5"):
        pyro_vae.elbo(*pair, {**batch, "lengths": torch.tensor(lengths)})
    with pytest.raises(InputError, match="x has 4 steps, and the model's sequences have up to 5"):
        pyro_vae.elbo(*pair, batch["x"][:, :4])
    with pytest.raises(InputError, match="data_shape must be \\(steps, numbers of a step\\)"):
        DeepMarkovModel((3,))


def test_sequences_are_drawn_up_to_their_lengths(pair, batch):
    drawn = sequences(*pair, Split(batch), n=3)
    lengths = batch["lengths"][[0, 2, 4]].tolist()
    assert [[len(line.get_xdata()) for line in axes.lines] for axes in drawn.axes[:3]] == [[n] * 6 for n in lengths]
    assert drawn.axes[1].lines[0].get_ydata() == pytest.approx(batch["x"][2, :1, 0].tolist())
    with pytest.raises(NotApplicable, match="no sequences"):
        sequences(*pair, Split({"x": batch["x"]}))


# ------------------------------------------------------------------ every tool
@pytest.mark.parametrize("compile", ["off", "graph"])
def test_it_trains_generates_encodes_and_reports(batch, compile, tmp_path):
    torch.manual_seed(0)
    model = DeepMarkovModel((STEPS, 3), latent_dim=2, hidden_dims=(8,), transition_dim=8)
    guide = DeepMarkovGuide(model, hidden_dim=8)
    data = Data(Split(batch), test=Split(batch))
    how = {"epochs": 30, "batch_size": 3, "learning_rate": 0.02, "progress": False, "device": "cpu", "compile": compile}
    result = pyro_vae.fit(model, guide, data, out=tmp_path, **how)
    assert result.records[-1]["train/loss"] < result.records[0]["train/loss"] - 1
    assert pyro_vae.sample(model, 7)["x"].shape == (7, STEPS, 3)
    assert pyro_vae.sample(model, 6, batch={"lengths": batch["lengths"]})["z5"].shape == (6, 2)
    assert pyro_vae.encode(model, guide, batch)["z3"].shape == (6, 2)
    assert pyro_vae.reconstruct(model, guide, batch).shape == (6, STEPS, 3)
    if compile == "off":
        write_report(tmp_path, model, guide, data, particles=20)
        report = json.loads((tmp_path / "report.json").read_text())
        assert "sequences" in report["figures"] and "failed" not in json.dumps(report)


class PerStep(nn.Module):
    """As Pyro users write it: a data site of every step, masked by length."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.move, self.emit, self.encoder = nn.Linear(2, 2), nn.Linear(2, 3), nn.Linear(5, 4)

    def model(self, x=None, lengths=None, num_samples=1):
        size = num_samples if x is None else len(x)
        lengths = torch.full((size,), STEPS) if lengths is None else lengths
        with pyro.plate("data", size):
            z, seen = torch.zeros(size, 2), []
            for t in pyro.markov(range(STEPS)):
                with pyro.poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z_{t}", dist.Normal(self.move(z), 1.0).to_event(1))
                    obs = None if x is None else x[:, t]
                    seen.append(pyro.sample(f"x_{t}", dist.Normal(self.emit(z), 0.5).to_event(1), obs=obs))
        return torch.stack(seen, -2)

    def guide(self, x, lengths=None):
        with pyro.plate("data", len(x)):
            z = torch.zeros(len(x), 2)
            for t in pyro.markov(range(STEPS)):
                seen = x[:, t].expand(*z.shape[:-1], 3)
                loc, scale = self.encoder(torch.cat([z, seen], -1)).chunk(2, -1)
                z = pyro.sample(f"z_{t}", dist.Normal(loc.tanh(), 0.1 + scale.sigmoid()).to_event(1))


def test_a_data_site_of_every_step(batch, tmp_path, caplog):
    pair = PerStep()
    result = pyro_vae.log_likelihood(pair.model, pair.guide, batch, num_particles=5)
    assert result.num_dimensions == pytest.approx(3 * batch["lengths"].float().mean().item())
    ours, theirs = (pyro_vae.elbo(pair.model, pair.guide, each(batch)) for each in (dict, other_padding))
    torch.testing.assert_close(ours.per_datum, theirs.per_datum, atol=1e-5, rtol=0)
    drawn = pyro_vae.sample(pair.model, 7)
    assert drawn["x"].shape == drawn["x.mean"].shape == (7, STEPS, 3)
    assert "x_2" not in drawn and drawn["z_2"].shape == (7, 2)
    with torch.no_grad():  # E[x_t | z_t]
        torch.testing.assert_close(drawn["x.mean"][:, 2], pair.emit(drawn["z_2"]))
    assert pyro_vae.reconstruct(pair.model, pair.guide, batch).shape == (6, STEPS, 3)
    data = Data(Split(batch), test=Split(batch))
    fitted = pyro_vae.fit(pair.model, pair.guide, data, out=tmp_path, epochs=2, progress=False, device="cpu")
    write_report(tmp_path, fitted.model, fitted.guide, data, particles=20)
    assert "failed" not in (tmp_path / "report.json").read_text() and "no figure" not in caplog.text


class PartlySeen(PerStep):
    """Steps that are missing anywhere, by obs_mask; the guide fills them in."""

    def model(self, x=None, there=None, num_samples=1):
        size = num_samples if x is None else len(x)
        with pyro.plate("data", size):
            z, seen = torch.zeros(size, 2), []
            for t in pyro.markov(range(STEPS)):
                z = pyro.sample(f"z_{t}", dist.Normal(self.move(z), 1.0).to_event(1))
                fn = dist.Normal(self.emit(z), 0.5).to_event(1)
                how = {} if x is None or there is None else {"obs_mask": there[:, t]}
                seen.append(pyro.sample(f"x_{t}", fn, obs=None if x is None else x[:, t], **how))
        return torch.stack(torch.broadcast_tensors(*seen), -2)

    def guide(self, x, there):
        with pyro.plate("data", len(x)):
            z = torch.zeros(len(x), 2)
            for t in pyro.markov(range(STEPS)):
                seen = torch.where(there[:, t, None], x[:, t], 0.0).expand(*z.shape[:-1], 3)
                loc, scale = self.encoder(torch.cat([z, seen], -1)).chunk(2, -1)
                z = pyro.sample(f"z_{t}", dist.Normal(loc.tanh(), 0.1 + scale.sigmoid()).to_event(1))
                with pyro.poutine.mask(mask=~there[:, t]):
                    pyro.sample(f"x_{t}_unobserved", dist.Normal(self.emit(z), 0.5).to_event(1))


def test_steps_that_are_missing_change_nothing_and_every_figure_is_drawn(batch, tmp_path, caplog):
    pair, x = PartlySeen(), batch["x"]
    there = torch.rand(6, STEPS, generator=torch.Generator().manual_seed(0)) > 0.3
    partly = {"x": x, "there": there}
    other = {"x": torch.where(there[..., None], x, 77.0), "there": there}
    ours, theirs = (pyro_vae.elbo(pair.model, pair.guide, each) for each in (partly, other))
    torch.testing.assert_close(ours.per_datum, theirs.per_datum, atol=1e-5, rtol=0)
    result = pyro_vae.log_likelihood(pair.model, pair.guide, partly, num_particles=5)
    assert result.num_dimensions == pytest.approx(3 * there.float().sum(1).mean().item())
    assert pyro_vae.sample(pair.model, 600)["x"].shape == (600, STEPS, 3)
    data = Data(Split(partly), test=Split(partly))
    draw_all(pair.model, pair.guide, data, [], tmp_path)
    assert "no figure" not in caplog.text and (tmp_path / "traversals.png").is_file()

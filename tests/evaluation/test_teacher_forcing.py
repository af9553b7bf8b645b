"""Samples of models that look at earlier steps of their data, which are given rows for their number alone."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot, pad

import pyro_vae
from pyro_vae.data import Split
from pyro_vae.errors import InputError

STEPS, TOKENS, COUNT = 3, 2, 4000


def model_of(kind):
    """Tokens given those before and z, in one pass over all steps; both networks are untrained."""
    torch.manual_seed(0)
    first, lstm, words = nn.Linear(1, 8), nn.LSTM(TOKENS, 8, batch_first=True), nn.Linear(8, TOKENS)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    enter, place = nn.Linear(TOKENS, 8), nn.Parameter(torch.randn(STEPS, 8))
    for parameter in words.parameters():
        parameter.data *= 6

    def logits(x, z):
        inputs = one_hot(pad(x[:, :-1] + 0, (1, 0)), TOKENS).float()
        if kind == "lstm":
            h = first(z)[None]
            return words(lstm(inputs, (h, torch.zeros_like(h)))[0])
        mask = nn.Transformer.generate_square_subsequent_mask(STEPS)
        return words(layer(enter(inputs) + place + first(z)[:, None], src_mask=mask if kind == "transformer" else None))

    def model(x, shift):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Categorical(logits=logits(x, z + shift)).to_event(1), obs=x)

    return model, logits


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
@torch.no_grad()
def test_strings_come_as_often_as_their_probability_says(kind):
    """All strings by quadrature over z, whatever the rows are that stand in."""
    model, logits = model_of(kind)
    strings = torch.tensor([*itertools.product(range(TOKENS), repeat=STEPS)])
    z = torch.linspace(-6, 6, 601)[:, None]
    weights = dist.Normal(0.0, 1.0).log_prob(z[:, 0]) + (z[1, 0] - z[0, 0]).log()
    rows = strings.repeat(len(z), 1)
    log_p = (
        logits(rows, z.repeat_interleave(len(strings), 0) + 0.5).log_softmax(-1).gather(-1, rows[..., None]).sum((1, 2))
    )
    p = (log_p.unflatten(0, (len(z), -1)) + weights[:, None]).exp().sum(0)  # (strings,)
    assert p.sum().item() == pytest.approx(1, abs=1e-4)
    shift = torch.full((COUNT, 1), 0.5)
    for stand_in in (torch.ones(3, STEPS, dtype=torch.int64), strings):
        drawn = pyro_vae.sample(model, COUNT, batch={"x": stand_in, "shift": shift}, seed=3)
        assert drawn["z"].std().item() == pytest.approx(1, abs=0.05)
        for string, share in zip(strings, p, strict=True):  # 4.5 standard errors
            found = (drawn["x"] == string).all(-1).float().mean().item()
            assert found == pytest.approx(share.item(), abs=4.5 * (share * (1 - share) / COUNT).sqrt().item())


def test_their_latents_belong_to_them():
    """x_t = z or -z, as the step before says: what is drawn is of the z beside it."""

    def model(x, num_samples=1):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z - 2 * pad(x[:, :-1], (1, 0)), 1e-4).to_event(1), obs=x)

    drawn = pyro_vae.sample(model, 50, batch={"x": torch.randn(9, 4)})
    torch.testing.assert_close(drawn["x"], drawn["z"] * torch.tensor([1.0, -1.0, 3.0, -5.0]), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("kind", ["later steps", "the latent"])
def test_what_looks_at_more_than_earlier_steps_is_refused(kind):
    if kind == "later steps":
        model, _ = model_of("looks ahead")
    else:

        def model(x, shift):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.float().mean(-1, keepdim=True), 1.0).to_event(1))
                pyro.sample("x", dist.Categorical(logits=z[..., None].expand(len(x), STEPS, TOKENS)).to_event(1), obs=x)

    batch = {"x": torch.arange(STEPS).expand(6, -1) % 2 + torch.zeros(6, STEPS).long(), "shift": torch.zeros(6, 1)}
    batch["x"][::2] = 1
    with pytest.raises(InputError, match="the model looks at its data"):
        pyro_vae.sample(model, 6, batch=batch)


def test_probabilities_that_differ_a_little_are_seen():
    """No draw need tell of it: log-odds of 0.01 times what the data hold."""

    def model(x):
        with pyro.plate("data", len(x)):
            logit = 0.01 * x.float().sum(-1, keepdim=True)
            pyro.sample("x", dist.Bernoulli(logits=logit.expand(len(x), STEPS)).to_event(1), obs=x.float())

    with pytest.raises(InputError, match="the model looks at its data"):
        pyro_vae.sample(model, 4, batch={"x": torch.randint(2, (9, STEPS))})


def test_figures_of_them():
    model, _ = model_of("lstm")
    batch = {"x": torch.randint(TOKENS, (40, STEPS)), "shift": torch.zeros(40, 1)}
    assert pyro_vae.plots.prior_samples(model, 9, batch={"x": batch["x"], "shift": batch["shift"][:9]}).axes

    def guide(x, shift):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.float().mean(-1, keepdim=True), 0.5).to_event(1))

    split = Split(batch, integers=True)
    assert pyro_vae.plots.interpolations(model, guide, split, pairs=3).axes  # at latents that are held
    assert pyro_vae.plots.traversals(model, guide, split).axes

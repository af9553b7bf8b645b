"""Likelihoods of tokens: probabilities of all sequences, the networks step by step by hand, what sees what."""

import math

import pytest
import torch
from token_cases import KINDS, WITHOUT, F, T, V, all_sequences, some_sequences, strong
from torch import nn

import pyro_vae
from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError
from pyro_vae.guides import EmptyGuide, GaussianGuide
from pyro_vae.likelihoods import ConductorTokens, RecurrentTokens, TransformerTokens
from pyro_vae.models import VAE, LanguageModel
from pyro_vae.networks import RecurrentEncoder

CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_of_all_sequences_sum_to_one(kind, ends):
    p = strong(kind, ends=ends)(torch.randn(2, F))
    x = all_sequences(ends)
    nats = p.log_prob(x[:, None])  # (sequences, 2)
    torch.testing.assert_close(nats.exp().sum(0), torch.ones(2), **CLOSE)
    assert p.support.check(x).all() and nats.exp().amax() > 3 / len(x)  # not uniform
    assert p.support.check(torch.cartesian_prod(*[torch.arange(V)] * T)).sum() == len(x)


@pytest.mark.parametrize("kind", WITHOUT)
def test_without_features_as_well(kind):
    x = all_sequences(True)
    likelihood = strong(kind, features=0)
    torch.testing.assert_close(likelihood(torch.zeros(0)).log_prob(x).exp().sum(), torch.tensor(1.0), **CLOSE)


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_chain_rule_on_cached_steps(kind, ends):
    """log p(x) adds up from the logits that sampling makes, one step at a time."""
    likelihood, features = strong(kind, (6,), 5, ends=ends), torch.randn(8, F)
    x = some_sequences(8, 6, 5, ends)
    p, wanted = likelihood(features), torch.zeros(8)
    with torch.no_grad():
        steps, known = likelihood.steps(8, {"features": features}), torch.full_like(x, 3)
        for t in range(5 if ends else 6):
            logits = steps(t, known).clone()
            going = (x[:, :t] != 0).all(1)
            torch.testing.assert_close(logits[going], p.logits(x)[going, t], rtol=1e-5, atol=1e-5)
            wanted += torch.where(going, logits.log_softmax(1).gather(1, x[:, t : t + 1])[:, 0], 0.0)
            known[:, t] = x[:, t]
    torch.testing.assert_close(p.log_prob(x), wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_recurrent_networks_by_hand(cell):
    """One LSTMCell, one sequence and one token at a time, written out."""
    likelihood, features = strong("lstm" if cell == "lstm" else "gru", num_layers=1, cell=cell), torch.randn(F)
    weights = likelihood.layers.layers[0].all_weights[0]
    make = nn.LSTMCell if cell == "lstm" else nn.GRUCell
    by_hand = make(5 + F, 6)
    by_hand.load_state_dict(dict(zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), weights, strict=True)))
    for x in all_sequences(True)[[0, 2, 9, 39]]:
        state = torch.tanh(likelihood.start(features))
        h, c = state.chunk(2) if cell == "lstm" else (state, None)
        before, nats = 0, 0.0
        for token in x.tolist()[:-1]:
            inputs = torch.cat([likelihood.embedding.weight[before], features])[None]
            if cell == "lstm":
                h, c = (s[0] for s in by_hand(inputs, (h[None], c[None])))
            else:
                h = by_hand(inputs, h[None])[0]
            nats = nats + (likelihood.out.weight @ h + likelihood.out.bias).log_softmax(0)[token]
            before = token
            if token == 0:
                break
        torch.testing.assert_close(likelihood(features).log_prob(x), nats, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_changes_nothing_before_it(kind):
    p, x = strong(kind, (6,), 5, ends=False)(torch.randn(F)), torch.tensor([2, 4, 1, 3, 2, 1])
    before = p.logits(x)
    for t in range(6):
        changed = x.clone()
        changed[t] = x[t] % 4 + 1
        difference = (p.logits(changed) - before)[:, 1:].abs().amax(1)
        assert not difference[: t + 1].any()
        seen = t + 1 < 6 and not ("conductor" in kind and (t + 1) % 3 == 0)  # by the next place
        assert not seen or difference[t + 1] > 1e-4


def test_segments_know_of_each_other_by_the_features_alone():
    likelihood, x = strong("conductor-lstm", (6,), 5, ends=False), some_sequences(2, 6, 5, False)
    p = likelihood(torch.randn(F))
    mixed = torch.cat([x[0, :3], x[1, 3:]])
    torch.testing.assert_close(p.logits(mixed), torch.cat([p.logits(x[0])[:3], p.logits(x[1])[3:]]), **CLOSE)
    other = likelihood(torch.randn(F)).logits(mixed)
    assert ((other - p.logits(mixed))[:, 1:].abs().amax(1) > 1e-3).all()


def test_with_skip_each_segment_has_a_map_of_the_features_of_its_own():
    likelihood, f = strong("conductor-skip", (6,), 5, ends=False), torch.randn(4, F)
    weight, bias = likelihood.skip.weight.view(2, 7, F), likelihood.skip.bias.view(2, 7)
    found, likelihood.skip = likelihood.segments(f, 2), None
    own = found - likelihood.segments(f, 2)  # (4, 2, 7)
    torch.testing.assert_close(own, torch.einsum("ucf,nf->nuc", weight, f) + bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_longer_padding_changes_no_bit(kind):
    """Nor do features' draws: the likelihood with more places has the weights of the other, and more zeros behind."""
    x, features = some_sequences(7, 5, 6), torch.randn(3, 7, F)
    more = {"num_segments": 4} if "conductor" in kind else {}  # of segments as long as before
    short, long = strong(kind, (6,), 6), strong(kind, (12 if more else 9,), 6, **more)
    weights = short.state_dict()
    if kind == "transformer":
        weights["places"] = torch.cat([weights["places"], torch.randn(3, 8)])
    if kind == "conductor-skip":  # of two more segments
        for name, extra in (("skip.weight", torch.randn(14, F)), ("skip.bias", torch.randn(14))):
            weights[name] = torch.cat([weights[name], extra])
    long.load_state_dict(weights)
    values = [nn.functional.pad(x, (0, model.data_shape[0] - 5)) for model in (short, long)]
    found = [model(features).log_prob(value) for model, value in zip((short, long), values, strict=True)]
    assert found[0].shape == (3, 7) and torch.equal(*found)


@pytest.mark.parametrize("kind", KINDS)
def test_all_places_are_what_is_read_to_the_last_end(kind, monkeypatch):
    """As on a GPU and in graphs: the same numbers and gradients, with the same draws in training."""
    options = {"word_dropout": 0.3, "scheduled_sampling": 0.3, "dropout": 0.2}
    likelihood, x, found = strong(kind, (9,), 6, **options).train(), some_sequences(8, 5, 6), []
    x, features = nn.functional.pad(x, (0, 4)), torch.randn(2, 8, F)
    for follow in (True, False):
        if not follow:
            monkeypatch.setattr("pyro_vae.distributions.sequences.shapes_may_follow", lambda tensor: False)
        torch.manual_seed(4)
        nats = likelihood(features).log_prob(x)
        found.append([nats, *torch.autograd.grad(nats.sum(), list(likelihood.parameters()))])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_particles_are_those_of_each_alone(kind):
    likelihood, features, x = strong(kind), torch.randn(3, 7, F), some_sequences(7)
    together = likelihood(features).log_prob(x)
    alone = torch.stack([likelihood(features[k, n]).log_prob(x[n]) for k in range(3) for n in range(7)])
    torch.testing.assert_close(together, alone.view(3, 7), **CLOSE)


def test_what_is_impossible():
    ends, fixed = strong("gru")(torch.zeros(F)), strong("gru", ends=False)(torch.zeros(F))
    for p, wrong in ((ends, [[1, 2, 3, 1], [1, 0, 2, 0]]), (fixed, [[1, 2, 0, 0], [0, 1, 2, 3]])):
        with pytest.raises(ValueError, match="support"):
            p.log_prob(torch.tensor(wrong))
        p._validate_args = False
        assert p.log_prob(torch.tensor([*wrong, [3, 1, 2, 0 if p is ends else 1]])).isinf().tolist() == [1, 1, 0]


def to_prior(guide):
    """Let q(z | x) be N(0, I)."""
    for parameter in guide.encoder.out.parameters():
        nn.init.zeros_(parameter)


@pytest.mark.parametrize("kind", WITHOUT)
def test_a_decoder_that_looks_at_no_latents_is_the_language_model(kind):
    """The same weights, and zeros where the features go: ELBO, log p(x) and the KL."""
    decoder, alone = strong(kind), strong(kind, features=0)
    weights = decoder.state_dict()
    for name in weights:
        if name.startswith("start."):
            weights[name].zero_()
        elif name == "layers.layers.0.weight_ih_l0":
            weights[name][:, 5:] = 0
    decoder.load_state_dict(weights)
    own = {name: value for name, value in weights.items() if not name.startswith("start.")}
    own = {name: value[:, :5] if name == "layers.layers.0.weight_ih_l0" else value for name, value in own.items()}
    alone.load_state_dict(own)
    if kind == "transformer":  # what is read first is of the features, or a token's vector
        alone.embedding.weight.data[0] = 0
    model, x = VAE((T,), 2, decoder, hidden_dims=()), some_sequences(12)
    guide = GaussianGuide(model, RecurrentEncoder((T,), V, 4, 5, 6))
    to_prior(guide)
    bound = pyro_vae.elbo(model, guide, x, num_particles=3)
    exact = pyro_vae.elbo(LanguageModel((T,), V, alone), EmptyGuide(), x)
    torch.testing.assert_close(bound.per_datum, exact.per_datum, rtol=0, atol=1e-5)
    assert abs(bound.kl["z"]).max() < 1e-6 and bound.tokens == exact.tokens == 2.5
    assert exact.perplexity == pytest.approx(math.exp(-exact.per_datum.sum() / (12 * 2.5)))
    found = pyro_vae.log_likelihood(LanguageModel((T,), V, alone), EmptyGuide(), x, progress=False)
    assert found.perplexity == pytest.approx(exact.perplexity) and found.num_dimensions == 2.5
    assert "bits per dimension" not in found.rows and found.rows["perplexity"] == f"{found.perplexity:.2f}"
    assert exact.rows["perplexity, by the ELBO"] == f"at most {exact.perplexity:.2f}"


def test_the_importance_weighted_bound_is_the_integral():
    """log p(x) of a VAE with two latents by quadrature over a grid, to 1e-3."""
    torch.manual_seed(0)
    likelihood = strong("gru")
    model, x = VAE((T,), 2, likelihood, hidden_dims=()), all_sequences(True)[[0, 3, 7, 30]]
    guide = GaussianGuide(model, RecurrentEncoder((T,), V, 4, 5, 6))
    to_prior(guide)  # weights are bounded
    places = torch.linspace(-6, 6, 81)
    z = torch.cartesian_prod(places, places)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    with torch.no_grad():
        given = likelihood(model.decoder(z)[:, None]).log_prob(x)  # (6561, 4)
    wanted = (given + prior[:, None]).logsumexp(0) + 2 * math.log(12 / 80)
    found = pyro_vae.log_likelihood(model, guide, x, num_particles=400_000, progress=False, compile="off")
    torch.testing.assert_close(found.per_datum.float(), wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize("option", ["word_dropout", "scheduled_sampling", "dropout"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_for_training_alone(kind, option):
    likelihood, plain, x = strong(kind, **{option: 0.7}), strong(kind), some_sequences(20)
    plain.load_state_dict({k: v for k, v in likelihood.state_dict().items() if k != "hidden_word"})
    features = torch.randn(20, F)
    assert torch.equal(likelihood(features).log_prob(x), plain(features).log_prob(x))
    likelihood.train()
    trained = [likelihood(features).log_prob(x) for _ in range(2)]
    assert not torch.equal(*trained) and all(t.isfinite().all() for t in trained)
    first = [t[x[:, 0] == 0] for t in trained]  # they have read nothing
    assert option == "dropout" or torch.equal(*first)


def test_a_word_that_is_not_shown_is_one_vector():
    likelihood = strong("gru", word_dropout=0.5).train()
    likelihood.word_dropout = 1.0
    p = likelihood(torch.randn(F))
    logits = p.logits(torch.tensor([[1, 2, 3, 0], [3, 3, 1, 0]]))
    torch.testing.assert_close(logits[0], logits[1], **CLOSE)
    likelihood.eval()
    assert not torch.allclose(*p.logits(torch.tensor([[1, 2, 3, 0], [3, 3, 1, 0]]))[:, 1])


def test_own_draws_are_the_networks():
    """Of a network that is certain of token 2, every draw is 2; the first one is read at the second place."""
    likelihood = strong("gru", scheduled_sampling=0.5, ends=False).train()
    likelihood.scheduled_sampling = 1.0
    likelihood.out.bias.data.copy_(torch.tensor([90.0, 0, 60, 0]))
    p = likelihood(torch.randn(F))
    trained = p.logits(torch.tensor([1, 3, 3, 1]))
    torch.testing.assert_close(trained, likelihood.eval()(p.condition["features"]).logits(torch.tensor([2] * 4)))


def test_logits_start_at_the_shares_of_tokens(caplog):
    likelihood, x = RecurrentTokens((T,), V, F, 4, 5, scheduled_sampling=0.1), some_sequences(40)
    model = VAE((T,), 2, likelihood, hidden_dims=())
    guide = GaussianGuide(model, RecurrentEncoder((T,), V, 4, 5, 6))
    split = Split({"x": x}, integers=True)
    how = {"epochs": 1, "batch_size": 20, "learning_rate": 1e-9, "progress": False, "compile": "off"}
    pyro_vae.fit(model, guide, Data(split), **how)
    numbers = [1 + int((x == token).sum()) if token else 41 for token in range(V)]  # one end each
    wanted = torch.tensor([n / sum(numbers) for n in numbers]).log()
    torch.testing.assert_close(likelihood.out.bias.data, wanted, rtol=0, atol=1e-5)
    assert "with scheduled_sampling 0.1 what is minimized in training is no bound" in caplog.text
    likelihood.out.bias.data.zero_()
    pyro_vae.fit(model, guide, Data(split), **how)
    assert likelihood.out.bias.abs().max() < 1e-5  # once in its life


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RecurrentTokens((1, 4), 5), "data of shape"),
        (lambda: RecurrentTokens((4,), 1), "num_tokens of at least 2"),
        (lambda: RecurrentTokens((1,), 5), "at least 2 places"),
        (lambda: RecurrentTokens((4,), 5, cell="rnn"), "unknown cell 'rnn'"),
        (lambda: RecurrentTokens((4,), 5, hidden_dim=0), "RecurrentTokens: width"),
        (lambda: RecurrentTokens((4,), 5, word_dropout=1.0), "word_dropout"),
        (lambda: RecurrentTokens((4,), 5, scheduled_sampling=-0.1), "scheduled_sampling"),
        (lambda: TransformerTokens((4,), 5, heads=3), "heads must divide"),
        (lambda: ConductorTokens((4,), 5, num_segments=5), "num_segments 5"),
        (lambda: ConductorTokens((4,), 5, num_segments=2, features=0), "makes its segments of features"),
        (lambda: RecurrentTokens((4,), 5)(torch.zeros(3, 7)), r"needs features \(..., 32\)"),
        (lambda: RecurrentTokens((4,), 5).feature_shape((5,)), r"built for data of shape \(4,\)"),
        (lambda: LanguageModel((4,), 5, RecurrentTokens((4,), 5)), "takes features of shape"),
        (lambda: RecurrentEncoder((4,), 5, 0), "outputs"),
        (lambda: RecurrentEncoder((4,), 5, 2)(torch.zeros(3, 5, dtype=torch.int64)), "encoder expects"),
    ],
)
def test_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()

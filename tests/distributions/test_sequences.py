"""Sequences that end: draws, temperature, top-k and top-p, beam search; each against all sequences by enumeration."""

import pytest
import torch
from token_cases import KINDS, F, T, V, all_sequences, strong

import pyro_vae
from pyro_vae.distributions import PaddedText
from pyro_vae.errors import InputError
from pyro_vae.guides import EmptyGuide
from pyro_vae.models import VAE, LanguageModel


def distribution(kind, ends=True, batch=2):
    likelihood = strong(kind, ends=ends)
    torch.manual_seed(5)
    return likelihood(torch.randn(batch, F))


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_frequencies_of_draws(kind, ends):
    p, x, n = distribution(kind, ends), all_sequences(ends), 20_000
    torch.manual_seed(1)
    drawn = p.sample((n,))  # (n, 2, T)
    found = (drawn[:, :, None] == x).all(-1).double().mean(0)  # (2, sequences)
    wanted = p.log_prob(x[:, None]).T.exp().double()
    assert drawn.shape == (n, 2, T) and PaddedText(V, ends).check(drawn).all()
    assert ((found - wanted).abs() < 5 * (wanted * (1 - wanted) / n).sqrt() + 1e-4).all()


def test_it_stops_where_all_have_ended(monkeypatch):
    likelihood = strong("gru", (50,))
    likelihood.out.bias.data[0] = 50.0
    steps, asked = likelihood.steps, []

    def counting(*arguments):
        step = steps(*arguments)
        return lambda position, tokens: asked.append(position) or step(position, tokens)

    monkeypatch.setattr(likelihood, "steps", counting)
    assert not likelihood(torch.zeros(8, F)).sample().any() and asked == [0]


@pytest.mark.parametrize("how", [{"temperature": 0.6}, {"top_k": 2}, {"top_p": 0.7}, {"temperature": 2.0, "top_k": 3}])
@pytest.mark.parametrize("ends", [True, False])
def test_tempered(how, ends):
    """By the chain rule on the plain distribution's logits, sharpened by hand; draws have no other tokens."""
    plain, x = distribution("gru", ends, 1), all_sequences(ends)
    p, wanted = plain.tempered(**how), torch.zeros(len(x))
    logits = plain.logits(x) / how.get("temperature", 1.0)  # (sequences, T, V)
    for t in range(T - 1 if ends else T):
        probability = logits[:, t].softmax(1)
        ordered, order = probability.sort(1, descending=True)
        kept = torch.arange(V) < how.get("top_k", V)
        kept = kept & (ordered.cumsum(1) - ordered < how.get("top_p", 1.0) + 1e-9)
        probability = torch.where(kept, ordered, 0.0).gather(1, order.argsort(1))
        nats = (probability / probability.sum(1, keepdim=True)).log().gather(1, x[:, t : t + 1])[:, 0]
        wanted += torch.where((x[:, :t] != 0).all(1), nats, 0.0)
    torch.testing.assert_close(p.log_prob(x), wanted, rtol=0, atol=1e-5)
    assert abs(p.log_prob(x).exp().sum() - 1) < 1e-5
    assert p.log_prob(p.sample((500,))).isfinite().all()


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_wide_beam_is_enumeration(kind, ends):
    p, x = distribution(kind, ends), all_sequences(ends)
    nats, order = p.log_prob(x[:, None]).T.sort(1, descending=True)  # (2, sequences)
    found = p.beam_search(width=len(x))
    torch.testing.assert_close(found.log_prob, nats, rtol=0, atol=1e-5)
    assert (found.tokens == x[order]).all(-1).float().mean() > 0.9  # but for those equally probable
    torch.testing.assert_close(p.log_prob(found.tokens.movedim(1, 0)).T, nats, rtol=0, atol=1e-5)
    wider = p.beam_search(width=len(x) + 3)
    assert wider.log_prob[:, len(x) :].isneginf().all()
    narrow = p.beam_search(width=2)
    torch.testing.assert_close(p.log_prob(narrow.tokens.movedim(1, 0)).T, narrow.log_prob, rtol=0, atol=1e-5)
    assert (narrow.log_prob[:, 0] <= nats[:, 0] + 1e-5).all()


def test_a_beam_of_one_takes_the_most_probable_token_each_time():
    p = distribution("transformer", batch=1)
    tokens = torch.zeros(1, T, dtype=torch.int64)
    for t in range(T - 1):
        tokens[0, t] = p.logits(tokens)[0, t].argmax()
        if tokens[0, t] == 0:
            break
    assert torch.equal(p.beam_search(1).tokens[:, 0], tokens)
    with pytest.raises(InputError, match="width"):
        p.beam_search(0)


def test_temperature_and_beams_reach_the_data_of_a_model():
    likelihood = strong("gru", num_tokens=6)
    model = VAE((T,), 2, likelihood, hidden_dims=())
    z = {"z": torch.randn(40, 2)}
    p = likelihood(model.decoder(z["z"]))
    best = pyro_vae.decode(model, z, beams=200)
    assert torch.equal(best, p.beam_search(200).tokens[:, 0])
    assert torch.equal(pyro_vae.decode(model, z, top_k=1), p.beam_search(1).tokens[:, 0])
    drawn = pyro_vae.sample(model, 200, temperature=0.05)["x"]
    assert p.log_prob(drawn[:, None]).mean() > p.log_prob(pyro_vae.sample(model, 200)["x"][:, None]).mean()
    alone = LanguageModel((T,), V, strong("gru", features=0))
    x = pyro_vae.sample(alone, 10)["x"]
    found = pyro_vae.reconstruct(alone, EmptyGuide(), x, beams=64)
    assert found.shape == x.shape and (found == found[0]).all()
    gaussian = VAE((4,), 2, pyro_vae.likelihoods.Gaussian(), hidden_dims=())
    with pytest.raises(InputError, match="beams: no site of the model is a sequence"):
        pyro_vae.decode(gaussian, {"z": torch.zeros(2, 2)}, beams=2)
    with pytest.raises(InputError, match="can be tempered"):
        pyro_vae.decode(gaussian, {"z": torch.zeros(2, 2)}, temperature=0.5)


def test_large_vocabularies_are_read_in_parts(monkeypatch):
    p, x = distribution("gru"), all_sequences(True)[:, None]
    whole, sizes, output = p.log_prob(x), [], p.network.output
    monkeypatch.setattr("pyro_vae.distributions.sequences.AT_ONCE", 5 * V)
    monkeypatch.setattr(p.network, "output", lambda hidden: sizes.append(len(hidden)) or output(hidden))
    with torch.no_grad():
        torch.testing.assert_close(p.log_prob(x), whole, rtol=0, atol=1e-6)
    assert max(sizes) == 5 and sum(sizes) == 2 * (1 + 3 * 2 + 9 * 3 + 27 * 3)  # of what is not certain alone

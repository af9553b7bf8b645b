"""Accuracy of tokens and smoothness of interpolations, on a pair whose logits are its latents."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from token_pairs import KINDS, PLACES, Letters, guide, letters, model

import pyro_vae
from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError, NotApplicable
from pyro_vae.evaluation import NGrams, interpolation_smoothness, token_accuracy
from pyro_vae.evaluation.smoothness import hamming, mixtures
from tests.token_cases import F, some_sequences, strong


def test_a_pair_that_knows_the_data_is_right_everywhere():
    found = token_accuracy(model, guide, letters(100))
    assert found.greedy.tolist() == found.teacher_forced.tolist() == [1.0] * 100
    assert 0.9 < found.sampled.mean() < 1.0  # logits of 5 against 0
    assert found.to_dict()["greedy"] == 1.0 and found.to_dict()["num_data"] == 100
    assert found.rows["tokens right, made greedily"] == "1.000 +- 0.000"
    assert token_accuracy(model, guide, letters(), at_mean=False).greedy.mean() < 0.9  # the guide is wide


def wrong_after(x):
    """A guide that knows every second place alone."""
    with pyro.plate("data", len(x), dim=-1):
        mean = 5.0 * torch.nn.functional.one_hot(torch.where(torch.arange(PLACES) % 2 == 0, x, 3), KINDS)
        pyro.sample("z", dist.Normal(mean, 4.0).to_event(2))


def test_shares_are_of_the_tokens_and_one_end():
    x = torch.tensor([[1, 2, 1, 0, 0, 0], [2, 3, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0]])
    found = token_accuracy(model, wrong_after, Split({"x": x}, integers=True))
    # places 0, 2, 4 are right, and of the others those with a 3; the last place is certain and does not count
    assert found.teacher_forced.tolist() == pytest.approx([2 / 4, 3 / 3, 1 / 1, 3 / 5])
    assert found.greedy.tolist() == found.teacher_forced.tolist()  # of these logits, what came before says nothing


def test_a_real_pair_in_any_batches():
    likelihood = pyro_vae.likelihoods.RecurrentTokens((6,), num_tokens=4, features=3, embedding_dim=3, hidden_dim=5)
    real = pyro_vae.models.VAE((6,), latent_dim=2, likelihood=likelihood, hidden_dims=())
    encoder = pyro_vae.networks.RecurrentEncoder((6,), num_tokens=4, outputs=4, embedding_dim=3, hidden_dim=5)
    its_guide = pyro_vae.guides.GaussianGuide(real, encoder=encoder)
    data = letters().train
    whole, parts = (token_accuracy(real, its_guide, data, batch_size=size) for size in (20, 3))
    assert torch.equal(whole.teacher_forced, parts.teacher_forced) and torch.equal(whole.greedy, parts.greedy)
    x = data.column("x")
    with torch.no_grad():  # told the data's tokens, one place after another
        z = pyro_vae.evaluation.encode(real, its_guide, data)["z"]
        p = likelihood(real.decoder(z))
        right = []
        for place in range(5):  # of the other tokens those behind it are changed, which is of no consequence
            other = torch.where(torch.arange(6) >= place, 1, x)
            right.append(p.logits(other)[:, place].argmax(-1) == x[:, place])
    counted = (torch.cat([torch.ones(20, 1, dtype=torch.bool), x[:, :-1] != 0], 1))[:, :5]
    expected = (torch.stack(right, 1) & counted).sum(1).double() / counted.sum(1)
    assert torch.allclose(whole.teacher_forced, expected) and 0 < expected.mean() < 1


def test_draws_of_two_batches_are_independent():
    x = letters().train.column("x")
    found = token_accuracy(model, guide, Split({"x": torch.cat([x, x])}, integers=True), batch_size=20)
    assert not torch.equal(found.sampled[:20], found.sampled[20:])


class Pages(torch.nn.Module):
    """Three sentences a datum, and its guide."""

    def __init__(self):
        super().__init__()
        self.likelihood = strong("gru")

    def forward(self, x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(3, F), 1.0).to_event(2))
            return pyro.sample("x", self.likelihood(z).to_event(1), obs=x)


def wide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(torch.zeros(3, F), 1.0).to_event(2))


def test_several_sequences_a_datum():
    pages, z = Pages(), torch.randn(5, 3, F)
    best = pages.likelihood(z).beam_search(30).tokens[..., 0, :]
    assert torch.equal(pyro_vae.decode(pages, {"z": z}, beams=30), best)
    x = torch.stack([some_sequences(7), some_sequences(7).flip(0), some_sequences(7)], 1)
    found = token_accuracy(pages, wide, Split({"x": x}, integers=True))
    each = pages.likelihood(torch.zeros(7, 3, F)).logits(x).argmax(-1)
    counted = torch.nn.functional.pad(x[..., :-2] != 0, (1, 0), value=True)  # the last place is certain
    right = ((each == x)[..., :-1] & counted).sum((1, 2)).double() / counted.sum((1, 2))
    torch.testing.assert_close(found.teacher_forced, right)
    assert found.greedy.shape == found.sampled.shape == (7,)


def test_it_is_for_sequences_and_latents_alone():
    image = pyro_vae.models.VAE((1, 4, 4), latent_dim=2, hidden_dims=(4,))
    with pytest.raises(NotApplicable, match="no sequences of tokens"):
        token_accuracy(image, pyro_vae.guides.GaussianGuide(image, hidden_dims=(4,)), torch.ones(3, 1, 4, 4))
    language = pyro_vae.models.LanguageModel((6,), num_tokens=KINDS)
    with pytest.raises(NotApplicable, match="no latents"):
        token_accuracy(language, pyro_vae.guides.EmptyGuide(), letters())


def test_mixtures_begin_and_end_with_the_data_and_mix_between():
    first, last = torch.ones(500, 40, dtype=torch.long), torch.full((500, 40), 2)
    mixed = mixtures(first, last, steps=5)
    assert mixed.shape == (500, 5, 40) and torch.equal(mixed[:, 0], first) and torch.equal(mixed[:, -1], last)
    shares = (mixed == 2).double().mean((0, 2))
    assert shares.tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=0.02)  # 4 standard errors: 0.014
    ended = mixtures(torch.tensor([[1, 0, 0, 0]] * 50), torch.tensor([[2, 2, 2, 0]] * 50), steps=3)
    assert ((ended[..., 1:] != 0) <= (ended[..., :-1] != 0)).all()  # nothing behind an end
    assert hamming(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 3, 3, 5])).item() == 0.5


def test_smoothness_of_a_pair_that_is_known():
    data = letters(40)
    data = Data(train=data.train, test=data.validation, extras=(Letters(),))
    found = interpolation_smoothness(model, guide, data, pairs=8, steps=5, kind="linear", order=2)
    x = data.test.column("x")
    first, last = x[0:16:2], x[1:16:2]
    # greedily decoded, the way has one datum's token at each place up to the middle, then the other's
    assert torch.equal(found.from_first[:, -1], hamming(first, last)) and (found.between[:, 0] == 0).all()
    assert torch.equal(found.from_first[:, 1], torch.zeros(8, dtype=torch.float64))
    assert found.mixed_from_first.shape == (8, 5) and torch.equal(found.mixed_from_first[:, -1], hamming(first, last))
    grams = NGrams(data.train.column("x"), KINDS, 2)
    ends = [grams.log_prob(s) / ((s != 0).sum(-1) + 1) for s in (first, last)]
    assert torch.allclose(found.relative[:, 0], (ends[0] - ends[1]) / 2)
    assert torch.allclose(found.mixed_relative[:, 0], found.relative[:, 0])
    assert len(found.rows) == 5 and len(found.to_dict()["between"]) == 4
    with pytest.raises(InputError, match="steps must be at least 3"):
        interpolation_smoothness(model, guide, data, steps=2)
    with pytest.raises(InputError, match="Data whose x are tokens"):
        interpolation_smoothness(model, guide, data.train)

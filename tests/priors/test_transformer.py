"""Texts of a transformer: their probability, what depends on them, guidance, the joint model and its weights."""

import itertools
import math

import pyro
import pytest
import torch
from prior_cases import codes, context, prior, texts

from pyro_vae.data import Split
from pyro_vae.distributions import PaddedText
from pyro_vae.errors import InputError
from pyro_vae.evaluation import log_likelihood
from pyro_vae.guides import EmptyGuide
from pyro_vae.models import TextCodeModel
from pyro_vae.objectives import ELBO
from pyro_vae.priors import GatedPixelCNN, TransformerPrior
from pyro_vae.programs.program import as_programs
from pyro_vae.recording import Recording
from pyro_vae.training import fit


def strong(name="transformer-text", factor=5):
    """A prior whose tokens are large, so that what they hold matters."""
    network = prior(name)
    with torch.no_grad():
        for parameter in network.prompt.parameters():
            parameter.mul_(20)
        for head in (network.head, network.text_head):
            head[-1].weight.mul_(factor)
    return network


def all_texts(num_words, length):
    found = torch.tensor(list(itertools.product(range(num_words), repeat=length)))
    return found[PaddedText(num_words).check(found)]


def test_support_by_hand():
    right = [[1, 2, 0], [4, 4, 4], [0, 0, 0], [3, 0, 0]]
    wrong = [[0, 1, 0], [1, 0, 2], [5, 1, 0], [-1, 0, 0], [0, 0, 4]]
    assert PaddedText(5).check(torch.tensor(right)).all() and not PaddedText(5).check(torch.tensor(wrong)).any()
    assert len(all_texts(5, 4)) == sum(4**n for n in range(5))


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, None, None), (0.5, 3, None), (1.3, None, 0.8)])
def test_texts_of_all_lengths_sum_to_one_and_are_drawn_as_often(temperature, top_k, top_p):
    network = strong()
    distribution, every = network.text().tempered(temperature, top_k, top_p), all_texts(5, 4)
    probabilities = distribution.log_prob(every).exp().detach()
    assert probabilities.sum().item() == pytest.approx(1, rel=1e-12)
    drawn = distribution.sample((10_000,))
    assert distribution.support.check(drawn).all()
    index = (drawn * 5 ** torch.arange(4)).sum(1)
    counts = torch.stack([(index == one).sum() for one in (every * 5 ** torch.arange(4)).sum(1)])
    assert counts.sum() == 10_000 and not counts[probabilities == 0].any()
    error = (10_000 * probabilities * (1 - probabilities)).sqrt()
    assert ((counts - 10_000 * probabilities).abs() <= 5 * error + 1).all()


def test_a_text_is_its_words_and_its_end():
    """By the chain rule on the network's own logits; the pads behind the first one cost nothing."""
    network = strong()
    text = torch.tensor([[3, 1, 0, 0], [2, 2, 4, 1], [0, 0, 0, 0]])
    logits = network.text().logits(text).mT.log_softmax(1)
    ends = [3, 4, 1]
    expected = [sum(logits[i, text[i, j], j] for j in range(end)) for i, end in enumerate(ends)]
    torch.testing.assert_close(network.text_log_prob(text), torch.stack(expected))
    with pytest.raises(ValueError, match=r"support \(PaddedText\(words 1 … 4, and 0 behind the end\)\)"):
        network.text_log_prob(torch.tensor([1, 0, 2, 0]))
    with pyro.validation_enabled(False):
        assert network.text_log_prob(torch.tensor([1, 0, 2, 0])) == -math.inf
    network.text_log_prob(text).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_a_text_has_the_same_probability_whatever_else_is_given():
    """Tokens of the text in the whole prompt are those of the text alone: keys and values agree in all layers."""
    network = strong("transformer-everything")
    given = context(network, 3)
    other = {**context(network, 3), "text": given["text"]}
    one, two = (network(**c).condition["prompt"][:, :, :, :, : network.prompt.text] for c in (given, other))
    torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_words_change_what_comes_after_them_only():
    network = strong()
    text = torch.tensor([[3, 1, 2, 4]])
    before = network.text().logits(text).mT
    for j in range(4):
        changed = text.clone()
        changed[0, j] = text[0, j] % 4 + 1
        difference = (network.text().logits(changed).mT - before).abs().amax(1)[0]
        assert not difference[: j + 1].any() and (difference[j + 1 :] > 1e-6).all()


@pytest.mark.parametrize("name", ["transformer-text", "transformer-everything"])
def test_every_word_and_every_pad_changes_the_logits_of_all_codes(name):
    network = strong(name)
    some, given = codes(network, 1), context(network, 1)
    given["text"] = torch.tensor([[3, 1, 0, 0]])[:, : network.text_length]
    before = network.logits(some, network(**given).condition).flatten(2)
    for j in range(3):
        text = given["text"].clone()
        text[0, j] = 2  # another word, and a word instead of a pad
        after = network.logits(some, network(**{**given, "text": text}).condition).flatten(2)
        assert ((after - before).abs().amax(1) > 1e-7).all()


def test_each_position_has_its_own_pad():
    """Of all pads' vectors the logits depend on those that stand in the text."""
    network = strong()
    some, text = codes(network, 1), torch.tensor([[3, 0, 0, 0]])
    before = network.logits(some, network(text=text).condition)
    for j in range(4):
        with torch.no_grad():
            network.prompt.pads[j] += 1
        after = network.logits(some, network(text=text).condition)
        assert torch.equal(after, before) == (text[0, j] != 0)
        before = after


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["transformer-text", "transformer-everything"])
def test_cached_words(name, dtype):
    network = strong(name).to(dtype)
    text = texts(network, 6)
    full, known, found = network.text().logits(text).mT, torch.full_like(text, -1), []
    with torch.no_grad():
        steps = network.text().network.steps(6, {})
        for i in range(text.shape[1]):
            found.append(steps(i, known).clone())
            known[:, i] = text[:, i]
    there = network.text().counted(text)  # behind the end all is certain, whatever the network says
    found, full = torch.stack(found, -1).mT[there], full.mT[there]
    torch.testing.assert_close(found, full, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-11)


@pytest.mark.parametrize("scale", [0.0, 1.5])
def test_guidance(scale):
    """log_prob by hand from logits with and without the condition; cached samples of the same distribution."""
    network = strong("transformer-everything")
    given, some = context(network, 3), codes(network, 3)
    plain = network(**given)
    nothing = network.without(plain.condition)
    with_, without = (network.logits(some, c) for c in (plain.condition, nothing))
    logits = (1 + scale) * with_ - scale * without
    expected = logits.log_softmax(1).gather(1, some.unsqueeze(1)).flatten(1).sum(1)
    guided = plain.guided(scale)
    torch.testing.assert_close(guided.log_prob(some), expected)
    torch.testing.assert_close(guided.expand((2, 3)).log_prob(some), expected.expand(2, 3))
    steps = guided.network.steps(3, guided._condition(guided.batch_shape))
    found = torch.stack([steps(i, some.flatten(1)).detach() for i in range(12)], -1)
    torch.testing.assert_close(found, logits.flatten(2).detach(), rtol=0, atol=1e-11)
    assert guided.tempered(0.7, 4, 0.9).sample().shape == some.shape
    same = {**context(network, 3), "codes_top": given["codes_top"]}  # without: text and label don't matter
    other = network.logits(some, network.without(network(**same).condition))
    torch.testing.assert_close(other, without, rtol=0, atol=0)
    assert (with_ - without).abs().max() > 1e-4


def test_conditions_are_left_out_in_training_as_often_as_said():
    network = strong("transformer-everything")
    given = context(network, 2000)
    nothing = network.without(network(**given).condition)["prompt"]
    whole = network(**given).condition["prompt"]
    found = network.train()(**given).condition["prompt"]
    dropped, kept = ((found == c).flatten(1).all(1) for c in (nothing, whole))
    assert (dropped ^ kept).all()
    assert dropped.double().mean().item() == pytest.approx(0.3, abs=5 * math.sqrt(0.3 * 0.7 / 2000))


def test_guidance_needs_a_prior_that_was_trained_for_it():
    network = prior("transformer-text")
    with pytest.raises(InputError, match="TransformerPrior cannot be guided: it never was without its condition"):
        network(**context(network, 2)).guided(1.0)
    guided = prior("transformer-everything")
    distribution = guided(**context(guided, 2))
    with pytest.raises(InputError, match="guidance must not be negative, got -1"):
        distribution.guided(-1)
    for other in (distribution.guided(1.0), guided.text()):
        with pytest.raises(InputError, match="guidance is for a distribution with a condition"):
            other.guided(1.0)


def test_joint_bound():
    """In evaluation log p(text) + log p(codes | text); in training both weighted, and the parts reported unweighted."""
    network = strong("transformer-everything")
    model, guide = as_programs(TextCodeModel(network).eval(), EmptyGuide())
    given = context(network, 5)
    batch = {"x": codes(network, 5), **given}
    parts = network.text_log_prob(given["text"]), network(**given).log_prob(batch["x"])
    found = log_likelihood(model, guide, Split(batch, integers=True), num_particles=1)
    torch.testing.assert_close(found.per_datum, (parts[0] + parts[1]).detach(), check_dtype=False)
    network.condition_dropout = 0.0
    model.train()
    terms = ELBO().terms(model, guide, **batch)
    scales = 1 / 8 * 15 / 3, 7 / 8 * 15 / 12  # 3 words, 12 codes
    torch.testing.assert_close(terms.loss, -(scales[0] * parts[0] + scales[1] * parts[1]).mean())
    torch.testing.assert_close(terms.log_likelihood["text"], parts[0].detach().mean())
    torch.testing.assert_close(terms.log_likelihood["x"], parts[1].detach().mean())
    validated = ELBO().for_validation().terms(model.eval(), guide, **batch)
    torch.testing.assert_close(validated.loss, -(parts[0] + parts[1]).mean())


def test_weights_that_are_the_joint_density():
    network = TransformerPrior(4, (3, 2), text_length=3, num_words=5, width=4, heads=1, text_weight=3 / 9)
    assert network.training_scales() == pytest.approx((1, 1))


def test_sampling_texts_and_codes_together_and_codes_of_a_text():
    network = prior("transformer-text")
    model = as_programs(TextCodeModel(network).eval(), EmptyGuide())[0]
    trace = pyro.poutine.trace(model).get_trace(num_samples=3)
    assert trace.nodes["text"]["value"].shape == (3, 4) and trace.nodes["x"]["value"].shape == (3, 5, 4)
    assert model(text=texts(network, 2)).shape == (2, 5, 4)
    candidates = network(text=texts(network)).sample((7,))
    assert candidates.shape == (7, 5, 4) and len(candidates.unique(dim=0)) == 7


def test_recorded_joint_loss():
    """A graph of the loss and its gradient; every parameter takes part."""
    network = strong("transformer-everything")
    batch = {"codes": codes(network, 40), **context(network, 40)}

    def loss(codes, **given):
        return (-(network(**given).log_prob(codes) + network.text_log_prob(given["text"])).mean(),)

    recording = Recording(network, loss, batch, True)
    other = {"codes": codes(network, 40), **context(network, 40)}
    recording.check(other, 1e-9)
    _, gradients = Recording(network.train(), loss, batch, True)(other)
    names = [name for name, _ in network.named_parameters()]
    dead = [n for n, g in zip(names, gradients, strict=True) if g is None or not g.abs().max() > 0]
    assert dead == []


def test_conditions_are_left_out_in_recorded_steps_of_double_precision(caplog):
    """The same ones as in eager steps, also where the default type is another when the graph runs."""
    network = TransformerPrior(
        4, (3,), text_length=2, num_words=5, width=4, num_layers=1, heads=1, condition_dropout=0.5
    )
    batch = {"x": codes(network, 64), **context(network, 64)}
    options = {"epochs": 1, "batch_size": 32, "device": "cpu", "progress": False, "precision": "64-true"}
    fit(TextCodeModel(network), EmptyGuide(), Split(batch, integers=True), compile="graph", **options)
    assert "eagerly" not in caplog.text


def test_bad_texts():
    network = prior("transformer-text")
    takes = network.context["text"]
    takes.check("text", texts(network, 9))
    for bad in ([[1, 2, 3, 5]], [[-1, 0, 0, 0]], [[1, 0, 2, 0]]):
        with pytest.raises(InputError, match=r"'text' takes texts of 4 words from 1 to 4, with 0 behind the end"):
            takes.check("text", torch.tensor(bad))
    with pytest.raises(InputError, match=r"takes 'text' of shape \(\.\.\., 4\), .* got \(2, 6\)"):
        network(text=torch.ones(2, 6, dtype=torch.int64))
    with pytest.raises(InputError, match=r"was not given \('text': texts of 4 words"):
        network()
    for call in (prior("transformer").text, prior("transformer").training_scales):
        with pytest.raises(InputError, match="the prior has no text: build it with text_length and num_words"):
            call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_length": 4}, "needs a positive text_length and num_words; got 4 and None"),
        ({"text_length": 0, "num_words": 4}, "needs a positive text_length and num_words; got 0 and 4"),
        ({"text_length": 4, "num_words": 1}, "num_words must be at least 2, the pad and a word, got 1"),
        ({"heads": 3}, "heads must divide the width, 128, got 3"),
        ({"heads": 0}, "heads must divide the width, 128, got 0"),
        ({"num_layers": 0}, "TransformerPrior: num_layers must be a positive integer, got 0"),
        ({"width": 0}, "TransformerPrior: width must be a positive integer, got 0"),
        ({"dropout": 1.0}, "TransformerPrior: dropout must be a probability below 1, got 1.0"),
        ({"text_weight": 1.0}, "text_weight must lie between 0 and 1, got 1.0"),
        ({"num_classes": 3, "condition_dropout": 1.0}, "condition_dropout must be a probability below 1, got 1.0"),
        ({"condition_dropout": 0.1}, "condition_dropout needs a text or a label"),
        ({"attention": "sparse", "window": 4}, "window must be odd and at least 3, got 4"),
        ({"attention": "none"}, "unknown attention 'none'"),
    ],
)
def test_sizes_that_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        TransformerPrior(8, (4, 4), **options)


def test_shapes_that_cannot_be():
    with pytest.raises(InputError, match=r"needs a grid \(height, width\) or \(length,\), got \(2, 2, 2\)"):
        TransformerPrior(8, (2, 2, 2))
    with pytest.raises(InputError, match="'sparse' needs a grid"):
        TransformerPrior(8, (9,), attention="sparse")
    with pytest.raises(TypeError):
        GatedPixelCNN(8, (4, 4), text_length=4, num_words=5)

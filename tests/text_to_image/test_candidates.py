"""Candidates for texts: the best of all that were drawn are kept, however many are drawn at once; guided draws."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine

from pyro_vae.data import Tokenizer
from pyro_vae.errors import InputError, NotApplicable
from pyro_vae.evaluation.generate import sample
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VQVAE
from pyro_vae.priors import TransformerPrior
from pyro_vae.programs.handlers import Tempered
from pyro_vae.programs.program import Program
from pyro_vae.text_to_image.contact_sheet import contact_sheet
from pyro_vae.text_to_image.ranking import draw_best

TEXTS = ["dark", "light"]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, text_length=3)


def make_model(drawn, tokenizer):
    """Images of one grey level, u / 2 or (1 + u) / 2 by the text; ``drawn`` collects u and the numbers of rows."""
    light = tokenizer.encode(["light"])[0]

    def model(x=None, text=None, num_samples=1):
        assert len(text) == num_samples
        with pyro.plate("data", num_samples, dim=-1):
            u = pyro.sample("u", dist.Uniform(0.0, 1.0))
            drawn.append(u)
            level = (u + (text == light).all(-1)) / 2
            return pyro.sample("x", dist.Normal(level[:, None, None, None].expand(-1, 1, 2, 2), 0.1).to_event(3), obs=x)

    return model


def brightness(images, _):
    return images.flatten(1).mean(1)


@pytest.mark.parametrize("batch_size", [1, 3, 5, 100])
def test_the_best_of_all_are_kept_the_best_first(tokenizer, batch_size):
    drawn = []
    model = make_model(drawn, tokenizer)
    best = draw_best(model, tokenizer, TEXTS, 2, best_of_many=5, scorer=brightness, batch_size=batch_size)
    assert max(map(len, drawn)) == min(batch_size, 10)
    u = torch.cat(drawn).reshape(2, 10)  # all that were drawn, text by text
    assert len(u.unique()) == 20  # another draw for every candidate of every text
    wanted = u.sort(1, descending=True).values[:, :2]
    assert torch.equal(best.sites["u"], wanted)
    levels = (wanted + torch.tensor([[0.0], [1.0]])) / 2
    torch.testing.assert_close(best.scores, levels)
    torch.testing.assert_close(best.images, levels[:, :, None, None, None].expand(2, 2, 1, 2, 2))


def test_without_a_scorer_nothing_is_chosen(tokenizer):
    best = draw_best(make_model([], tokenizer), tokenizer, TEXTS, 3, batch_size=2)
    assert best.scores is None and best.images.shape == (2, 3, 1, 2, 2)
    with pytest.raises(InputError, match="the best of 2 cannot be found without a scorer"):
        draw_best(make_model([], tokenizer), tokenizer, TEXTS, best_of_many=2)
    with pytest.raises(InputError, match="best_of_many must be a positive integer, got 0"):
        draw_best(make_model([], tokenizer), tokenizer, TEXTS, best_of_many=0)


def test_the_sheet_shows_every_score():
    images, scores = torch.rand(2, 9, 3, 4, 4), torch.arange(18.0).reshape(2, 9)
    figure = contact_sheet(images, TEXTS, scores, "title")
    assert [axes.get_title() for axes in figure.axes] == TEXTS
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == [f"{i:.2f}" for i in range(18)]
    with pytest.raises(NotApplicable, match=r"data of shape \(7,\) are no images"):
        contact_sheet(torch.rand(1, 2, 7), ["one"], None, "title")


def test_guidance_and_temperature_are_those_of_the_prior():
    torch.manual_seed(0)
    sizes = {"channels": 4, "block_channels": 3, "num_blocks": 1, "code_dim": 3, "likelihood": Gaussian(0.3)}
    model = VQVAE((1, 8, 8), 6, **sizes)
    options = {"text_length": 3, "num_words": 5, "width": 8, "num_layers": 2, "heads": 2, "condition_dropout": 0.5}
    prior = model.priors["codes"] = TransformerPrior(6, model.grid, **options)
    text = torch.tensor([[1, 2, 0], [3, 3, 3]])
    handler = Tempered(0.8, top_p=0.9, guidance=1.5)
    with torch.no_grad():
        trace = poutine.trace(handler(Program(model.eval()))).get_trace(text=text, num_samples=2)
        handler.check()
        wanted = prior(text=text).guided(1.5).tempered(0.8, top_p=0.9)
        codes = trace.nodes["codes"]["value"]
        torch.testing.assert_close(trace.nodes["codes"]["fn"].log_prob(codes), wanted.log_prob(codes))
    torch.manual_seed(1)
    assert sample(model, 2, guidance=1.0)["text"].shape == (2, 3)  # p(text) has nothing to be guided by
    with pytest.raises(InputError, match="guidance must not be negative"):
        sample(model, 2, guidance=-0.5)

"""The contrastive model of images and texts."""

import math

import pytest
import torch
from made_scenes import made_scenes
from torch.nn.functional import cross_entropy

from pyro_vae.data import Data, Split, Tokenizer, with_text
from pyro_vae.data.sources.emoji import draw_scenes
from pyro_vae.errors import InputError
from pyro_vae.guides import EmptyGuide
from pyro_vae.models import ContrastiveModel
from pyro_vae.objectives import ELBO
from pyro_vae.programs.program import as_programs
from pyro_vae.text_to_image import ContrastiveScorer
from pyro_vae.training import fit


def model(**options):
    torch.manual_seed(1)
    return ContrastiveModel((3, 8, 8), 7, 4, dim=5, hidden_dims=(4,), width=8, num_layers=1, heads=2, **options)


def test_loss_is_clips():
    pair, x = model(), torch.rand(6, 3, 8, 8)
    text = torch.randint(1, 7, (6, 4))
    images, texts = pair.image_encoder(x), pair.text_encoder(text)
    cosine = torch.cosine_similarity(images[:, None], texts[None], dim=-1)  # (image, text)
    logits, own = cosine / 0.07, torch.arange(6)
    expected = (cross_entropy(logits, own) + cross_entropy(logits.mT, own)) / 2
    loss = ELBO().differentiable_loss(pair, EmptyGuide(), x=x, text=text)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    terms = ELBO().terms(*as_programs(pair, EmptyGuide()), x=x, text=text)
    torch.testing.assert_close(terms.log_likelihood["text_of_image"], -cross_entropy(logits, own), rtol=1e-4, atol=1e-5)
    score = pair.score(x, text)
    torch.testing.assert_close(score, cosine.diag() / 0.07, rtol=1e-4, atol=1e-5)
    many = pair.score(x[:, None], text)  # every image with every text
    torch.testing.assert_close(many, logits, rtol=1e-4, atol=1e-5)


def test_equal_texts_are_not_held_against_each_other():
    pair, x = model(), torch.rand(4, 3, 8, 8)
    text = torch.tensor([[1, 2, 0, 0], [1, 2, 0, 0], [3, 0, 0, 0], [1, 2, 3, 0]])
    logits = pair.score(x[:, None], text)
    out = torch.zeros(4, 4, dtype=torch.bool)
    out[0, 1] = out[1, 0] = True
    logits, own = logits.masked_fill(out, -math.inf), torch.arange(4)
    expected = (cross_entropy(logits, own) + cross_entropy(logits.mT, own)) / 2
    torch.testing.assert_close(ELBO().differentiable_loss(pair, EmptyGuide(), x=x, text=text), expected)
    alike = ELBO().differentiable_loss(pair, EmptyGuide(), x=x, text=text[:1].expand(4, 4))
    assert alike == 0  # no other pair to tell apart
    alike.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in pair.parameters())


def test_similarities_have_single_precision_under_autocast():
    """Those of the encoders' features as they come out in half precision, by hand in double precision."""
    pair, x, text = model(), torch.rand(6, 3, 8, 8), torch.randint(1, 7, (6, 4))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        images, texts = pair.image_encoder(x).double(), pair.text_encoder(text).double()
        found = as_programs(pair, EmptyGuide())[0](x=x, text=text)
    cosine = torch.cosine_similarity(images[:, None], texts[None], dim=-1)
    torch.testing.assert_close(found.double(), cosine / 0.07, rtol=1e-4, atol=1e-4)


def test_temperature_is_clamped():
    pair = model()
    assert pair.scale().item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        pair.log_scale.fill_(9.0)
    assert pair.scale().item() == pytest.approx(100)


def test_learns_held_out_combinations(caplog):
    scenes = made_scenes()
    parts = draw_scenes(8, 512)
    captions = {part: scenes.captions(*drawn) for part, drawn in parts.items()}
    splits = {part: Split({"x": scenes.draw(*drawn)}, captions=captions[part]) for part, drawn in parts.items()}
    tokenizer = Tokenizer.train(captions["train"], vocabulary_size=300)
    data = with_text(Data(**splits), tokenizer, dropout=0.1)
    torch.manual_seed(0)
    pair = ContrastiveModel(data.train.shape, tokenizer.vocabulary_size, tokenizer.text_length, 32, (16,), 32, 1, 2)
    options = {"epochs": 12, "batch_size": 32, "learning_rate": 3e-3, "device": "cpu", "progress": False}
    result = fit(pair, EmptyGuide(), data, compile="graph", **options)
    assert "eagerly" not in caplog.text  # the step was recorded
    first, last = (result.records[i]["validation/loss"] for i in (0, -1))
    assert last < 0.5 < first, (first, last)
    x, texts = data.test.batch(slice(0, 64))["x"], data.test.captions[:64]
    score = ContrastiveScorer(pair, tokenizer)
    true, other = score(x, texts), score(x, texts[1:] + texts[:1])
    assert (true > other).float().mean() > 0.9


def test_refusals():
    pair, x = model(), torch.rand(6, 3, 8, 8)
    options = {"epochs": 1, "device": "cpu", "progress": False}
    with pytest.raises(InputError, match="the model needs text"):
        fit(pair, EmptyGuide(), {"x": x}, **options)
    with pytest.raises(InputError, match="4 tokens below 7"):
        fit(pair, EmptyGuide(), {"x": x, "text": torch.ones(6, 5, dtype=torch.long)}, **options)
    with pytest.raises(InputError, match="4 tokens below 7"):
        fit(pair, EmptyGuide(), {"x": x, "text": torch.full((6, 4), 7)}, **options)

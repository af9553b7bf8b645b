"""The best of many candidates."""

import pytest
import torch
from made_scenes import made_scenes

from pyro_vae.data import Tokenizer
from pyro_vae.errors import InputError
from pyro_vae.models import ContrastiveModel
from pyro_vae.text_to_image import ContrastiveScorer, best_of, scene_scorer, score_candidates


def test_best_of():
    candidates = torch.arange(6.0).reshape(2, 3, 1, 1, 1)
    scores = torch.tensor([[0.1, 0.9, 0.5], [3.0, 1.0, 2.0]])
    best, values = best_of(candidates, scores)
    assert best.flatten().tolist() == [1, 3] and best.shape == (2, 1, 1, 1, 1)
    best, values = best_of(candidates, scores, 2)
    assert best.flatten().tolist() == [1, 2, 3, 5] and torch.equal(values, torch.tensor([[0.9, 0.5], [3.0, 2.0]]))
    for num_best in (0, 4):
        with pytest.raises(InputError, match=f"the best {num_best} of 3 candidates"):
            best_of(candidates, scores, num_best)
    with pytest.raises(InputError, match=r"scores must be \(2, 3\)"):
        best_of(candidates, scores[:, :2])
    with pytest.raises(InputError, match="NaN"):
        best_of(candidates, scores / 0 * 0)


def test_any_callable_is_a_scorer():
    asked = []

    def redness(images, captions):
        asked.extend(captions)
        return images[:, 0].mean((1, 2))

    candidates = torch.rand(2, 3, 3, 4, 4)
    scores = score_candidates(redness, candidates, ["a", "b"])
    torch.testing.assert_close(scores, candidates[:, :, 0].mean((2, 3)))
    assert asked == ["a"] * 3 + ["b"] * 3
    with pytest.raises(InputError, match=r"one number for each of 6 images, got \(6, 4\)"):
        score_candidates(lambda images, captions: images[:, 0, 0], candidates, ["a", "b"])
    with pytest.raises(InputError, match=r"candidates must be \(1, N"):
        score_candidates(redness, candidates, ["a"])


def test_scorer_that_knows_the_answer():
    scenes = made_scenes()
    caption = "pink left of cyan"
    told = ["cyan left of pink", "pink above cyan", caption, "pink left of grey"]
    candidates = scenes.draw(*scenes.parse(told)).unsqueeze(0) / 255
    scores = score_candidates(scene_scorer(scenes), candidates, [caption])
    assert scores[0].tolist() == [0.0, scores[0, 1].item(), 2.0, 0.5] and scores[0, 1] < 1


def test_contrastive_scorer():
    captions = ["cyan left of pink", "pink above cyan"]
    tokenizer = Tokenizer.train(captions, vocabulary_size=280)
    model = ContrastiveModel((3, 8, 8), tokenizer.vocabulary_size, tokenizer.text_length, 6, (4,), 8, 1, 2)
    score = ContrastiveScorer(model, tokenizer)
    images = torch.rand(300, 3, 8, 8)
    asked = [captions[i % 2] for i in range(300)]
    with torch.no_grad():
        expected = model.score(images, tokenizer.encode(asked))
    torch.testing.assert_close(score(images, asked), expected)
    assert not score(images, asked).requires_grad
    with pytest.raises(InputError, match="in no caption of the training data"):
        score(images[:1], ["7 ducks"])

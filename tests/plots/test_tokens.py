"""Figures of tokens: what stands in the tables, and which figures there are none of."""

import logging

import pyro
import pyro.distributions as dist
import pytest
import torch
from token_pairs import KINDS, LETTERS, Letters, guide, letters, model

from pyro_vae import plots
from pyro_vae.errors import InputError, NotApplicable
from pyro_vae.guides import EmptyGuide
from pyro_vae.likelihoods import RecurrentTokens
from pyro_vae.models import LanguageModel
from pyro_vae.plots import registry
from pyro_vae.plots.images import pick
from pyro_vae.plots.tables import text_table
from pyro_vae.plots.tokens import chosen
from pyro_vae.programs.context import X


def cells(figure):
    """The texts of a table by rows, the labels at the left among them, where there are any."""
    texts = figure.axes[0].texts
    places = sorted({round(text.get_position()[0], 3) for text in texts})
    rows = {}
    for text in texts:
        x, y = text.get_position()
        rows.setdefault(round(y, 3), [""] * len(places))[places.index(round(x, 3))] = text.get_text()
    return [row for _, row in sorted(rows.items())]


def test_reconstructions_are_greedy_from_the_guides_mean():
    split = letters().train
    found = cells(plots.token_reconstructions(model, guide, split, Letters(), n=5))
    data = Letters().decode(pick(split, 5)[X])
    assert found == [["data", "reconstruction"], *([text, text] for text in data)]
    with pytest.raises(NotApplicable, match="no tokens"):
        plots.token_reconstructions(model, guide, split, None)


def test_a_language_model_has_samples_and_no_reconstructions():
    language = LanguageModel((6,), KINDS, RecurrentTokens((6,), KINDS, features=0, embedding_dim=2, hidden_dim=4))
    split = letters().train
    with pytest.raises(NotApplicable, match="has no latents"):
        plots.token_reconstructions(language, EmptyGuide(), split, Letters())
    with pytest.raises(NotApplicable, match="no latent site"):
        plots.token_interpolations(language, EmptyGuide(), split, Letters())
    assert len(cells(plots.token_samples(language, Letters(), n=3))) == 4


def test_samples_are_draws_of_the_model_and_say_how():
    figure = plots.token_samples(model, Letters(), n=4, temperature=0.5, top_k=2)
    (head, *rows) = cells(figure)
    assert head == ["samples"] and len(rows) == 4 and {*"".join(row[0] for row in rows)} <= {*LETTERS}
    assert figure.get_suptitle() == "Samples of the model, temperature 0.5, top 2 tokens"


def test_interpolations_end_at_the_data():
    split = letters().train
    head, *rows = cells(plots.token_interpolations(model, guide, split, Letters(), pairs=2, steps=3))
    assert head == ["", "pair 1", "pair 2"] and [row[0] for row in rows] == ["datum", "0", "0.5", "1", "datum"]
    data = Letters().decode(pick(split, 4)[X])
    assert rows[0][1:] == rows[1][1:] == data[:2] and rows[3][1:] == rows[4][1:] == data[2:]


def test_a_table_wraps_long_texts_and_draws_what_the_font_lacks_as_boxes():
    long = "word " * 300
    figure = text_table({"a": [long, "$x$ \x1b[31m"], "b": ["日本", "<b>"]}, "costs $5")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[2].count("\n") == 5 and texts[2].endswith("…")
    assert texts[3] == "\u25a1\u25a1" and texts[4] == "$x$ \\x1b[31m" and texts[5] == "<b>"
    registry.png(figure)  # no warning of glyphs, no formula
    heights = [text.get_position()[1] for text in figure.axes[0].texts]
    assert heights[4] - heights[2] > 6 * 0.14  # the next row stands below all lines


def test_no_figure_shows_tokens_as_grey_levels_or_curves(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    data = letters()
    written = {path.stem for path in plots.draw_all(model, guide, data, [], tmp_path)}
    tokens = {"token_reconstructions", "token_samples", "token_interpolations"}
    assert tokens <= written and written - tokens <= {
        "kl_per_unit", "aggregated_posterior", "layer_pca", "latent_scatter", "draws_over_prior", "codebook_usage",
    }  # fmt: skip
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    entry = registry.figures()["reconstructions"]
    run = plots.Shown(model, guide, data.train, tokens=Letters())
    with pytest.raises(NotApplicable, match="neither images nor curves"):
        entry.draw(run)


def test_what_cannot_be_tempered_is_drawn_and_said_so():
    def independent(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(6, 4), 1.0).to_event(2))
            return pyro.sample("x", dist.Categorical(logits=z).to_event(1), obs=x)

    figure = plots.token_reconstructions(independent, guide, letters().train, Letters(), n=3)
    assert figure.get_suptitle().endswith("draws of p(x | z)")


def test_tokens_that_cannot_be_tempered_are_drawn_and_called_draws(caplog):
    def make(**how):
        if how:
            raise InputError("no site of the model can be tempered")
        return "drawn"

    with caplog.at_level("INFO"):
        assert chosen(make) == ("drawn", ", draws of p(x | z)")
    assert "tokens are drawn: no site of the model can be tempered" in caplog.text
    with pytest.raises(InputError):
        chosen(make, {"top_k": 1})  # what was asked for is not replaced

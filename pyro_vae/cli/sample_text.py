"""``pyro-vae sample --text``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pyro_vae.arguments import declared_context
from pyro_vae.errors import InputError
from pyro_vae.recipes import Run


def texts_of(given: Sequence[str]) -> list[str]:
    """The texts of the command line: of one option or several, with ``;`` between them."""
    return [text.strip() for option in given for text in option.split(";")]


def sample_texts(
    run: Run,
    model: nn.Module,
    texts: Sequence[str],
    num: int,
    best_of: int,
    seed: int,
    batch: dict[str, Tensor],
    batch_size: int,
    how: dict[str, Any],
) -> None:
    """Draw images of texts, and write the arrays and a contact sheet of the best, the best first.

    Args:
        run: the run.
        model: its model.
        texts: what to draw.
        num: images of each text.
        best_of: how many are drawn for each that is kept.
        seed: of the draws.
        batch: further context, one row each.
        batch_size: images drawn at once.
        how: temperature, top_k, top_p, guidance, scales.

    Raises:
        InputError: if the run knows no texts, a text is refused, or there is nothing to rank by.
    """
    import numpy as np

    from pyro_vae.evaluation.candidates import draw_best
    from pyro_vae.evaluation.figures import save_figure
    from pyro_vae.evaluation.figures.contact_sheet import contact_sheet
    from pyro_vae.files import write_atomically
    from pyro_vae.recipes.ranker import load_ranker

    if best_of < 1:
        raise InputError(f"--best-of must be a positive integer, got {best_of}: one of so many is kept")
    tokenizer = run.tokenizer()
    if "text" not in declared_context(model):
        raise InputError(f"the prior over texts of {run.path} is not trained to its end: pyro-vae train-prior --resume")
    tokenizer.encode(texts)  # refused ones, before anything is drawn
    scorer = load_ranker(run)
    if scorer is None:
        train = f"pyro-vae train-ranker --on {run.path}"
        if best_of > 1:
            raise InputError(f"{run.path} has no ranker that could tell the best of {best_of}: {train}, or --best-of 1")
        logging.info("no ranker: the images have no scores, and no order (%s)", train)
    if num * best_of > 1:
        logging.info("%d texts, %d images of each, of which %d are kept", len(texts), num * best_of, num)
    best = draw_best(
        model, tokenizer, texts, num, best_of_many=best_of, scorer=scorer, seed=seed, batch=batch,
        batch_size=batch_size, **how,
    )  # fmt: skip
    values = {name: value.numpy() for name, value in best.sites.items()}
    values |= {"x.mean": best.images.numpy(), "text": np.array(texts)}
    if best.scores is not None:
        values["score"] = best.scores.numpy()
    arrays, picture = run.path / "samples.npz", run.file("figures/samples.png")
    write_atomically(arrays, lambda path: np.savez_compressed(path, **values))
    print(arrays)
    title = f"Best of {best_of}" if best_of > 1 else "Samples"
    figure = contact_sheet(best.images, texts, best.scores, f"{title}: mean of p(x | z), z ~ p(z | text)")
    if figure is not None:
        save_figure(figure, picture)
        print(picture)

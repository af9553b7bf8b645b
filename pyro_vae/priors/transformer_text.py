"""The text's part of a transformer, as the network of a distribution over texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from pyro_vae.distributions.autoregressive import Condition
from pyro_vae.priors.transformer_steps import Memory, TransformerSteps

if TYPE_CHECKING:
    from pyro_vae.priors.transformer import TransformerPrior


class TextNetwork:
    """Logits of words: token j of the text has seen j words, and gives those of the next one.

    Behind a pad there are only pads, with probability 1.

    Args:
        prior: whose blocks they are.
    """

    def __init__(self, prior: TransformerPrior) -> None:
        self.prior = prior

    def logits(self, text: Tensor, _: Condition) -> Tensor:
        """Logits ``(batch, num_words, T)`` of a text ``(batch, T)``, in one pass."""
        x = self.prior.prompt.of_text(text)[:, :-1]  # (batch, T, width)
        for block in self.prior.blocks:
            x = block(x, None)
        ended = pad(text == 0, (1, -1)).unsqueeze(1)  # (batch, 1, T)
        return only_pads(self.prior.text_head(x).mT, ended)

    def steps(self, batch: int, _: Condition) -> TextSteps:
        """A memory of the text so far."""
        return TextSteps(self.prior, batch)


class TextSteps:
    """Logits of one word after another.

    Args:
        prior: with the weights that it has now.
        batch: how many texts.
    """

    def __init__(self, prior: TransformerPrior, batch: int) -> None:
        places, table = prior.prompt.text_places[:-1], prior.prompt.words.weight
        memories = [
            Memory(table, batch * block.heads, table.shape[1] // block.heads, len(places), None)
            for block in prior.blocks
        ]
        start = torch.zeros_like(places[0])
        self.steps = TransformerSteps(prior.blocks, memories, table, places, start, prior.text_head, batch)

    def __call__(self, position: int, text: Tensor) -> Tensor:
        """Logits ``(batch, num_words)`` at a position; what its memory holds behind a pad takes no part."""
        logits = self.steps(position, text)
        return logits if position == 0 else only_pads(logits, text[:, position - 1 : position] == 0)


def only_pads(logits: Tensor, where: Tensor) -> Tensor:
    """Logits ``(batch, num_words, ...)``, with all of the probability at word 0 where ``(batch, 1, ...)`` says so."""
    certain = logits.new_full((logits.shape[1], *[1] * (logits.dim() - 2)), -torch.inf)
    certain[0] = 0
    return torch.where(where, certain, logits)

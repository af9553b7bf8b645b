"""The prompt of a transformer prior: text, label and coarser codes as tokens before those of the codes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pyro_vae.networks.transformer import prompt_mask
from pyro_vae.priors.base import CodeGrid

SCALE = 0.02  # standard deviation of embeddings at the start


class Prompt(nn.Module):
    """Tokens ``(batch, P, width)`` of a text, a label and coarser codes, in this order.

    A text of T words has T + 1 tokens: a first one, and one for each word. A pad's is another learned vector at each
    position.

    Args:
        width: of a token.
        text_length, num_words: T, and how many words there are with the pad, 0; None: no text.
        num_classes: labels; None: no label.
        coarser: grids of coarser codes, by name.
        droppable: with learned tokens for "no text" and "no label".

    Attributes:
        length: P.
        text: how many of them are of the text, T + 1 or 0.
    """

    def __init__(
        self,
        width: int,
        text_length: int | None,
        num_words: int | None,
        num_classes: int | None,
        coarser: Mapping[str, CodeGrid],
        droppable: bool,
    ) -> None:
        super().__init__()
        self.words = embedding(num_words, width) if num_words else None
        self.labels = embedding(num_classes + droppable, width) if num_classes else None
        self.no_label = num_classes
        self.text = 0
        if text_length is not None:
            self.text = text_length + 1
            self.pads, self.text_places = learned(text_length, width), learned(self.text, width)
            self.no_text = learned(self.text, width) if droppable else None
        self.codes = nn.ModuleDict({name: embedding(grid.num_codes, width) for name, grid in coarser.items()})
        self.places = nn.ModuleDict({name: Places(grid.shape, width) for name, grid in coarser.items()})
        others = (num_classes is not None) + sum(places.count for places in self.places.values())
        self.length = self.text + others
        mask = prompt_mask(self.text, others) if others > 1 else None  # a single one comes last: simply causal
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, context: Mapping[str, Tensor], dropped: Tensor | None = None) -> Tensor:
        """Tokens ``(batch, P, width)``.

        Args:
            context: text ``(batch, T)``, y ``(batch,)``, coarser codes ``(batch, *their shape)``.
            dropped: bool ``(batch,)``, where text and label are left out; None: nowhere.
        """
        tokens = []
        if self.words is not None:
            text = self.of_text(context["text"])
            tokens.append(text if dropped is None else torch.where(dropped[:, None, None], self.no_text, text))
        if self.labels is not None:
            y = context["y"] if dropped is None else context["y"].masked_fill(dropped, self.no_label)
            tokens.append(self.labels(y).unsqueeze(1))
        for name, codes in self.codes.items():
            tokens.append((codes(context[name]) + self.places[name]()).flatten(1, -2))
        return torch.cat(tokens, 1)

    def of_text(self, text: Tensor) -> Tensor:
        """Tokens ``(batch, L + 1, width)`` of a text's first L words: that at j holds word j, the first nothing."""
        content = torch.where((text == 0).unsqueeze(-1), self.pads[: text.shape[1]], self.words(text))
        return pad(content, (0, 0, 1, 0)) + self.text_places[: text.shape[1] + 1]


class Places(nn.Module):
    """Learned vectors of a grid's positions: that of the row plus that of the column, ``(*shape, width)``.

    Args:
        shape: of the grid.
        width: of the vectors.

    Attributes:
        count: positions.
    """

    def __init__(self, shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.sides = nn.ParameterList(learned(side, width) for side in shape)
        self.count = torch.Size(shape).numel()

    def forward(self) -> Tensor:
        """All of them."""
        rank = len(self.sides)
        axes = [side.reshape(*[1] * i, -1, *[1] * (rank - 1 - i), side.shape[1]) for i, side in enumerate(self.sides)]
        total = axes[0]
        for axis in axes[1:]:
            total = total + axis
        return total


def learned(count: int, width: int) -> nn.Parameter:
    """Vectors ``(count, width)``."""
    return nn.Parameter(SCALE * torch.randn(count, width))


def embedding(count: int, width: int) -> nn.Embedding:
    """An embedding that starts small, so that it does not drown the places'."""
    return nn.Embedding(count, width, _weight=SCALE * torch.randn(count, width))

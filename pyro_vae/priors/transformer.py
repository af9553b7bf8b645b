"""A transformer as a prior over codes, given a text, a label or coarser codes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pyro_vae.distributions import Sequences
from pyro_vae.distributions.autoregressive import Condition
from pyro_vae.errors import InputError
from pyro_vae.networks.layers import check_sizes
from pyro_vae.networks.transformer import Attention, TransformerBlock, after_prompt, grid_mask, layer_kinds
from pyro_vae.networks.transformer_steps import Memory, PickedMemory, TransformerSteps
from pyro_vae.priors.base import AutoregressivePrior
from pyro_vae.priors.prompt import Places, Prompt, embedding, learned


class TextNetwork:
    """What a prior's blocks make of a text: token j has seen j words, and gives the logits of the next one.

    Args:
        prior: whose blocks they are.
    """

    ends = None  # a text may also fill all of its places

    def __init__(self, prior: TransformerPrior) -> None:
        self.prior = prior

    def hidden(self, text: Tensor, _: Condition) -> Tensor:
        """What gives the logits, ``(batch, L, width)``, of the first L words of texts, in one pass."""
        x = self.prior.prompt.of_text(text)[:, :-1]  # (batch, L, width)
        for block in self.prior.blocks:
            x = block(x, None)
        return x

    def output(self, hidden: Tensor) -> Tensor:
        """Logits ``(..., num_words)``."""
        return self.prior.text_head(hidden)

    def steps(self, batch: int, _: Condition) -> TransformerSteps:
        """A memory of the text so far."""
        prior = self.prior
        places, table = prior.prompt.text_places[:-1], prior.prompt.words.weight
        memories = [
            Memory(table, batch * block.heads, table.shape[1] // block.heads, len(places), None)
            for block in prior.blocks
        ]
        start = torch.zeros_like(places[0])
        norm, last = prior.text_head  # pyright: ignore[reportGeneralTypeIssues]
        return TransformerSteps(prior.blocks, memories, table, places, start, norm, last.weight, last.bias, batch)


PROMPT = "prompt"  # in the condition: keys and values of its tokens


class TransformerPrior(AutoregressivePrior):
    r"""Self-attention over [text | label, coarser codes | codes], a prior over codes and over texts.

    Token i of the codes holds code i - 1 and the place of i, and gives the logits of code i:

    .. math::
        h_i = e_{k_{i-1}} + r_{row(i)} + c_{column(i)}, \quad \ell = B\,\mathrm{norm}(\mathrm{blocks}(h))

    It sees all that is given and, with ``attention="full"``, all tokens before it; with "sparse" each layer sees a
    part: the positions back to the one right above, its column, or (the last layer) a window
    (:mod:`pyro_vae.networks.transformer`). The text's tokens see what is before them in the text only, so that
    :meth:`text` is p(text), of the same network.

    Args:
        num_codes: K.
        shape: (height, width), or (length,).
        num_classes: labels that it is given; None: no label.
        coarser: grids of coarser codes that it is given, by site name.
        text_length: T, words of a text; None: no text.
        num_words: words 0 … num_words - 1 of a text, of which 0 is the pad behind its end.
        width, num_layers, heads: of the transformer.
        attention: "full" or "sparse".
        window: side of the last layer's window with "sparse", odd.
        dropout: of what the layers add, in training; not at tokens that are given.
        text_weight: part of the text in the loss of training, see :meth:`training_scales`.
        condition_dropout: probability of leaving out text and label in a distribution that is made in training mode,
            so that samples can be guided (:meth:`~pyro_vae.distributions.Autoregressive.guided`).

    Raises:
        InputError: for sizes that cannot be.

    Source: Ramesh et al. 2021, arXiv:2102.12092; guidance: Ho & Salimans 2022, arXiv:2207.12598.

    Example:
        >>> import torch
        >>> from pyro_vae.priors import TransformerPrior
        >>> prior = TransformerPrior(6, (4, 4), text_length=3, num_words=5, width=8, num_layers=2, heads=2)
        >>> text = prior.text().sample((2,))
        >>> text.shape, prior(text=text).sample().shape
        (torch.Size([2, 3]), torch.Size([2, 4, 4]))
    """

    def __init__(
        self,
        num_codes: int,
        shape: Sequence[int],
        num_classes: int | None = None,
        coarser: Mapping[str, tuple[int, Sequence[int]]] | None = None,
        text_length: int | None = None,
        num_words: int | None = None,
        width: int = 128,
        num_layers: int = 4,
        heads: int = 4,
        attention: Attention = "full",
        window: int = 11,
        dropout: float = 0.0,
        text_weight: float = 1 / 8,
        condition_dropout: float = 0.0,
    ) -> None:
        super().__init__(num_codes, shape, num_classes, coarser, text_length, num_words)
        check_sizes("TransformerPrior", dropout, width=width, num_layers=num_layers)
        if len(self.shape) > 2:
            raise InputError(f"TransformerPrior needs a grid (height, width) or (length,), got {self.shape}")
        if not 0 < text_weight < 1:
            raise InputError(f"TransformerPrior: text_weight must lie between 0 and 1, got {text_weight}")
        if not 0 <= condition_dropout < 1:
            raise InputError(
                f"TransformerPrior: condition_dropout must be a probability below 1, got {condition_dropout}"
            )
        if condition_dropout and text_length is None and num_classes is None:
            raise InputError("TransformerPrior: condition_dropout needs a text or a label that it could leave out")
        self.text_weight, self.condition_dropout = text_weight, condition_dropout
        self.prompt = Prompt(width, text_length, num_words, num_classes, self.coarser, condition_dropout > 0)
        self.embedding, self.start, self.places = embedding(num_codes, width), learned(1, width), Places(shape, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, num_layers, dropout) for _ in range(num_layers))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_codes))
        self.text_head = None if num_words is None else nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_words))
        self.kinds = layer_kinds(attention, num_layers)
        for kind in sorted({*self.kinds}):
            mask = grid_mask(kind, self.shape, window)
            plain = kind == "full" and not self.prompt.length  # then attention kernels know the mask
            self.register_buffer(f"{kind}_mask", mask if not plain else None, persistent=False)
            masks = None if plain else after_prompt(mask, self.prompt.length)
            self.register_buffer(f"{kind}_mask_after_prompt", masks, persistent=False)

    @property
    def draws_text(self) -> bool:
        """Whether it was built with texts."""
        return self.text_length is not None

    def text(self) -> Sequences:
        """p(text), a distribution over ``(T,)`` int64: words, and pads behind the end.

        A text's probability is that of its words and of the first pad, the end; what comes behind is certain.

        Raises:
            InputError: if it was built without text.
        """
        if self.text_length is None:
            raise InputError("the prior has no text: build it with text_length and num_words")
        return Sequences(TextNetwork(self), self.num_words, (self.text_length,), device=self.device)

    def text_log_prob(self, text: Tensor) -> Tensor:
        """log p(text) in nats, ``(...)`` of texts ``(..., T)``; see :meth:`text`."""
        return self.text().log_prob(text)

    def training_scales(self) -> tuple[float, float]:
        """What log p(text) and log p(codes | text) are multiplied with in training.

        w (T + N) / T and (1 - w) (T + N) / N: cross-entropies per position, with weights w and 1 - w, in units in which
        w = T / (T + N) is the joint density itself. Evaluation has no weights.

        Raises:
            InputError: if it was built without text.
        """
        if self.text_length is None:
            raise InputError("the prior has no text: build it with text_length and num_words")
        text, codes, weight = self.text_length, math.prod(self.shape), self.text_weight
        return weight * (text + codes) / text, (1 - weight) * (text + codes) / codes

    def condition(self, context: Condition) -> Condition:
        """The context, and keys and values of its tokens in every layer, ``(batch, num_layers, 2, heads, P, d)``."""
        if not self.prompt.length:
            return {}
        dropped = None
        if self.training and self.condition_dropout:
            batch = len(next(iter(context.values())))
            dropped = torch.rand(batch, dtype=torch.float32, device=self.device) < self.condition_dropout
        return {**context, PROMPT: self._keys_and_values(context, dropped)}

    def without(self, condition: Condition) -> Condition:
        """The condition without text and label, as it was learned with ``condition_dropout``.

        Raises:
            InputError: if that was 0.
        """
        if not self.condition_dropout:
            return super().without(condition)
        context = {name: value for name, value in condition.items() if name != PROMPT}
        dropped = torch.ones(len(condition[PROMPT]), dtype=torch.bool, device=self.device)
        return {**context, PROMPT: self._keys_and_values(context, dropped)}

    def _keys_and_values(self, context: Condition, dropped: Tensor | None) -> Tensor:
        x, kept = self.prompt(context, dropped), []  # (batch, P, width)
        for i, block in enumerate(self.blocks):
            q, k, v = block.project(x)
            kept.append(torch.stack([k, v], 1))
            if i + 1 < len(self.blocks):
                x = block.add(x, q, k, v, self.prompt.mask, drop=False)
        return torch.stack(kept, 1)

    def logits(self, codes: Tensor, condition: Condition) -> Tensor:
        """Logits ``(batch, K, *shape)`` of codes ``(batch, *shape)``, in one pass."""
        before = self.embedding(codes).flatten(1, -2)[:, :-1]  # (batch, N - 1, width)
        x = torch.cat([self.start.expand(len(before), 1, -1), before], 1) + self._places()
        for i, (block, kind) in enumerate(zip(self.blocks, self.kinds, strict=True)):
            given = condition[PROMPT][:, i] if PROMPT in condition else None
            x = block(x, getattr(self, f"{kind}_mask_after_prompt"), given)
        return self.head(x).mT.unflatten(2, self.shape)

    def _places(self) -> Tensor:
        return self.places().flatten(0, -2)  # (N, width)

    def steps(self, batch: int, condition: Condition) -> TransformerSteps:
        """A memory of keys and values: those of the condition, and of the codes so far."""
        memories = [self._memory(i, batch, condition) for i in range(len(self.blocks))]
        places, start, table = self._places(), self.start[0], self.embedding.weight
        norm, last = self.head
        return TransformerSteps(self.blocks, memories, table, places, start, norm, last.weight, last.bias, batch)

    def _memory(self, layer: int, batch: int, condition: Condition) -> Memory | PickedMemory:
        heads, kind = self.blocks[layer].heads, self.kinds[layer]
        sizes = batch * heads, self.start.shape[1] // heads
        given = condition[PROMPT][:, layer] if PROMPT in condition else None
        if kind in ("column", "window"):
            return PickedMemory(getattr(self, f"{kind}_mask"), self.start, *sizes, given)
        positions = math.prod(self.shape)
        kept = min(self.shape[1] + 1, positions) if kind == "row" else positions
        return Memory(self.start, *sizes, kept, given)

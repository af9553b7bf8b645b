"""A transformer as a prior over codes, given a text, a label or coarser codes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from pyro_vae.distributions import Sequences
from pyro_vae.distributions.autoregressive import Condition
from pyro_vae.errors import InputError
from pyro_vae.networks.gated import transposed
from pyro_vae.networks.transformer import Attention, TransformerBlock, after_prompt, grid_mask, layer_kinds
from pyro_vae.priors.base import AutoregressivePrior, check_sizes
from pyro_vae.priors.prompt import Places, Prompt, embedding, learned


class TransformerSteps:
    """Logits of one position after another; each token goes through the layers once.

    The memory of a layer holds keys and values of what its mask can still see: all, or a ring of one row and one
    position, or all of which those are taken out that are seen. Keys and values of given tokens stand before
    them, computed in one pass. It runs in the weights' precision, also under autocast.

    Args:
        blocks: the layers, with the weights that they have now.
        memories: of the layers.
        table: vectors of the codes, ``(K, width)``.
        places: what is added at each position, ``(N, width)``.
        start: what stands at position 0 in the place of a code before it, ``(width,)``.
        head: a LayerNorm and a linear map to logits.
        batch: how many grids.
    """

    def __init__(
        self,
        blocks: Sequence[TransformerBlock],
        memories: Sequence[Memory],
        table: Tensor,
        places: Tensor,
        start: Tensor,
        head: nn.Sequential,
        batch: int,
    ) -> None:
        self.table, self.places = table.detach(), places.detach().unbind(0)
        self.first = (start + places[0]).detach().expand(batch, -1)
        self.layers = [LayerSteps(block, memory, batch) for block, memory in zip(blocks, memories, strict=True)]
        self.norm = normalization(head[0])
        self.map = transposed(head[1].weight), head[1].bias.detach()
        device = table.device.type
        self.guard = torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()

    def __call__(self, position: int, codes: Tensor) -> Tensor:
        """Logits ``(batch, K)`` at a position, given codes ``(batch, N)`` of which those before it are known."""
        with self.guard:
            x = self.first
            if position > 0:
                x = torch.add(self.table.index_select(0, codes[:, position - 1]), self.places[position])
            for layer in self.layers:
                x = layer(position, x)
            return torch.addmm(self.map[1], torch.layer_norm(x, *self.norm), self.map[0])


class LayerSteps:
    """One block for one token: ten small operations; at this size it is their number that costs.

    Args:
        block: with the weights that it has now.
        memory: of its keys and values.
        batch: how many grids.
    """

    def __init__(self, block: TransformerBlock, memory: Memory, batch: int) -> None:
        self.memory, self.norm, self.mlp_norm = memory, normalization(block.norm), normalization(block.mlp_norm)
        weight, bias = block.queries_keys_values.weight.detach(), block.queries_keys_values.bias.detach()
        width = weight.shape[1]
        self.maps, self.bias = weight.view(3, width, width).mT.contiguous(), bias.view(3, 1, width)
        self.scale = (width // block.heads) ** -0.5
        self.qkv = weight.new_empty(3, batch, width)
        rows = batch * block.heads
        self.q = self.qkv[0].view(rows, 1, -1)
        self.kv = self.qkv[1:].view(2, rows, -1)
        self.seen = weight.new_empty(batch, width)
        self.seen_rows = self.seen.view(rows, 1, -1)
        self.none = weight.new_zeros(())
        self.out, self.down = transposed(block.out.weight), transposed(block.down.weight)
        self.up, self.up_bias = transposed(block.up.weight), block.up.bias.detach()
        self.wide = weight.new_empty(batch, len(self.up_bias))

    def __call__(self, position: int, x: Tensor) -> Tensor:
        """x'' ``(batch, width)`` of x."""
        h = torch.layer_norm(x, *self.norm)
        torch.baddbmm(self.bias, h.expand(3, *h.shape), self.maps, out=self.qkv)
        keys, values = self.memory(position, self.kv)
        scores = torch.baddbmm(self.none, self.q, keys.mT, beta=0, alpha=self.scale)  # (batch * heads, 1, seen)
        torch.bmm(torch.softmax(scores, -1), values, out=self.seen_rows)
        x = torch.addmm(x, self.seen, self.out)
        torch.addmm(self.up_bias, torch.layer_norm(x, *self.mlp_norm), self.up, out=self.wide)
        return torch.addmm(x, torch.nn.functional.gelu(self.wide), self.down)


class Memory:
    """Keys and values of given tokens and of the last ``size`` positions: the newest takes the place of the oldest.

    What order they have does not matter to attention: the tokens know their places.

    Args:
        like: for dtype and device.
        rows: batch times heads.
        dim: of a head.
        size: positions that are kept.
        given: keys and values of P given tokens, ``(batch, 2, heads, P, dim)``; None: there are none.
    """

    def __init__(self, like: Tensor, rows: int, dim: int, size: int, given: Tensor | None) -> None:
        self.given = 0 if given is None else given.shape[3]
        self.kept = like.new_empty(2, rows, self.given + size, dim)
        if given is not None:
            self.kept[:, :, : self.given] = given.detach().movedim(1, 0).flatten(1, 2)
        self.size, self.slots = size, self.kept.unbind(2)[self.given :]
        self.keys, self.values = self.kept.unbind(0)

    def __call__(self, position: int, keys_values: Tensor) -> tuple[Tensor, Tensor]:
        """Take those of a position, ``(2, rows, dim)``; give all that it sees, ``(rows, seen, dim)`` each."""
        self.slots[position % self.size].copy_(keys_values)
        seen = self.given + min(position + 1, self.size)
        return self.keys.narrow(1, 0, seen), self.values.narrow(1, 0, seen)


class PickedMemory:
    """Keys and values of all positions, of which each sees some: they are copied out, to behind the given tokens.

    Args:
        mask: bool ``(N, N)``, which a position sees.
        like, rows, dim, given: see :class:`Memory`.
    """

    def __init__(self, mask: Tensor, like: Tensor, rows: int, dim: int, given: Tensor | None) -> None:
        counts = mask.sum(1).tolist()
        self.picked = mask.nonzero()[:, 1].split(counts)
        self.work = Memory(like, rows, dim, max(counts), given)
        self.kept = like.new_empty(2, rows, len(mask), dim)
        self.slots = self.kept.unbind(2)

    def __call__(self, position: int, keys_values: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Memory`."""
        self.slots[position].copy_(keys_values)
        picked, work = self.picked[position], self.work
        seen = work.given + len(picked)
        work.kept[:, :, work.given : seen] = self.kept.index_select(2, picked)
        return work.keys.narrow(1, 0, seen), work.values.narrow(1, 0, seen)


def normalization(norm: nn.LayerNorm) -> tuple[tuple[int, ...], Tensor, Tensor, float]:
    """A LayerNorm as arguments of ``torch.layer_norm``."""
    return norm.normalized_shape, norm.weight.detach(), norm.bias.detach(), norm.eps


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
        return TransformerSteps(prior.blocks, memories, table, places, start, prior.text_head, batch)


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
        places, start = self._places(), self.start[0]
        return TransformerSteps(self.blocks, memories, self.embedding.weight, places, start, self.head, batch)

    def _memory(self, layer: int, batch: int, condition: Condition) -> Memory | PickedMemory:
        heads, kind = self.blocks[layer].heads, self.kinds[layer]
        sizes = batch * heads, self.start.shape[1] // heads
        given = condition[PROMPT][:, layer] if PROMPT in condition else None
        if kind in ("column", "window"):
            return PickedMemory(getattr(self, f"{kind}_mask"), self.start, *sizes, given)
        positions = math.prod(self.shape)
        kept = min(self.shape[1] + 1, positions) if kind == "row" else positions
        return Memory(self.start, *sizes, kept, given)

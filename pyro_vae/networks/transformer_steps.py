"""A transformer's memory of what it has read: each token goes through the layers once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from pyro_vae.networks.gated import transposed
from pyro_vae.networks.transformer import TransformerBlock


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
        start: what stands at position 0 in the place of a code before it, ``(width,)`` or ``(batch, width)``.
        norm: before the last map.
        weight, bias: of the last map, to logits.
        batch: how many grids.
    """

    def __init__(
        self,
        blocks: Sequence[TransformerBlock],
        memories: Sequence[Memory],
        table: Tensor,
        places: Tensor,
        start: Tensor,
        norm: nn.LayerNorm,
        weight: Tensor,
        bias: Tensor,
        batch: int,
    ) -> None:
        self.table, self.places = table.detach(), places.detach().unbind(0)
        self.first = (start + places[0]).detach().expand(batch, -1)
        self.layers = [LayerSteps(block, memory, batch) for block, memory in zip(blocks, memories, strict=True)]
        self.norm = normalization(norm)
        self.map = transposed(weight), bias.detach()
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

    def take(self, rows: Tensor) -> None:
        """Go on with other sequences, as many as before: the i-th one is what ``rows[i]`` was."""
        for layer in self.layers:
            layer.memory.take(rows)


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

    def take(self, rows: Tensor) -> None:
        """Let the i-th of the batch be what ``rows[i]`` was."""
        kept = self.kept.unflatten(1, (len(rows), -1))  # (2, batch, heads, seen, dim)
        kept.copy_(kept[:, rows])


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

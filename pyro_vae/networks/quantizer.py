"""Vector quantization: the nearest vectors of a codebook in the place of a network's outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import normalize

from pyro_vae.errors import InputError, unknown
from pyro_vae.networks.k_means import k_means, nearest_codes
from pyro_vae.networks.straight_through import look_up, quantize

UPDATES, DISTANCES = ("ema", "gradient"), ("euclidean", "cosine")


def check_options(
    num_codes: int,
    dim: int,
    grid_dim: int,
    update: str,
    decay: float,
    commitment: float,
    distance: str,
    restart_below: float,
) -> None:
    """Check what :class:`~pyro_vae.networks.VectorQuantizer` is given.

    Raises:
        InputError: names what is out of range or unknown.
    """
    if update not in UPDATES:
        raise unknown("update", update, UPDATES)
    if distance not in DISTANCES:
        raise unknown("distance", distance, DISTANCES)
    if num_codes < 1 or dim < 1 or grid_dim < 0:
        raise InputError(
            f"num_codes and dim must be positive and grid_dim not negative, got {num_codes}, {dim} and {grid_dim}"
        )
    if not 0 < decay < 1:
        raise InputError(f"decay must lie between 0 and 1, got {decay}")
    if not 0 <= commitment < math.inf:
        raise InputError(f"commitment must be a number from 0 on, got {commitment}")
    if not 0 <= restart_below < 1:
        raise InputError(f"restart_below is a fraction of the mean count and must lie in [0, 1), got {restart_below}")
    if restart_below and update != "ema":
        raise InputError("restart_below needs update 'ema': a codebook that the optimizer moves is not restarted")


def memory_for_scores(num_codes: int, dim: int, memory_mib: float) -> int:
    """Bytes of the budget that are left for the scores of vectors searched at a time.

    The rest is for scratch tensors of the codebook's size: the centered codebook, the batch's sums and counts.

    Raises:
        InputError: if not even the scores of one vector fit.
    """
    fixed, row = 4 * num_codes * 2 * (dim + 1), 4 * num_codes
    if not fixed + row <= memory_mib * 2**20:
        raise InputError(
            f"{num_codes} codes of {dim} numbers need {(fixed + row) / 2**20:.4g} MiB to search for one vector and to "
            f"gather statistics, memory_mib allows {memory_mib:g}: use fewer codes or raise it"
        )
    return int(memory_mib * 2**20) - fixed


def world() -> tuple[int, int]:
    """This process's rank and the number of processes; (0, 1) where there is one only."""
    if not dist.is_available() or not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def summed(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, without a gradient; all of them must come here, in the same order."""
    if world()[1] == 1:
        return value
    from torch.distributed import _functional_collectives as collectives  # in-place ones cannot be recorded

    group = dist.group.WORLD
    assert group is not None
    return collectives.wait_tensor(collectives.all_reduce(value, "sum", group))


def drawn_rows(rows: Tensor, number: int) -> Tensor:
    """Random rows of the joint batch of all processes, the same on all of them.

    The batch is cut into as many pieces as rows are asked for and one is drawn from each, so that they are different
    ones if there are enough; where the first piece begins is random.

    Args:
        rows: this process's, ``(rows, dim)``, as many on each.
        number: how many to draw.

    Returns:
        ``(number, dim)``.
    """
    rank, processes = world()
    total, pieces = len(rows) * processes, torch.arange(number, device=rows.device)
    within = torch.randint(max(1, total // number), pieces.shape, device=rows.device)
    begin = torch.randint(total, (), device=rows.device)
    chosen = (pieces * total // number + within + begin) % total  # (number,)
    if processes == 1:
        return rows[chosen]
    chosen = summed(chosen if rank == 0 else torch.zeros_like(chosen))  # the first process's draw
    ours = chosen - rank * len(rows)
    inside = (ours >= 0) & (ours < len(rows))
    return summed(torch.where(inside[:, None], rows[ours.clamp(0, len(rows) - 1)], 0.0))


SMOOTHING = 1e-5  # of the counts that sums are divided by
TINY = 1e-12  # a sum shorter than this gives no direction
IN_USE = 0.01  # of the mean running count: codes with less are counted as unused


class Quantized(NamedTuple):
    """What a quantizer makes of vectors.

    Attributes:
        codes: int64 ``(..., *grid)``, numbers of the nearest vectors.
        z: these vectors, ``(..., dim, *grid)``, bit by bit what ``embed(codes)`` gives, in the codebook's type; their
            gradient goes to the input.
        penalty: ``(...,)``, nats, summed over dim and grid: what is to be added to the loss.
        perplexity: exp(entropy of the running counts' shares), a scalar from 1 to num_codes.
        usage: fraction of codes with a running count of at least 1% of the mean one, a scalar.
    """

    codes: Tensor
    z: Tensor
    penalty: Tensor
    perplexity: Tensor
    usage: Tensor


class VectorQuantizer(nn.Module):
    r"""z = e_k with k the nearest code to z_e at each position of a grid, and a straight-through gradient.

    .. math:: k = \arg\min_j |z_e - e_j|, \quad
        \mathrm{penalty} = \beta |z_e - \mathrm{sg}[e_k]|^2 \; (+ |\mathrm{sg}[z_e] - e_k|^2)

    The codebook's own loss, in brackets, is there with update "gradient". With update "ema" the codebook is a moving
    average of the vectors that chose each code (n of them in a batch):

    .. math:: N \leftarrow \gamma N + (1 - \gamma) n, \quad m \leftarrow \gamma m + (1 - \gamma) \sum z_e, \quad
        e = m / \tilde N, \quad \tilde N_k = \frac{N_k + \epsilon}{\sum_j N_j + K \epsilon} \sum_j N_j

    In training mode each call (1) restarts dead codes and sets e = m / Ñ from what earlier batches left, (2) finds
    codes and vectors, (3) updates N and m. So all that uses the codebook in one step sees the same one, the guide's
    call and the model's :meth:`embed`; it lags one step behind the statistics. A training step calls it once;
    particles are leading dimensions. In evaluation mode nothing changes.

    All is computed in float32 (float64 for such input), also under mixed precision. Data-parallel processes share the
    sums over all their batches, and have the same codebook.

    Before it is initialized (:meth:`initialize`; ``fit`` does it) the codebook is usable: random vectors of length 1.

    Args:
        num_codes: K.
        dim: length of a vector.
        grid_dim: number of dimensions of the grid: 2 for images' features ``(..., dim, H, W)``, 1 for signals', 0 for
            single vectors ``(..., dim)``.
        update: how the codebook is learned, "ema" or "gradient" (of the codebook loss, by the optimizer).
        decay: gamma.
        commitment: beta.
        distance: "euclidean", or "cosine": z_e and codebook are normalized to length 1 first, z as well.
        rotation_trick: the gradient is turned and scaled as z_e is to become z, instead of handed through as it is.
        restart_below: a code whose running count is below this fraction of the mean count starts anew at a random
            vector of the batch, with just that count (0: never; with update "ema").
        k_means: be initialized by k-means on the first data, where ``fit`` is used.
        memory_mib: what a call may use beside its input and output. The search goes through the vectors in parts
            that keep within it.

    Raises:
        InputError: for sizes or rates out of range, an unknown update or distance, more codes than the memory allows.

    Source: van den Oord et al. 2017, arXiv:1711.00937; Razavi et al. 2019, arXiv:1906.00446 (moving averages);
    Fifty et al. 2024, arXiv:2410.06424 (rotation trick); Yu et al. 2021, arXiv:2110.04627 (cosine distance); Dhariwal
    et al. 2020, arXiv:2005.00341 (restarts).

    Example:
        >>> import torch
        >>> from pyro_vae.networks import VectorQuantizer
        >>> quantizer = VectorQuantizer(num_codes=32, dim=4)
        >>> quantized = quantizer(torch.randn(5, 4, 8, 8))
        >>> quantized.codes.shape, quantized.z.shape, quantized.penalty.shape
        (torch.Size([5, 8, 8]), torch.Size([5, 4, 8, 8]), torch.Size([5]))
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor
    initialized: Tensor

    def __init__(
        self,
        num_codes: int,
        dim: int,
        grid_dim: int = 2,
        update: Literal["ema", "gradient"] = "ema",
        decay: float = 0.99,
        commitment: float = 0.25,
        distance: Literal["euclidean", "cosine"] = "euclidean",
        rotation_trick: bool = False,
        restart_below: float = 0.0,
        k_means: bool = True,
        memory_mib: float = 128.0,
    ) -> None:
        super().__init__()
        check_options(num_codes, dim, grid_dim, update, decay, commitment, distance, restart_below)
        self.num_codes, self.dim, self.grid_dim = num_codes, dim, grid_dim
        self.update, self.distance = update, distance
        self.decay, self.commitment, self.restart_below = decay, commitment, restart_below
        self.rotation_trick = rotation_trick
        self.memory = memory_for_scores(num_codes, dim, memory_mib)  # bytes
        start = normalize(torch.randn(num_codes, dim), dim=1)  # by direction all are somebody's nearest
        self.register_buffer("counts", torch.ones(num_codes))
        if update == "ema":
            self.register_buffer("codebook", start)
            self.register_buffer("sums", start.clone())
        else:
            self.codebook = nn.Parameter(start)
        self.register_buffer("initialized", torch.tensor(not k_means))

    def extra_repr(self) -> str:
        """What print shows."""
        return f"{self.num_codes}, {self.dim}, grid_dim={self.grid_dim}, update='{self.update}'"

    @property
    def vectors(self) -> Tensor:
        """The codebook as it is used, ``(num_codes, dim)``: normalized for the cosine distance."""
        if self.distance == "cosine" and self.update == "gradient":  # else the buffer holds them
            return normalize(self.codebook, dim=1)
        return self.codebook

    def embed(self, codes: Tensor) -> Tensor:
        """Look up codes ``(..., *grid)``: ``(..., dim, *grid)``, without a gradient.

        Raises:
            InputError: if codes are no integers, or have fewer dimensions than the grid.
        """
        if codes.is_floating_point() or codes.dim() < self.grid_dim:
            grid = "single codes" if self.grid_dim == 0 else f"grids of {self.grid_dim} dimensions"
            raise InputError(f"the quantizer embeds integers, {grid}; got {codes.dtype} {tuple(codes.shape)}")
        leading, grid = codes.shape[: codes.dim() - self.grid_dim], codes.shape[codes.dim() - self.grid_dim :]
        flat = codes.reshape(self._flat(leading, (), grid))
        return look_up(self.vectors.detach(), flat).reshape(*leading, self.dim, *grid)

    @torch.no_grad()
    def nearest(self, z_e: Tensor) -> Tensor:
        """Codes ``(..., *grid)`` of vectors ``(..., dim, *grid)``; nothing changes, in any mode.

        Raises:
            InputError: as :meth:`forward`.
        """
        leading, grid = self._split(z_e)
        with torch.autocast(z_e.device.type, enabled=False):
            rows = self._prepared(z_e).movedim(-1 - self.grid_dim, -1).reshape(-1, self.dim)  # (rows, dim)
            codes = nearest_codes(rows, self.vectors.to(rows.dtype), self.memory)
        return codes.reshape(*leading, *grid)

    def forward(self, z_e: Tensor) -> Quantized:
        """Quantize vectors ``(..., dim, *grid)``; in training mode the codebook's statistics follow.

        Raises:
            InputError: if the vectors have another length or are no real numbers, or dimensions are missing.
        """
        leading, grid = self._split(z_e)
        with torch.autocast(z_e.device.type, enabled=False):
            flat = self._prepared(z_e).reshape(self._flat(leading, (self.dim,), grid))  # (batch, dim[, positions])
            with torch.no_grad():
                rows = flat.movedim(1, -1).reshape(-1, self.dim)  # (rows, dim)
                if self.training and self.update == "ema":
                    self._refresh(rows)
                codes = nearest_codes(rows, self.vectors.to(rows.dtype), self.memory)  # (rows,)
                if self.training:
                    self._follow(rows, codes)
                del rows
                perplexity, usage = self._in_use()
            codes = codes.reshape(self._flat(leading, (), grid))
            learned = 1.0 if self.update == "gradient" else 0.0
            z, penalty = quantize(flat, self.vectors, codes, self.commitment, learned, self.rotation_trick)
        shape = (*leading, self.dim, *grid)
        return Quantized(codes.reshape(*leading, *grid), z.reshape(shape), penalty.reshape(leading), perplexity, usage)

    @torch.no_grad()
    def initialize(self, z_e: Tensor) -> None:
        """Set codebook and statistics by k-means on vectors ``(..., dim, *grid)``, in any mode.

        Counts are scaled to mean 1, so that the first batches move the codebook quickly. Data-parallel processes
        must be given the same vectors and random state.

        Raises:
            InputError: as :meth:`forward`, or if there is no vector.
        """
        leading, grid = self._split(z_e)
        with torch.autocast(z_e.device.type, enabled=False):
            flat = self._prepared(z_e).reshape(self._flat(leading, (self.dim,), grid))
            rows = flat.movedim(1, -1).reshape(-1, self.dim)
            if not len(rows):
                raise InputError("the quantizer needs at least one vector to be initialized from")
            vectors, counts = k_means(rows, self.num_codes, self.memory, self.distance == "cosine")
        counts = counts.clamp(min=1) / counts.clamp(min=1).mean()
        self.codebook.copy_(vectors)
        self.counts.copy_(counts)
        if self.update == "ema":
            self.sums.copy_(vectors * counts[:, None])
        self.initialized.fill_(True)

    def _refresh(self, rows: Tensor) -> None:
        """Step 1: the codebook of the statistics so far, dead codes at vectors of the batch."""
        if self.restart_below:
            low = self.restart_below * self.counts.mean()
            dead = self.counts < low  # (num_codes,)
            fresh = low * drawn_rows(rows, self.num_codes).to(self.sums.dtype)
            self.sums.copy_(torch.where(dead[:, None], fresh, self.sums))
            self.counts.copy_(torch.where(dead, low, self.counts))
        if self.distance == "cosine":
            length = self.sums.norm(dim=1, keepdim=True)  # an unused code's sum fades away; its direction stays
            self.codebook.copy_(torch.where(length > TINY, self.sums / length, self.codebook))
        else:
            total = self.counts.sum()
            smoothed = (self.counts + SMOOTHING) / (total + self.num_codes * SMOOTHING) * total
            self.codebook.copy_(self.sums / smoothed[:, None])

    def _follow(self, rows: Tensor, codes: Tensor) -> None:
        """Step 3: running counts and sums of the vectors that chose each code, over all processes."""
        width = self.dim if self.update == "ema" else 0
        batch = rows.new_zeros(self.num_codes, width + 1)  # sums, and counts in the last column
        batch[:, width].index_add_(0, codes, torch.ones_like(rows[:, 0]))
        if width:
            batch[:, :width].index_add_(0, codes, rows)
        batch = summed(batch).to(self.counts.dtype)
        self.counts.lerp_(batch[:, width], 1 - self.decay)
        if width:
            self.sums.lerp_(batch[:, :width], 1 - self.decay)

    def _in_use(self) -> tuple[Tensor, Tensor]:
        """Perplexity and usage by the running counts."""
        share = self.counts / self.counts.sum()
        used = share >= IN_USE / self.num_codes
        return torch.special.entr(share).sum().exp(), used.to(share.dtype).mean()

    def _prepared(self, z_e: Tensor) -> Tensor:
        real = z_e.to(torch.promote_types(z_e.dtype, torch.float32))
        return normalize(real, dim=-1 - self.grid_dim) if self.distance == "cosine" else real

    def _split(self, z_e: Tensor) -> tuple[torch.Size, torch.Size]:
        """The leading dimensions and the grid of vectors."""
        at = z_e.dim() - self.grid_dim - 1
        if at < 0 or z_e.shape[at] != self.dim:
            names = ("", ", length", ", height, width")[self.grid_dim] if self.grid_dim < 3 else ", …"
            raise InputError(
                f"the quantizer expects vectors of {self.dim} numbers, (..., {self.dim}{names}), got {tuple(z_e.shape)}"
            )
        if not z_e.is_floating_point():
            raise InputError(f"the quantizer expects real numbers, got {z_e.dtype}")
        return z_e.shape[:at], z_e.shape[at + 1 :]

    def _flat(self, leading: Sequence[int], dim: tuple[int, ...], grid: Sequence[int]) -> tuple[int, ...]:
        """``(batch, *dim, positions)``, without positions where there is no grid."""
        return (math.prod(leading), *dim, *((math.prod(grid),) if self.grid_dim else ()))

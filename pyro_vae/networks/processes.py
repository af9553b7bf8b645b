"""What data-parallel processes do together, in a form that can be recorded."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


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

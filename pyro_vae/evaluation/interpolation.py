"""Between points of latent space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_vae.errors import InputError, unknown
from pyro_vae.evaluation.generate import decode
from pyro_vae.evaluation.session import positive
from pyro_vae.program import Batch

Kind = Literal["linear", "spherical"]


def interpolate(a: Tensor, b: Tensor, steps: int, kind: Kind = "spherical") -> Tensor:
    r"""Points on the way from a to b, at t = 0 ... 1 with even distances.

    .. math:: (1 - t) a + t b \qquad\text{or}\qquad
       \frac{\sin((1 - t)\omega)}{\sin\omega} a + \frac{\sin(t\omega)}{\sin\omega} b

    with omega the angle between a and b, seen from the origin. Where it is 0 or 180 degrees (to rounding), or
    one of them is the origin, the spherical way is the linear one.

    Args:
        a, b: ``(batch, *event)``, floating point; the angle is that of the flattened events.
        steps: points, both ends included.
        kind: ``"linear"`` or ``"spherical"``. Samples of a Gaussian in many dimensions have nearly equal norms,
            which the spherical way keeps.

    Returns:
        ``(batch, steps, *event)``.

    Raises:
        InputError: for an unknown kind, fewer than 2 steps, unequal shapes, and integers.

    Source: Shoemake 1985, doi:10.1145/325334.325242; in latent spaces White 2016, arXiv:1609.04468.
    """
    if kind not in ("linear", "spherical"):
        raise unknown("kind of interpolation", kind, ("linear", "spherical"))
    if positive("steps", steps) < 2:
        raise InputError("steps must be at least 2, for both ends")
    if a.shape != b.shape or a.dim() == 0:
        raise InputError(f"a and b must have one shape (batch, ...), got {tuple(a.shape)} and {tuple(b.shape)}")
    if not (a.is_floating_point() and b.is_floating_point()):
        raise InputError(f"there is nothing between integers: a and b must be floating point, got {a.dtype}, {b.dtype}")
    start, end = (v.reshape(len(v), 1, -1).double() for v in (a, b))  # (batch, 1, dim)
    t = torch.linspace(0, 1, steps, dtype=torch.float64, device=a.device)[:, None]  # (steps, 1)
    from_a, from_b = 1 - t, t
    if kind == "spherical":
        norms = start.norm(dim=-1, keepdim=True) * end.norm(dim=-1, keepdim=True)
        cosine = (start * end).sum(-1, keepdim=True) / norms
        angle = cosine.clamp(-1, 1).arccos()  # (batch, 1, 1)
        curved = angle.sin() > 1e-6
        from_a = torch.where(curved, ((1 - t) * angle).sin() / angle.sin(), from_a)
        from_b = torch.where(curved, (t * angle).sin() / angle.sin(), from_b)
    return (from_a * start + from_b * end).to(a.dtype).reshape(len(a), steps, *a.shape[1:])


def decode_path(
    model: Callable[..., Any],
    path: Mapping[str, Tensor],
    *,
    seed: int = 0,
    site: str | None = None,
    batch: Batch | None = None,
) -> Tensor:
    """Means of p(x | .) along paths in latent space; latents that are not given are drawn, with one noise per path.

    Args:
        model: generative program.
        path: latent sites' values, ``(batch, steps, *event)``, as from :func:`interpolate`.
        seed: of the draws of the other latents.
        site: the data site; found, if None.
        batch: context that the model is given, ``(batch, ...)`` each; and ``x``, as for
            :func:`~pyro_vae.evaluation.generate.sample`.

    Returns:
        ``(batch, steps, *event)``, on the CPU.

    Raises:
        InputError: as :func:`~pyro_vae.evaluation.generate.decode`; for paths of different lengths.
    """
    lengths = {name: value.shape[1] for name, value in path.items()}
    if len(set(lengths.values())) != 1:
        raise InputError(f"the paths must have one number of steps, got {lengths or 'nothing'}")
    steps = range(next(iter(lengths.values())))
    means = [decode(model, {n: v[:, i] for n, v in path.items()}, seed=seed, site=site, batch=batch) for i in steps]
    return torch.stack(means, 1)

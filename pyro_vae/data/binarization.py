"""Binary data from grey ones (threshold, drawn once, or drawn anew), and which part of the data is observed."""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from torch import Tensor

from pyro_vae.errors import InputError, unknown

QUADRANTS = {1: "the lower left quadrant", 2: "the left half", 3: "all but the upper right quadrant"}


def quadrant_mask(shape: tuple[int, ...], observed: int, name: str = "data") -> Tensor:
    """The observed quadrants of an image: 1: lower left; 2: left half; 3: all but the upper right.

    Args:
        shape: of one image, (C, H, W).
        observed: how many quadrants, 1 to 3; where a side is odd the middle row is below, the middle column right.
        name: what errors call the data.

    Returns:
        bool ``shape``, True where observed.

    Raises:
        InputError: if the data are no images, or for another number.

    Source: Sohn et al. 2015, NeurIPS 28, table 1.
    """
    if isinstance(observed, bool) or observed not in QUADRANTS:
        raise InputError(f"observed_quadrants must be 1, 2 or 3, got {observed!r}")
    if len(shape) != 3:
        raise InputError(f"{name}: observed_quadrants is for images, but one x has shape {shape}; leave it out")
    middle, half = shape[1] // 2, shape[2] // 2
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[:, middle:, :half] = True
    if observed >= 2:
        mask[:, :middle, :half] = True
    if observed == 3:
        mask[:, middle:, half:] = True
    return mask


def full_mask(mask: Tensor, count: int, shape: tuple[int, ...], name: str) -> Tensor:
    """A mask in the shape of one datum, or of all the data.

    Args:
        mask: bool, True where observed: ``(*shape,)``; for images also ``(H, W)``; or one per datum, ``(N, *shape)`` or
            for images ``(N, 1, H, W)``.
        count: N, number of data.
        shape: of one datum.
        name: what errors call them.

    Returns:
        ``(*shape,)`` or ``(N, *shape)``.

    Raises:
        InputError: for another type or shape.
    """
    allowed = [shape, (count, *shape)]
    if len(shape) == 3:
        allowed += [shape[1:], (1, *shape[1:]), (count, 1, *shape[1:])]
    right = f"{name}: mask must be a bool tensor, True where x is observed, of shape " + " or ".join(
        map(str, dict.fromkeys(allowed))
    )
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise InputError(f"{right}; got {mask.dtype if isinstance(mask, Tensor) else type(mask).__name__}")
    if tuple(mask.shape) not in allowed:
        raise InputError(f"{right}; got {tuple(mask.shape)}")
    return mask.expand(*mask.shape[: max(mask.dim() - len(shape), 0)], *shape)


Binarization = Literal["none", "threshold", "static", "dynamic"]
BINARIZATIONS = ("none", "threshold", "static", "dynamic")
CHUNK_ELEMENTS = 1 << 22  # numbers drawn at once
BLOCK = 16  # data whose evaluation noise is drawn together
EVALUATION_DRAW = f"evaluation 0, blocks of {BLOCK}"  # names the noise of evaluation: its seed and how it is drawn


def binarize(
    x: Tensor, how: Literal["threshold", "static"], *, seed: int = 0, part: str = "train", name: str = "data"
) -> Tensor:
    """Binarize a whole split once, in bounded memory.

    threshold: x/255 >= 0.5;  static: one draw of Bernoulli(x/255) per number.  For floating-point x, x itself
    takes the place of x/255.

    Args:
        x: (N, ...) uint8 grey levels, bool, or floating point in [0, 1].
        how: which of the two.
        seed: of the static draw. On the CPU the first n data are drawn the same whether more follow or not.
        part: name of the split; each has a random stream of its own.
        name: what errors call the data.

    Returns:
        bool (N, ...).

    Raises:
        InputError: for floating-point numbers outside [0, 1].

    Source: static draws as in Salakhutdinov & Murray 2008, "On the quantitative analysis of deep belief
    networks".
    """
    check_probability(x, name)
    generator = torch.Generator(x.device).manual_seed(_stream(seed, part))
    result = torch.empty(x.shape, dtype=torch.bool, device=x.device)
    size = max(1, CHUNK_ELEMENTS // max(1, x[0].numel()))
    for source, target in zip(x.split(size), result.split(size), strict=True):
        if how == "static":
            target.copy_(draw(source, generator))
        else:
            target.copy_(as_probability(source) >= 0.5)
    return result


def draw(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw Bernoulli(x/255) (uint8) or Bernoulli(x) (bool, floating point).

    result = u < probability,  u uniform in [0, 1): 0 and 255 are never drawn otherwise than 0 and 1.

    Args:
        x: any shape.
        generator: on x's device; torch's own if not given.

    Returns:
        bool, the shape of x.
    """
    probability = as_probability(x)
    return torch.rand(x.shape, generator=generator, device=x.device, dtype=torch.float32) < probability


def noise_for(x: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """Random numbers with which :func:`drawn_with` binarizes a batch of training data.

    Args:
        x: ``(B, *shape)``, uint8, bool or floating point.
        generator: on x's device; torch's own if not given.

    Returns:
        for grey levels ``noise``, uint8 of x's shape, and ``dither``, float32 in [0, 1) ``(B,)``; else ``noise``,
        float32 in [0, 1) of x's shape.
    """
    if x.dtype != torch.uint8:
        return {"noise": torch.rand(x.shape, generator=generator, device=x.device, dtype=torch.float32)}
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device)  # 8 bits for each number
    words.random_(-(2**63), None, generator=generator)
    dither = torch.rand(len(x), generator=generator, device=x.device, dtype=torch.float32)
    return {"noise": words.view(torch.uint8)[: x.numel()].view(x.shape), "dither": dither}


def evaluation_noise(x: Tensor, places: Tensor) -> dict[str, Tensor]:
    """The numbers of :func:`noise_for` that evaluation uses: those of a datum depend on its place in the split alone.

    They are drawn on the CPU, in aligned blocks of ``BLOCK`` data with a seed each, so neither batch size nor device
    matters, nor how many data there are.

    Args:
        x: ``(B, *shape)``, uint8, bool or floating point.
        places: of these data in their split, int64 ``(B,)``.
    """
    places = places.cpu()
    blocks = places.div(BLOCK, rounding_mode="floor")
    like = torch.empty((BLOCK, *x.shape[1:]), dtype=x.dtype)
    generator = torch.Generator()
    found: dict[str, Tensor] = {}
    for block in blocks.unique().tolist():
        rows = (blocks == block).nonzero().squeeze(1)
        drawn = noise_for(like, generator.manual_seed(_stream(block, EVALUATION_DRAW)))
        for key, value in drawn.items():
            if key not in found:
                found[key] = torch.empty((len(x), *value.shape[1:]), dtype=value.dtype)
            found[key][rows] = value[places[rows] - block * BLOCK]
    return {key: value.to(x.device) for key, value in found.items()}


def drawn_with(x: Tensor, noise: Tensor, dither: Tensor | None = None) -> Tensor:
    """Bernoulli(x/255) of grey levels, else Bernoulli(x), as a function of random numbers.

    Grey levels: result = noise < floor(256 x / 255 + d) with noise uniform over 0..255 and d over [0, 1): x/255 is no
    multiple of 1/256, and the dither d makes the probability exact, as E floor(a + d) = a. One d is drawn for each
    datum and moved on by the golden ratio from number to number, so that neighbours' roundings are unrelated. 0 and 255
    are never drawn otherwise than 0 and 1. The numbers of :func:`draw` take several times as long, a tenth of a small
    model's training step.

    Args:
        x: ``(B, *shape)``.
        noise, dither: from :func:`noise_for`.

    Returns:
        bool, the shape of x.
    """
    if dither is None:
        return noise < as_probability(x)
    level = x.to(torch.float32)
    moved = torch.arange(x[0].numel(), device=x.device, dtype=torch.float32) * 0.6180339887
    d = (dither[:, None] + moved.frac()).frac().view(x.shape)
    return noise < (level + level / 255 + d).floor()


def as_probability(x: Tensor) -> Tensor:
    """Convert grey levels to float32 x/255, bool to float32 0./1.; floating point stays as it is."""
    if x.is_floating_point():
        return x
    converted = x.to(torch.float32)
    return converted.div_(255.0) if x.dtype == torch.uint8 else converted


def check_probability(x: Tensor, name: str) -> None:
    """Raise an InputError if x cannot be the probabilities of binary data."""
    if not x.is_floating_point():
        return
    low, high = torch.stack(x.aminmax()).tolist()
    if not (low >= 0.0 and high <= 1.0):  # also catches NaN
        raise InputError(
            f"{name}: binarization needs x in [0, 1] (or uint8 grey levels), "
            f"but x lies in [{low:.4g}, {high:.4g}]; rescale it, or use binarization='none'"
        )


def check_binarization(how: str, seed: int) -> None:
    """Raise an InputError for an unknown binarization or an unusable seed."""
    if how not in BINARIZATIONS:
        raise unknown("binarization", str(how), BINARIZATIONS)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**64:
        raise InputError(f"binarization_seed must be a non-negative integer of at most 64 bits, got {seed!r}")


def _stream(seed: int, part: str) -> int:
    digest = hashlib.sha256(f"{seed} {part}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # 63 bits, what every torch generator takes

"""Figure: spectrograms of sound and of its reconstructions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data import Sound, Split
from pyro_vae.evaluation.generate import reconstruct
from pyro_vae.plots.drawing import Figure
from pyro_vae.plots.images import in_shape, pick
from pyro_vae.plots.registry import NotApplicable, figure
from pyro_vae.programs.context import X

WINDOW_SECONDS = 0.032
COLUMNS = 8
FLOOR = -80.0  # dB below a sine of full scale; what is quieter is black


def spectrogram(waves: Tensor, sample_rate: int) -> Tensor:
    """Loudness by frequency and time: 20 log10 of the amplitude in a Hann window of 32 ms, in dB of a full-scale sine.

    Args:
        waves: ``(..., L)`` in [-1, 1].
        sample_rate: in Hz.

    Returns:
        ``(..., frequencies, times)``, from 0 Hz to half the sample rate, at least -80; a column every 8 ms.
    """
    size = 2 ** max(4, round(WINDOW_SECONDS * sample_rate).bit_length() - 1)  # a power of 2, 16 samples at least
    window = torch.hann_window(size)
    flat = waves.detach().float().cpu().reshape(-1, waves.shape[-1])
    found = torch.stft(flat, size, size // 4, window=window, pad_mode="constant", return_complex=True)
    amplitude = 2 * found.abs() / window.sum()  # (n, frequencies, times)
    decibels = 20 * amplitude.clamp(min=10 ** (FLOOR / 20)).log10()
    return decibels.reshape(*waves.shape[:-1], *decibels.shape[1:])


def spectrogram_grid(
    x: Tensor, sound: Sound, title: str, rows: Sequence[str] = (), titles: Sequence[str] = ()
) -> Figure:
    """Spectrograms in a grid, on one scale of loudness.

    Args:
        x: sound as it is in a batch, or means of it, ``(rows, columns, 1, L)``; places after the last sound may hold
            NaN, and stay empty.
        sound: how x is played.
        title: of the figure.
        rows: what is said at the left of each.
        titles: what is said above each panel, row by row; as many as there are columns are said of the columns.
    """
    down, across, _, length = x.shape
    decibels = spectrogram(sound.decode(x.squeeze(2)), sound.sample_rate)  # (rows, columns, frequencies, times)
    size = (max(6.0, 1.5 * across + 1.6), 1.3 * down + 1.1)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    extent = (0.0, length / sound.sample_rate, 0.0, sound.sample_rate / 2000)
    picture = None
    for i in range(down):
        for j in range(across):
            panels[i, j].tick_params(labelsize="x-small")
            if bool(x[i, j].isnan().any()):
                panels[i, j].set_axis_off()
                continue
            picture = panels[i, j].imshow(
                decibels[i, j].numpy(), origin="lower", aspect="auto", extent=extent, vmin=FLOOR, vmax=0, cmap="magma"
            )
    for place, text in zip(panels[:, 0], rows, strict=False):
        place.set_ylabel(text, fontsize="small")
    for place, text in zip(panels.flat, titles, strict=False):
        place.set_title(text, fontsize="small")
    if picture is not None:
        figure.colorbar(picture, ax=panels, label="dB of full scale", fraction=0.05, aspect=30)
    figure.supxlabel("seconds", fontsize="medium")
    figure.supylabel("kHz", fontsize="medium")
    figure.suptitle(title)
    return figure


def sound_grid(x: Tensor, sound: Sound, title: str, columns: int = COLUMNS) -> Figure:
    """Spectrograms of ``(n, 1, L)`` in rows, one after another."""
    return spectrogram_grid(_in_rows(x, columns), sound, title)


def pairs_of_spectrograms(x: Tensor, mean: Tensor, sound: Sound, title: str, names: Sequence[str] = ()) -> Figure:
    """Data, and below each what was made of it, both ``(n, 1, L)``; eight in a row, the names above."""
    mean = in_shape(mean, tuple(x.shape[1:]))
    above, below = _in_rows(x, COLUMNS), _in_rows(mean, COLUMNS)  # (rows, columns, 1, L)
    down, across = above.shape[:2]
    values = torch.stack([above, below], 1).flatten(0, 1)  # (2 rows, columns, 1, L)
    titles = [text for i in range(down) for text in _filled(names[i * across : (i + 1) * across], 2 * across)]
    return spectrogram_grid(values, sound, title, rows=["data", "reconstruction"] * down, titles=titles)


def _filled(texts: Sequence[str], count: int) -> list[str]:
    return [*texts, *[""] * (count - len(texts))]


def _in_rows(x: Tensor, columns: int) -> Tensor:
    """``(n, 1, L)`` in rows, ``(rows, columns, 1, L)``; NaN where there is nothing left."""
    columns = min(columns, len(x))
    empty = x.new_full((-len(x) % columns, *x.shape[1:]), torch.nan)
    return torch.cat([x, empty]).unflatten(0, (-1, columns))


@figure(section="Sound", caption="The same as spectrograms.")
def spectrograms(
    model: Callable[..., Any], guide: Callable[..., Any], split: Split, sound: Sound | None, n: int = 8, seed: int = 0
) -> Figure:
    """Two rows: data, and below each the mean of p(x | z) for one z ~ q(z | x), as log-magnitude spectrograms.

    Args:
        model, guide: the programs.
        split: the data, of which n at even distances are drawn.
        sound: how they are played.
        n: columns.
        seed: of the draws of z.

    Raises:
        NotApplicable: if the data are not sound.
    """
    if sound is None:
        raise NotApplicable("the data are not sound")
    batch = pick(split, n, seed)
    mean = reconstruct(model, guide, batch, seed=seed)  # (n, 1, L)
    title = f"{split.name}: reconstructions, mean of p(x | z) with z ~ q(z | x)"
    return pairs_of_spectrograms(batch[X].cpu(), mean, sound, title)

"""Figure: loss and KL over the epochs of training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pyro_vae.plots.drawing import Figure
from pyro_vae.plots.registry import NotApplicable, figure

Records = Sequence[Mapping[str, Any]]
PARTS = {"train": "-", "validation": "--"}


@figure(section="Training", caption="Loss, and KL by latent site, over training.")
def training_curves(records: Records) -> Figure:
    """Loss and, per latent site, KL over epochs, in nats per datum; training and validation.

    The best epoch (the last record with ``best``) is marked, and the epochs at whose end the KL weight was not
    yet the final one are shaded: there the training loss is another function than later.

    Args:
        records: the lines of ``metrics.jsonl``, each with ``epoch``, ``train/loss``, ``train/kl/<site>``, and
            perhaps ``validation/…``, ``kl_weight``, ``best``.

    Returns:
        the figure.

    Raises:
        NotApplicable: if there are no records.

    Example:
        >>> from pyro_vae.plots import training_curves
        >>> figure = training_curves([{"epoch": 1, "train/loss": 9.0}, {"epoch": 2, "train/loss": 8.0}])
        >>> [axes.get_title() for axes in figure.axes]
        ['Loss']
    """
    records = [record for record in records if "epoch" in record]
    if not records:
        raise NotApplicable("there are no records of epochs")
    names = list(dict.fromkeys(key for record in records for key in record))
    sites = list(dict.fromkeys(key.split("/kl/", 1)[1] for key in names if "/kl/" in key))
    figure = Figure(figsize=(5.5 * (1 + bool(sites)), 4), layout="constrained")
    panels = figure.subplots(1, 1 + bool(sites), squeeze=False)[0]
    _draw_loss(panels[0], records)
    if sites:
        _draw_kl(panels[1], records, sites)
    for axes in panels:
        _finish(axes, records)
    return figure


def _draw_loss(axes: Axes, records: Records) -> None:
    values = []
    for colour, (part, style) in enumerate(PARTS.items()):
        epochs, losses = _series(records, f"{part}/loss")
        if epochs:
            _line(axes, epochs, losses, label=part, linestyle=style, color=f"C{colour}")
            values.append(losses)
    best = [record for record in records if record.get("best") and "validation/loss" in record]
    if best:
        where = best[-1]["epoch"], best[-1]["validation/loss"]
        axes.plot(*where, "*", markersize=11, color="C3", label=f"best: epoch {where[0]}, {where[1]:.2f}", zorder=3)
    _fit_to_late_values(axes, values)
    axes.set(title="Loss", ylabel="loss (nats per datum)")


def _draw_kl(axes: Axes, records: Records, sites: Sequence[str]) -> None:
    for colour, site in enumerate(sites):
        for part, style in PARTS.items():
            epochs, values = _series(records, f"{part}/kl/{site}")
            if epochs:
                _line(
                    axes,
                    epochs,
                    values,
                    label=site if part == "train" else f"_{site}",
                    linestyle=style,
                    color=f"C{colour % 10}",
                )
    dashed = any(key.startswith("validation/kl/") for record in records for key in record)
    axes.set(title="KL by latent site" + " (dashed: validation)" * dashed, ylabel="KL (nats per datum)")


def _finish(axes: Axes, records: Records) -> None:
    epochs, weights = _series(records, "kl_weight")
    warming = [epoch for epoch, weight in zip(epochs, weights, strict=True) if weight != weights[-1]]
    first, last = records[0]["epoch"], records[-1]["epoch"]
    if warming:
        label = f"KL weight not yet {weights[-1]:g}"
        axes.axvspan(first, max(warming), color="0.92", zorder=0, label=label)
    margin = max(0.5, 0.03 * (last - first))
    axes.set_xlim(first - margin, last + margin)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        beside = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if len(handles) > 6 else {}
        axes.legend(handles, labels, fontsize="small", ncols=1 + (len(handles) > 15), **beside)


def _line(axes: Axes, epochs: Sequence[int], values: Sequence[float], **style: Any) -> None:
    axes.plot(epochs, values, marker="o" if len(epochs) < 12 else None, markersize=3, **style)


def _series(records: Records, key: str) -> tuple[list[int], list[float]]:
    """Epochs and finite values of a key, where it is recorded."""
    pairs = [(r["epoch"], float(r[key])) for r in records if key in r and math.isfinite(r[key])]
    return [epoch for epoch, _ in pairs], [value for _, value in pairs]


def _fit_to_late_values(axes: Axes, curves: Sequence[Sequence[float]]) -> None:
    """Leave the first tenth of the epochs out of the axis' range where it would flatten the rest."""
    late = [value for curve in curves for value in curve[len(curve) // 10 :]]
    if not late or max(map(max, curves)) - min(late) < 3 * (max(late) - min(late)):
        return
    room = 0.08 * (max(late) - min(late)) or max(1e-3, 0.01 * abs(late[0]))
    axes.set_ylim(min(late) - room, max(late) + room)

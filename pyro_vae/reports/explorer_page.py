"""The page of the latent explorer: its values as JSON and numbers, its script, its parts in HTML."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from typing import Any

import numpy as np
from torch import Tensor

from pyro_vae import __version__
from pyro_vae.export.plain import Plain
from pyro_vae.reports import html
from pyro_vae.reports.explored import Explored, unit_name

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccaa33", "#66ccee", "#aa3377", "#999999", "#dd7722", "#33aa99", "#775533")
SHOWN, MOST = 24, 256  # sliders at once, and at all


@dataclass
class Blob:
    """Arrays one after another, by place and length."""

    parts: list[np.ndarray] = field(default_factory=list)
    count: int = 0

    def put(self, values: Any, dtype: str = "<f4") -> list[int]:
        """Add numbers; where they begin, and how many they are."""
        array = np.ascontiguousarray(np.asarray(values), dtype=dtype).reshape(-1)
        self.parts.append(array)
        self.count += array.size
        return [self.count - array.size, array.size]

    def text(self) -> str:
        """In base64."""
        return base64.b64encode(b"".join(part.tobytes() for part in self.parts)).decode()


def explorer_page(explored: Explored) -> str:
    """The whole page, which needs nothing from anywhere else."""
    planes, floats, marks = explored.planes(), Blob(), Blob()
    data = _data(explored, planes, floats, marks)
    folder = resources.files("pyro_vae.reports")
    style, script = ((folder / f"page.explorer.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    parts = {"Picture and plane": _picture(explored, planes)}
    if explored.grid is None:
        parts[f"Units of {explored.site}"] = _sliders(explored)
        if len(explored.thumbs) > 1:
            parts["From one datum to another"] = _morph()
    parts["What is shown"] = _words(explored)
    last = [*parts][-1]
    parts[last] += (
        f'<script type="application/json" id="explorer-data">{as_json(data)}</script>'
        f'<script type="text/plain" id="explorer-floats">{floats.text()}</script>'
        f'<script type="text/plain" id="explorer-bytes">{marks.text()}</script>'
        f"<script>{script}</script>"
    )
    wrong = html.warning("This browser computes other pictures than Python did: do not trust them.")
    opening = f'<style>{style}</style><div id="wrong" hidden>{wrong}</div>'
    return html.page(
        f"Latents of {explored.name}",
        explored.lead,
        opening,
        parts,
        f"Made with pyro_vae {__version__}; needs no network.",
    )


def _data(explored: Explored, planes: list[dict[str, Any]], floats: Blob, marks: Blob) -> dict[str, Any]:
    """What the script reads."""
    put = floats.put
    stored = [{**p, **{name: put(p[name]) for name in ("origin", "directions", "points")}} for p in planes]
    prior = None if explored.loc is None else {"loc": put(explored.loc), "scale": put(explored.scale)}
    pictures = _levels(explored.pictures, explored.limits)
    thumbs = []
    for k, place in enumerate(explored.thumbs):
        label = "" if explored.labels is None else f": {_class(explored, explored.labels[place])}"
        where = marks.put(pictures[k], "u1")[0]
        thumbs.append({"name": f"datum {place}{label}", "place": where, "context": explored.thumb_contexts[k]})
    found: dict[str, Any] = {
        "dim": explored.means.shape[1],
        "picture": list(explored.shape),
        "limits": list(explored.limits),
        "start": put(explored.start),
        "means": put(explored.means[explored.thumbs]),
        "planes": stored,
        "labels": explored.labels,
        "colours": list(COLOURS),
        "prior": prior,
        "thumbs": thumbs,
        "contexts": "of classes" if explored.of_classes else "of data" if explored.contexts else "",
        "checks": [{"z": put(z), "context": c, "picture": put(picture)} for z, c, picture in explored.checks],
        "program": None if explored.program is None else _program(explored.program, floats),
    }
    if explored.grid is not None:
        place = marks.put(_levels(explored.grid, explored.limits), "u1")[0]
        plane = planes[0]
        found["grid"] = {"side": explored.grid.shape[1], "low": plane["low"], "high": plane["high"], "place": place}
    return found


def _program(program: Plain, floats: Blob) -> dict[str, Any]:
    return {
        "input": program.input,
        "output": program.output,
        "input_shape": list(program.input_shape),
        "steps": [{("with" if k == "with_" else k): v for k, v in step.items()} for step in program.steps],
        "constants": {n: {"place": floats.put(a), "shape": list(a.shape)} for n, a in program.constants.items()},
        "tables": {n: {"place": floats.put(a), "shape": list(a.shape[1:])} for n, a in program.tables.items()},
    }


def _levels(values: Tensor, limits: tuple[float, float]) -> np.ndarray:
    """Grey levels and colours from 0 to 255."""
    low, high = limits
    return np.rint(((values.nan_to_num() - low) / (high - low)).clamp(0, 1).numpy() * 255)


def _class(explored: Explored, label: int) -> str:
    names = explored.classes
    return names[label] if names is not None and 0 <= label < len(names) else str(label)


def _option(names: list[str]) -> str:
    return "".join(f'<option value="{i}">{escape(name)}</option>' for i, name in enumerate(names))


def _picture(explored: Explored, planes: list[dict[str, Any]]) -> str:
    buttons = ['<button type="button" id="middle">Back to the middle</button>']
    if explored.loc is not None and explored.grid is None:
        buttons.append('<button type="button" id="draw">Draw from the prior</button>')
    if explored.contexts:
        what = "Class" if explored.of_classes else "Given"
        buttons.append(f'<label>{what} <select id="context">{_option(explored.contexts)}</select></label>')
    plane = planes[0]
    about = (
        f"Across {plane['names'][0]}, up {plane['names'][-1]}." if len(planes) == 1 or explored.grid is not None else ""
    )
    choice = ""
    if not about:
        names = [f"{p['title']}: {', '.join(p['names'])}" for p in planes]
        choice = f'<div class="controls"><label>Plane <select id="which-plane">{_option(names)}</select></label></div>'
    title = plane["title"].removeprefix("the ").capitalize() if about else "Plane through latent space"
    legend = ""
    if explored.labels is not None:
        present = sorted(set(explored.labels))[:20]
        chips = (
            f'<span><i style="background: {COLOURS[k % len(COLOURS)] if k >= 0 else "#888"}"></i>'
            f"{escape(_class(explored, k))}</span>"
            for k in present
        )
        legend = f'<p class="legend">{"".join(chips)}</p>'
    return (
        '<div class="explorer"><div><h3>Picture</h3>'
        '<canvas id="picture" role="img" aria-label="mean of p(x | z)"></canvas>'
        f'<div class="controls">{"".join(buttons)}</div></div>'
        f"<div><h3>{escape(title)}</h3>"
        '<canvas id="plane" tabindex="0" role="application" '
        'aria-label="plane through latent space: click, or use the arrow keys"></canvas>'
        f"{choice}{html.note(about) if about else ''}{legend}</div></div>"
    )


def _sliders(explored: Explored) -> str:
    low, high = explored.ends(explored.means, explored.loc, explored.scale)
    order = explored.kl.argsort(descending=True, stable=True).tolist()[:MOST]

    def one(i: int) -> str:
        name = escape(unit_name(explored.site, explored.event, i))
        return (
            f'<label title="{explored.kl[i]:.3f} nats"><span>{name}</span><input type="range" data-unit="{i}" '
            f'min="{low[i]:.4f}" max="{high[i]:.4f}" step="any"><output></output></label>'
        )

    text = f'<div class="sliders">{"".join(map(one, order[:SHOWN]))}</div>'
    if len(order) > SHOWN:
        text += html.folded(
            f"the other {len(order) - SHOWN}", f'<div class="sliders">{"".join(map(one, order[SHOWN:]))}</div>'
        )
    return html.note("Those that tell most of the data (by KL) come first.") + text


def _morph() -> str:
    return (
        html.note("Choose two data, A and B; the way is between the guide's means of them.")
        + '<div class="controls"><button type="button" data-pick="0">choose A</button>'
        '<button type="button" data-pick="1">choose B</button>'
        '<label>way <select id="kind"><option value="spherical">on an arc</option>'
        '<option value="linear">straight</option></select></label>'
        '<label class="way">A <input type="range" id="way" min="0" max="1" step="any" value="0" '
        'aria-label="from A to B">'
        ' B</label></div><div id="thumbs"></div>'
    )


def _words(explored: Explored) -> str:
    said = [
        f"The picture is the mean of p(x | {explored.site}); points are the guide's means of "
        f"{len(explored.means):,} data."
    ]
    if explored.others:
        said.append(
            f"The model's other latents, {', '.join(explored.others)}, are at the means that it gives them, so that "
            "this is one picture of many that go with a point."
        )
    if explored.contexts and not explored.of_classes:
        said.append("The model is given more than latents: here what goes with one of the data below.")
    if explored.limits != (0.0, 1.0):
        said.append(f"Black is {explored.limits[0]:.4g}, white is {explored.limits[1]:.4g}.")
    if explored.grid is None:
        said.append("The decoder runs in this page, and was compared with Python's at a few points when it was opened.")
        return "".join(map(html.text, said))
    side = explored.grid.shape[1]
    return "".join(map(html.text, said)) + html.warning(
        f"The decoder does not run in this page ({explored.why}). It has {side} x {side} pictures that Python made, to "
        "1/255; what is between them is a mixture of the four nearest, and not what the model would make. Other units "
        "than these two stay where they are."
    )


def as_json(value: Any) -> str:
    """JSON that may stand in a page's script."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")

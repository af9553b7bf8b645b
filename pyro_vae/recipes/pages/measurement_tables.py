"""Measured numbers as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro_vae.recipes.measure import bits_are
from pyro_vae.recipes.pages import html


def likelihood_table(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    """The likelihood and its parts, a column for each part of the data that was measured.

    Args:
        evaluations: what ``evaluation-<split>.json`` holds, by split; what a file does not say has no row.
    """
    columns = ["", *evaluations]
    found = evaluations.values()

    def row(name: str, key: str, error: str | None = None, digits: int = 2) -> list[Any]:
        cells = [html.with_error(f.get(key), f.get(error) if error else None, digits) for f in found]
        return [name, *cells]

    rows = [
        row("log-likelihood (importance-weighted bound), nats", "log_likelihood", "standard_error"),
        row("ELBO, nats", "elbo", "elbo_standard_error"),
        row("bits per dimension", "bits_per_dim", None, 4),
        ["these bits are", *(bits_are(f) or None for f in found)],
        *(
            [
                f"reconstruction of {site}: E log p({site} | z), nats",
                *(f.get("reconstruction", {}).get(site) for f in found),
            ]
            for site in dict.fromkeys(site for f in found for site in f.get("reconstruction", {}))
        ),
        ["KL, all sites, nats", *(sum(f["kl"].values()) if "kl" in f else None for f in found)],
        row("effective sample size, mean over data", "effective_sample_size", None, 1),
        row("largest Pareto k-hat of a datum's weights", "pareto_k_max"),
        ["data with k-hat above 0.7, %", *(_percent(f.get("pareto_k_above")) for f in found)],
        row("data", "num_data"),
        row("particles K", "num_particles"),
        row("seed", "seed"),
        row("seconds", "seconds", None, 1),
    ]
    kept = [row for row in rows if any(cell not in (None, html.NOTHING) for cell in row[1:])]
    told = "± is one standard error over the data. The importance-weighted bound rises to log p(x) with K."
    return html.table(columns, kept) + html.note(told)


def measurement_table(name: str, values: Mapping[str, Any]) -> str:
    """Any other measurement: its numbers, with their standard errors, its tables, and what it warns of.

    Args:
        name: of the file, without ``.json``.
        values: what it holds; an entry ``…_standard_error`` is the error of the one before.
    """
    parts = [f"<h3>{html.escape(name)}</h3>", html.facts(_told(values))]
    for key, inner in values.items():
        title = key.replace("_", " ")
        if isinstance(inner, dict) and inner:
            parts += [f"<h4>{html.escape(title)}</h4>", html.facts(_told(inner))]
        elif isinstance(inner, list) and inner and all(isinstance(each, dict) for each in inner):
            rows = [_told(each) for each in inner]
            columns = list(dict.fromkeys(column for row in rows for column in row))
            words = [i for i, column in enumerate(columns) if isinstance(inner[0].get(column.replace(" ", "_")), str)]
            parts.append(html.table(columns, [[row.get(c) for c in columns] for row in rows], words, caption=title))
        elif isinstance(inner, list):
            said = html.warning if key == "warnings" else html.text
            parts += [said(each) for each in inner if isinstance(each, str)]
    return "".join(parts)


def _told(values: Mapping[str, Any]) -> dict[str, Any]:
    """The single values by name in words; a mean and its standard error together."""
    errors = {key: f"{key}_standard_error" for key in values}
    if "log_likelihood" in values:
        errors["log_likelihood"] = "standard_error"
    told = {}
    for key, value in values.items():
        error = values.get(errors[key])
        if isinstance(value, dict | list) or key in errors.values():
            continue
        small = isinstance(value, float) and abs(value) < 1
        shown = html.with_error(value, error) if error is not None else html.number(value, 3 if small else 2)
        told[key.replace("_", " ")] = shown
    return told


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f}"

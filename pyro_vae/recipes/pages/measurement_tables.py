"""Measured numbers as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    """Any other measurement: its single values, and its tables by name."""
    single = {k: v for k, v in values.items() if not isinstance(v, dict | list)}
    parts = [f"<h3>{html.escape(name)}</h3>", html.facts({k.replace("_", " "): _short(v) for k, v in single.items()})]
    for key, inner in values.items():
        if isinstance(inner, dict) and inner:
            rows = [[k, _cell(v)] for k, v in inner.items()]
            parts.append(html.table(["", ""], rows, caption=key.replace("_", " ")))
        elif isinstance(inner, list) and inner and all(isinstance(each, dict) for each in inner):
            columns = list(dict.fromkeys(k for each in inner for k in each))
            rows = [[_cell(each.get(k)) for k in columns] for each in inner]
            named = [k.replace("_", " ") for k in columns]
            words = [i for i, k in enumerate(columns) if isinstance(inner[0].get(k), str)]
            parts.append(html.table(named, rows, words, caption=key.replace("_", " ")))
        elif isinstance(inner, list) and inner and all(isinstance(each, str) for each in inner):
            parts += [html.warning(each) if key == "warnings" else html.text(each) for each in inner]
    return "".join(parts)


def _short(value: Any) -> Any:
    return f"{value:.5g}" if isinstance(value, float) and abs(value) < 1 else value


def _cell(value: Any) -> Any:
    return ", ".join(f"{k} {html.number(v)}" for k, v in value.items()) if isinstance(value, dict) else _short(value)


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value

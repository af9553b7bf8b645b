"""A report's values as a page: tables, pictures, notes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from pyro_vae.evaluation.results import bits_are, what_is_bounded
from pyro_vae.plots.registry import SECTIONS, figures
from pyro_vae.reports import html
from pyro_vae.reports.stored import metric_rows


def likelihood_table(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    """The likelihood, its parts and what metrics say, a column for each measurement.

    Args:
        evaluations: what ``evaluation-<split>.json`` holds, by part of the data or by run; what none says has no row.
    """
    columns = ["", *evaluations]
    found = evaluations.values()
    further = [metric_rows(f) for f in found]

    def row(name: str, key: str, error: str | None = None, digits: int = 2) -> list[Any]:
        cells = [html.with_error(f.get(key), f.get(error) if error else None, digits) for f in found]
        return [name, *cells]

    rows = [
        row("log-likelihood (importance-weighted bound), nats", "log_likelihood", "standard_error"),
        row("ELBO, nats", "elbo", "elbo_standard_error"),
        row("nats per token", "nats_per_token", None, 4),
        row("perplexity", "perplexity"),
        row("perplexity by the ELBO, at most", "elbo_perplexity"),
        ["bits per dimension", *(html.with_error(_bits(f), None, 4) for f in found)],
        ["these bits are", *((None if f.get("density_of") else bits_are(f) or None) for f in found)],
        ["these are nats of a density of", *(f.get("density_of") for f in found)],
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
        *([label[1], *(of.get(label) for of in further)] for label in dict.fromkeys(k for of in further for k in of)),
        row("data", "num_data"),
        row("particles K", "num_particles"),
        row("seed", "seed"),
        ["given", *(", ".join(f.get("given") or []) or None for f in found)],
        row("seconds", "seconds", None, 1),
    ]
    kept = [row for row in rows if any(cell not in (None, html.NOTHING) for cell in row[1:])]
    notes = "± is one standard error over the data. The importance-weighted bound rises to log p with K."
    return html.table(columns, kept) + html.note(notes)


def _bits(evaluation: Mapping[str, Any]) -> float | None:
    """Bits per dimension; of tokens none, for their perplexity is told."""
    return None if "perplexity" in evaluation else evaluation.get("bits_per_dim")


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
    notes = {}
    for key, value in values.items():
        error = values.get(errors[key])
        if isinstance(value, dict | list) or key in errors.values():
            continue
        small = isinstance(value, float) and abs(value) < 1
        shown = html.with_error(value, error) if error is not None else html.number(value, 3 if small else 2)
        notes[key.replace("_", " ")] = shown
    return notes


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f}"


def report_page(report: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The page of a report.

    Args:
        report: what ``report.json`` holds.
        pictures: PNG by name.
    """

    every = {name: entry for name, entry in figures().items() if name in pictures}

    def shown(section: str | None) -> str:
        own = [name for name, entry in every.items() if entry.section == section]
        return "".join(html.picture(name, pictures[name], every[name].caption) for name in own)

    def others() -> str:
        prefix = "training_curves of "
        named = [name for name in pictures if name.startswith(prefix)]
        return "".join(html.picture(n, pictures[n], f"Training: {n.removeprefix(prefix)}.") for n in named)

    sections = {
        "What was measured": _what(report),
        "Likelihood": likelihood_table(report["evaluations"]) + shown("Likelihood"),
        "Other measurements": "".join(measurement_table(name, m) for name, m in report["measurements"].items()),
        "Latents": _latents(report) + shown("Latents"),
        "Codes": _codes(report) + shown("Codes"),
        "Reconstructions": shown("Reconstructions"),
        "Sound": shown("Sound"),
        "Samples": shown("Samples"),
        "Traversals": shown("Traversals"),
        **{
            title: shown(title)
            for title in dict.fromkeys(entry.section for entry in every.values())
            if title not in (*SECTIONS, None)
        },
        "Training": _training(report) + shown("Training") + others(),
        "Configuration": _configuration(report),
        "Commands": html.text("To repeat this page:") + html.code("\n".join(report["commands"])),
        "Left out": "".join(html.text(f"{title}: {why}.") for title, why in report["left_out"].items()),
    }
    if not report["commands"]:
        del sections["Commands"]
    made, trained = report["made"], report["trained_with"]
    by = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    footer = f"Made {made['time']} with {by}." + (f" Trained with pyro_vae {trained}." if trained else "")
    return html.page(
        f"{report['name']}",
        f"{_of(report['recipe'])} {report['classes'].get('model', '')} on {report['data']['name']}".strip(),
        _tiles(report) + "".join(html.warning(words) for words in report["warnings"]),
        {title: inner for title, inner in sections.items() if inner},
        footer,
    )


def _of(recipe: str | None) -> str:
    return f"Recipe {recipe}:" if recipe else "Trained from Python:"


def _tiles(report: Mapping[str, Any]) -> str:
    found = report["evaluations"][report["made"]["split"]]
    training, of = report["training"], what_is_bounded(found)
    tiles = {
        f"nats: {of}, {found['split']}, K = {found['num_particles']:,}": html.with_error(
            found["log_likelihood"], found["standard_error"]
        ),
        "nats: ELBO": html.with_error(found.get("elbo"), found.get("elbo_standard_error")),
        f"bits per dimension {bits_are(found)}".rstrip(): html.number(_bits(found), 4),
        "perplexity": html.number(found.get("perplexity"), 2),
        "parameters": html.number(report["parameters"]["all"]),
        "epochs": html.number(training["epochs"]),
        "minutes of training": html.number(training["minutes"], 1),
    }
    return html.tiles({name: value for name, value in tiles.items() if value != html.NOTHING})


def _what(report: Mapping[str, Any]) -> str:
    data, made, classes = report["data"], report["made"], report["classes"]
    found = report["evaluations"][made["split"]]
    given = ", ".join(found["given"]) or f"nothing: {what_is_bounded(found)}" if "given" in found else "not recorded"
    rows: dict[str, Any] = {
        "run": report["run"],
        **{name: path for name, path in classes.items()},
        "parameters": ", ".join(f"{name} {count:,}" for name, count in report["parameters"].items()),
        "data": data["description"] or data["name"],
        "one datum": " x ".join(map(str, data["shape"])) or "a number",
        "binarization": data["binarization"],
        "measured": f"{found['num_data']:,} data of {found['split']}, K = {found['num_particles']:,} particles",
        "given": given,
        "seed of the particles": str(found.get("seed", "not recorded")),
        "device": found.get("device", "not recorded"),
        "this page": f"{made['time']}, {made['machine']}; figures of {made['split']} data, seed {made['seed']}",
    }
    return html.facts({name: value for name, value in rows.items() if value is not None})


def _latents(report: Mapping[str, Any]) -> str:
    sites = report["sites"]
    if not sites:
        return ""
    total = sum(site["kl"] or 0.0 for site in sites.values())
    rows = [
        [
            name,
            site["kind"],
            site["kl"],
            f"{100 * site['kl'] / total:.1f}" if total and site["kl"] is not None else None,
            site.get("num_active"),
            site.get("num_units"),
            site.get("kl_bits_per_code"),
        ]
        for name, site in sites.items()
    ]
    columns = ["site", "what", "KL, nats", "share, %", "active units", "units", "bits per code"]
    kept = [i for i in range(len(columns)) if any(row[i] is not None for row in rows)]
    found = report["evaluations"][report["made"]["split"]]
    notes = (
        f"KL: mean over the {found['num_data']:,} measured data, raw (no weight, no free bits). A unit is active if "
        f"the variance of its posterior mean over {report['num_statistics']['latents']:,} data is above 0.01."
    )
    return html.table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows], (0, 1)) + html.note(notes)


def _codes(report: Mapping[str, Any]) -> str:
    sites = {name: site for name, site in report["sites"].items() if site["kind"] == "codes"}
    if not sites:
        return ""
    rows = [
        [
            name,
            " x ".join(map(str, s["shape"])) or "1",
            s["num_codes"],
            s["num_used"],
            f"{100 * s['usage']:.0f}",
            html.number(s["perplexity"], 1),
            s["entropy_bits"],
        ]
        for name, s in sites.items()
    ]
    columns = ["site", "grid", "codes", "in use", "in use, %", "perplexity", "entropy, bits"]
    notes = (
        f"Over {report['num_statistics']['codes']:,} data. Perplexity: so many codes, evenly used, would have as much."
    )
    return html.table(columns, rows, (0, 1)) + html.note(notes)


def _training(report: Mapping[str, Any]) -> str:
    every = {report["name"]: report["training"], **report["other_trainings"]}
    rows = [
        [
            name,
            t["epochs"],
            t["configured_epochs"],
            t["best_epoch"],
            t["steps"],
            t["minutes"],
            t["train_loss"],
            t["validation_loss"],
            t["stopped"] or ("not at its end" if t["epochs"] else "not trained"),
        ]
        for name, t in every.items()
    ]
    columns = ["", "epochs", "of", "best", "steps", "minutes", "last training loss", "last validation loss", "stopped"]
    return html.table(columns, rows, (0, len(columns) - 1))


def _configuration(report: Mapping[str, Any]) -> str:
    if not report["configuration"]:
        return html.text("Trained from Python: there is no configuration. Classes are named above.")
    written = yaml.safe_dump(dict(report["configuration"]), sort_keys=False)
    return html.folded("all options, as in config.yaml", html.code(written))

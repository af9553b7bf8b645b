"""A comparison's values as a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro_vae.reports import html
from pyro_vae.reports.report_page import likelihood_table
from pyro_vae.reports.seed_groups import seeds_section

BOUNDS = {"log_likelihood": "log-likelihood, nats", "elbo": "ELBO, nats"}
MOST_COLUMNS = 4  # runs whose options have a column each; of more, options are told by value


def comparison_page(comparison: Mapping[str, Any]) -> str:
    """The page of a comparison.

    Args:
        comparison: what ``comparison.json`` holds.
    """
    runs, against = comparison["runs"], comparison["against"]
    kl = list(dict.fromkeys(site for run in runs for site in run.get("kl", {})))
    sections = {
        f"Differences from {against}": _differences(comparison),
        "Seeds": seeds_section(comparison["seeds"]),
        "Likelihood": likelihood_table({run["name"]: run for run in runs}),
        "KL by latent site": html.table(
            ["run", *kl, "all"],
            [
                [run["name"], *(run["kl"].get(site) for site in kl), sum(run["kl"].values())]
                for run in runs
                if "kl" in run
            ],
        )
        + html.note("Nats, mean over the data, raw. A dash: the model has no such site."),
        "Mixture": _mixture(comparison["mixture"]),
        "Training": _training(runs),
        "Configuration": _configuration(comparison),
        "Commands": html.text("To repeat this page:") + html.code(comparison["command"]),
    }
    made, data = comparison["made"], comparison["data"]
    opening = html.facts(
        {
            "data": data["description"],
            "measured": f"{comparison['num_data']:,} data of {comparison['split']}, {comparison['measured']}",
            "digest of the data": (comparison["data_digest"] or "")[:16],
            "this page": f"{made['time']}, {made['machine']}",
        }
    )
    by = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    title = ", ".join(run["name"] for run in runs) if len(runs) <= 4 else f"{len(runs)} runs"
    return html.page(
        f"Comparison: {title}",
        f"{len(runs)} runs on the same {comparison['num_data']:,} data of {data['name']}, {comparison['split']}",
        opening + "".join(html.warning(words) for words in comparison["warnings"]),
        sections,
        f"Made {made['time']} with {by}.",
    )


def _differences(comparison: Mapping[str, Any]) -> str:
    others = {run["name"]: run["difference"] for run in comparison["runs"] if "difference" in run}
    names = list(dict.fromkeys(name for found in others.values() for name in found))
    rows = []
    for run, found in others.items():
        row: list[Any] = [run]
        for name in names:
            value, error = (found.get(name, {}).get(key) for key in ("mean", "standard_error"))
            row += [_signed(value, error), _in_errors(value, error)]
        rows.append([*row, f"{100 * found['log_likelihood']['better']:.0f}"])
    heads = [head for name in names for head in (BOUNDS.get(name, name), "in st. errors")]
    notes = (
        f"Positive: better than {comparison['against']}; of a metric: more. Differences are taken datum by datum; ± is "
        "their standard deviation over the square root of their number, which is less than the two runs' own errors "
        "would say, since both find the same data hard. Better: by log-likelihood."
    )
    return html.table(["run", *heads, "better on, % of data"], rows) + html.note(notes)


def _mixture(together: Mapping[str, Any] | None) -> str:
    if together is None:
        return html.text("None: the runs' numbers do not compare (see above), or are not finite.")
    gained = together["difference"]
    row = [
        html.with_error(together["log_likelihood"], together["standard_error"]),
        together["best"],
        _signed(gained["mean"], gained["standard_error"]),
        f"{100 * gained['better']:.0f}",
    ]
    notes = (
        "All runs as one model, p(x) the mean of theirs: which of them a datum is drawn from is summed over exactly. "
        "It loses log M at most to the best of M on a datum, and gains where they differ."
    )
    columns = ["log-likelihood, nats", "best run", "difference from it, paired", "better on, % of data"]
    return html.table(columns, [row], (1,)) + html.note(notes)


def _training(runs: Any) -> str:
    columns = ["run", "recipe", "model", "parameters", "epochs", "best", "minutes", "stopped"]
    rows = [
        [
            run["name"],
            run["recipe"],
            run["classes"].get("model", "").rpartition(".")[2],
            run["parameters"]["all"],
            run["training"]["epochs"],
            run["training"]["best_epoch"],
            html.number(run["training"]["minutes"], 1),
            run["training"]["stopped"] or "not at its end",
        ]
        for run in runs
    ]
    return html.table(columns, rows, (0, 1, 2, 7))


def _configuration(comparison: Mapping[str, Any]) -> str:
    names = [run["name"] for run in comparison["runs"]]
    if not comparison["differences"]:
        return html.text("All runs are configured alike.")
    notes = "Only options in which the runs differ. A dash: the run has no such option, or none is set."
    differences = comparison["differences"].items()
    if len(names) > MOST_COLUMNS:
        rows = [row for option, each in differences for row in _by_value(option, each)]
        return html.table(["option", "value", "runs"], rows, range(3)) + html.note(notes)
    rows = [[option, *(_spelled(each[name]) for name in names)] for option, each in differences]
    return html.table(["option", *names], rows, range(len(names) + 1)) + html.note(notes)


def _by_value(option: str, each: Mapping[str, Any]) -> list[list[str]]:
    """A row for each value, with the runs that have it."""
    runs: dict[str, list[str]] = {}
    for name, value in each.items():
        runs.setdefault(_spelled(value), []).append(name)
    return [[option if i == 0 else "", value, ", ".join(who)] for i, (value, who) in enumerate(runs.items())]


def _spelled(value: Any) -> str:
    return html.NOTHING if value is None else str(value).removeprefix("pyro_vae.")


def _signed(value: float | None, error: float | None) -> str:
    return ("+" if value is not None and value > 0 else "") + html.with_error(value, error)


def _in_errors(value: float | None, error: float | None) -> str:
    return f"{value / error:+.1f}" if error and value is not None else html.NOTHING

"""``model_card``: what a run is, in a page of Markdown, with the numbers that were measured of it and no others."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import yaml

from pyro_vae.errors import CorruptFileError, InputError, why_not
from pyro_vae.files import read_yaml
from pyro_vae.reports.stored import (
    Training,
    evaluate_command,
    prior_commands,
    stored_evaluations,
    stored_measurements,
    train_command,
    trusted,
)
from pyro_vae.runs.directory import CONFIG, WEIGHTS, stored_weights_digest
from pyro_vae.runs.learned_priors import prior_folders
from pyro_vae.runs.measurements import not_together, weights_digest
from pyro_vae.runs.run import Run

FOREIGN = " Its configuration names code outside pyro_vae, which is not here and is needed: `--trust`."
HEAD = {"library_name": "pyro-vae", "tags": ["pyro", "variational-autoencoder"]}


def model_card(run: Run, repository: str) -> str:
    """The card of a run's repository.

    Its log-likelihoods are those of ``evaluation-<split>.json``, whole and of the weights that the run has now; where
    there is none, the card says that it was never measured.

    Args:
        run: that is shared.
        repository: ``USER/NAME``.

    Raises:
        CorruptFileError: if a file of the run is damaged.
    """
    config = read_yaml(run.path / CONFIG)
    training = Training.of(run.path, run.config.fit.epochs)
    version = _clean(str(config.get("version", "")))
    facts = {name: _class_of(config.get(name)) for name in ("model", "guide", "pair", "objective") if config.get(name)}
    facts |= {"recipe": _hidden(run, run.recipe), "data": _data(run), "trained": _trained(training)}
    facts |= {"numbers in model.safetensors": f"{_count(run.path / WEIGHTS):,}"}
    facts |= {"priors learned afterwards": ", ".join(folder.name for folder in prior_folders(run.path)) or "none"}
    facts |= {"version": f"pyro_vae {version}", "seed": str(run.config.seed)}
    parts = [
        f"---\n{yaml.safe_dump(HEAD, sort_keys=False)}---",
        f"# {repository.rpartition('/')[2]}",
        "A variational autoencoder as a pair of Pyro programs, model p(x, z) and guide q(z | x), trained by pyro_vae.",
        "\n".join(["| | |", "|---|---|", *(f"| {name} | {_clean(value)} |" for name, value in facts.items())]),
        *(f"**Note.** {_clean(words.partition(' Go on')[0])}" for words in training.warnings(run.path)),
        "## Log-likelihood",
        *_measured(run),
        "## Use",
        f"```\npip install 'pyro-vae[hub]'\npyro-vae pull {repository} DIR\npyro-vae sample DIR --num 64\n```",
        'In Python: `model, guide = pyro_vae.load("DIR")`.' + (FOREIGN if trusted(run) else ""),
        "## How it was made",
        "```\n" + _hidden(run, "\n".join([train_command(run), *prior_commands(run)])).replace("```", "'''") + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def is_current(run: Run, evaluation: Mapping[str, Any]) -> bool:
    """Whether an evaluation is of the weights that a run has now."""
    said = evaluation.get("weights_digest")
    if said is not None and said == stored_weights_digest(run.path / WEIGHTS) and not prior_folders(run.path):
        return True
    try:
        return said is not None and said == weights_digest(*run.programs())
    except CorruptFileError:
        raise
    except InputError:  # priors of another codebook, or code that is not here
        return False


def _measured(run: Run) -> list[str]:
    """A paragraph for each measurement of the weights as they are."""
    found, left = [], []
    for split, evaluation in stored_evaluations(run.path).items():
        why = not_together(run.path, f"evaluation-{split}")
        if why is not None or not is_current(run, evaluation):
            left.append(f"A measurement of {split} is of other weights than these, or damaged: it is not told.")
            continue
        found.append(_evaluation(split, evaluation))
        command = evaluate_command(run, evaluation, None)
        command = command.replace(f"evaluate {shlex.quote(str(run.path))} ", "evaluate DIR ", 1)
        found.append(f"```\n{command}\n```")
    for name, measurement in stored_measurements(run.path).items():
        value, error = measurement.get("log_likelihood"), measurement.get("standard_error")
        if isinstance(value, float) and isinstance(error, float):
            found.append(f"`{_clean(name)}.json`: {value:.2f} ± {error:.2f} nats, of the weights at its time.")
    if not any("importance-weighted" in words for words in found):
        found.insert(0, "**Never measured**: no importance-weighted log-likelihood of these weights is known.")
    return [*found, *left]


def _evaluation(split: str, evaluation: Mapping[str, Any]) -> str:
    given = evaluation.get("given") or []
    of = f"log p(x | {', '.join(given)})" if given else "log p(x)"
    of = f"the log-density of {evaluation['density_of']}" if evaluation.get("density_of") else of
    text = (
        f"On {evaluation['num_data']:,} data ({split}) the importance-weighted bound of {of} with "
        f"{evaluation['num_particles']:,} particles is **{_number(evaluation['log_likelihood'])} ± "
        f"{_number(evaluation['standard_error'])} nats** (one standard error over data)."
    )
    if isinstance(evaluation.get("pareto_k_max"), int | float):
        text += f" Pareto k-hat of a datum's weights: {evaluation['pareto_k_max']:.2f} at most"
        above = evaluation.get("pareto_k_above")
        text += f", above 0.7 for {100 * above:.1f}% of the data." if isinstance(above, int | float) else "."
    else:
        text += " Pareto k-hat of its weights: not known."
    if isinstance(evaluation.get("elbo"), int | float):
        text += f" ELBO: {_number(evaluation['elbo'])} ± {_number(evaluation.get('elbo_standard_error'))} nats."
    return " ".join([text, *(f"**Note.** {_clean(words)}" for words in evaluation.get("warnings", []))])


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, int | float) else "none"


def _trained(training: Training) -> str:
    said = training.to_dict()
    minutes = f", {said['minutes']:.1f} minutes" if said["minutes"] is not None else ""
    return f"{said['epochs']} epochs{minutes} ({said['stopped'] or 'not to its end'})"


def _data(run: Run) -> str:
    options = {k: v for k, v in vars(run.config.data).items() if k not in ("name", "root") and v is not None}
    said = ", ".join(f"{name} {value}" for name, value in options.items())
    return _hidden(run, f"{run.config.data.name} ({said}), x of shape {'×'.join(map(str, run.data_shape))}")


def _hidden(run: Run, text: str) -> str:
    """Without the directories of the machine that it was trained on."""
    text = text.replace(f"{run.path}-again", "DIR")
    for path in (run.config.data.name, run.config.data.root, run.recipe):
        if path and "/" in str(path):
            text = text.replace(str(path), Path(path).name)
    return text


def _class_of(section: Any) -> str:
    found = section.get("class_path", "") if isinstance(section, Mapping) else section
    return str(found).removeprefix("pyro_vae.")


def _clean(text: str) -> str:
    """Text that is no markup of Markdown or HTML."""
    return re.sub(r"([|<>`*_\[\]])", r"\\\1", " ".join(text.split()))[:2000]


def _count(file: Path) -> int:
    try:
        with safetensors.safe_open(file, "pt") as opened:
            shapes = [opened.get_slice(name).get_shape() for name in opened.keys()]
    except (safetensors.SafetensorError, OSError) as error:
        raise CorruptFileError(f"{file} cannot be read as weights: {why_not(error)}") from error
    total = 0
    for shape in shapes:
        size = 1
        for length in shape:
            size *= length
        total += size
    return total

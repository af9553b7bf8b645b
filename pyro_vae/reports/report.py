"""``write_report``: what there is to say of a trained run, in one page and one JSON file."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyro_vae.data import Data, Sound, Split
from pyro_vae.data.tokens import Tokens
from pyro_vae.errors import InputError, NotApplicable, why_not
from pyro_vae.evaluation.codes import CodeStatistics, CodeUsage
from pyro_vae.evaluation.latent_units import LatentStatistics
from pyro_vae.files import write_atomically, write_json
from pyro_vae.plots.registry import Shown, figures, in_report, known_of, png
from pyro_vae.plots.tables import TextTable
from pyro_vae.plots.training import training_curves
from pyro_vae.programs.program import as_programs
from pyro_vae.reports.report_page import report_page
from pyro_vae.reports.stored import (
    TrainedPair,
    Training,
    evaluate_command,
    made,
    page_command,
    prior_commands,
    stored_evaluations,
    stored_measurements,
    train_command,
    trusted,
)
from pyro_vae.runs.measurements import (
    MEMORY_MIB,
    PARTICLES,
    check_options,
    measure,
    not_together,
    part_of,
    plain,
    table,
    weights_digest,
)
from pyro_vae.runs.run import Run

logger = logging.getLogger(__name__)

DPI = 100


@dataclass
class Pictures:
    """Figures that were drawn, and the others.

    Attributes:
        drawn: PNG by name.
        tables: of texts, in the place of pictures, by name.
        reasons: by name, why a figure does not apply, or what it failed of.
        failed: those that failed of something else than what they say themselves.
    """

    drawn: dict[str, bytes] = field(default_factory=dict)
    tables: dict[str, TextTable] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def draw(self, run: Shown, names: Sequence[str]) -> None:
        """Draw some of the figures; those that do not apply say why."""
        every = figures()
        for name in names:
            try:
                figure = every[name].draw(run)
                if isinstance(figure, TextTable):
                    self.tables[name] = figure
                else:
                    self.drawn[name] = png(figure, DPI)
            except InputError as error:
                self.reasons[name] = str(error)
            except Exception as error:  # one figure's failure is not to take the page with it
                self.reasons[name] = why_not(error)
                self.failed.append(name)
                logger.warning("no figure '%s': %s", name, self.reasons[name])


MAIN = {"Reconstructions": "reconstructions", "Samples": "prior_samples", "Traversals": "traversals"}  # by section
MAIN_OF_TOKENS = {
    "Reconstructions": "token_reconstructions",
    "Samples": "token_samples",
    "Traversals": "token_interpolations",
}
PAGE, JSON = "report.html", "report.json"


def write_report(
    run: Run | str | Path,
    model: Callable[..., Any] | None = None,
    guide: Callable[..., Any] | None = None,
    data: Data | Split | None = None,
    *,
    split: str = "test",
    particles: int | None = None,
    limit: int | None = None,
    memory_mib: int = MEMORY_MIB,
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
    progress: bool = False,
) -> Path:
    """Write ``report.html``, one page that needs no other file, and ``report.json`` into a run directory.

    What is said comes from the run's files and from the programs' traces. The likelihood is that of
    ``evaluation-<split>.json``; where there is none it is measured first, and written there.

    Args:
        run: a run, or its directory.
        model, guide, data: of a run that was trained from Python (``fit(..., out=path)``), and so has no configuration.
        split: the part of the data that is shown, and measured if it has not been.
        particles: importance samples per datum of a measurement (5000).
        limit: measure the first so many data only.
        memory_mib: memory budget of measurements and statistics.
        seed: of all draws.
        device: where to measure: "auto" (a GPU if there is one), "cpu", "cuda", …
        trust: allow class paths outside ``pyro_vae`` in the configuration; their code is run.
        progress: show a bar.

    Returns:
        the page.

    Raises:
        InputError: if it is no run directory, for a split that the data do not have, and as the estimators.
        CorruptFileError: if a file of the directory is damaged.
    """
    check_options(particles=particles, limit=limit, memory_mib=memory_mib, seed=seed, device=device)
    trained = TrainedPair.of(run, model, guide, data, trust=trust)
    part = part_of(trained.data, split)
    evaluations = stored_evaluations(trained.path)
    if split in evaluations:
        found = evaluations[split]
        logger.info("likelihood: from evaluation-%s.json (K = %d)", split, found["num_particles"])
        if (particles, limit) != (None, None):
            logger.warning("--particles and --limit are not used; to measure anew: pyro-vae evaluate %s", trained.path)
    else:
        k = PARTICLES if particles is None else particles
        logger.info("no evaluation-%s.json yet: measuring with K = %d", split, k)
        options = {"limit": limit, "memory_mib": memory_mib, "seed": seed, "device": device, "progress": progress}
        measured = measure(trained.model, trained.guide, trained.data, split, particles=k, **options)
        logger.info("%s", table(trained.path, measured.result, measured.rows))  # before it is written: disks are full
        measured.write(trained.path)
        evaluations[split] = measured.result
    report, pictures = _gather(trained, split, part, evaluations, seed, device, memory_mib)
    write_json(trained.path / JSON, report)
    text = report_page(report, pictures.drawn, pictures.tables)
    write_atomically(trained.path / PAGE, lambda path: path.write_text(text, encoding="utf-8"))
    return trained.path / PAGE


def _gather(
    trained: TrainedPair,
    split: str,
    part: Split,
    evaluations: dict[str, dict[str, Any]],
    seed: int,
    device: str,
    memory_mib: int,
) -> tuple[dict[str, Any], Pictures]:
    """What the page says, as plain values, and its pictures."""
    options = {"device": None if device == "auto" else device, "memory_budget": memory_mib * 2**20}
    run = Shown(
        *as_programs(trained.model, trained.guide),
        part,
        trained.training.records,
        seed=seed,
        options=options,
        **known_of(trained.data),
    )
    failed: dict[str, str] = {}
    with _section("Latents", failed):
        _ = run.latents
    with _section("Codes", failed):
        _ = run.codes
    if "Latents" in failed:
        run.latents = LatentStatistics({}, 0, 0)
    if "Codes" in failed:
        run.codes = CodeStatistics({}, 0)
    latents, codes = run.latents, run.codes
    pictures = Pictures()
    pictures.draw(run, in_report())
    others, measurements = trained.other_trainings(), stored_measurements(trained.path)
    for name, training in others.items():
        with suppress(NotApplicable):
            pictures.drawn[f"training_curves of {name}"] = png(training_curves(training.records), DPI)
    report = {
        "run": str(trained.path),
        "name": trained.name,
        "recipe": trained.run.recipe if trained.run else None,
        "made": {**made(), "split": split, "seed": seed},
        "trained_with": trained.config.get("version"),
        "classes": trained.classes(),
        "parameters": trained.parameters(),
        "data": {
            "name": trained.data.name,
            "description": trained.described_data(),
            "shape": list(part.shape),
            "sizes": {name: len(part) for name, part in trained.data.splits.items()},
            "binarization": trained.config.get("data", {}).get("binarization"),
        },
        "training": trained.training.to_dict(),
        "other_trainings": {name: training.to_dict() for name, training in others.items()},
        "evaluations": evaluations,
        "measurements": measurements,
        "sites": _sites(latents, codes.sites, evaluations[split]),
        "num_statistics": {"latents": latents.num_data, "codes": codes.num_data},
        "figures": [*pictures.drawn, *pictures.tables],
        "left_out": _left_out(trained, pictures, codes.sites) | failed,
        "warnings": [
            *(f"{title} failed: {why}" for title, why in failed.items()),
            *(f"Figure {name} failed: {pictures.reasons[name]}" for name in pictures.failed),
            *_of_others(others),
            *trained.training.warnings(trained.path),
            *_of_measurements(trained, evaluations),
            *_of_annealing(trained, measurements),
        ],
        "commands": _commands(trained, split, evaluations),
        "configuration": trained.config,
    }
    return plain(report), pictures


@contextmanager
def _section(title: str, failed: dict[str, str]) -> Iterator[None]:
    """A part of the page whose failure is told there, and takes no other part with it."""
    try:
        yield
    except Exception as error:
        failed[title] = why_not(error)
        logger.warning("%s: %s", title, failed[title])


def _sites(latents: LatentStatistics, codes: dict[str, CodeUsage], evaluation: dict[str, Any]) -> dict[str, Any]:
    """What is said of each latent site: KL of the evaluation (nats), units, codes."""
    kl = evaluation.get("kl", {})
    found: dict[str, Any] = {}
    for name in dict.fromkeys([*latents.sites, *kl]):
        site, usage = latents.sites.get(name), codes.get(name)
        entry: dict[str, Any] = {"kl": kl.get(name, site.kl if site else None)}
        if usage is not None:
            bits = entry["kl"] / (usage.num_positions * math.log(2))
            entry |= {"kind": "codes", **usage.to_dict(), "kl_bits_per_code": bits}
        elif site is None:
            entry["kind"] = "factor of the guide"
        elif site.is_function:
            entry["kind"] = "function of the others"
        else:
            entry["kind"] = "latent"
            if site.active is not None:
                entry |= {"num_active": site.num_active, "num_units": site.active.numel()}
        found[name] = entry
    return found


def _left_out(trained: TrainedPair, pictures: Pictures, codes: dict[str, CodeUsage]) -> dict[str, str]:
    """Sections that there is nothing for, and why."""
    main = MAIN if trained.data.extra(Tokens) is None else MAIN_OF_TOKENS
    found = {title: pictures.reasons[name] for title, name in main.items() if name in pictures.reasons}
    for name, entry in figures().items():
        if name in pictures.drawn or name in pictures.tables:
            found.pop(entry.section, None)
    if not codes:
        found["Codes"] = "the model has no latent site over integers"
    if trained.data.extra(Sound) is None:
        found["Sound"] = "the data are not sound"
    said = "the data have no captions"
    if trained.data.train.captions is not None:
        said = f"what the model makes of a caption is drawn by pyro-vae sample {trained.path} --text …"
    return found if trained.data.extra(Tokens) is not None else found | {"Text": said}


def _of_others(others: Mapping[str, Training]) -> list[str]:
    """Priors (and first pairs) that take no part, since they are not trained to their end."""
    unfinished = [name for name, training in others.items() if training.summary is None]
    return [f"{name}: training has not come to its end, so that it takes no part here." for name in unfinished]


def _of_measurements(trained: TrainedPair, evaluations: dict[str, dict[str, Any]]) -> list[str]:
    """What makes measured numbers less than they look."""
    digest, said = weights_digest(trained.model, trained.guide), []
    for split, found in evaluations.items():
        where = f"Evaluation on {split}"
        if why := not_together(trained.path, f"evaluation-{split}", found):
            said.append(f"{where}: {why}. Measure again: pyro-vae evaluate {trained.path} --split {split}")
        said += [f"{where}: {words}" for words in found.get("warnings", [])]
        if found.get("weights_digest", digest) != digest:
            again = f"Measure again: pyro-vae evaluate {trained.path} --split {split}"
            said.append(
                f"{where}: it is of other weights than the run has now (trained on since, or a new prior). {again}"
            )
        part = getattr(trained.data, split)
        if part is not None and found["num_data"] != len(part):
            said.append(f"{where}: {found['num_data']:,} of {len(part):,} data were measured.")
    return said


def _of_annealing(trained: TrainedPair, measurements: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is said of annealing whose two files do not belong together."""
    why = {name: not_together(trained.path, name, found) for name, found in measurements.items()}
    return [f"{name}: {words}. Measure again" for name, words in why.items() if words]


def _commands(trained: TrainedPair, split: str, evaluations: dict[str, dict[str, Any]]) -> list[str]:
    run = trained.run
    if run is None:
        return []
    whole = {name: len(part) for name, part in trained.data.splits.items() if name in evaluations}
    lines = [train_command(run), *prior_commands(run)]
    lines += [evaluate_command(run, found, whole.get(name)) for name, found in evaluations.items()]
    options = {"split": split if split != "test" else None}
    return [*lines, page_command("report", [str(run.path)], options, trusted(run))]

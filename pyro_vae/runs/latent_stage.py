"""Train priors over the real latents of a finished run."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path

from jsonargparse import Namespace

from pyro_vae.errors import InputError
from pyro_vae.files import check_no_links, digest_of, locked, remove_leftovers
from pyro_vae.programs.program import as_programs
from pyro_vae.runs.config import NOT_CONFIGURED
from pyro_vae.runs.directory import CONFIG, SUMMARY, WEIGHTS, check_free, nothing_left_if_refused, write_summary
from pyro_vae.runs.learned_priors import (
    DRAWS,
    PRIORS,
    build_latent_prior,
    check_trained_on,
    is_over_latents,
    prior_folders,
    read_prior_config,
    write_prior_config,
)
from pyro_vae.runs.prior_stage import check_ended, sites_to_train, train_priors
from pyro_vae.runs.run import Run
from pyro_vae.runs.sections import experiment_entries, instantiate, is_first_process
from pyro_vae.training import FitResult, fit
from pyro_vae.training.prior import fit_prior, site_of_prior

logger = logging.getLogger(__name__)


def train_prior(
    run: Run,
    config: Namespace | None,
    recipe: str = "",
    *,
    site: str | None = None,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, FitResult]:
    """Learn priors for a run: over its codes, or over a real latent, as the configuration's class says.

    Args:
        run, config, recipe, site, resume, progress: as for
            :func:`~pyro_vae.runs.prior_stage.train_priors`; of a prior over a real latent, site is by default the first
            one in the model's order whose distribution depends on no other.

    Returns:
        what training returned, by site.

    Raises:
        InputError: as that, and as :func:`~pyro_vae.training.fit_prior`.
    """
    if resume and config is None:
        begun = _begun(run)
        latents = [name for name, of_latents in begun.items() if of_latents and site in (None, name)]
        if latents:
            return dict(_train(run, None, recipe, name, progress) for name in latents)
        if not begun:
            folders = [folder.name for folder in prior_folders(run.path)]
            sites_to_train(run.path / PRIORS, folders, None, None)  # says that there is none
    if config is not None and not resume and is_over_latents(config):
        return dict([_train(run, config, recipe, site, progress)])
    return train_priors(run, config, recipe, site=site, resume=resume, progress=progress)


def _begun(run: Run) -> dict[str, bool]:
    """The sites whose priors were begun and not ended, and whether they are of real latents."""
    folders = [f for f in prior_folders(run.path) if (f / CONFIG).is_file() and not (f / SUMMARY).is_file()]
    return {folder.name: is_over_latents(read_prior_config(folder, run.trust)[1]) for folder in folders}


def _train(run: Run, config: Namespace | None, recipe: str, site: str | None, progress: bool) -> tuple[str, FitResult]:
    check_ended(run)
    if config is not None and (config.draws or config.text.vocabulary_size is not None or not config.conditional):
        raise InputError(
            "conditional, draws and text.vocabulary_size are of priors over codes, and this one is over a real latent: "
            "it sees new draws at every step, and its class says what it is conditional on"
        )
    model, guide = as_programs(*run.stage_one())
    data, trained = run.data(), digest_of(run.path / WEIGHTS)
    name, shape = site_of_prior(model, guide, data, None, site)
    _check_name(name)
    sites_to_train(run.path / PRIORS, [name], name, config)
    folder = run.file(f"{PRIORS}/{name}")
    check_no_links(run.path, [f"{PRIORS}/{name}/{file}" for file in (CONFIG, SUMMARY)])
    logger.info("prior of '%s': %s", name, folder)
    with locked(run.path / PRIORS) if is_first_process(config) else nullcontext():
        if is_first_process(config):
            remove_leftovers(folder / file for file in (CONFIG, SUMMARY))
        resumed = config is None
        if config is None:
            head, config = read_prior_config(folder, run.trust)
            check_trained_on(folder, head, trained, DRAWS)
        else:
            if is_first_process(config):
                check_free(folder)
            head = {"recipe": recipe, "trained_on": trained, "num_classes": None, "shape": list(shape)}
        prior = build_latent_prior(config, head["shape"], run.shapes)
        options = dict(vars(instantiate("fit", config, fit, NOT_CONFIGURED, {})))
        with nothing_left_if_refused([folder], [] if resumed else [folder / CONFIG], config):
            if not resumed and is_first_process(config):
                write_prior_config(folder, config, head)
            result = fit_prior(
                model,
                guide,
                data,
                prior,
                site=name,
                start_at_draws=True,
                seed=config.seed,
                out=folder,
                resume=resumed,
                described=experiment_entries(config, trained_on=trained, shape=head["shape"]),
                progress=progress,
                **options,
            )
            write_summary(folder, result, config, recipe=head["recipe"])
    return name, result


def _check_name(site: str) -> None:
    """A site's name is that of its directory."""
    if Path(site).name != site or site.startswith("."):
        raise InputError(f"latent site '{site}' cannot have a directory of its name: call it by letters and digits")

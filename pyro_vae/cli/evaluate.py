"""``pyro-vae evaluate``."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from pyro_vae.cli.parsing import parse, run_parser
from pyro_vae.data import Split
from pyro_vae.data.digest import split_digest
from pyro_vae.errors import InputError
from pyro_vae.files import write_atomically
from pyro_vae.program import declared_context, required_arguments
from pyro_vae.recipes import Run

if TYPE_CHECKING:
    from pyro_vae.evaluation import CodeUsage, EvidenceBound, LogLikelihood

SplitName = Literal["train", "validation", "test"]


def evaluate(arguments: Sequence[str]) -> None:
    """Measure a trained run: importance-weighted log-likelihood, ELBO and its parts."""
    from pyro_vae.evaluation import code_statistics, elbo, log_likelihood

    parser = run_parser("evaluate", evaluate.__doc__)
    parser.add_argument("--particles", type=int, default=5000, help="importance samples per datum")
    parser.add_argument("--split", type=SplitName, default="test", help="which part of the data")
    parser.add_argument("--limit", type=int | None, default=None, help="measure the first so many data only")
    parser.add_argument("--memory_mib", type=int, default=512, help="memory budget of a chunk")
    parser.add_argument("--seed", type=int, default=0, help="of the particles")
    parser.add_argument("--device", type=str, default="auto", help="auto (a GPU if there is one), cpu, cuda, …")
    parser.add_argument("--json", action="store_true", help="print JSON alone on standard output")
    options = parse(parser, arguments)
    run = Run(options.dir, trust=options.trust)
    model, guide = run.programs()
    split = getattr(run.data(), options.split)
    if split is None:
        raise InputError(f"the run's data have no {options.split} part")
    if options.limit is not None:
        split = split.subset(options.limit)
    started = time.monotonic()
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    common = {"seed": options.seed, "device": automatic if options.device == "auto" else options.device}
    likelihood = log_likelihood(
        model,
        guide,
        split,
        num_particles=options.particles,
        memory_budget=options.memory_mib * 2**20,
        progress=not options.json,
        **common,
    )
    evidence = elbo(model, guide, split, **common)
    bound = evidence.to_dict()
    result = {
        **likelihood.to_dict(),
        "split": options.split,
        "data_digest": split_digest(split),
        "given": _given(model, split),
        "elbo": bound["elbo"],
        "elbo_standard_error": bound["standard_error"],
        "reconstruction": bound["reconstruction"],
        "kl": bound["kl"],
        **_codes(code_statistics(model, guide, split, **common).sites, bound["kl"]),
        "seconds": round(time.monotonic() - started, 2),
    }
    _write_per_datum(run.path / f"evaluation-{options.split}.npz", likelihood, evidence)
    run.write_json(f"evaluation-{options.split}.json", result)
    print(json.dumps(result) if options.json else _table(run, result))
    for sentence in likelihood.warnings:
        logging.warning("warning: %s", sentence)


def _write_per_datum(file: Path, likelihood: LogLikelihood, evidence: EvidenceBound) -> None:
    """Write the estimates of every datum, in the data's order: arrays (num_data,), float64."""
    import numpy as np

    arrays = {
        "log_likelihood": likelihood.per_datum,
        "elbo": evidence.per_datum,
        "effective_sample_size": likelihood.effective_sample_size,
        "pareto_k": likelihood.pareto_k,
    }
    write_atomically(file, lambda path: np.savez(path, **{name: value.numpy() for name, value in arrays.items()}))


def _given(model: nn.Module, split: Split) -> list[str]:
    """What of the data is given; the rest is what the log-likelihood is of."""
    declared = [name for name, context in declared_context(model).items() if not context.drawn]
    return sorted({*required_arguments(model), *declared} & {*split.keys})


def _codes(sites: Mapping[str, CodeUsage], kl: dict[str, float]) -> dict[str, Any]:
    """What is said of codes; nothing of a model without them. With point masses at the codes KL is -log p(codes)."""
    bits = {name: kl[name] / (site.num_positions * math.log(2)) for name, site in sites.items()}
    told = {name: {**site.to_dict(), "kl_bits_per_code": bits[name]} for name, site in sites.items()}
    return {"codes": told} if told else {}


def _pareto_k(result: dict[str, Any]) -> str:
    if result["pareto_k_max"] is None:
        return "none: it takes 21 particles or more, whose weights differ"
    return f"{result['pareto_k_max']:.2f} at most, above 0.7 for {100 * result['pareto_k_above']:.1f}% of the data"


def _table(run: Run, result: dict[str, Any]) -> str:
    rows = (
        [("given", f"{', '.join(result['given'])}: log p(x | {', '.join(result['given'])})")] if result["given"] else []
    )
    rows += [
        ("ELBO", f"{result['elbo']:.2f} +- {result['elbo_standard_error']:.2f} nats"),
        (
            f"log-likelihood (K = {result['num_particles']})",
            f"{result['log_likelihood']:.2f} +- {result['standard_error']:.2f} nats",
        ),
        ("bits per dimension", f"{result['bits_per_dim']:.4f}"),
        ("effective sample size", f"{result['effective_sample_size']:.1f}"),
        ("Pareto k-hat", _pareto_k(result)),
    ]
    rows += [(f"reconstruction of {k}", f"{v:.2f} nats") for k, v in result["reconstruction"].items()]
    codes = result.get("codes", {})
    for site, nats in result["kl"].items():
        bits = f", {codes[site]['kl_bits_per_code']:.2f} bits per code" if site in codes else ""
        rows.append((f"KL of {site}", f"{nats:.2f} nats{bits}"))
    for site, told in codes.items():
        used = f"{told['num_used']} of {told['num_codes']} in use ({100 * told['usage']:.0f}%)"
        rows.append((f"codes of {site}", f"{used}, perplexity {told['perplexity']:.0f}"))
    rows += [("seconds", f"{result['seconds']:.1f}")]
    width = max(len(name) for name, _ in rows)
    title = f"{run.path} on {result['num_data']} {result['split']} data (+- one standard error over data)"
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows)])

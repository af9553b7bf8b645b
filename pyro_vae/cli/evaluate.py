"""``pyro-vae evaluate``."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from pyro_vae.cli.parsing import parse, run_parser
from pyro_vae.recipes import Run
from pyro_vae.recipes.measure import MEMORY_MIB, PARTICLES, SplitName, bits_in_words, measure
from pyro_vae.recipes.plain import plain


def evaluate(arguments: Sequence[str]) -> None:
    """Measure a trained run: importance-weighted log-likelihood, ELBO and its parts."""
    parser = run_parser("evaluate", evaluate.__doc__)
    parser.add_argument("--particles", type=int, default=PARTICLES, help="importance samples per datum")
    parser.add_argument("--split", type=SplitName, default="test", help="which part of the data")
    parser.add_argument("--limit", type=int | None, default=None, help="measure the first so many data only")
    parser.add_argument("--memory_mib", type=int, default=MEMORY_MIB, help="memory budget of what is computed at once")
    parser.add_argument("--seed", type=int, default=0, help="of the particles")
    parser.add_argument("--device", type=str, default="auto", help="auto (a GPU if there is one), cpu, cuda, …")
    parser.add_argument("--json", action="store_true", help="print JSON alone on standard output")
    options = parse(parser, arguments)
    run = Run(options.dir, trust=options.trust)
    model, guide = run.programs()
    measured = measure(
        model,
        guide,
        run.data(),
        options.split,
        particles=options.particles,
        limit=options.limit,
        memory_mib=options.memory_mib,
        seed=options.seed,
        device=options.device,
        progress=not options.json,
    )
    measured.write(run.path)
    result = measured.result
    print(json.dumps(plain(result)) if options.json else _table(run, result))
    for sentence in result["warnings"]:
        logging.warning("warning: %s", sentence)


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
        ("bits per dimension", bits_in_words(result)),
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

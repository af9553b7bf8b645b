"""The gallery: each program trained at its own size, measured on data that it has not seen; a Markdown table.

    python benchmarks/gallery.py [NAME ...] [--data 200] [--particles 100]

ELBO and log p(x) are nats per datum, +- one standard error over the data; the independent value is that of
tests/gallery/truths*.py for the trained program, on the same data.
"""

import argparse
import importlib
import logging
import sys
import time
from pathlib import Path

import torch

import pyro_vae

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "gallery"))
COLUMNS = (
    "program",
    "ELBO before → after",
    "log p(x), K = {K}",
    "k-hat above 0.7",
    "log p(x) by other means",
    "steps",
    "seconds",
)


def truth_of(name):
    """The function that knows log p(x) of a trained program, if there is one."""
    modules = (importlib.import_module(path.stem) for path in sorted((ROOT / "tests" / "gallery").glob("truths*.py")))
    return next((getattr(module, name) for module in modules if hasattr(module, name)), None)


def how_it_ran(lines):
    """What the log says of the training steps."""
    why = [line.partition("cannot be recorded: ")[2] for line in lines if "training steps run eagerly" in line]
    return f"eager: {why[0]}".replace("|", "\\|") if why else "recorded"


def row(name, num_data, num_particles):
    """One line of the table."""
    from conftest import Told, load_module

    module, told, logger = load_module(name), Told(), logging.getLogger("pyro_vae")
    torch.manual_seed(0)
    model, guide = module.pair()
    test = module.data(num_data, seed=1)
    before = pyro_vae.elbo(model, guide, test).mean
    how = {"epochs": module.EPOCHS, "learning_rate": module.LEARNING_RATE, "device": "cpu", "progress": False}
    if hasattr(module, "BATCH_SIZE"):
        how["batch_size"] = module.BATCH_SIZE
    logger.addHandler(told)
    started = time.perf_counter()
    result = pyro_vae.fit(model, guide, module.data(), compile="graph", **how)
    seconds = time.perf_counter() - started
    logger.removeHandler(told)
    pair = result.model, result.guide
    after = pyro_vae.elbo(*pair, test).mean
    tight = pyro_vae.log_likelihood(*pair, test, num_particles=num_particles)
    truth, above = truth_of(name), tight.pareto_k_above
    exact = truth(*pair, test if isinstance(test, dict) else {"x": test}).mean().item() if truth else None
    cells = (
        f"`{name}`",
        f"{before:.2f} → {after:.2f}",
        f"{tight.mean:.2f} ± {tight.standard_error:.2f}",
        "exact" if above is None else f"{100 * above:.0f} %",
        "" if exact is None else f"{exact:.2f}",
        how_it_ran(told.lines),
        f"{seconds:.0f}",
    )
    return f"| {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="programs; all if not given")
    parser.add_argument("--data", type=int, default=200, help="held-out data")
    parser.add_argument("--particles", type=int, default=100, help="K")
    options = parser.parse_args()
    from conftest import names

    logging.getLogger("pyro_vae").setLevel(logging.INFO)
    print(f"| {' | '.join(COLUMNS)} |".format(K=options.particles))
    print("|---" * len(COLUMNS) + "|")
    for name in options.names or names():
        print(row(name, options.data, options.particles), flush=True)


if __name__ == "__main__":
    main()

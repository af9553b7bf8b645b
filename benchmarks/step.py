"""One training step (forward, backward, Adam) of batch 100: ours, the same loss written by hand, and peers.

Hand-written variants: eager with torch's default Adam; with fused Adam; the loss compiled; the whole step compiled
(``torch.compile`` around loss, backward and Adam). Theirs: plain ``pyro.infer.SVI``, and one step of pythae's trainer
where that package is installed. Ours: as ``fit`` runs them, eager, recorded and compiled. ``--device cuda`` adds the
hand-written step captured as a CUDA graph, the floor. Last, ``fit`` end to end (shuffling, dynamic
binarization, metrics, progress) against the bare compiled step. Ratios refer to the fastest hand-written variant.
``--quick`` times the first case only, unless ``--case`` names others. The hierarchies of published size, and the
recipes of ``recipe_cases``, are timed when ``--case`` names them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any
from unittest import mock

import common
import pyro
import torch
from hierarchy_cases import PUBLISHED
from lightning_fabric import Fabric
from peers import pythae_vae
from recipe_cases import RECIPES
from step_cases import CASES, SHAPE, Case, mlp_case
from torch import Tensor, nn

from pyro_vae import fit
from pyro_vae.data import Data, Split
from pyro_vae.programs.pair import examine
from pyro_vae.programs.program import as_programs, prime
from pyro_vae.training.compiled import CompiledStep, Step, Update
from pyro_vae.training.loop import Trainer
from pyro_vae.training.optimizer import make_optimizer, trained, wanted

RATE = 1e-3
Run = Callable[[], Any]


def hand_written(case: Case, x: Tensor) -> dict[str, Run]:
    """The variants that one would write without a library."""
    import copy

    def stepper(net: nn.Module, loss: Callable[[Tensor], Tensor], fused: bool | None) -> Run:
        optimizer = torch.optim.Adam(net.parameters(), lr=RATE, fused=fused)

        def step() -> None:
            optimizer.zero_grad()
            loss(x).backward()
            optimizer.step()

        return step

    nets = [copy.deepcopy(case.hand).to(x.device) for _ in range(4)]
    variants = {
        "hand-written": stepper(nets[0], nets[0], None),
        "hand-written, fused Adam": stepper(nets[1], nets[1], True),
        "hand-written, loss compiled": stepper(nets[2], torch.compile(nets[2]), True),
        "hand-written, step compiled": torch.compile(stepper(nets[3], nets[3], None)),
    }
    if x.device.type == "cuda":
        variants["hand-written, CUDA graph"] = captured(copy.deepcopy(case.hand).to(x.device), x)
    return variants


def captured(net: nn.Module, x: Tensor) -> Run:
    """Forward, backward and fused Adam of a compiled loss as one CUDA graph."""
    optimizer = torch.optim.Adam(net.parameters(), lr=torch.tensor(RATE, device=x.device), fused=True, capturable=True)
    loss = torch.compile(net)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(x).backward()
        optimizer.step()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(5):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def plain_svi(case: Case, x: Tensor) -> Run:
    """Pyro's own training step; its parameter store is left as it is found by every call."""
    svi = pyro.infer.SVI(case.model, case.guide, pyro.optim.Adam({"lr": RATE}), case.plain)
    return lambda: svi.step(x)


def ours(case: Case, x: Tensor, mode: str) -> Run:
    """The training step as ``fit`` runs it."""
    model, guide = (p.to(x.device) for p in as_programs(case.model, case.guide))
    batch = {"x": x}
    prime(model, guide, batch)
    fabric = Fabric(accelerator=x.device.type, devices=1)
    objective = case.objective.prepare(examine(model, guide, batch, num_data=len(x)), Split({"x": x}))
    objective.networks.to(x.device)
    step = Step(model, guide, objective)
    parts = [step.programs, *([step.networks] if trained(step.networks) else [])]
    made = [make_optimizer(wanted("adam", {}, RATE), part, {}, {}, fabric.device, mode).optimizer for part in parts]
    module, optimizer, *networks = fabric.setup(step, *made)
    gradient = CompiledStep(fabric, step, mode, differentiate=True, eager=module)
    update = Update(fabric, gradient, optimizer, module, networks=networks[0] if networks else None)

    def run() -> Tensor:
        with pyro.validation_enabled(False):
            return update(batch, [RATE])

    run()
    return run


def pythae_steps(x: Tensor, count: int) -> Run | None:
    """An epoch of ``count`` steps of pythae's trainer on the MLP VAE's networks; None where it is not installed."""
    peer = pythae_vae(SHAPE, (400,), 20)
    if peer is None:
        return None
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    data = BaseDataset(x.cpu().repeat(count, 1, 1, 1), torch.zeros(count * len(x)))
    settings = BaseTrainerConfig(
        output_dir="/tmp/pythae", num_epochs=1, per_device_train_batch_size=len(x), learning_rate=RATE,
        no_cuda=x.device.type == "cpu",
    )  # fmt: skip
    trainer = BaseTrainer(peer, data, training_config=settings)
    trainer.prepare_training()
    trainer.callback_handler.callbacks.clear()  # no progress bar
    return lambda: trainer.train_step(epoch=1)


def times(run: Run, count: int) -> Run:
    def repeated() -> None:
        for _ in range(count):
            run()

    return repeated


def case_rows(name: str, options: Any) -> list[dict[str, Any]]:
    """All variants of a case, interleaved."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    x = (torch.rand(options.batch, *SHAPE, device=options.device) < 0.3).float()
    make = (CASES | PUBLISHED | RECIPES)[name]
    case = make()
    repeats, count = case.rounds, case.steps
    if options.quick:
        repeats, count = min(repeats, 5), max(1, count // 4)
    by_hand = hand_written(case, x)
    modes = [("off", "ours, eager"), ("graph", "ours, recorded"), ("full", "ours, compiled")]
    if case.steps == 1 and options.device == "cpu":  # variants that differ by what does not count there
        by_hand = {k: by_hand[k] for k in ("hand-written, fused Adam", "hand-written, loss compiled")}
        modes = [modes[0], modes[2]]
    variants = dict(by_hand)
    variants["pyro.infer.SVI"] = plain_svi(_to(make(), x), x)
    for mode, label in modes:
        variants[label] = ours(make(), x, mode)
    variants = {label: times(run, count) for label, run in variants.items()}
    peer = pythae_steps(x, count) if name == "MLP VAE" else None
    if peer is not None:
        variants["pythae's trainer"] = peer
    clock = time.process_time if options.cpu_time else time.perf_counter
    rows = common.interleaved(name, variants, None, repeats, options.device, fastest_of=list(by_hand), clock=clock)
    for row in rows:
        row["median_ms"] = round(row["median_ms"] / count, 4)
    pyro.clear_param_store()
    return rows


def _to(case: Case, x: Tensor) -> Case:
    case.model.to(x.device), case.guide.to(x.device)
    return case


def fit_rows(options: Any, epochs: int) -> list[dict[str, Any]]:
    """Each epoch of ``fit`` against as many bare steps, timed right after it."""
    case = mlp_case()
    x = torch.randint(0, 256, (10_000, *SHAPE), dtype=torch.uint8)
    bare = ours(mlp_case(), (torch.rand(100, *SHAPE, device=options.device) < 0.3).float(), "full")
    steps, whole, alone = len(x) // 100, [], []
    epoch = Trainer._epoch

    def timed(trainer: Trainer, *arguments: Any) -> None:
        common.synchronize(options.device)
        started = time.perf_counter()
        epoch(trainer, *arguments)
        common.synchronize(options.device)
        middle = time.perf_counter()
        for _ in range(steps):
            bare()
        common.synchronize(options.device)
        whole.append(1e3 * (middle - started) / steps)
        alone.append(1e3 * (time.perf_counter() - middle) / steps)

    with mock.patch.object(Trainer, "_epoch", timed):
        fit(case.model, case.guide, Data(Split({"x": x}, binarization="dynamic")), epochs=epochs, compile="full",
            device=options.device, learning_rate=RATE, progress=not options.json)  # fmt: skip
    whole, alone = whole[2:], alone[2:]  # the first ones record and compile
    base = {"case": "fit, MLP VAE, 10,000 images", "reference": "bare step"}
    ratio = median(a / b for a, b in zip(whole, alone, strict=True))
    return [
        base | {"variant": "bare step", "median_ms": round(median(alone), 4), "ratio": 1.0},
        base | {"variant": "fit", "median_ms": round(median(whole), 4), "ratio": round(ratio, 4)},
    ]


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--case", choices=[*CASES, *PUBLISHED, *RECIPES, "fit"], action="append", help="only these")
    parser.add_argument("--batch", type=int, default=100, help="data in a batch")
    parser.add_argument("--cpu-time", action="store_true", help="time of the process, for busy machines (one thread)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = []
    for name in options.case or (["MLP VAE"] if options.quick else [*CASES, "fit"]):
        print(f"{name} ...", file=sys.stderr)
        if name == "fit":
            rows += fit_rows(options, 10 if options.quick else 40)
        else:
            rows += case_rows(name, options)
    common.report(rows, options)


if __name__ == "__main__":
    main()

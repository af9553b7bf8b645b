"""Checks of a machine: whether every way of training agrees on it, resumes exactly, and what a step takes."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.cli.small_pairs import BATCH, SEED, Case, Outcome, collected, fabric_on, outcome, stepper
from pyro_vae.errors import InputError, why_not
from pyro_vae.evaluation import log_likelihood
from pyro_vae.recording import NotRecordable, Recording
from pyro_vae.recording.graph import relative_error
from pyro_vae.runtime import peak_bytes
from pyro_vae.training.compiled import WARM_UP, Step

State = Literal["ok", "differs", "not available"]
LOSS, GRADIENT = 1e-4, 1e-4  # relative errors allowed, of recordings and captures
COMPILED_GRADIENT = 2e-2  # of compiled ones, which round otherwise at the kinks of ReLUs
TRAINED = "train/loss"  # in the records of an epoch
MIXED = 2e-2  # of losses under mixed precision against float32
ERRORS = 5.0  # standard errors that an estimate may be off


@dataclass(frozen=True)
class Line:
    """What one check has found.

    Attributes:
        check: what was checked.
        of: the pair, or what else it was checked on.
        state: ok, differs, or not available.
        said: figures, or the reason.
        numbers: the figures by name.
    """

    check: str
    of: str
    state: State
    said: str
    numbers: Mapping[str, float] = field(default_factory=dict)


def agreement(check: str, case: Case, found: Outcome, gradient: float = GRADIENT) -> Line:
    """Whether a step is the eager one, by relative errors of its loss, its gradient and its buffers."""
    ours, theirs = found, case.eager
    whole = math.sqrt(sum(float(g.double().square().sum()) for g in theirs.gradients if g is not None))
    pairs = zip(ours.gradients, theirs.gradients, strict=True)
    errors = {
        "loss": relative_error(ours.loss, theirs.loss),
        "gradient": max((relative_error(a, b, 1e-2 * whole) for a, b in pairs), default=0.0),
        "buffers": max((relative_error(a, b) for a, b in zip(ours.buffers, theirs.buffers, strict=True)), default=0.0),
    }
    good = (
        bool(theirs.loss.isfinite())
        and errors["loss"] <= LOSS
        and errors["gradient"] <= gradient
        and errors["buffers"] <= LOSS
    )
    said = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    said += f" relative to the eager step's (at most {LOSS:.0e}, gradient {gradient:.0e})"
    return Line(check, case.name, "ok" if good else "differs", said, errors)


def refused(check: str, name: str, reason: str) -> Line:
    """Of a way that is not taken here: its numbers differ from the eager ones, or it is not to be had."""
    return Line(check, name, "differs" if "differs" in reason else "not available", reason)


# ------------------------------------------------------------------ the checks
Check = Callable[[Mapping[str, Case], torch.device], Iterator[Line]]
CHECKS: list[Check] = []


def registered(check: Check) -> Check:
    """Register a check: it is given the pairs and the device, and gives lines."""
    CHECKS.append(check)
    return check


def guarded(check: Check, cases: Mapping[str, Case], device: torch.device) -> Iterator[Line]:
    """A check's lines; whatever a machine may fail with is a line, and the other checks go on."""
    try:
        yield from check(cases, device)
    except Exception as error:
        who = ", ".join(cases) if len(cases) == 1 else "all"
        yield Line(check.__name__.replace("_", " "), who, "differs", f"fails: {why_not(error)}")


def of_each(check: Callable[[Case], Iterator[Line]]) -> Check:
    """A check of every pair, of one of a single pair."""

    @wraps(check)
    def one(cases: Mapping[str, Case], device: torch.device) -> Iterator[Line]:
        for case in cases.values():
            yield from check(case)

    @wraps(check)
    def every(cases: Mapping[str, Case], device: torch.device) -> Iterator[Line]:
        for name, case in cases.items():
            yield from guarded(one, {name: case}, device)

    return every


@registered
@of_each
def recorded_step(case: Case) -> Iterator[Line]:
    """Recorded steps against eager ones."""
    step = case.step()
    try:
        recording = Recording(step, step.forward, case.batch, True)
        recording.check(case.batch, LOSS)
    except NotRecordable as error:
        yield refused("recorded step", case.name, str(error))
        return
    yield agreement("recorded step", case, _of_recording(case, step, recording))


@registered
@of_each
def compiled_step(case: Case) -> Iterator[Line]:
    """Compiled steps against eager ones."""
    step = case.step()
    try:
        recording = Recording(step, step.forward, case.batch, True)
    except NotRecordable as error:
        yield Line("compiled step", case.name, "not available", f"it cannot be recorded: {error}")
        return
    with collected("pyro_vae.recording") as said:
        compiled = recording.compile(case.batch, LOSS)
    if compiled:
        yield agreement("compiled step", case, _of_recording(case, step, recording), COMPILED_GRADIENT)
    else:
        yield refused("compiled step", case.name, said[-1] if said else "torch.compile failed")


def _of_recording(case: Case, step: Step, recording: Recording) -> Outcome:
    with case.random():
        (loss, _), gradients = recording(case.batch)
    return outcome(step, loss, gradients)


@registered
@of_each
def captured_step(case: Case) -> Iterator[Line]:
    """Whole steps captured as CUDA graphs, against eager ones, at a learning rate of 0."""
    if case.device.type != "cuda":
        yield Line("captured step", case.name, "not available", f"on a GPU alone, not on a {case.device.type}")
        return
    step, buffers = case.step(), [b.clone() for b in case.step().buffers()]
    update = stepper(step, case.device, "graph", rate=0.0)
    with collected("pyro_vae") as said:
        for _ in range(WARM_UP + 2):  # the last is a replay
            with torch.no_grad():
                for buffer, value in zip(step.buffers(), buffers, strict=True):
                    buffer.copy_(value)
            with case.random():
                row = update(case.batch, [0.0])
    if not any(line.endswith("step captured as a CUDA graph") for line in said):
        yield refused("captured step", case.name, said[-1] if said else "it was not captured")
        return
    yield agreement("captured step", case, outcome(step, row[step.names.index("loss")]))  # pyright: ignore[reportPossiblyUnboundVariable]


@registered
@of_each
def resume(case: Case) -> Iterator[Line]:
    """Two epochs against one that is gone on with, bit for bit."""
    with tempfile.TemporaryDirectory() as folder:
        whole = case.trained(epochs=2, out=Path(folder) / "whole")
        case.trained(epochs=1, out=Path(folder) / "parts")
        parts = case.trained(epochs=2, out=Path(folder) / "parts", resume=True)
    ours, theirs = ({**_state(each.model, "model"), **_state(each.guide, "guide")} for each in (parts, whole))
    other = [key for key in theirs if not torch.equal(ours[key], theirs[key])]
    losses = [[record[TRAINED] for record in each.records] for each in (parts, whole)]
    if other or losses[0] != losses[1]:
        what = ", ".join([*other[:3], *(["the losses"] if losses[0] != losses[1] else [])])
        yield Line("resume", case.name, "differs", f"other than without a break: {what}")
    else:
        yield Line("resume", case.name, "ok", f"{len(theirs)} weights and buffers bit for bit those without a break")


def _state(program: nn.Module, who: str) -> dict[str, Tensor]:
    return {f"{who}.{key}": value for key, value in program.state_dict().items()}


@registered
@of_each
def mixed_precision(case: Case) -> Iterator[Line]:
    """Training under mixed precision, against float32."""
    exact = case.trained(epochs=2).records[-1][TRAINED]
    for precision in ("bf16-mixed", "16-mixed"):
        used = fabric_on(case.device, precision).strategy.precision.precision
        if used != precision:
            yield Line(precision, case.name, "not available", f"on a {case.device.type} {used} takes its place")
            continue
        try:
            loss = case.trained(epochs=2, precision=precision).records[-1][TRAINED]
        except (InputError, NotImplementedError) as error:
            yield Line(precision, case.name, "not available", why_not(error))
            continue
        said = f"loss {loss:.2f} nats, in float32 {exact:.2f} (at most {MIXED:.0%} off)"
        state: State = "ok" if abs(loss - exact) <= MIXED * abs(exact) else "differs"
        yield Line(precision, case.name, state, said, {"loss": loss, "float32": exact})


@registered
@of_each
def peak_memory(case: Case) -> Iterator[Line]:
    """Peak memory of an eager step, beyond its weights and data."""
    step = case.step()

    def run() -> None:
        with case.random():
            step(**case.batch)[0].backward()

    if case.device.type == "cuda":
        before = torch.cuda.memory_allocated(case.device)
        torch.cuda.reset_peak_memory_stats(case.device)
        run()
        peak = torch.cuda.max_memory_allocated(case.device) - before
    else:
        peak = peak_bytes(run)
    yield Line("peak memory", case.name, "ok", f"{peak / 2**20:.1f} MiB in a step of {BATCH} data", {"bytes": peak})


@registered
def log_likelihoods(cases: Mapping[str, Case], device: torch.device) -> Iterator[Line]:
    """``log_likelihood`` against the exact value of probabilistic PCA, by its posterior and by a wider guide."""
    generator = torch.Generator().manual_seed(SEED)
    dims, latents, noise, count, particles = 8, 3, 0.5, 200, 5000
    weight = torch.randn(dims, latents, generator=generator, dtype=torch.float64)
    z = torch.randn(count, latents, generator=generator, dtype=torch.float64)
    x = z @ weight.T + noise * torch.randn(count, dims, generator=generator, dtype=torch.float64)
    eye = torch.eye(dims, dtype=torch.float64)
    truth = dist.MultivariateNormal(
        torch.zeros(dims, dtype=torch.float64), weight @ weight.T + noise**2 * eye
    ).log_prob(x)
    covariance = torch.linalg.inv(torch.eye(latents, dtype=torch.float64) + weight.T @ weight / noise**2).to(device)
    weight, x = weight.to(device), x.to(device)

    def model(x: Tensor | None = None, num_samples: int = 1) -> Tensor:
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(weight.new_zeros(latents), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z @ weight.T, noise).to_event(1), obs=x)

    def guide_of(stretch: float) -> Callable[[Tensor], None]:
        def guide(x: Tensor) -> None:
            mean = x @ weight / noise**2 @ covariance  # (B, latents)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.MultivariateNormal(mean, stretch**2 * covariance))

        return guide

    for stretch, of in ((1.0, "pPCA, exact posterior"), (1.5, "pPCA, wider guide")):
        found = log_likelihood(model, guide_of(stretch), x, num_particles=particles, seed=SEED, device=device)
        error = (found.per_datum - truth).mean().item()
        variance = (1 / found.effective_sample_size - 1 / particles).clamp(min=0).sum().item()
        allowed = 1e-8 if stretch == 1 else ERRORS * math.sqrt(variance) / count
        said = f"{found.mean:.4f} nats, exactly {truth.mean().item():.4f}: off by {error:.1e} (at most {allowed:.1e})"
        yield Line("log-likelihood", of, "ok" if abs(error) <= allowed else "differs", said, {"error": error})

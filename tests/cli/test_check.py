"""``pyro-vae check``: its lines, its exit status, and that what is broken differs."""

import json

import pytest
import torch

from pyro_vae.cli import machine, main, small_pairs
from pyro_vae.cli.machine import CHECKS, guarded
from pyro_vae.cli.small_pairs import SIZES, Case, outcome
from pyro_vae.recording import NotRecordable, Recording
from pyro_vae.training.checkpoint import load_checkpoint

CPU = torch.device("cpu")
BY_NAME = {one.__name__: one for one in CHECKS}


@pytest.fixture(scope="module")
def cases():
    """The five pairs, each trained once."""
    return {name: Case(name, CPU) for name in SIZES}


def lines_of(name, cases):
    with small_pairs.collected("pyro_vae"):
        return list(guarded(BY_NAME[name], cases, CPU))


@pytest.mark.slow  # the command does the same
@pytest.mark.parametrize("name", [name for name in BY_NAME if name not in ("compiled_step", "mixed_precision")])
def test_every_pair_agrees_here(name, cases):
    lines = lines_of(name, cases)
    states = {line.state for line in lines}
    assert states == ({"not available"} if name == "captured_step" else {"ok"}), lines
    assert len(lines) == (2 if name == "log_likelihoods" else 5)


@pytest.mark.filterwarnings("ignore:You passed `Fabric")
def test_a_precision_that_another_takes_the_place_of_is_not_available(cases):
    lines = lines_of("mixed_precision", {"VAE": cases["VAE"]})
    assert [(line.check, line.state) for line in lines] == [("bf16-mixed", "ok"), ("16-mixed", "not available")]
    assert lines[1].said == "on a cpu bf16-mixed takes its place"


def test_the_command(monkeypatch, capsys):
    """All of it with one pair: text, JSON, exit status."""
    monkeypatch.setattr(small_pairs, "SIZES", {"VAE": SIZES["VAE"]})
    assert main(["check", "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    states = {(line["check"], line["of"]): line["state"] for line in found["lines"]}
    assert set(states.values()) == {"ok", "not available"} and found["differs"] == []
    absent = {("captured step", "VAE"), ("16-mixed", "VAE")}
    assert absent <= {key for key, state in states.items() if state == "not available"}
    assert ("resume", "VAE") in states and ("log-likelihood", "pPCA, exact posterior") in states
    assert set(found["step_ms"]["VAE"]) == {"eager", "recorded", "compiled"} and found["machine"]["device"] == "cpu"
    assert torch.__version__.startswith(found["machine"]["torch"].split("+")[0])


def test_a_device_that_is_not_here(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["check", "--device", "cuda"]) == 1
    assert "device 'cuda': torch sees no GPU here" in capsys.readouterr().err


# ------------------------------------------------------------------ broken on purpose
def test_a_difference_is_said_and_is_the_exit_status(monkeypatch, capsys):
    monkeypatch.setattr(small_pairs, "SIZES", {"VAE": SIZES["VAE"]})
    monkeypatch.setattr(machine, "CHECKS", [BY_NAME["recorded_step"], BY_NAME["peak_memory"]])
    monkeypatch.setattr(small_pairs, "step_times", lambda case: {"eager": 1.0})
    call = Recording.__call__

    def wrong(self, batch):
        outputs, gradients = call(self, batch)
        return outputs, [1.01 * gradient for gradient in gradients]

    monkeypatch.setattr(Recording, "__call__", wrong)
    assert main(["check", "--device", "cpu"]) == 1
    said = capsys.readouterr()
    assert "differs        recorded step    VAE" in said.out and "ok             peak memory      VAE" in said.out
    assert "error: 1 of 2 checks differ: recorded step of VAE" in said.err


@pytest.mark.parametrize("part", ["loss", "gradients", "buffers"])
def test_a_step_that_is_off(part, cases, monkeypatch):
    """Past the recording's own check: the loss, one gradient, or one buffer of the step itself."""
    case = cases["ladder VAE"]
    made = outcome

    def off(*arguments):
        found = made(*arguments)
        if part == "loss":
            found.loss.mul_(1.001)
        else:
            next(v for v in getattr(found, part) if v is not None and v.is_floating_point() and v.norm() > 0).mul_(1.1)
        return found

    assert case.eager is not None  # before it is broken
    monkeypatch.setattr(machine, "outcome", off)
    (line,) = lines_of("recorded_step", {"ladder VAE": case})
    assert line.state == "differs", line


def test_what_cannot_be_recorded_is_not_available(cases, monkeypatch):
    def refuse(self, *arguments):
        raise NotRecordable("it looks at a tensor's value")

    monkeypatch.setattr(Recording, "__init__", refuse)
    for name in ("recorded_step", "compiled_step"):
        (line,) = lines_of(name, {"VAE": cases["VAE"]})
        assert line.state == "not available" and "looks at a tensor's value" in line.said


@pytest.mark.parametrize("state", ["not available", "differs"])
def test_a_compiler_that_is_missing_or_makes_something_else(state, cases, monkeypatch):
    def compiler(graph, **options):
        def run(*inputs):
            if state == "not available":
                raise RuntimeError("no C++ compiler")
            return [2 * value for value in graph(*inputs)]

        return run

    monkeypatch.setattr(torch, "compile", compiler)
    (line,) = lines_of("compiled_step", {"VAE": cases["VAE"]})
    assert line.state == state and ("no C++ compiler" if state == "not available" else "the loss") in line.said


def test_a_resume_that_forgets_something(cases, monkeypatch):
    def forgetful(path):
        saved = load_checkpoint(path)
        if saved is not None:
            saved["optimizer"]["state"] = {}
        return saved

    monkeypatch.setattr("pyro_vae.training.fitting.load_checkpoint", forgetful)
    (line,) = lines_of("resume", {"VAE": cases["VAE"]})
    assert line.state == "differs" and line.said.startswith("other than without a break: model.")


def test_a_biased_log_likelihood(cases, monkeypatch):
    right = machine.log_likelihood

    def biased(*arguments, **options):
        found = right(*arguments, **options)
        found.per_datum += 0.01
        return found

    monkeypatch.setattr(machine, "log_likelihood", biased)
    assert [line.state for line in lines_of("log_likelihoods", cases)] == ["differs", "differs"]


def test_a_check_that_fails_is_a_line_and_the_others_go_on(cases, monkeypatch):
    def fails(self):
        raise RuntimeError("no such instruction\nmore")

    monkeypatch.setattr(Case, "step", fails)
    lines = lines_of("peak_memory", {name: cases[name] for name in ("VAE", "VQ-VAE")})
    assert [(line.of, line.state) for line in lines] == [("VAE", "differs"), ("VQ-VAE", "differs")]
    assert lines[0].said == "fails: RuntimeError: no such instruction"

"""Callbacks: when they are called and what they see, that to look changes no number, stopping, failing, their state."""

import json
from itertools import pairwise

import pyro
import pytest
import torch
from dying import Killed, die_at

import pyro_vae
from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError
from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE
from pyro_vae.training import Callback, Linear, fit
from pyro_vae.training import loop as loop_module
from pyro_vae.training.loop import Trainer

STEPS = 6  # of an epoch


def pair(norm=False):
    torch.manual_seed(3)
    model = VAE((6,), latent_dim=2, hidden_dims=[8])
    guide = GaussianGuide(model, hidden_dims=[8])
    if norm:
        layers = [torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.3), guide.encoder]
        guide.encoder = torch.nn.Sequential(*layers)
    return model, guide


def data():
    x = (torch.rand(53, 6, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    return Data(Split({"x": x[:43]}), Split({"x": x[43:]}))


def run(callbacks=None, *, programs=None, **options):
    options = {"epochs": 3, "batch_size": 8, "learning_rate": 0.01, "compile": "off", "device": "cpu", **options}
    return fit(
        *(programs or pair()), options.pop("data", data()), seed=5, progress=False, callbacks=callbacks, **options
    )


def weights(result):
    programs = {"model": result.model, "guide": result.guide}
    return {f"{p}.{k}": v.clone() for p, m in programs.items() for k, v in m.state_dict().items()}


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def without_seconds(records):
    return [{k: v for k, v in r.items() if k != "seconds"} for r in records]


def saved(path):
    return torch.load(path / "checkpoints" / "last.pt", weights_only=True)


class Telling:
    """Not derived from Callback; notes every call."""

    def __init__(self):
        self.calls = []

    def on_fit_start(self, state):
        self.calls.append(("start", state.epoch, state.step, state.terms, state.record))

    def on_step(self, state):
        self.calls.append(("step", state.epoch, state.step))

    def on_epoch(self, state):
        self.calls.append(("epoch", state.epoch, state.step))

    def on_checkpoint(self, state):
        on_disk = saved(state.run)["progress"]
        assert (on_disk["epoch"], on_disk["step"]) == (state.epoch, state.step)
        self.calls.append(("checkpoint", state.epoch, state.step))

    def on_fit_end(self, state):
        assert saved(state.run)["progress"]["finished"]
        self.calls.append(("end", state.epoch, state.step))


def test_when_each_method_is_called(tmp_path):
    told = Telling()
    run([told], out=tmp_path, epochs=2, checkpoint_every=0.0)
    steps = [("step", (s - 1) // STEPS, s) for s in range(1, 2 * STEPS + 1)]
    epochs = [[("epoch", e, e * STEPS), ("checkpoint", e, e * STEPS)] for e in (1, 2)]
    expected = [("start", 0, 0, {}, {}), *steps[:STEPS], *epochs[0], *steps[STEPS:], *epochs[1]]
    assert told.calls == [*expected, ("checkpoint", 2, 12), ("end", 2, 12)]


def test_a_run_that_had_ended_calls_nobody(tmp_path):
    run(out=tmp_path, epochs=1)
    told = Telling()
    run([told], out=tmp_path, epochs=1, resume=True)
    assert told.calls == []


def test_what_the_view_says(tmp_path, monkeypatch):
    monkeypatch.setattr(loop_module, "WINDOW", 4)
    losses, seen = [], {}

    class Looking(Callback):
        def on_step(self, state):
            terms = state.terms
            assert len(terms["loss"]) == ((state.step - 1) % STEPS) % 4 + 1  # windows of 4 and 2 steps
            losses.append(terms["loss"][-1])

        def on_epoch(self, state):
            assert len(state.terms["loss"]) == 2  # of the last window
            count = [8.0] * 5 + [3.0]  # 43 data in batches of 8
            mean = sum(a * b for a, b in zip(count, losses[-STEPS:], strict=True)) / sum(count)
            assert state.record["train/loss"] == pytest.approx(mean, rel=1e-12)
            seen.update(record=state.record, records=state.records, run=state.run, seed=state.seed)
            seen.update(model=state.model, guide=state.guide)
            state.record["epoch"] = state.records[0]["epoch"] = -1  # copies

    model, guide = pair()
    result = run([Looking()], programs=(model, guide), out=tmp_path)
    assert seen["record"] == result.records[-1] and seen["records"] == result.records
    assert (seen["run"], seen["seed"]) == (tmp_path, 5)
    assert seen["model"] is model is result.model and seen["guide"] is guide
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == result.records
    assert len(losses) == 18


def test_the_view_is_read_only():
    caught = []

    class Setting(Callback):
        def on_epoch(self, state):
            for name in ("model", "epoch", "step", "record", "records", "terms", "run", "seed", "more"):
                with pytest.raises(AttributeError):
                    setattr(state, name, 1)
                caught.append(name)

    run([Setting()], epochs=1)
    assert len(caught) == 9


def test_a_step_waits_for_the_device_only_if_its_terms_are_read(monkeypatch):
    fetched = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self, *args, **kw: (fetched.append(1), cpu(self, *args, **kw))[1])

    class Counting(Callback):
        def on_step(self, state):
            assert state.step and state.model is not None and state.epoch >= 0

    class Reading(Callback):
        def on_step(self, state):
            assert state.terms["loss"]

    counts = []
    for callbacks in (None, [Counting()], [Reading()]):
        fetched.clear()
        run(callbacks, epochs=1)
        counts.append(len(fetched))
    assert counts[0] == counts[1] and counts[2] == counts[0] + STEPS


def test_plain_functions_are_seen_with_their_parameters():
    def model(x):
        scale = pyro.param("scale", torch.tensor(1.5), constraint=pyro.distributions.constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", pyro.distributions.Normal(0.0, scale))
            pyro.sample("x", pyro.distributions.Normal(z[:, None], 1.0).expand([len(x), 6]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", pyro.distributions.Normal(x.mean(-1), 0.3))

    seen = []

    class Norms(Callback):
        def on_epoch(self, state):
            seen.append(float(state.model.param("scale")))

    result = run([Norms()], programs=(model, guide))
    assert len(set(seen)) == 3 and seen[-1] == float(result.model.param("scale"))


class Disturbing(Callback):
    """Draws, leaves evaluation mode behind, and measures with the package's own functions."""

    def on_fit_start(self, state):
        self.on_step(state)

    def on_step(self, state):
        torch.manual_seed(0)
        torch.rand(5)
        state.model.eval(), state.guide.eval()
        with torch.no_grad():
            self.norm = sum(float(p.norm()) for p in state.guide.parameters())

    def on_epoch(self, state):
        self.on_step(state)
        pyro_vae.elbo(state.model, state.guide, data().validation)
        pyro_vae.sample(state.model, 3)

    def on_checkpoint(self, state):
        self.on_step(state)


OPTIONS = {
    "plain": {},
    "averaged": {"ema_decay": 0.9, "patience": 3, "kl_weight": Linear(0.0, 1.0, 1)},
    "recorded": {"compile": "graph"},
}


@pytest.mark.parametrize("norm", (False, True))
@pytest.mark.parametrize("case", OPTIONS)
def test_to_look_changes_no_number(case, norm, tmp_path):
    plain = run(programs=pair(norm), **OPTIONS[case])
    watched = run([Disturbing()], programs=pair(norm), out=tmp_path, checkpoint_every=0.0, **OPTIONS[case])
    assert same(weights(watched), weights(plain))
    assert without_seconds(watched.records) == without_seconds(plain.records)


@pytest.mark.parametrize("compile", ("off", "graph"))
def test_it_sees_the_weights_of_its_step(compile):
    seen = []

    class Norms(Callback):
        def on_step(self, state):
            seen.append(state.model.state_dict()["decoder.mlp.out.bias"].clone())

    result = run([Norms()], compile=compile, epochs=2)
    assert len(seen) == 12 and all(not torch.equal(a, b) for a, b in pairwise(seen))
    assert torch.equal(seen[-1], weights(result)["model.decoder.mlp.out.bias"])


def test_pyro_validates_inside_as_outside():
    seen = []

    class Wrong(Callback):
        def on_epoch(self, state):
            try:
                pyro.distributions.Normal(0.0, -1.0)
            except ValueError:
                seen.append("refused")

    run([Wrong()], epochs=1)
    with pyro.validation_enabled(False):
        run([Wrong()], epochs=1)
    assert seen == ["refused"]


# ------------------------------------------------------------------ stopping


class Stopping(Callback):
    def __init__(self, hook, step):
        setattr(self, hook, lambda state: state.stop("enough") if state.step >= step else None)


STOPS = {  # method, from which step on; where training then ends: epochs, steps
    "in the middle": ("on_step", 9, 1, 9),
    "at an epoch's last step": ("on_step", 12, 2, 12),
    "before the first": ("on_fit_start", 0, 0, 0),
    "at an epoch": ("on_epoch", 6, 1, 6),
    "at a checkpoint": ("on_checkpoint", 6, 1, 6),
    "at the last epoch": ("on_epoch", 18, 3, 18),
    "at the last checkpoint": ("on_checkpoint", 18, 3, 18),
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("case", STOPS)
def test_stopped_and_gone_on_with(case, options, tmp_path):
    hook, step, epochs, steps = STOPS[case]
    more = {**OPTIONS[options], "out": tmp_path / "stopped", "checkpoint_every": 0.0}
    if options == "averaged":
        more |= {"patience": 9}
    stopped = run([Stopping(hook, step)], **more)
    assert (stopped.stopped, stopped.epochs, stopped.steps) == ("enough", epochs, steps)
    assert len(stopped.records) == epochs
    for _ in range(2):  # it has ended, and stays so
        again = run([Telling()], **more, resume=True)
        assert again.stopped == "enough" and same(weights(again), weights(stopped)) and again.steps == steps
    further = run(**more, resume=True, epochs=5)
    whole = run(**{**more, "out": tmp_path / "whole"}, epochs=5)
    assert further.stopped == whole.stopped == "all 5 epochs" and further.steps == whole.steps == 30
    assert same(weights(further), weights(whole))
    assert without_seconds(further.records) == without_seconds(whole.records)
    files = [tmp_path / n / "model.safetensors" for n in ("stopped", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_first_reason_counts_and_must_be_words():
    class Two(Callback):
        def on_step(self, state):
            state.stop("one")
            state.stop("two")

    assert run([Two()]).stopped == "one" and run([Two()]).steps == 1

    class Wrong(Callback):
        def on_step(self, state):
            state.stop(None)

    with pytest.raises(InputError, match="stop needs a reason in words, got None"):
        run([Wrong()])


def test_an_iterable_of_batches_is_stopped_with_its_epoch(tmp_path):
    batches = list(data().train.tensors["x"].split(8))
    stopped = run([Stopping("on_step", 8)], data=batches, out=tmp_path)
    assert (stopped.stopped, stopped.epochs, stopped.steps) == ("enough", 2, 12)
    further = run(data=batches, out=tmp_path, resume=True, epochs=4)
    assert same(weights(further), weights(run(data=batches, epochs=4)))


# ------------------------------------------------------------------ failing


class Failing(Callback):
    def __init__(self, hook, step):
        def fail(state):
            if state.step >= step:
                raise LookupError(f"no such luck at step {state.step}")

        setattr(self, hook, fail)


FAILS = {
    "fit start": ("on_fit_start", 0, 0),
    "step": ("on_step", 9, 9),
    "last step of an epoch": ("on_step", 6, 6),
    "epoch": ("on_epoch", 12, 12),
    "checkpoint": ("on_checkpoint", 12, 12),
    "last epoch": ("on_epoch", 18, 18),
    "fit end": ("on_fit_end", 0, 18),
}


@pytest.mark.parametrize("case", FAILS)
def test_an_error_reaches_the_user_with_the_state_saved(case, tmp_path):
    hook, step, reached = FAILS[case]
    told = Telling()
    with pytest.raises(LookupError, match=f"no such luck at step {reached}") as caught:
        run([Failing(hook, step), told], out=tmp_path, checkpoint_every=0.0 if case == "checkpoint" else 30.0)
    assert "fail" in [entry.name for entry in caught.traceback]  # where it was raised
    assert saved(tmp_path)["progress"]["step"] == reached
    assert told.calls[-1][2] == reached  # the other one has heard of the last event as well
    resumed, whole = run(out=tmp_path, resume=True), run()
    assert same(weights(resumed), weights(whole)) and resumed.steps == 18
    assert without_seconds(resumed.records) == without_seconds(whole.records)


def test_its_own_error_comes_before_that_of_a_loss_that_is_nan(tmp_path, monkeypatch):
    one_step = Trainer._one_step

    def to_nan(self, epoch):
        row = one_step(self, epoch)
        return row * float("nan") if self.at.step == 8 else row

    monkeypatch.setattr(Trainer, "_one_step", to_nan)

    class Finite(Callback):
        def on_step(self, state):
            if state.terms["loss"][-1] != state.terms["loss"][-1]:
                raise ArithmeticError("my own words")

    with pytest.raises(ArithmeticError, match="my own words"):
        run([Finite()], out=tmp_path)
    assert saved(tmp_path)["progress"]["step"] < 9  # a loss that is not finite is not saved


# ------------------------------------------------------------------ state


class Counting(Callback):
    def __init__(self):
        self.steps, self.best, self.seen = 0, None, []

    def on_step(self, state):
        self.steps += 1

    def on_epoch(self, state):
        self.best = min(self.best or 1e9, state.record["validation/loss"])
        self.seen.append((state.epoch, {"best": self.best, "ok": True, "no": None, "name": "é"}))

    def state_dict(self):
        return {"steps": self.steps, "best": self.best, "seen": self.seen}

    def load_state_dict(self, state):
        self.steps, self.best, self.seen = state["steps"], state["best"], state["seen"]


@pytest.mark.parametrize("step", (0, 5, 6, 11, 17))
def test_their_state_is_saved_and_taken_up(step, tmp_path, monkeypatch):
    monkeypatch.setattr(loop_module, "WINDOW", 4)
    whole = Counting()
    run([whole])
    with monkeypatch.context() as patch:
        die_at(patch, step)
        with pytest.raises(Killed):
            run([Counting()], out=tmp_path, checkpoint_every=0.0)
    resumed = Counting()
    run([resumed], out=tmp_path, resume=True)
    assert resumed.state_dict() == whole.state_dict() and whole.steps == 18


def test_two_of_a_kind_keep_apart_and_strangers_are_told_of(tmp_path, caplog):
    first, second = Counting(), Counting()
    second.steps = 100
    run([first, Telling(), second], out=tmp_path, epochs=1)
    first, second = Counting(), Counting()
    run([first, second], out=tmp_path, epochs=2, resume=True)
    assert (first.steps, second.steps) == (12, 112) and not caplog.records
    run([Counting()], out=tmp_path, epochs=3, resume=True)
    assert "holds the state of callback Counting, which is not there now" in caplog.text
    caplog.clear()
    run([Counting(), Counting()], out=tmp_path, epochs=4, resume=True)
    assert "has no state of callback Counting, which begins anew" in caplog.text


BAD = {
    "a tensor": (torch.ones(2), r"\['a'\] is a Tensor"),
    "an object": (Counting(), "is a Counting"),
    "NumPy": (torch.ones(1).numpy()[0], "is a float32"),
    "in a list": ([1, {2}], r"\['a'\]\[1\] is a set"),
    "keys": ({(1, 2): 3}, "dict with keys other than str and int"),
}


@pytest.mark.parametrize("case", BAD)
def test_only_plain_values_are_saved(case, tmp_path):
    value, message = BAD[case]
    counting = Counting()
    counting.state_dict = lambda: {"a": value}
    with pytest.raises(InputError, match=rf"callback Counting: state_dict\(\).*{message}.*plain values"):
        run([counting], out=tmp_path)
    assert counting.steps == 0  # before the first step


def test_a_state_without_end_is_refused(tmp_path):
    counting = Counting()
    counting.seen.append(counting.seen)
    with pytest.raises(InputError, match="nested deeper than 40"):
        run([counting], out=tmp_path)
    counting.seen = [0] * 200_000
    with pytest.raises(InputError, match="over 100,000 entries"):
        run([counting], out=tmp_path)


def test_a_state_that_is_not_taken_up_is_named(tmp_path):
    run([Counting()], out=tmp_path, epochs=1)
    other = Counting()
    other.load_state_dict = lambda state: state["more"]
    before = (tmp_path / "checkpoints" / "last.pt").read_bytes()
    with pytest.raises(InputError, match=r"callback Counting does not take up its state: KeyError: 'more'"):
        run([other], out=tmp_path, epochs=2, resume=True)
    assert (tmp_path / "checkpoints" / "last.pt").read_bytes() == before


# ------------------------------------------------------------------ what is no callback


class Misspelled(Callback):
    def on_epoch_end(self, state):
        pass


class Stateless:
    def on_step(self, state):
        pass

    def state_dict(self):
        return {}


REFUSED = {
    "a class": ([Counting], r"Counting is a class: give an object of it, Counting\(\)"),
    "one alone": (Counting(), r"callbacks must be a list of objects, got Counting"),
    "nothing of it": ([object()], "object has none of the methods on_fit_start, on_step"),
    "misspelled": ([Misspelled()], "unknown method of callback Misspelled, 'on_epoch_end'.*Did you mean 'on_epoch'"),
    "half a state": ([Stateless()], "Stateless has state_dict and no load_state_dict"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_callback_is_refused(case, tmp_path):
    callbacks, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        run(callbacks, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Freezing(Callback):
    """Freezes the guide from one epoch to another; keeps its weights at both."""

    def __init__(self, first, last):
        self.first, self.last, self.kept = first, last, []

    def _set(self, state, trained):
        self.kept.append([p.detach().clone() for p in state.guide.parameters()])
        for parameter in state.guide.parameters():
            parameter.requires_grad_(trained)

    def on_fit_start(self, state):
        if self.first == 0:
            self._set(state, False)

    def on_epoch(self, state):
        if state.epoch in (self.first, self.last):
            self._set(state, state.epoch == self.last)


@pytest.mark.parametrize("options", [{}, {"grad_accumulation": 2}, {"optimizer": "adamw", "clip_norm": 1.0}])
@pytest.mark.parametrize("first", [0, 1])
def test_weights_that_a_callback_freezes_stay_in_recorded_steps_too(first, options):
    weights = {}
    for compile in ("off", "graph"):
        model, guide = pair()
        freezing, x = Freezing(first, 2), (torch.arange(180.0).reshape(30, 6) % 7 > 3).float()
        own = {"epochs": 3, "batch_size": 10, "device": "cpu", "progress": False, "compile": compile}
        fit(model, guide, x, callbacks=[freezing], **own, **options)
        before, after = freezing.kept
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(after, guide.parameters(), strict=True))  # trained again
        weights[compile] = [*model.parameters(), *guide.parameters()]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(weights["off"], weights["graph"], strict=True))


@pytest.mark.parametrize("compile", ["off", "graph"])
def test_weights_that_training_does_not_have_cannot_be_unfrozen(compile):
    model, guide = pair()
    first = next(guide.parameters()).requires_grad_(False)

    class Unfreezing:
        def on_step(self, state):
            first.requires_grad_(True)

    with pytest.raises(InputError, match=r"a callback has unfrozen '.*', which the optimizer does not have"):
        options = {"epochs": 3, "batch_size": 10, "device": "cpu", "progress": False, "compile": compile}
        fit(model, guide, torch.ones(30, 6), callbacks=[Unfreezing()], **options)

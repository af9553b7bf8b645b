"""The next setting of a search, by optuna's tree-structured Parzen estimator, from what has been measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pyro_vae.errors import InputError
from pyro_vae.sweeps.plan import Plan
from pyro_vae.sweeps.settings import parse_range, spelled
from pyro_vae.training.batches import derived_seed

TRIES = 50  # of a setting that has not been tried yet


def check_optuna() -> None:
    """Check that optuna is installed.

    Raises:
        InputError: if it is not.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise InputError("--search needs optuna: pip install 'pyro-vae[search]'") from error


def next_setting(plan: Plan, values: Sequence[float | None]) -> dict[str, str] | None:
    """The setting to try next; None, if it is not found, since all of the grid's have been tried.

    The study is made anew of the plan each time, in memory: what was tried stands in ``sweep.json``, what was measured
    in the runs, and no file of optuna's is read. It depends on these numbers and the place alone.

    Args:
        plan: with the settings that were tried.
        values: of each, nats on the validation data; None: not measured yet, or failed.
    """
    import optuna
    from optuna.trial import TrialState, create_trial

    spaces = _spaces(plan)
    tried = [dict(each) for each in plan.settings]
    for attempt in range(TRIES):
        seed = derived_seed(0, f"search {len(tried)} {attempt}") % 2**32
        with _quiet():
            study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
            for setting, value in zip(tried, values, strict=True):
                params = {key: _value(spaces[key], text) for key, text in setting.items()}
                state = TrialState.FAIL if value is None else TrialState.COMPLETE
                study.add_trial(create_trial(params=params, distributions=spaces, value=value, state=state))
            drawn = study.ask(spaces).params
        found = {key: value if isinstance(value, str) else spelled(value) for key, value in drawn.items()}
        if found not in tried:
            return {key: found[key] for key in spaces}
    return None


def _spaces(plan: Plan) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {key: CategoricalDistribution(values) for key, values in plan.grid.items()}
    for key, text in (plan.ranges or {}).items():
        _, each = parse_range(f"{key}={text}")
        if each.whole:
            found[key] = IntDistribution(int(each.low), int(each.high), log=each.log)
        else:
            found[key] = FloatDistribution(each.low, each.high, log=each.log)
    return found


def _value(space: Any, text: str) -> Any:
    """A value as optuna knows it; of a rounded number, within the range."""
    if not hasattr(space, "low"):
        return text
    number = int(text) if isinstance(space.low, int) else float(text)
    return min(max(number, space.low), space.high)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without optuna's own messages."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)

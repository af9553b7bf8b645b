"""Loggers with Lightning Fabric's interface: what they are sent of every epoch."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vae.data import Data
from pyro_vae.data.tokens import Tokens
from pyro_vae.errors import InputError, positive, unknown, why_not
from pyro_vae.files import check_no_links
from pyro_vae.runtime import derived_seed
from pyro_vae.training.callbacks import undisturbed

if TYPE_CHECKING:
    from pyro_vae.training.loop import Trainer

    LoggerLike = str | Any | list[str | Any] | None
else:
    LoggerLike = str | list[str] | None  # what a configuration can say: names

logger = logging.getLogger(__name__)

NAMES = ("csv", "tensorboard")
LOGS = "logs"  # in the run directory, a folder for each
FIGURES = ("reconstructions", "prior_samples")
OF_TOKENS = ("token_reconstructions", "token_samples")  # in their place, where data are tokens


def logger_names(said: str) -> list[str]:
    """Names of loggers from a text, ``"csv,tensorboard"``.

    Raises:
        InputError: for an unknown one, with the nearest.
    """
    names = [name.strip() for name in said.split(",")]
    for name in names:
        if name not in NAMES:
            raise unknown("logger", name, NAMES)
    return names


class Loggers:
    """Those of a training. One that raises an error is told of in the log, once, and not called again.

    Args:
        data: of which figures show validation, else training.
        given: names or objects, one or a list.
        run: the run directory, in which those by name write.
        resume: whether what they hold is gone on with.
        images_every: epochs between figures, or None.

    Raises:
        InputError: for an unknown name, a package that is not there, an object that takes no metrics, or figures
            without a logger that takes them.
    """

    def __init__(
        self,
        data: Data,
        given: LoggerLike = None,
        run: Path | None = None,
        resume: bool = False,
        images_every: int | None = None,
    ) -> None:
        listed = list(given) if isinstance(given, list | tuple) else [] if given is None else [given]
        names = [name for each in listed if isinstance(each, str) for name in logger_names(each)]
        self.data, self.run, self.resumed, self.images_every = data, run, resume, images_every
        self.own = [_checked(each) for each in listed if not isinstance(each, str)]
        self.names = list(dict.fromkeys(names))
        if self.names and run is None:
            raise InputError(f"logger '{self.names[0]}' writes into the run directory: give out as well")
        if "tensorboard" in self.names and not (find_spec("tensorboard") or find_spec("tensorboardX")):
            raise InputError("logger 'tensorboard' needs its package: pip install 'pyro-vae[loggers]'")
        if images_every is not None:
            _check_images(images_every, self.own, self.names)
        self._active: list[tuple[str, Any]] = []
        self._no_figure: set[str] = set()

    def _folder(self, name: str) -> Path:
        assert self.run is not None
        return self.run / LOGS / name

    def check_free(self) -> None:
        """Check, in the process that writes and before it does, that nothing is replaced or written through a link.

        Raises:
            InputError: names what is there.
        """
        for name in self.names:
            folder = self._folder(name)
            check_no_links(self.run or Path(), [f"{LOGS}/{name}"])
            if not self.resumed and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise InputError(
                    f"out: {folder} holds logs already, which training would replace; go on with that run "
                    "(resume=True), or choose another directory"
                )

    @contextmanager
    def at_work(self, trainer: Trainer, settings: Mapping[str, Any]) -> Iterator[None]:
        """Begin, or go on, with what is logged; at the end tell how training ended: success, aborted or failed.

        Args:
            trainer: the training, restored if it is resumed.
            settings: the experiment's, by name.
        """
        if trainer.fabric.global_rank > 0 or not (self.own or self.names):
            self._active = []
            yield
            return
        self._active = [(type(each).__name__, each) for each in self.own]
        for name in self.names:
            self._open(name, trainer)
        for name, each in list(self._active):
            self._try(name, each, "log_hyperparams", dict(settings))
        status = "failed"
        try:
            yield
            status = "success"
        except KeyboardInterrupt:
            status = "aborted"
            raise
        finally:
            for name, each in list(self._active):
                self._try(name, each, "finalize", status)
            self._active = []

    def _open(self, name: str, trainer: Trainer) -> None:
        """One by name, which holds exactly the epochs up to the checkpoint that is gone on from."""
        folder = self._folder(name)
        try:
            if name == "csv":
                made, send = _csv(folder), trainer.records
            else:
                begun = folder.is_dir() and any(folder.glob("events*"))
                made = _tensorboard(folder, trainer.at.step + 1 if begun else None)
                send = [] if begun else trainer.records
        except Exception as error:
            self._drop(name, None, error)
            return
        self._active.append((name, made))
        for record in send:
            self._log(name, made, record)
        if send:
            self._try(name, made, "save")

    def epoch(self, trainer: Trainer, averaged: Callable[[], AbstractContextManager[Any]]) -> None:
        """Send the last epoch's record, and figures if it is time.

        Args:
            trainer: the training; neither its weights nor its random state change.
            averaged: a block in which the weights are those that are validated.
        """
        if not self._active:
            return
        modules = [module for program in (trainer.model, trainer.guide) for module in program.modules()]
        with undisturbed(modules, trainer.fabric.device):
            for name, each in list(self._active):
                self._log(name, each, trainer.records[-1])
            if self.images_every is not None and trainer.at.epoch % self.images_every == 0:
                with averaged():
                    self._figures(trainer)
            for name, each in list(self._active):
                self._try(name, each, "save")

    def _log(self, name: str, each: Any, record: Mapping[str, Any]) -> None:
        metrics = {key: int(value) if value is True else value for key, value in record.items() if key != "step"}
        self._try(name, each, "log_metrics", metrics, record["step"])

    def _try(self, name: str, each: Any, method: str, *arguments: Any) -> None:
        call = getattr(each, method, None)
        if call is None or not self._is_active(each):
            return
        try:
            call(*arguments)
        except Exception as error:
            if method != "log_hyperparams" or not isinstance(error, NotImplementedError):  # Fabric's CSVLogger has none
                self._drop(name, each, error)

    def _is_active(self, each: Any) -> bool:
        return any(each is other for _, other in self._active)

    def _drop(self, name: str, each: Any, error: Exception) -> None:
        self._active = [(n, other) for n, other in self._active if other is not each]
        logger.warning("logger %s failed, and training goes on without it: %s", name, why_not(error))

    def _figures(self, trainer: Trainer) -> None:
        """Draw reconstructions and samples with the weights now in place, and send them to loggers that take them."""
        takers = [(name, each) for name, each in self._active if _takes_figures(each)]
        shown = None
        tags = FIGURES if self.data.extra(Tokens) is None else OF_TOKENS
        for tag in tags if takers else ():
            try:
                shown = shown or _shown(trainer, self.data)
                figure = _entries()[tag].draw(shown)
            except Exception as error:
                if tag not in self._no_figure:
                    self._no_figure.add(tag)
                    logger.warning("no figure '%s' for the loggers: %s", tag, why_not(error))
                continue
            for name, each in takers:
                if self._is_active(each):
                    try:
                        each.experiment.add_figure(tag, figure, trainer.at.step)
                    except Exception as error:
                        self._drop(name, each, error)


def _entries() -> dict[str, Any]:
    from pyro_vae.plots.registry import figures

    return figures()


def _shown(trainer: Trainer, data: Data) -> Any:
    from pyro_vae.plots.registry import Shown, known_of

    split, seed = data.validation or data.train, derived_seed(trainer.seed, "figures")
    return Shown(trainer.model, trainer.guide, split, trainer.records, seed=seed, **known_of(data))


def _csv(folder: Path) -> Any:
    from lightning_fabric.loggers import CSVLogger

    made = CSVLogger(folder.parent, name="", version=folder.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it removes the file that was there
        assert made.experiment is not None
    return made


def _tensorboard(folder: Path, purge_step: int | None) -> Any:
    from lightning_fabric.loggers import TensorBoardLogger

    made = TensorBoardLogger(
        folder.parent, name="", version=folder.name, default_hp_metric=False, purge_step=purge_step
    )
    assert made.experiment is not None  # which writes from which step on older events do not count
    return made


def _checked(given: Any) -> Any:
    """An object that metrics can be sent to.

    Raises:
        InputError: names what it lacks.
    """
    if inspect.isclass(given):
        raise InputError(f"logger: {given.__name__} is a class: give an object of it")
    if not callable(getattr(given, "log_metrics", None)):
        raise InputError(
            f"logger: {type(given).__name__} has no log_metrics(metrics, step): give a name ({', '.join(NAMES)}) or a "
            "logger with Lightning Fabric's interface"
        )
    return given


def _check_images(every: int, own: list[Any], names: list[str]) -> None:
    positive("log_images_every", every)
    if "tensorboard" not in names and not any(map(_takes_figures, own)):
        raise InputError("log_images_every needs a logger that takes figures (experiment.add_figure), as 'tensorboard'")


def _takes_figures(each: Any) -> bool:
    try:
        return callable(getattr(getattr(each, "experiment", None), "add_figure", None))
    except Exception:  # told of when it is called
        return False

"""The registry of figures: their names, what each is drawn of, and which section of a report has it."""

from __future__ import annotations

import inspect
import io
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, TypeVar

from matplotlib.figure import Figure
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae.data import Actions, Data, DataLike, Pictures, Sound, Split, as_data
from pyro_vae.data.tokens import Tokens
from pyro_vae.errors import InputError, NotApplicable, why_not
from pyro_vae.evaluation.codes import CodeStatistics, code_statistics
from pyro_vae.evaluation.latent_units import LatentStatistics, latent_statistics
from pyro_vae.evaluation.shared import given_shared
from pyro_vae.files import write_atomically
from pyro_vae.plots.images import is_drawable, pick, picked
from pyro_vae.programs.context import X, needed_to_generate, takes
from pyro_vae.programs.left_out import without_averaged
from pyro_vae.programs.program import Program, as_programs, prime
from pyro_vae.programs.session import in_evaluation, named
from pyro_vae.programs.traces import data_plates, is_latent, shared_sites

logger = logging.getLogger(__name__)

DPI = 120
NUM_STATISTICS = 1000  # data of which the KL per unit is the mean
NUM_ENCODED = 5000  # data whose codes are counted
SECTIONS = ("Training", "Likelihood", "Latents", "Codes", "Reconstructions", "Sound", "Samples", "Traversals")
Drawn = TypeVar("Drawn", bound=Callable[..., Figure])


def check_drawable(shape: tuple[int, ...], pictures: Pictures | None = None) -> None:
    """Check that data of a shape can be seen.

    Args:
        shape: of one datum.
        pictures: how it becomes a picture, if it is none by itself.

    Raises:
        NotApplicable: if they are neither images nor vectors, and nothing says how they become pictures.
    """
    if pictures is None and not is_drawable(shape):
        known = "numbers: see the figure 'points'" if math.prod(shape) == 1 else "neither images nor vectors"
        clips = ", and nothing says how they become pictures (pyro_vae.data.Pictures)" * (len(shape) > 2)
        raise NotApplicable(f"data of shape {shape} are {known}{clips}")


@dataclass
class Shown:
    """What figures are drawn of: a pair of programs, data, and the course of their training.

    Latents that all data share are held at one draw of the guide, of which every figure's title says so: the model's
    own draws of them, from their prior, would show nothing that has been learned.

    Args:
        model, guide: the programs.
        split: the data that are shown.
        records: the lines of ``metrics.jsonl``.
        sound: how the data are played, if they are sound.
        tokens: what the integers of the data stand for, if they are tokens.
        seed: of all draws.
        options: of :func:`~pyro_vae.evaluation.latent_statistics` and ``code_statistics``: device, memory budget.
        pictures: how the data become pictures, if they are none by themselves.
        actions: the names of the data's actions, if they have some.
    """

    model: Program
    guide: Program
    split: Split
    records: Sequence[Mapping[str, Any]] = ()
    sound: Sound | None = None
    tokens: Tokens | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    pictures: Pictures | None = None
    actions: Actions | None = None

    def __post_init__(self) -> None:
        """Hold what all data share."""
        self.whole, self.shared = (self.model, self.guide), ""
        if _has_shared_latents(self.model, self.guide, some := pick(self.split, 2, self.seed)):
            try:
                self.model, self.guide = given_shared(
                    *self.whole, Split(some, integers=self.split.integers), seed=self.seed
                )
            except InputError as error:
                logger.info("figures draw latents that all data share anew: %s", error)
            else:
                self.shared = ", ".join(self.model.held_latents.names)  # type: ignore[union-attr]

    @cached_property
    def latents(self) -> LatentStatistics:
        """KL and units of the latents, over some of the data."""
        some, (model, guide) = picked(self.split, NUM_STATISTICS, self.seed), self.whole
        return latent_statistics(without_averaged(model), guide, some, vectorize=False, seed=self.seed, **self.options)

    @cached_property
    def codes(self) -> CodeStatistics:
        """Which codes are used, over some of the data."""
        some = picked(self.split, NUM_ENCODED, self.seed)
        return code_statistics(*self.whole, some, seed=self.seed, **self.options)

    def context(self, n: int, without: Sequence[str] = ()) -> tuple[int, dict[str, Tensor]]:
        """The context that the model needs, and rows of data for their shape; how many samples there can be of it.

        And what the model does not take, where pictures may need it.
        """
        some = pick(self.split, n, self.seed)
        needed = needed_to_generate(self.model, some)
        if self.pictures is not None:
            needed += [name for name in some if not takes(self.model, name)]
        batch = {name: value for name, value in some.items() if name in (X, *needed)}
        count = len(some[X]) if len(batch) > 1 else n
        return count, {name: value for name, value in batch.items() if name not in without}


def known_of(data: Data) -> dict[str, Any]:
    """What figures may know of data beside tensors, as arguments of :class:`Shown`."""
    kinds = {"sound": Sound, "tokens": Tokens, "pictures": Pictures, "actions": Actions}
    return {name: data.extra(kind) for name, kind in kinds.items()}


# what figures take
SHOWN = ("model", "guide", "split", "records", "sound", "tokens", "pictures", "actions", "seed", "latents", "codes")


@dataclass(frozen=True)
class Entry:
    """A figure as it is registered: see :func:`figure`."""

    name: str
    function: Callable[..., Figure]
    section: str | None
    caption: str
    order: int
    given: Callable[[Shown], Mapping[str, Any]] | None
    pictures: bool = False

    def draw(self, run: Shown) -> Figure:
        """Draw it.

        Raises:
            NotApplicable: if there is nothing to show.
        """
        if self.pictures and run.tokens is not None:
            raise NotApplicable("tokens are integers that stand for things, and neither images nor curves")
        arguments = {n: getattr(run, n) for n in inspect.signature(self.function).parameters if n in SHOWN}
        drawn = self.function(**arguments | dict(self.given(run) if self.given is not None else {}))
        if run.shared and "model" in arguments:
            drawn.suptitle(f"{drawn.get_suptitle()}\n(given one draw of {run.shared} from the guide)".strip())
        return drawn


_entries: dict[str, Entry] = {}


def figure(
    section: str | None = None,
    caption: str = "",
    order: int = 0,
    given: Callable[[Shown], Mapping[str, Any]] | None = None,
    pictures: bool = False,
) -> Callable[[Drawn], Drawn]:
    """Register a function that draws a figure: ``pyro-vae figures`` and ``draw_all`` then draw it, under its name.

    Parameters of these names are taken from :class:`Shown`: ``model``, ``guide``, ``split``, ``records``, ``sound``,
    ``tokens``, ``pictures``, ``actions``, ``seed``, ``latents``, ``codes``. The function raises :class:`NotApplicable`
    where there is nothing to show. A file of this folder is found by itself; one of your own registers when it is
    imported.

    Args:
        section: of a report that has it; None: a report leaves it out.
        caption: in a report.
        order: its place in the section.
        given: further arguments of what it is drawn of.
        pictures: it shows data as images or curves, which tokens are not: of these it is not drawn.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from pyro_vae.plots import figure
        >>> @figure(section="Training", caption="Seconds of every epoch.")
        ... def pace(records):
        ...     drawn = Figure()
        ...     drawn.subplots().plot([record["seconds"] for record in records])
        ...     return drawn
    """

    def register(function: Drawn) -> Drawn:
        name = function.__name__
        _entries[name] = Entry(name, function, section, caption, order, given, pictures)
        return function

    return register


def figures() -> dict[str, Entry]:
    """All registered figures, by name."""
    for module in iter_modules([str(Path(__file__).parent)]):
        import_module(f"{__package__}.{module.name}")

    def place(entry: Entry) -> tuple[int, str, int, str]:
        at = SECTIONS.index(entry.section) if entry.section in SECTIONS else len(SECTIONS)
        return at + (entry.section is None), entry.section or "", entry.order, entry.name

    return {entry.name: entry for entry in sorted(_entries.values(), key=place)}


def in_report() -> list[str]:
    """The names of the figures that a report has."""
    return [name for name, entry in figures().items() if entry.section is not None]


def saved_if_applicable(draw: Callable[[], Figure], path: Path) -> bool:
    """Draw and write a figure; False, and a line in the log, if there is nothing to show in it.

    Raises:
        InputError: if the file cannot be written.
    """
    try:
        drawn = draw()
    except NotApplicable as error:
        logger.info("no picture: %s", error)
        return False
    save_figure(drawn, path)
    return True


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure to a file, whole or not at all; the suffix says the format.

    Raises:
        InputError: if the file cannot be written; an older one is left as it was.

    Example:
        >>> from pyro_vae.plots import save_figure, training_curves
        >>> save_figure(training_curves([{"epoch": 1, "train/loss": 9.0}]), "training.png")
    """
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=DPI))


def draw_all(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    records: Sequence[Mapping[str, Any]],
    folder: str | Path,
    seed: int = 0,
) -> list[Path]:
    """Draw every figure that applies to the pair, as PNG files, each written whole or not at all.

    Data are shown from the test part, else from validation, else from training; sound also as spectrograms. The log
    says, in one line each, which figures do not apply, or failed, and why; the others are drawn all the same.

    Args:
        model, guide: the programs.
        data: the dataset, or what :func:`~pyro_vae.fit` takes in its place.
        records: the lines of ``metrics.jsonl``.
        folder: where to write; made if need be.
        seed: of all draws.

    Returns:
        the files written.

    Raises:
        InputError: if a file cannot be written.
    """
    data = as_data(named(data, model))
    split = data.test or data.validation or data.train
    if data.test is None and data.validation is None:
        logger.info("figures show training data: %s has no others", data.name)
    run = Shown(*as_programs(model, guide), split, records, seed=seed, **known_of(data))
    written = []
    for name, entry in figures().items():
        path, drawn = Path(folder) / f"{name}.png", None
        try:
            drawn = entry.draw(run)
            save_figure(drawn, path)
            written.append(path)
        except NotApplicable as error:
            logger.info("no figure '%s': %s", name, error)
        except Exception as error:  # one figure's failure is not to take the others with it
            if drawn is not None and isinstance(error.__cause__, OSError):
                raise  # the disk's, which would take the others as well
            logger.warning("no figure '%s': %s", name, why_not(error))
    return written


def _has_shared_latents(model: Program, guide: Program, batch: Mapping[str, Tensor]) -> bool:
    """Whether there are latents that all data share; False where that cannot be seen."""
    try:
        with in_evaluation([model, guide], batch, seed=0) as batch:
            traces = [prune_subsample_sites(trace) for trace in prime(model, guide, batch)]
    except Exception:  # what that is, every figure says
        return False
    shared = shared_sites(*traces, data_plates(traces[0]))
    return any(is_latent(site) and name in shared for name, site in traces[0].nodes.items())


def png(figure: Figure, dpi: int = DPI) -> bytes:
    """A figure as a PNG file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()

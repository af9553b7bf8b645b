"""Clips that follow given frames under actions of one's own: arrays, a contact sheet, and a GIF of each."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.cli.output import savez
from pyro_vae.cli.tokens import print_rows, remove_older
from pyro_vae.data import Actions, Clips
from pyro_vae.data.actions import ACTIONS
from pyro_vae.data.binarization import as_probability
from pyro_vae.data.clips import FRAMES
from pyro_vae.errors import InputError
from pyro_vae.files import write_atomically
from pyro_vae.programs.context import X, takes
from pyro_vae.runs import Run
from pyro_vae.runs.learned_priors import code_priors

logger = logging.getLogger(__name__)

CONTEXTS = 8  # if nobody says how many
MOST_ROWS = 32  # of a contact sheet
SECONDS = 0.15  # a frame of a GIF stays
SIDE = 160  # pixels that a frame of a GIF has at least, in whole multiples of its own
BORDER = 4  # pixels; white around what is given, black around what follows
SHEET = "clips.png"


def sample_clips(
    run: Run,
    model: nn.Module,
    said: str,
    num: int,
    seed: int,
    how: Mapping[str, Any],
    given: Mapping[str, Tensor] | None = None,
    batch_size: int = 64,
) -> None:
    """Draw what follows given frames under each sequence of actions, and write it.

    Args:
        run: of data with actions and clips.
        model: its model.
        said: the sequences, ``forward*10;right*10``.
        num: contexts, of the test data.
        seed: of the draws.
        how: temperature, top_k and top_p.
        given: contexts ``(n, ...)`` of one's own, in the place of ``num`` of the test data's.
        batch_size: contexts drawn for at once.

    Raises:
        InputError: if the run's model or data have no actions, for actions that there are not, and more of them than
            the model takes.
    """
    from pyro_vae.evaluation import roll_out
    from pyro_vae.plots.clips import sheet
    from pyro_vae.plots.images import pick
    from pyro_vae.plots.registry import save_figure

    actions, steps = _actions_of(run, model)
    sequences = actions.sequences(said)
    words = [actions.words(sequence) for sequence in sequences]
    most = max(map(len, sequences))
    if most > steps:
        longest = words[[len(sequence) for sequence in sequences].index(most)]
        raise InputError(f"--actions {longest}: {most} steps, but the model takes {steps}, a step for each frame of x")
    if given is None:
        data = run.data()
        split = data.test or data.validation or data.train
        batch = pick(split, num)
        logger.info("%s: taken from %d of the data %s", FRAMES, len(batch[X]), split.name)
        given = {name: value for name, value in batch.items() if name not in (X, ACTIONS) and takes(model, name)}
    if any(len(sequence) < steps for sequence in sequences):
        logger.info("the last action of a sequence goes on to %d steps, and what follows by it is left out", steps)
    if not _told_actions(model):
        logger.warning(
            "%s: what is drawn does not depend on the actions: the model's prior is not told them (one that is: "
            "pyro-vae train-prior)",
            run.path,
        )
    full = torch.stack([torch.cat([each, each[-1:].expand(steps - len(each))]) for each in sequences])  # (A, T)
    made = roll_out(model, given, full, seed=seed, batch_size=batch_size, **how)  # (A, N, T, C, H, W)
    frames = as_probability(given[FRAMES].cpu())
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    arrays = {FRAMES: frames, ACTIONS: full, "steps": lengths, "x.mean": made}
    savez(run.path / "samples.npz", {name: value.numpy() for name, value in arrays.items()})
    folder, picture = run.file("samples"), run.file(f"figures/{SHEET}")
    order = [(n, a) for n in range(len(frames)) for a in range(len(sequences))]
    names = [f"{i:03d}" for i in range(len(order))]
    for name, (n, a) in zip(names, order, strict=True):
        write_gif(folder / f"{name}.gif", frames[n], made[a, n, : lengths[a]])
    remove_older(folder, "{:03d}", names)
    print_rows([(f"{folder / name}.gif", words[a]) for name, (_, a) in zip(names, order, strict=True)])
    shown = order[: max(len(sequences), MOST_ROWS // len(sequences) * len(sequences))]
    blank = torch.arange(steps) >= lengths[:, None]  # (A, T)
    seen = made.masked_fill(blank[:, None, :, None, None, None], 1.0)
    wide = Clips().images(seen, {FRAMES: frames})  # (A, N, C, H, W)
    rows = torch.stack([wide[a, n] for n, a in shown])
    title = "Given frames | what follows: mean of p(x | z), z ~ p(z | frames, actions)"
    save_figure(sheet(rows, [words[a] for _, a in shown], title, groups=len(sequences)), picture)
    print(picture)


def _actions_of(run: Run, model: nn.Module) -> tuple[Actions, int]:
    """The names of a run's actions, and how many steps its model takes.

    Raises:
        InputError: if there are none.
    """
    if run.actions is None or not takes(model, ACTIONS):
        why = "its data do not say what actions are called" if run.actions is None else "its model takes none"
        raise InputError(f"--actions is not for this run: {why}")
    if not isinstance(run.pictures, Clips):
        raise InputError("--actions is of data that are clips (pyro_vae.data.Clips), and the run's are none")
    return run.actions, run.context_shapes[ACTIONS][0]


def _told_actions(model: nn.Module) -> bool:
    """Whether actions have a part in what a model draws: of a model of codes, all that is given is for its priors."""
    try:
        priors = code_priors(model)
    except InputError:
        return True
    return any(ACTIONS in prior.context for prior in priors.values())


def write_gif(path: Path, given: Tensor, made: Tensor) -> None:
    """A GIF of a clip that begins anew at its end: what is given has a white border, what follows a black one.

    Args:
        path: where to.
        given, made: frames in [0, 1], or uint8, ``(T, C, H, W)`` each, C = 1 or 3.

    Raises:
        InputError: if it cannot be written.
    """
    from PIL import Image

    times = max(1, -(-SIDE // max(given.shape[-2:])))

    def image(frame: Tensor, border: float) -> Image.Image:
        large = (
            as_probability(frame).clamp(0, 1).repeat_interleave(times, 1).repeat_interleave(times, 2).expand(3, -1, -1)
        )
        framed = torch.nn.functional.pad(large, (BORDER,) * 4, value=border)
        return Image.fromarray((framed * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())

    first, *others = [*(image(frame, 1.0) for frame in given), *(image(frame, 0.0) for frame in made)]
    options: dict[str, Any] = {"duration": round(1000 * SECONDS), "loop": 0}
    write_atomically(path, lambda file: first.save(file, "GIF", save_all=True, append_images=others, **options))

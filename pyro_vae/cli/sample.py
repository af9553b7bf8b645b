"""``pyro-vae sample``."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_vae.cli.parsing import parse, run_parser
from pyro_vae.context import Context, num_attributes
from pyro_vae.errors import InputError
from pyro_vae.program import declared_context, needed_to_generate
from pyro_vae.recipes import Run


def sample(arguments: Sequence[str]) -> None:
    """Draw from a trained model: a picture, and the arrays."""
    import numpy as np

    from pyro_vae.evaluation.figures import prior_samples, save_figure
    from pyro_vae.evaluation.generate import sample as draw
    from pyro_vae.files import write_atomically

    parser = run_parser("sample", sample.__doc__)
    parser.add_argument("--num", type=int, default=64, help="how many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--y",
        type=str | None,
        default=None,
        help="context of a conditional model: a label (7), several that take turns (0,1,2), an attribute vector "
        "(0.5,1,0), or several of these (0.5,1,0;1,1,0)",
    )
    parser.add_argument(
        "--scale",
        type=str | None,
        default=None,
        help="factors for the latents' prior scales, by site: z1=0.5,z2=0.1",
    )
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="of a learned prior over codes: below 1 tamer, above 1 bolder"
    )
    parser.add_argument(
        "--top_k", type=int | None, default=None, help="each code among the so many most probable (a learned prior)"
    )
    options = parse(parser, arguments)
    if options.num < 1:
        raise InputError(f"--num must be a positive integer, got {options.num}")
    run = Run(options.dir, trust=options.trust)
    model, _ = run.programs()
    scales = _scales(options.scale)
    context, columns = _context(run, model, options.y, options.num)
    num = len(next(iter(context.values()))) if context else options.num
    how = {"scales": scales, "temperature": options.temperature, "top_k": options.top_k}
    drawn = draw(model, num, seed=options.seed, batch=context, **how)
    values = {k: v.cpu().numpy() for k, v in (context | drawn).items() if k != "x" or k in drawn}
    arrays, picture = run.path / "samples.npz", run.path / "figures" / "samples.png"
    write_atomically(arrays, lambda path: np.savez_compressed(path, **values))
    print(arrays)
    figure = prior_samples(model, n=num, seed=options.seed, batch=context, columns=columns, **how)
    if figure is not None:
        save_figure(figure, picture)
        print(picture)


def _context(run: Run, model: nn.Module, y: str | None, num: int) -> tuple[dict[str, Tensor], int | None]:
    """What the model is conditioned on, for each sample, and how many columns are to show them (None: any number)."""
    from pyro_vae.evaluation.figures import pick

    needed, declared = needed_to_generate(model), declared_context(model)
    takes_y = "y" in needed or "y" in declared
    sayable = needed in ([], ["y"]) and len(declared["y"].shape if "y" in declared else ()) < 2
    if y is not None and not (takes_y and sayable):
        needs = f"its {', '.join(needed)} are taken from the test data" if needed else "it is not conditional"
        raise InputError(f"--y is not for this model: {needs}; leave it out")
    if y is not None:
        values = _parsed(y, declared.get("y"))
        if "y" in declared:
            declared["y"].check("y", values)
        count = len(values)
        columns = count * max(1, round(num**0.5 / count)) if count > 1 else None  # a value to a column
        return {"y": values[torch.arange(num) % count]}, columns
    if not needed:
        return {}, None
    if sayable:
        what = declared["y"].what if "y" in declared else "class labels"
        raise InputError(f"the model needs y ({what}): say which, e.g. --y {_example(declared.get('y'))}")
    data = run.data()
    split = data.test or data.validation or data.train
    context = pick(split, num)
    logging.info("%s: taken from %d of the data %s", ", ".join(needed), len(context["x"]), split.name)
    return {name: value for name, value in context.items() if name in needed}, None


def _scales(text: str | None) -> dict[str, float]:
    """Factors by site, of ``z1=0.5,z2=0.1``."""
    pairs = [pair.partition("=") for pair in text.split(",")] if text else []
    try:
        return {site.strip(): float(factor) for site, _, factor in pairs}
    except ValueError:
        raise InputError(f"--scale takes factors by latent site, e.g. --scale z1=0.5,z2=0.1; got '{text}'") from None


def _parsed(text: str, context: Context | None) -> Tensor:
    """Labels ``(n,)`` int64, or attribute vectors ``(n, A)``."""
    try:
        if context is not None and num_attributes(context) is not None:
            rows = [[float(number) for number in row.split(",")] for row in text.split(";")]
            if len({len(row) for row in rows}) > 1:
                raise ValueError("the vectors differ in length")
            return torch.tensor(rows)
        return torch.tensor([int(number) for number in text.split(",")])
    except (ValueError, RuntimeError) as error:
        what = context.what if context is not None else "class labels"
        raise InputError(f"--y takes {what}, e.g. --y {_example(context)}; got '{text}' ({error})") from error


def _example(context: Context | None) -> str:
    size = num_attributes(context) if context is not None else None
    return "7 or --y 0,1,2" if size is None else ",".join(["0.5"] * min(size, 4)) + (",…" if size > 4 else "")

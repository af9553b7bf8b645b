"""``pyro-vae export``: a run's encoder, decoder and sampler as files that other programs run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from pyro_vae.cli.parsing import parse, run_parser
from pyro_vae.export import Format
from pyro_vae.runs import Run

FOLDER = "export"
PREPARED = ("binarization", "image_size", "layout", "colours", "observed_quadrants", "missing")  # how data are


def export(arguments: Sequence[str]) -> None:
    """Write a run's encoder, decoder and sampler as files for torch.export or ONNX, checked on the run's test data.

    Beside them metadata.json says what each takes and gives, how data were prepared, and how near the files' numbers
    are to the run's own.
    """
    from pyro_vae.export import export_pair
    from pyro_vae.export.write import METADATA, TOLERANCE
    from pyro_vae.runs.measurements import part_of, weights_digest

    parser = run_parser("export", export.__doc__)
    parser.add_argument("--to", type=Format, required=True, help="torch.export: .pt2 files; onnx: .onnx files")
    parser.add_argument("--out", type=str | None, default=None, help=f"the folder to write into (DIR/{FOLDER})")
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help="how much numbers up to 1 may differ, others relative to them",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise that files are compared with the run on")
    options = parse(parser, arguments)
    run = Run(options.dir, trust=options.trust)
    folder = run.file(FOLDER) if options.out is None else options.out
    model, guide = run.programs()
    data = run.data()
    split = part_of(data, next(name for name in ("test", "validation", "train") if name in data.splits))
    about = {"run": _of_run(run, weights_digest(model, guide)), "data": _of_data(run)}
    exported = export_pair(
        model, guide, split, folder, to=options.to, tolerance=options.tolerance, seed=options.seed, about=about,
        force=options.force,
    )  # fmt: skip
    for name, file in exported.files.items():
        worst = max(exported.differences[name].values())
        logging.info("%s: differs from the run's by at most %.2g on %s data", name, worst, split.name)
        print(file)
    print(exported.folder / METADATA)


def _of_run(run: Run, weights: str) -> dict[str, Any]:
    classes = {part: run.config[part].get("class_path") for part in ("model", "guide") if part in run.config}
    return {"recipe": run.recipe, "weights_sha256": weights, **classes}


def _of_data(run: Run) -> dict[str, Any]:
    """How what the run was trained on was made of files."""
    data = run.config.data
    found: dict[str, Any] = {"name": data.name, "shape": list(run.data_shape)}
    found |= {key: data.get(key) for key in PREPARED if data.get(key) not in (None, False, "none")}
    if run.sound is None and run.token_facts is None:
        found["values"] = "grey levels and colours from 0 to 255 are x/255; then binarized, if it is said here"
    if run.sound is not None:
        found["sound"] = {"sample_rate": run.sound.sample_rate, "encoding": run.sound.encoding}
    if run.classes is not None:
        found["classes"] = list(run.classes)
    if run.token_facts is not None:
        found["tokens"] = run.token_facts
    return found

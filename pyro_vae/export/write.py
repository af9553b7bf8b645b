"""``export_pair``: the parts of a pair as files that other programs run, checked against the pair itself."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.export import ExportedProgram

from pyro_vae import __version__
from pyro_vae.data import DataLike
from pyro_vae.errors import InputError, above_zero, first_line, unknown
from pyro_vae.export.graph import Graph
from pyro_vae.export.parts import NAMES, NotExportable, Part, decoder, encoder, sampler
from pyro_vae.files import digest_of, user_path, write_atomically, write_json
from pyro_vae.programs.context import declared_context
from pyro_vae.programs.program import Program, as_programs, prime
from pyro_vae.programs.session import as_split, check_pair, in_evaluation
from pyro_vae.programs.sites import data_first, in_data_plate
from pyro_vae.programs.traces import is_latent

logger = logging.getLogger(__name__)

Format = Literal["torch.export", "onnx"]
SUFFIXES = {"torch.export": ".pt2", "onnx": ".onnx"}
METADATA = "metadata.json"
NUM_CHECKED = 64  # data on which files are compared with the pair
TOLERANCE = 1e-6  # of the largest number of an output, or of 1
ROUNDINGS, AT_MOST = 2, 10  # how many times what the pair rounds differently by itself is accepted; of the tolerance
MOST_UNLIKE = 1e-3  # of integers, such as codes, which rounding can tip over to a neighbour
ONE_FILE = 1_900_000_000  # bytes, above which an ONNX file cannot hold its weights
NEEDED = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Exported:
    """What :func:`export_pair` has written.

    Attributes:
        folder: where.
        files: by part: encoder, decoder, sampler.
        differences: by part and output, the largest difference from the pair's own numbers, relative to the largest of
            these if it is above 1; of integers, the fraction that differ.
        left_out: why other parts are not there.
    """

    folder: Path
    files: dict[str, Path]
    differences: dict[str, dict[str, float]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def export_pair(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    folder: str | Path,
    *,
    to: Format = "torch.export",
    parts: Sequence[str] = NAMES,
    site: str | None = None,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Exported:
    """Write encoder, decoder and sampler of a pair of programs as files that need neither it nor this package.

    The encoder gives of every latent site under the guide its mean and scale, or its value (codes); where a site
    depends on others, given those at their means. The decoder takes latents, and context, and gives the mean of
    p(x | .), of classes their probabilities. The sampler makes z ~ p(z), and of it that mean, from noise that is an
    input: standard normal numbers, or uniform ones between 0 and 1. All take any number of data.

    Each exported graph (of ONNX the file itself) is run on data, and compared with the pair, before its file has its
    name.

    Args:
        model, guide: Pyro programs, on the CPU.
        data: of the kind that they take, some of which are examples, and compared; of a dataset its test part.
        folder: where to write ``encoder.pt2`` or ``.onnx``, …, and ``metadata.json``.
        to: ``"torch.export"`` or ``"onnx"``.
        parts: which of encoder, decoder and sampler.
        site: the data site; found, if None.
        tolerance: how large a difference may be, as :attr:`Exported.differences` are. float32 sums depend on their
            order; where the pair, run one datum at a time, differs from itself by more than half of it, twice that is
            accepted, and ten times the tolerance at most.
        seed: of the noise that is compared, and of draws.
        about: what else ``metadata.json`` is to say.
        force: replace files that are there.

    Raises:
        InputError: for an unknown format or part, files that are there, packages that are not installed, programs that
            are not on the CPU, a file that gives other numbers, and if no part can be exported.

    Example:
        >>> import torch, pyro_vae
        >>> from pyro_vae.export import export_pair
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = (torch.rand(20, 1, 8, 8) > 0.5).float()
        >>> exported = export_pair(model, guide, x, "exported", parts=["decoder"])
        >>> decoder = torch.export.load(exported.files["decoder"]).module()
        >>> decoder(torch.zeros(3, 2))[0].shape
        torch.Size([3, 1, 8, 8])
    """
    folder = user_path(folder)
    files = _checked(folder, to, parts, tolerance, force)
    programs = as_programs(model, guide)
    elsewhere = {t.device.type for p in programs for t in (*p.parameters(), *p.buffers())} - {"cpu"}
    if elsewhere:
        raise InputError(
            f"the programs are on {', '.join(elsewhere)}, and exported from the CPU: model.cpu(), guide.cpu()"
        )
    split = as_split(data, *programs)
    check_pair(*programs, split)
    found, kept, left_out = {}, {}, {}
    with in_evaluation(programs, split.batch(slice(0, NUM_CHECKED)), seed) as batch, _quiet():
        model_trace, _ = prime(*programs, batch)
        for name in parts:
            try:
                part = _part(name, *programs, batch, model_trace.nodes, site).with_noise()
                graph = Graph(part)
                kept[name] = part, graph, _write(part, graph, files[name], to, tolerance, seed)
                found[name] = dict(zip(graph.outputs, kept[name][2], strict=True))
            except NotExportable as error:
                left_out[name] = str(error)
                logger.warning("%s: not exported: %s", name, error)
    if not found:
        raise InputError("nothing can be exported: " + "; ".join(f"{name}: {why}" for name, why in left_out.items()))
    told = {name: _told(part, graph, files[name], programs[0]) for name, (part, graph, _) in kept.items()}
    for name, differences in found.items():
        told[name]["checked"] = {"data": len(next(iter(batch.values()))), "seed": seed, "differences": differences}
    made = {"pyro_vae": __version__, "torch": torch.__version__, **_versions(to)}
    head = {"format": to, "made": made, "tolerance": tolerance}
    write_json(folder / METADATA, {**head, "parts": told, "left_out": left_out, **(about or {})})
    return Exported(folder, {name: files[name] for name in found}, found, left_out)


def _checked(folder: Path, to: str, parts: Sequence[str], tolerance: float, force: bool) -> dict[str, Path]:
    """The files by part."""
    if to not in get_args(Format):
        raise unknown("format", to, get_args(Format))
    for name in parts:
        if name not in NAMES:
            raise unknown("part", name, NAMES)
    above_zero("tolerance", tolerance)
    missing = [name for name in NEEDED if to == "onnx" and find_spec(name) is None]
    if missing:
        raise InputError(f"ONNX needs {', '.join(missing)}: pip install 'pyro-vae[export]'; or export to torch.export")
    files = {name: folder / f"{name}{SUFFIXES[to]}" for name in parts}
    there = [path for path in (*files.values(), folder / METADATA) if path.exists()]
    if there and not force:
        raise InputError(f"{there[0]} is there already: choose another folder, or replace it (force; --force)")
    return files


def _part(
    name: str, model: Program, guide: Program, batch: Mapping[str, Tensor], nodes: Mapping[str, Any], site: str | None
) -> Part:  # fmt: skip
    if name == "encoder":
        return encoder(model, guide, batch)
    if name == "sampler":
        return sampler(model, batch, site)
    seen = {n: s for n, s in nodes.items() if is_latent(s) and in_data_plate(s)}
    return decoder(model, batch, {n: data_first(s["value"], s) for n, s in seen.items()}, site)


def _write(part: Part, graph: Graph, file: Path, to: str, tolerance: float, seed: int) -> list[float]:
    """Write a part's file, run it and compare; the difference of each output."""
    count = len(next(iter(part.inputs.values())))
    rows = {**part.rows(count), **part.noise(count, seed)}
    right = part(**rows)
    given = [rows[name].contiguous() for name in graph.inputs]
    program = graph.export(given)
    found: list[float] = []

    def write(path: Path) -> None:
        ours = _torch_file(program, path, given) if to == "torch.export" else _onnx_file(program, graph, path, given)
        found[:] = [_difference(a, b) for a, b in zip(ours, right, strict=True)]
        rounding = _rounding(part, rows, right) if max(found) > tolerance else [0.0] * len(found)
        for name, difference, own, value in zip(graph.outputs, found, rounding, right, strict=True):
            accepted = min(max(tolerance, ROUNDINGS * own), AT_MOST * tolerance)
            most = accepted if value.is_floating_point() else MOST_UNLIKE
            if not difference <= most:
                what = "is" if value.is_floating_point() else "are, as a fraction of them,"
                raise NotExportable(
                    f"'{name}' of the exported {part.name} differs by up to {difference:.2g} from the pair's, and the "
                    f"most that {what} accepted is {most:.2g} (--tolerance)"
                )

    write_atomically(file, write)
    return found


def _rounding(part: Part, rows: Mapping[str, Tensor], right: Sequence[Tensor]) -> list[float]:
    """By how much each output differs from itself, run one datum at a time."""
    count = len(right[0])
    alone = [part(**{name: value[i : i + 1] for name, value in rows.items()}) for i in range(count)]
    return [_difference(torch.cat(values), b) for values, b in zip(zip(*alone, strict=True), right, strict=True)]


def _torch_file(program: ExportedProgram, path: Path, given: Sequence[Tensor]) -> Sequence[Tensor]:
    torch.export.save(program, path)
    return program.module()(*given)


def _onnx_file(program: ExportedProgram, graph: Graph, path: Path, given: Sequence[Tensor]) -> Sequence[Tensor]:
    import onnxruntime

    if sum(value.numel() * value.element_size() for value in program.state_dict.values()) > ONE_FILE:
        raise NotExportable("its weights are too large for one ONNX file: export to torch.export")
    try:
        made = torch.onnx.export(
            program, dynamo=True, input_names=graph.inputs, output_names=graph.outputs, verbose=False
        )
    except torch.onnx.errors.OnnxExporterError as error:
        raise NotExportable(f"ONNX: {first_line(error)}") from error
    assert made is not None
    made.save(path, external_data=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {name: value.numpy() for name, value in zip(graph.inputs, given, strict=True)}
    return [torch.as_tensor(value) for value in session.run(graph.outputs, feed)]


def _difference(ours: Tensor, right: Tensor) -> float:
    if ours.shape != right.shape:
        return float("inf")
    if not right.is_floating_point():
        return float((ours != right).double().mean())
    if not torch.equal(ours.isnan(), right.isnan()):
        return float("inf")
    return _largest(ours.double() - right.double()) / max(1.0, _largest(right))


def _largest(value: Tensor) -> float:
    return float(value.double().nan_to_num().abs().max()) if value.numel() else 0.0


def _told(part: Part, graph: Graph, file: Path, model: Program) -> dict[str, Any]:
    """What metadata say of a part."""
    examples = {**part.rows(1), **part.noise(1)}
    with torch.no_grad():
        given = graph(*(examples[name] for name in graph.inputs))
    context = declared_context(model)

    def one(name: str, value: Tensor) -> dict[str, Any]:
        return {"name": name, "shape": ["batch", *value.shape[1:]], "dtype": str(value.dtype).removeprefix("torch.")}

    inputs = []
    for name in graph.inputs:
        entry = {**one(name, examples[name]), "role": part.roles[name]}
        if name in part.draws:
            draw = part.draws[name]
            entry |= {
                "kind": f"standard {draw.kind}" if draw.kind == "normal" else "uniform on (0, 1)",
                "site": draw.site,
            }
        elif name in context:
            entry["what"] = context[name].what
        elif part.about.get(name):
            entry["what"] = part.about[name]
        inputs.append(entry)
    outputs = [
        {**one(name, value), "what": part.about.get(name, "")} for name, value in zip(graph.outputs, given, strict=True)
    ]
    size = file.stat().st_size
    return {"file": file.name, "sha256": digest_of(file), "bytes": size, "inputs": inputs, "outputs": outputs}


def _versions(to: str) -> dict[str, str]:
    if to != "onnx":
        return {}
    import onnx
    import onnxruntime

    return {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings and progress of tracing and of exporters, which speak of their own insides."""
    others = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [other.level for other in others]
    for other in others:
        other.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for other, level in zip(others, levels, strict=True):
            other.setLevel(level)

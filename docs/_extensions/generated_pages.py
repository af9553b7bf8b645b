"""Pages that are made when the site is built, in docs/reference/: rooms, commands, recipes, the README, files."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import public_names
from links_to_files import DOCS, PAGES, ROOT, outside, page_of, relinked

from pyro_vae.cli import COMMANDS, USAGE
from pyro_vae.recipes import recipe_names, recipe_text

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.config import Config

FOLDER = DOCS / "reference"
KEPT = {"index.md"}  # what is written by hand


def title(text: str, line: str = "=") -> str:
    """A heading of reStructuredText."""
    return f"{text}\n{line * len(text)}\n\n"


def block(text: str, language: str, style: str = "") -> str:
    """A block of code of reStructuredText, with a class for its style."""
    options = f"   :class: {style}\n" if style else ""
    lines = "".join(f"   {line}\n" if line else "\n" for line in text.splitlines())
    return f".. code-block:: {language}\n{options}\n{lines}"


def table(heading: str, names: list[str], own: bool) -> str:
    """Names with a line each; their pages are made (``own``), or are made elsewhere."""
    if not names:
        return ""
    options = "   :toctree: .\n   :nosignatures:\n" if own else "   :nosignatures:\n"
    return title(heading, "-") + f".. autosummary::\n{options}\n" + "".join(f"   ~{n}\n" for n in names) + "\n"


def room_page(room: public_names.Room) -> str:
    """The page of a room."""
    every = [f"{room.module}.{name}" for name in room.names]
    here = [full for full in every if public_names.home(full) == full]
    values = {full: public_names.value_of(full) for full in here}
    classes = [full for full, value in values.items() if inspect.isclass(value)]
    functions = [full for full, value in values.items() if inspect.isfunction(value)]
    types = [full for full in here if full not in classes and full not in functions]
    elsewhere = [public_names.home(full) for full in every if full not in here]
    return (
        title(room.short)
        + f".. py:module:: {room.module}\n\n.. py:currentmodule:: None\n\n{room.about}\n\n"
        + table("Exceptions" if room.short == "errors" else "Classes", classes, True)
        + table("Functions", functions, True)
        + table("Types", types, True)
        + table("Also given here", elsewhere, False)
    )


def inside_page() -> str:
    """The page of what is not public."""
    about = (
        "Names that no ``__all__`` lists and that pages refer to, because they say what happens. They may "
        "change from one version to the next."
    )
    return title("Inside") + about + "\n\n" + table("Names", list(public_names.inside().values()), True)


def command_page() -> str:
    """The page of the commands: what each prints under ``--help``."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    ran = os.environ | {"COLUMNS": "100", "PYTHONPATH": path}
    code = (
        "import contextlib, io, json, sys\n"
        "from pyro_vae.cli import main\n"
        "said = {}\n"
        "for name in sys.argv[1:]:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):\n"
        "        main([name, '--help'])\n"
        "    said[name] = out.getvalue()\n"
        "print(json.dumps(said))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *COMMANDS], capture_output=True, text=True, check=True, env=ran)
    said = json.loads(done.stdout.splitlines()[-1])
    rows = "".join(f"   * - :ref:`{name} <command-{name}>`\n     - {what}\n" for name, (_, what) in COMMANDS.items())
    usage = USAGE.format(commands="").replace("\ncommands:\n\n", "")
    parts = [title("Commands"), block(usage, "none", "help"), f"\n.. list-table::\n\n{rows}"]
    for name, (_, what) in COMMANDS.items():
        if "usage: pyro-vae" not in said[name]:
            raise RuntimeError(f"pyro-vae {name} --help printed no usage: {said[name][:200]!r}")
        parts.append(
            f"\n.. _command-{name}:\n\n" + title(name, "-") + f"{what}\n\n" + block(said[name], "none", "help")
        )
    return "".join(parts)


def recipe_page() -> str:
    """The page of the recipes, each with its YAML."""
    head = (
        "What ``pyro-vae train NAME --out DIR`` trains (second stages: ``train-prior DIR NAME``, ``train-ranker``). "
        "Any value is changed by an option: ``--fit.epochs 20``. ``pyro-vae recipes NAME`` prints one, to edit.\n\n"
    )
    parts = [title("Recipes"), head]
    for name in recipe_names():
        text = recipe_text(name)
        parts.append(f".. _recipe-{name}:\n\n" + title(name, "-") + block(text, "yaml") + "\n")
    return "".join(parts)


def file_pages(paths: set[Path]) -> Iterator[tuple[str, str]]:
    """Pages that show files, and the files of folders, with one that lists them."""
    every = {path for path in paths if path.is_file()}
    for folder in (path for path in paths if path.is_dir()):
        every |= {path for path in folder.iterdir() if path.suffix in (".py", ".yaml", ".md")}
        lines = "".join(
            f"- [{path.name}]({Path(page_of(path)).name})\n" for path in sorted(folder.iterdir()) if path in every
        )
        yield page_of(folder), f"# {folder.relative_to(ROOT).as_posix()}/\n\n{lines}"
    language = {".py": "python", ".yaml": "yaml", ".md": "markdown"}
    for path in sorted(every):
        name = path.relative_to(ROOT).as_posix()
        start = os.path.relpath(path, FOLDER / "files")
        kind = language.get(path.suffix, "none")
        yield page_of(path), f"# {name}\n\n```{{literalinclude}} {start}\n:language: {kind}\n```\n"


def pages() -> dict[str, str]:
    """Every page that is made, by its path from docs/."""
    made = {f"reference/{room.short}.rst": room_page(room) for room in public_names.rooms()}
    made |= {"reference/inside.rst": inside_page(), "reference/commands.rst": command_page()}
    made |= {"reference/all-recipes.rst": recipe_page()}
    written = [page for page in DOCS.rglob("*.md") if not {"reference", "_build"} & set(page.parts)]
    linked = set().union(*(outside(page) for page in [*written, *PAGES]))
    files = dict(file_pages(linked))
    made |= files
    listed = "".join(f"{name.removeprefix('reference/files/')}\n" for name in sorted(files))
    made["reference/files/index.md"] = (
        f"# Files\n\nFiles that the pages refer to.\n\n```{{toctree}}\n:maxdepth: 1\n\n{listed}```\n"
    )
    for source, page in PAGES.items():
        made[page] = relinked(source.read_text(), source, DOCS / page)
    return made


def write(app: Sphinx, config: Config) -> None:
    """Write the pages that have changed, and remove those of a former build that are no longer made."""
    made = pages()
    for name, text in made.items():
        path = DOCS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
    named = {*public_names.homes().values(), *public_names.inside().values()}
    config.autosummary_filename_map = {n: f"{n}-class" for n in alike(named)}
    config.autosummary_context = {"also": also()}
    stubs = {f"reference/{config.autosummary_filename_map.get(name, name)}.rst" for name in named}
    for path in FOLDER.rglob("*.*"):
        if path.name not in KEPT and path.is_file() and path.relative_to(DOCS).as_posix() not in {*made, *stubs}:
            path.unlink()


def alike(named: set[str]) -> set[str]:
    """Classes whose name is that of a function but for its case, which some file systems do not tell apart."""
    count = Counter(name.lower() for name in named)
    return {name for name in named if count[name.lower()] > 1 and inspect.isclass(public_names.value_of(name))}


def also() -> dict[str, list[str]]:
    """Further full names of what is documented under one."""
    found: dict[str, list[str]] = {}
    for room in public_names.rooms():
        for name in room.names:
            full = f"{room.module}.{name}"
            if (where := public_names.home(full)) != full:
                found.setdefault(where, []).append(full)
    return found


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the pages before Sphinx looks for pages."""
    app.connect("config-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""The tutorials parse, are in their index, use names and arguments that there are; slow: they run as scripts."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyro_vae.cli import COMMANDS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "tutorials"
PAGES = sorted(set(FOLDER.glob("*.md")) - {FOLDER / "index.md"})
CELL = re.compile(r"^```\{code-cell\} python\n(?::\w.*\n)*(.*?)^```$", re.MULTILINE | re.DOTALL)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def script(page):
    """The code of a notebook as a plain script: its cells without the lines that only notebooks understand."""
    return re.sub(r"^%.*$", "", "\n".join(CELL.findall(page.read_text())), flags=re.MULTILINE)


def names_and_calls(tree):
    """What a script uses of the package: ``(found or not, name)`` of each name, and calls with what is called."""
    known, calls = {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name.split(".")[0] == "pyro_vae":
                    known[name.asname or name.name] = importlib.import_module(name.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pyro_vae":
            module = importlib.import_module(node.module)
            for name in node.names:
                known[name.asname or name.name] = getattr(module, name.name)

    def value(node):
        if isinstance(node, ast.Name):
            return known.get(node.id)
        inner = value(node.value) if isinstance(node, ast.Attribute) else None
        return getattr(inner, node.attr) if inspect.ismodule(inner) or inspect.isclass(inner) else None

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            value(node)
        elif isinstance(node, ast.Call) and callable(called := value(node.func)):
            calls.append((called, {word.arg for word in node.keywords if word.arg}))
    return known, calls


@each_page
def test_each_notebook_is_a_script_whose_names_and_arguments_there_are(page):
    text = page.read_text()
    assert text.startswith("---\njupytext:") and "format_name: myst" in text and "name: python3" in text
    assert text.count("{code-cell}") == len(CELL.findall(text)) > 0
    _, calls = names_and_calls(ast.parse(script(page)))
    assert calls, f"{page.name} uses nothing of the package"
    for called, words in calls:
        parameters = inspect.signature(called).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            assert words <= set(parameters), f"{page.name}: {called.__name__} has no {words - set(parameters)}"
    for line in re.findall(r'\bcommand\(\s*f?"([^"]*)"', script(page)):
        assert next(word for word in line.split() if not word.startswith("-")) in COMMANDS, f"{page.name}: {line}"


@each_page
def test_each_notebook_is_in_the_index_and_shows_no_progress_bars(page):
    index = (FOLDER / "index.md").read_text()
    toctree = re.search(r"^```\{toctree\}\n(.*?)^```", index, re.MULTILINE | re.DOTALL).group(1)
    assert page.stem in toctree.split()
    assert f"({page.name})" in index
    assert "progress=True" not in script(page)


@pytest.mark.slow
@each_page
def test_each_notebook_runs_as_a_plain_script_outside_of_a_checkout(page, tmp_path):
    (tmp_path / "notebook.py").write_text(script(page))
    environment = os.environ | {
        "MPLBACKEND": "agg",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:FigureCanvasAgg is non-interactive", "notebook.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not done.stderr, done.stderr[-3000:]

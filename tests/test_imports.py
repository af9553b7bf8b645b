"""Who imports whom: no circles, and nobody who works for every program knows a family."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_vae

ROOT = Path(pyro_vae.__file__).parent
FAMILIES = {"models", "guides", "priors", "likelihoods", "networks", "distributions"}
BASE = {"errors", "files", "runtime"}
MAY = {  # room: what it may import beside the base
    "distributions": set(),
    "networks": {"programs"},
    "likelihoods": {"distributions", "networks"},
    "priors": {"distributions", "networks", "programs"},
    "models": {"distributions", "likelihoods", "networks", "priors", "programs"},
    "guides": {"distributions", "models", "networks", "programs"},
    "data": set(),
    "programs": {"data"},
    "recording": {"programs"},
    "objectives": {"data", "programs", "recording"},
    # plots: pictures for loggers; evaluation: a prior fitted afterwards against the one before
    "training": {"data", "evaluation", "objectives", "plots", "programs", "recording"},
    "evaluation": {"data", "objectives", "programs", "recording"},  # objectives: kernels, and MMD of two samples
    "export": {"data", "programs", "recording"},
    "plots": {"data", "distributions", "evaluation", "programs"},
    "adapters": {"data", "likelihoods", "models", "programs", "training"},
    "recipes": set(),
    "runs": {"data", "evaluation", "objectives", "programs", "recipes", "training", *FAMILIES - {"distributions"}},
    "text_to_image": {"data", "evaluation", "guides", "models", "plots", "programs", "runs", "training"},
    "reports": {"data", "evaluation", "export", "plots", "programs", "recipes", "runs", "training"},
    "sweeps": {"data", "evaluation", "plots", "recipes", "runs", "training"},
    "sharing": {"reports", "runs"},
    "cli": {"data", "evaluation", "export", "plots", "programs", "recipes", "recording", "reports", "runs"}
    | {"sharing", "sweeps", "text_to_image", "training"},
}


def modules():
    found = {}
    for file in sorted(ROOT.rglob("*.py")):
        parts = ("pyro_vae", *file.relative_to(ROOT).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def faces(files):
    """Names that a package gives, by the package, with the modules that define them."""
    found = {}
    for module, file in files.items():
        stub = file.with_suffix(".pyi")
        if stub.is_file():
            nodes = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)]
            found[module] = {a.name: f"{module}.{n.module}" for n in nodes if n.module for a in n.names}
    return found


def imported(module, file, files, given):
    """Our modules that one imports, anywhere in it, but for type checkers only."""
    tree, found = ast.parse(file.read_text()), set()
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in files}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pyro_vae":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in files else given.get(node.module, {}).get(alias.name, node.module))
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: a relative import"
    return found - {module}


def room(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def circles(graph):
    """Groups of two and more that can be reached from one another."""

    def reach(start):
        seen, stack = set(), [start]
        while stack:
            for following in graph.get(stack.pop(), ()):
                if following not in seen:
                    seen.add(following)
                    stack.append(following)
        return seen

    reached = {name: reach(name) for name in graph}
    return sorted({tuple(sorted(b for b in reached[a] if a in reached.get(b, ()))) for a in graph if a in reached[a]})


FILES = modules()
GRAPH = {module: imported(module, file, FILES, faces(FILES)) for module, file in FILES.items()}


def test_there_are_no_circles_between_files():
    assert circles(GRAPH) == []


def test_there_are_no_circles_between_rooms():
    rooms = {}
    for module, others in GRAPH.items():
        rooms.setdefault(room(module), set()).update(room(other) for other in others if room(other) != room(module))
    assert circles(rooms) == []


@pytest.mark.parametrize("name", MAY)
def test_a_room_imports_only_what_it_may(name):
    for module, others in GRAPH.items():
        if room(module) == name:
            assert {room(other) for other in others} - {name, "", *BASE} <= MAY[name], module


def test_every_room_is_known():
    assert {room(m) for m in FILES} - {"", "__main__"} == {*MAY, *BASE}


def test_who_works_for_every_program_knows_no_family():
    for name in ("programs", "recording", "objectives", "training", "evaluation", "export", "plots"):
        assert not MAY[name] & {"models", "guides", "priors", "likelihoods", "networks"}


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [("a", "b", "c")]
    assert circles({"a": {"b"}, "b": set()}) == []


def test_a_face_shows_what_it_gives_and_nothing_else():
    """And no module is hidden behind a function of its name. In a process of its own, where nothing is loaded yet."""
    packages = [module for module, file in FILES.items() if file.name == "__init__.py"]
    code = (
        "import importlib, pkgutil, types\n"
        f"for module in {packages}:\n"
        "    face = importlib.import_module(module)\n"
        "    names = getattr(face, '__all__', [])\n"
        "    values = {name: getattr(face, name) for name in names}\n"
        "    inner = {m.name for m in pkgutil.iter_modules(face.__path__)}\n"
        "    hidden = {n for n in inner if not isinstance(values.get(n), types.ModuleType | None)}\n"
        "    assert not hidden, (module, hidden)\n"
        "    if hasattr(face, '__getattr__'): assert sorted(dir(face)) == sorted(names), (module, dir(face))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]


def test_the_package_imports_nothing_before_it_is_used():
    code = "import sys, pyro_vae; assert not {'torch', 'pyro', 'numpy', 'matplotlib'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

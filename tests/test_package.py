"""The package as it is installed: one version, what it declares, what a wheel of it holds."""

import ast
import fnmatch
import hashlib
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import pyro_vae
from pyro_vae.data import load_data, torchvision_datasets
from pyro_vae.errors import InputError

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
CODE = sorted((ROOT / "pyro_vae").rglob("*.py"))
PACKAGES = {"PIL": "pillow", "pyro": "pyro-ppl", "sklearn": "scikit-learn", "yaml": "pyyaml"}  # by what is imported
BY_NAME = {"pandas", "xarray"}  # an error says how it is installed; ArviZ brings it


def normal(requirement):
    """The name of a requirement, as registries compare names."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def test_there_is_one_version():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {newest, citation["version"]} == {pyro_vae.__version__}
    assert "version" not in PROJECT and PROJECT["dynamic"] == ["version"]
    assert SETTINGS["dynamic"]["version"] == {"attr": "pyro_vae.__version__"}


def test_the_citation_has_what_its_format_asks_for():
    """Citation File Format 1.2.0: the keys that must be there, and no other than it knows."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    for key in ("message", "title"):
        assert citation[key] and isinstance(citation[key], str)
    assert all(set(author) <= {"name", "family-names", "given-names", "orcid"} for author in citation["authors"])
    known = {"cff-version", "message", "title", "type", "authors", "version", "license", "keywords", "abstract"}
    assert set(citation) <= known | {"date-released", "url", "repository-code", "doi"}
    assert citation["license"] == PROJECT["license"]


def test_every_file_of_the_package_is_declared_as_its_data():
    patterns = SETTINGS["package-data"]["pyro_vae"]
    kept = [file.relative_to(ROOT / "pyro_vae") for file in (ROOT / "pyro_vae").rglob("*") if file.is_file()]
    kept = [file for file in kept if file.suffix not in {".py", ".pyc"}]

    def fits(file, pattern):  # as setuptools: a star stays within its folder
        parts = pattern.split("/")
        return len(parts) == len(file.parts) and all(map(fnmatch.fnmatch, file.parts, parts))

    assert [str(file) for file in kept if not any(fits(file, pattern) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not any(fits(file, pattern) for file in kept)] == []


def test_every_folder_with_code_is_a_package():
    assert [str(file.parent) for file in CODE if not (file.parent / "__init__.py").is_file()] == []


def test_what_is_imported_is_declared():
    """Dependencies, where it is imported in any case; else extras, or what an error says how to install."""
    declared = {normal(each) for each in PROJECT["dependencies"]}
    extras = {normal(each) for group in PROJECT["optional-dependencies"].values() for each in group} | BY_NAME
    missing = set()
    for file in CODE:
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in {name.split(".")[0] for name in names} - {"pyro_vae"} - sys.stdlib_module_names:
                allowed = declared if node in tree.body else declared | extras
                if normal(PACKAGES.get(name, name)) not in allowed:
                    missing.add(f"{file.relative_to(ROOT)}: {name}")
    assert missing == set()


def test_extras_that_are_named_exist():
    pages = [*CODE, *(ROOT / "pyro_vae/recipes").glob("*.yaml"), ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for names in re.findall(r"pyro-vae\[([\w, -]+)\]", page.read_text()):
            unknown = set(names.replace(" ", "").split(",")) - set(PROJECT["optional-dependencies"])
            assert not unknown, f"{page.name}: {unknown}"


@pytest.mark.parametrize("name", ["kmnist", "cifar10"])
def test_data_that_need_torchvision_say_so_where_it_is_not(name, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PYRO_VAE_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(InputError, match=r"not installed.*pip install 'pyro-vae\[datasets\]'"):
        load_data(name)


def test_a_torchvision_of_another_torch_is_told(monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(torchvision_datasets, "import_module", broken)
    with pytest.raises(InputError, match=r"nms does not exist.*one index"):
        torchvision_datasets.torchvision_datasets("svhn")


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_the_archive_of_sources_gives_the_same(tmp_path):
    def build(*options, of):
        command = [
            sys.executable,
            "-m",
            "build",
            "--no-isolation",
            "--outdir",
            str(tmp_path / "dist"),
            *options,
            str(of),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    def contents(wheel):
        with zipfile.ZipFile(wheel) as file:
            return {name: hashlib.sha256(file.read(name)).hexdigest() for name in file.namelist()}

    build(of=ROOT)  # the archive, and the wheel from it
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    by_archive = contents(wheel)
    wheel.unlink()
    build("--wheel", of=ROOT)
    assert contents(wheel) == by_archive
    files = {str(file.relative_to(ROOT)) for file in (ROOT / "pyro_vae").rglob("*") if file.is_file()}
    assert {name for name in by_archive if ".dist-info/" not in name} == {f for f in files if not f.endswith(".pyc")}
    (entries,) = [name for name in by_archive if name.endswith("entry_points.txt")]
    with zipfile.ZipFile(wheel) as file:
        assert "pyro-vae = pyro_vae.cli:main" in file.read(entries).decode()
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *map(str, (tmp_path / "dist").iterdir())],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout

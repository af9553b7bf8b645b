"""The site has a page for every public name and every page of docs/, and its links lead somewhere; nothing is built."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MADE = {
    "commands",
    "all-recipes",
    "overview",
    "changelog",
    "files/index",
}  # docs/reference/: made by the build
FENCE = re.compile(r"^(```+|~~~+|:::+).*?^\1 *$", re.DOTALL | re.MULTILINE)
TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!\w+:)([^)\s]+)\)")


def pages():
    """The pages that are written by hand; what a build has left in docs/reference/ is none."""
    every = [page for page in DOCS.rglob("*.md") if not {"_build", "reference"} & set(page.parts)]
    return sorted([*every, DOCS / "reference" / "index.md"])


PAGES = pages()


@pytest.fixture(scope="module")
def extensions():
    """The modules that make the site's pages; none of them loads Sphinx."""
    names = ["public_names", "links_to_files", "generated_pages"]
    sys.path.insert(0, str(DOCS / "_extensions"))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(DOCS / "_extensions"))
        for name in names:
            sys.modules.pop(name, None)


def names_of_stubs():
    """Names that a face gives, by its module, as its stub says; modules are none."""
    for stub in sorted((ROOT / "pyro_vae").rglob("__init__.pyi")):
        module = ".".join(stub.parent.relative_to(ROOT).parts)
        froms = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom) and node.module]
        yield module, {alias.name for node in froms for alias in node.names}


def entries(page):
    """Documents that a page's toctrees list, as paths from docs/ without their suffix."""
    for block in TOCTREE.findall(page.read_text()):
        for line in block.splitlines():
            if line.strip() and not line.startswith(":"):
                name = re.sub(r".*<(.*)>$", r"\1", line.strip())
                yield (page.parent / name).relative_to(DOCS).as_posix()


def anchors(page):
    """What headings of a page are called in its links, as code-hosting pages and the site have them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE):
        text = re.sub(r"\]\([^)]*\)", "]", heading).strip().lower().replace(" ", "-")
        slug, n = re.sub(r"[^\w-]", "", text), 0
        while (f"{slug}-{n}" if n else slug) in found:
            n += 1
        found.add(f"{slug}-{n}" if n else slug)
    return found


def broken(page):
    """Links of a page that lead to no file, or to no heading of one."""
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text()))
    for link in LINK.findall(text):
        path, _, anchor = link.partition("#")
        goal = page.parent / path if path else page
        made = goal.parent == DOCS / "reference" and goal.stem in MADE
        if not goal.exists() and not made:
            yield link
        elif anchor and goal.suffix == ".md" and anchor not in anchors(goal):
            yield link


def test_every_public_name_has_a_page(extensions):
    names, made = extensions["public_names"], extensions["generated_pages"]
    rooms = {room.module: made.room_page(room) for room in names.rooms()}
    homes = set(names.homes().values())
    stubs = dict(names_of_stubs())
    assert stubs.keys() | {"pyro_vae.recipes", "pyro_vae.errors"} == rooms.keys()
    for module, given in stubs.items():
        for name in given:
            home = names.home(f"{module}.{name}")
            assert f"   ~{home}\n" in rooms[module], f"{module}.{name} is not on its room's page"
            own = next(
                table for table in rooms[home.rpartition(".")[0]].split(".. autosummary::") if f"~{home}\n" in table
            )
            assert home in homes and ":toctree:" in own, f"{home} has no page"


def test_every_room_is_in_the_reference(extensions):
    listed = {Path(entry).name for entry in entries(DOCS / "reference" / "index.md")}
    assert listed == {room.short for room in extensions["public_names"].rooms()} | {"inside"}


def test_names_in_docstrings_are_names_of_the_package(extensions):
    names = extensions["public_names"]
    for home in (*names.homes().values(), *names.inside().values()):
        value = names.value_of(home)
        for text, owner in names.docstrings(value):
            module = owner.rpartition(".")[0] or getattr(value, "__module__", "pyro_vae")
            for _, said in names.ROLE.findall(text):
                meant = names.target(said, module, owner)
                assert (meant and names.documented(meant[0])) or names.is_of_others(said), f"{home}: {said}"


def test_a_name_that_is_none_is_found(extensions):
    target = extensions["public_names"].target
    assert target("VAE", "pyro_vae.models.biva") == ("pyro_vae.models.gaussian.VAE", "")
    assert target("Data.train", "pyro_vae.models.biva") is None
    assert target("~pyro_vae.models.VEA".lstrip("~"), "pyro_vae.models.biva") is None
    assert target("forward", "pyro_vae.models.biva", "pyro_vae.models.biva.BIVA") == (
        "pyro_vae.models.biva.BIVA",
        "forward",
    )


def test_every_recipe_is_on_the_page_of_recipes(extensions):
    page = extensions["generated_pages"].recipe_page()
    for file in (ROOT / "pyro_vae" / "recipes").glob("*.yaml"):
        assert f".. _recipe-{file.stem}:" in page
        assert file.read_text().splitlines()[-1] in page


def test_every_page_is_in_a_toctree_once():
    listed = [entry for page in PAGES for entry in entries(page)]
    assert len(listed) == len(set(listed))
    written = {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES}
    assert written - set(listed) == {"index"}
    ours = {entry for entry in listed if not entry.startswith("reference/") or entry == "reference/index"}
    assert ours <= written, "toctrees list pages that there are not"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.stem)
def test_relative_links_lead_somewhere(page):
    assert not list(broken(page))


def test_broken_links_are_found(tmp_path):
    (tmp_path / "b.md").write_text("# One `thing`, two\n\n# Again\n\n# Again\n")
    page = tmp_path / "a.md"
    page.write_text(
        "# A\n[x](b.md#one-thing-two) [x](b.md#again-1) [x](#a) [x](c.md) [x](b.md#two) [x](#b) `[x](d.md)`\n"
    )
    assert list(broken(page)) == ["c.md", "b.md#two", "#b"]


def test_links_out_of_the_pages_lead_to_pages_that_show_files(extensions):
    files = extensions["links_to_files"]
    page = DOCS / "models.md"
    led = {
        "[a](../examples/gallery)": "[a](reference/files/examples-gallery.md)",
        "[b](../README.md#systems)": "[b](reference/overview.md#systems)",
        **{same: same for same in ("[c](codes.md#x)", "[d](https://pyro.ai)", "[e](#f)", "f[0](y=1)")},
    }
    assert files.relinked(" ".join(led), page, page) == " ".join(led.values())


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_takes_nothing_from_other_machines(tmp_path):
    pytest.importorskip("sphinx")
    options = ["-W", "--keep-going", "-q", "-D", "nb_execution_mode=off", "-d", str(tmp_path / "read")]
    command = [sys.executable, "-m", "sphinx", *options, "docs", str(tmp_path / "html")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = list((tmp_path / "html").rglob("*.html"))
    assert len(pages) > 300
    loaded = re.compile(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"(?:https?:)?//[^\"]*")
    assert not [(page.name, found[0]) for page in pages if (found := loaded.findall(page.read_text()))]
    assert "log_likelihood" in (tmp_path / "html" / "searchindex.js").read_text()
    assert "<math" in (tmp_path / "html" / "perceptual.html").read_text()

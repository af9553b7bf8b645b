"""The commands that the pages show are ones that there are, with options that they have."""

import re
import shlex
from pathlib import Path

import pytest

from pyro_vae.cli import COMMANDS, command
from pyro_vae.cli.parsing import _normal, parser_of

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```.*?\n(.*?)^```", re.DOTALL | re.MULTILINE)  # of any language: else an end is a start


def shown(page):
    """The words of each command in a page's blocks."""
    for block in BLOCK.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;(?= pyro-vae)|\|(?= )", re.sub(r"(^|\s)#.*", "", line)):
                words = part.strip().removeprefix("$ ")
                if words.startswith("pyro-vae ") and not set("…$") & set(words):
                    yield shlex.split(re.sub(r"[\[\]](?![\d,])", " ", words))[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_pages_have_the_options_that_they_are_shown_with(page):
    for name, *words in shown(page):
        assert name in COMMANDS, f"{page.name}: pyro-vae {name}"
        if not name.startswith("train"):
            parser = parser_of(command(name))
            known = {option for action in parser._actions for option in action.option_strings} | {"--on"}
            for word in words:
                option = _normal(word).split("=")[0]
                assert not word.startswith("--") or option in known, f"{page.name}: pyro-vae {name} {' '.join(words)}"

"""References to the package's names, wherever a docstring or signature takes them from, lead to their page."""

from __future__ import annotations

import inspect
import re
from typing import Any

import public_names
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

logger = logging.getLogger(__name__)
LETTER = re.compile(r"^(\s+\w+(?:, \w+)*: \w)\.(?=\s|$)")  # "dim: K.", of which K. would be the first item of a list


def with_full_names(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Write the names that a docstring's roles say, often short, as those of the pages; warn of one that is none."""
    module, owner = _written_in(name, obj)

    def full(match: re.Match[str]) -> str:
        meant = public_names.target(match[2], module, owner)
        where = meant and public_names.documented(meant[0])
        if where is None and public_names.is_of_others(match[2]):
            return match[0]
        if meant is None or where is None:
            logger.warning("%s: %s is no name of the package", name, match[0], type="ref", subtype="name")
            return match[0]
        if not meant[1]:
            return f":py:{match[1]}:`~{where}`"
        if callable(getattr(public_names.value_of(where), meant[1], None)):
            return f":py:{match[1]}:`~{where}.{meant[1]}`"
        return f":py:class:`{match[2].rpartition('pyro_vae.')[2]} <{where}>`"  # a field, described by its class

    lines[:] = [LETTER.sub(r"\1\\.", line) for line in _with_returns_as_text(lines)]
    lines[:] = public_names.ROLE.sub(full, "\n".join(lines)).split("\n")


def _with_returns_as_text(lines: list[str]) -> list[str]:
    """Keep napoleon from taking what a sentence on a returned value says before a colon for the value's type."""
    found: list[str] = []
    for line in lines:
        found.append(line)
        if line.strip() in ("Returns:", "Yields:"):
            found.append(f"{line[: len(line) - len(line.lstrip())]}    :")
    return found


class ExactNames(SphinxPostTransform):
    """References mean the name that they say, never another one that ends alike: 'mean' is no distribution's mean."""

    default_priority = 5  # before references are resolved

    def run(self, **options: Any) -> None:
        """Take the license to guess from the references of the page."""
        for node in self.document.findall(pending_xref):
            node.attributes.pop("refspecific", None)


def is_of_others(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what a class has from torch or Pyro; the rest is left to Sphinx."""
    inner = getattr(obj, "fget", None) or getattr(obj, "__func__", None) or obj
    module = getattr(inner, "__module__", None)
    if what == "class" and isinstance(module, str) and callable(inner) and not module.startswith("pyro_vae"):
        return True
    return None


def _written_in(name: str, obj: Any) -> tuple[str, str]:
    """The module and, for classes and their members, the class in which a docstring is written."""
    inner = getattr(obj, "fget", None) or getattr(obj, "__func__", None) or obj
    module = getattr(inner, "__module__", None) or "pyro_vae"
    qualified = getattr(inner, "__qualname__", "")
    if inspect.isclass(inner):
        return module, f"{module}.{qualified}"
    owner = qualified.rpartition(".")[0]
    return module, f"{module}.{owner}" if owner and "<" not in owner else ""


def resolved(app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement) -> nodes.Node | None:
    """A name under which nothing has a page: what it stands for may have one under another name.

    Types in signatures are named after the files in which they are written, and exceptions by their name alone. What
    the package has and the reference does not is shown without a link; what it does not have is left to Sphinx, which
    warns.
    """
    if node.get("refdomain") != "py":
        return None
    said = node["reftarget"]
    for name in (said, f"pyro_vae.errors.{said}", f"{node.get('py:module')}.{said}"):
        try:
            value = public_names.value_of(name) if name.startswith("pyro_vae") else None
        except LookupError:
            continue
        if value is None:
            continue
        where = public_names.documented(public_names.origin(value))
        if where is None:
            return text
        domain = env.get_domain("py")
        return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", where, node, text)
    return None


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to docstrings (before napoleon) and to references."""
    app.connect("autodoc-process-docstring", with_full_names, priority=400)
    app.connect("autodoc-skip-member", is_of_others)
    app.connect("missing-reference", resolved)
    app.add_post_transform(ExactNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""The documentation's site: ``make docs`` builds it, from the pages, the docstrings, the commands and the recipes."""

import hashlib
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_extensions"), str(HERE.parent)]

import pyro_vae  # noqa: E402


def digest_of_sources() -> str:
    """What executed notebooks depend on beside their own cells: the package's files."""
    files = (path for path in sorted((HERE.parent / "pyro_vae").rglob("*")) if path.suffix in (".py", ".yaml", ".npz"))
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()[:16]


project = "pyro_vae"
version = release = pyro_vae.__version__
author = copyright = "the authors of pyro_vae"
language = "en"
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
    "sphinx_copybutton",
    "mathml",
    "generated_pages",
    "links_to_names",
    "links_to_files",
    "short_sidebar",
]
exclude_patterns = ["_build", "images", "_extensions", "_templates", "_static"]
templates_path = ["_templates"]
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!pyro_vae\b).*")]  # names of torch and Pyro, whose pages are not here
highlight_language = "none"  # most blocks without a language are commands and what they print

# Docstrings
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False  # a method without a docstring says nothing new
python_use_unqualified_type_names = True
python_display_short_literal_types = True
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Pages and notebooks. What was executed is kept for as long as neither its cells nor the package change.
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 4  # as code-hosting pages number them
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / "executed" / digest_of_sources())
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # seconds a cell
nb_merge_streams = True
nb_ipywidgets_js = {}  # nothing from other machines

# HTML
html_theme = "furo"
html_title = f"pyro_vae {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True

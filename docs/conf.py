"""Sphinx's settings: `make docs` builds the site in build/site, and fails at any warning."""

from __future__ import annotations

import importlib
import re
import urllib.request
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import SphinxError
from sphinx.ext.autodoc.mock import _MockObject
from sphinx.util import logging

import pyattn

project = "pyattn"
author = "the pyattn developers"
copyright = f"{author}. BSD-3-Clause"
version = release = pyattn.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "myst_nb",  # Markdown, and pages whose code runs while they are built
    "sphinx_gallery.gen_gallery",  # scripts that become such pages
]
exclude_patterns = ["gallery"]  # the scripts; the pages that are made of them lie in auto_gallery
default_role = "py:obj"  # `name` in a docstring is a link where the name is public

# --- docstrings, which say what arguments are: their types would say it twice
autodoc_typehints = "none"
autodoc_member_order = "groupwise"
autodoc_mock_imports = ["torch", "transformers", "jax"]  # pages about them need no framework
for _operator in ("__or__", "__ror__"):  # of annotations such as Tensor | None, which are evaluated
    setattr(_MockObject, _operator, lambda self, other: self)
autodoc_default_options = {"members": True}
autosummary_generate = False
maximum_signature_line_length = 80
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_param = False  # an entry may name several arguments
napoleon_use_rtype = False
napoleon_use_ivar = True

# --- Markdown
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

# --- the gallery
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "filename_pattern": "/gallery/",  # all run
    "within_subsection_order": "FileNameSortKey",
    "notebook_extensions": set(),
    "capture_repr": ("_repr_html_",),
    "download_all_examples": False,
    "write_computation_times": False,
    "min_reported_time": 1,  # seconds
    "show_signature": False,
    "remove_config_comments": True,
}

# --- pages
html_theme = "pydata_sphinx_theme"
html_title = "pyattn"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["pyattn.css"]
html_copy_source = False
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_theme_options: dict[str, Any] = {
    "logo": {"text": "pyattn"},
    "navbar_align": "left",
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
}
html_sidebars = {"index": []}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# --- other projects' names
_PROJECTS = {
    "python": "https://docs.python.org/3/",
    "numpy": "https://numpy.org/doc/stable/",
    "scipy": "https://docs.scipy.org/doc/scipy/",
}
_SECONDS = 5


def _is_reachable(address: str) -> bool:
    """Whether the project's list of names can be fetched: without network the site is built without these links."""
    try:
        with urllib.request.urlopen(f"{address}objects.inv", timeout=_SECONDS) as answer:
            return bool(answer.read(16).startswith(b"# Sphinx"))
    except OSError:
        logging.getLogger(__name__).info("no links to %s: it cannot be reached", address)
        return False


intersphinx_mapping = {name: (address, None) for name, address in _PROJECTS.items() if _is_reachable(address)}

# --- what is public is documented
_ROOMS = ("audio", "dask", "explain", "generation", "integrations", "layers", "models", "positional", "server")
_MODULES = ("pyattn", *(f"pyattn.{x}" for x in _ROOMS))


def _check_public_names(app: Sphinx, environment: BuildEnvironment) -> None:
    """Every name of every `__all__` has its entry: those of `pyattn` may have it under the module where they live."""
    domain: Any = environment.get_domain("py")
    documented = {name.rpartition(".")[2] for name in domain.objects} | {name.partition(".")[2] for name in _MODULES}
    for module in _MODULES:
        public = [name for name in importlib.import_module(module).__all__ if not name.startswith("__")]
        missing = [name for name in public if f"{module}.{name}" not in domain.objects]
        if module == "pyattn":
            missing = [name for name in missing if name not in documented]
        if missing:
            raise SphinxError(f"public names of {module} that no page documents: {', '.join(missing)}")


def _margin(line: str) -> int:
    return len(line) - len(line.lstrip())


def _escaped(line: str) -> str:
    """A line of prose with what reST would take for markup, but for names in backticks."""
    parts = re.split("(`[^`]*`)", line)
    return "".join(part if i % 2 else re.sub(r"[*|]|(?<=\w)_(?!\w)", r"\\\g<0>", part) for i, part in enumerate(parts))


def _read_as_prose(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Docstrings are written to be read as they stand: formulas and pictures, which stand further in, stay so."""
    result: list[str] = []
    before = ""  # the last line of prose, or of an example's input: what stands as far in is prose
    is_literal = is_example = False
    for line in lines:
        starts_paragraph = not result or not result[-1]
        if not line.strip():
            is_example = False
        elif line.lstrip().startswith(">>> "):
            is_example = True
        elif is_literal and _margin(line) <= _margin(before):
            is_literal = False
        elif not is_literal and not is_example and starts_paragraph and before and _margin(line) > _margin(before):
            result += [f"{' ' * _margin(before)}::", ""]
            is_literal = True
        is_prose = bool(line.strip()) and not is_literal and not is_example
        before = line if is_prose or (is_example and line.lstrip().startswith(">>> ")) else before
        result.append(_escaped(line) if is_prose else line.rstrip())
    lines[:] = result


def _is_skipped(app: Sphinx, what: str, name: str, thing: object, skip: bool, options: object) -> bool | None:
    """Fields of named tuples that nobody has described."""
    return True if str(thing.__doc__).startswith("Alias for field number") else None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _read_as_prose, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", _is_skipped)
    app.connect("env-check-consistency", _check_public_names)

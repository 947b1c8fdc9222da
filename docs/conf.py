"""Sphinx's settings: `make docs` builds the site in build/site, and fails at any warning."""

from __future__ import annotations

import importlib
import urllib.request
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import SphinxError
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
]
exclude_patterns = ["**.ipynb_checkpoints"]
default_role = "py:obj"  # `name` in a docstring is a link where the name is public

# --- docstrings, which say what arguments are: their types would say it twice
autodoc_typehints = "none"
autodoc_member_order = "groupwise"
autodoc_mock_imports = ["torch", "transformers", "jax"]  # pages about them need no framework
autodoc_default_options = {"members": True}
autosummary_generate = False
maximum_signature_line_length = 80
napoleon_google_docstring = True
napoleon_numpy_docstring = False
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

# --- pages
html_theme = "pydata_sphinx_theme"
html_title = "pyattn"
html_static_path = ["_static"]
html_css_files = ["pyattn.css"]
html_copy_source = False
html_theme_options: dict[str, Any] = {
    "logo": {"text": "pyattn"},
    "navbar_align": "left",
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
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
_MODULES = ("pyattn", *(f"pyattn.{x}" for x in ("audio", "explain", "generation", "layers", "models", "positional")))


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


def _keep_formulas(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Formulas and pictures, paragraphs that stand further in, become literal blocks: as the source shows them."""
    result: list[str] = []
    before = ""  # the last line that is not blank
    literal = False
    for line in lines:
        if line.strip():
            if result and not result[-1] and before and _margin(line) != _margin(before):
                literal = _margin(line) > _margin(before) and not line.lstrip().startswith((">>>", "- ", "* "))
                if literal:
                    result += [f"{' ' * _margin(before)}::", ""]
            before = line if not literal else before
        result.append(line.rstrip())
    lines[:] = result


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _keep_formulas, priority=400)  # before napoleon
    app.connect("env-check-consistency", _check_public_names)

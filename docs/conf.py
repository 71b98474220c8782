"""Sphinx configuration."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "ext"))

project = "relprop"
author = "The relprop authors"
copyright = "2026, The relprop authors"
version = release = installed_version("relprop")

extensions = [
    "coverage_check",
    "figures",
    "gallery",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build"]

coverage_check_modules = [
    "relprop",
    "relprop.rules",
    "relprop.presets",
    "relprop.propagators",
    "relprop.structures",
    "relprop.chefer",
    "relprop.anatomy",
    "relprop.app",
    "relprop.attribution",
    "relprop.concepts",
    "relprop.edits",
    "relprop.pairs",
    "relprop.patching",
    "relprop.baselines",
    "relprop.metrics",
    "relprop.metrics.features",
    "relprop.metrics.fills",
    "relprop.evaluation",
    "relprop.graphs",
    "relprop.interop",
    "relprop.places",
    "relprop.plots",
    "relprop.pruning",
    "relprop.tokens",
    "relprop.truth",
    "relprop.zoo",
]

# Single backticks in docstrings are code, and a link where they name something documented.
default_role = "py:obj"
add_module_names = False
autodoc_default_options = {"members": True}
autodoc_inherit_docstrings = False  # else each rule repeats the methods of `Rule`
autodoc_preserve_defaults = True
maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_rtype = False

bibtex_bibfiles = ["../src/relprop/references.bib"]
bibtex_default_style = "plain"
bibtex_reference_style = "author_year"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests run the notebooks

html_theme = "sphinx_book_theme"
html_static_path = ["_static"]
html_title = f"relprop {release}"

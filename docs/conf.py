"""Sphinx: pages, the reference from the docstrings. ``python -m sphinx -W docs docs/_build``; no network."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "fastnll"
author = "the fastnll contributors"
release = importlib.metadata.version("fastnll")
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml", "command_line"]
html_math_renderer = "mathml"
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "_ext"]
# The page of a bridge needs the library it leads to.
_LIBRARIES = {"torch": "torch", "jax": "jax", "sklearn": "sklearn", "scipy": "scipy", "numba": "numba"}
exclude_patterns += [
    f"reference/bridge-{name}.md" for name, module in _LIBRARIES.items() if importlib.util.find_spec(module) is None
]
# Docstrings say `SGD` where PyTorch's bridge has one too: such a link goes to the first.
suppress_warnings = ["ref.python"]

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # the docstrings name the types, with shapes
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"fastnll {release}"
html_copy_source = False

"""Sphinx's settings: `python -m sphinx -W --keep-going -b html docs docs/_build/html` builds the site."""

import blip2

project = "blip2"
author = "The blip2 authors"
copyright = author
release = version = blip2.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"

myst_heading_anchors = 4
# Links to files of the repository that are no pages of the site stay plain; tests/test_readme.py follows all of them.
suppress_warnings = ["myst.xref_missing"]

autodoc_typehints = "none"  # the signatures have them
autodoc_member_order = "bysource"

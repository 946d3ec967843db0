# ruff: noqa: INP001  Sphinx reads this file by its path
"""How Sphinx builds the documentation: `make docs`. Nothing in a page comes from another host."""

from handover_api import __version__

project = "Handover"
author = "The Handover authors"
project_copyright = f"{author}, Apache-2.0"
release = __version__

extensions = ["myst_parser", "sphinx.ext.graphviz", "handover_lab.docs.statechart"]
myst_heading_anchors = 3
graphviz_output_format = "svg"
nitpicky = True

html_theme = "furo"
html_title = f"Handover {release}"
html_static_path = ["_static"]
html_css_files = ["handover.css"]
html_copy_source = False
html_show_sourcelink = False
# Furo's own icons and fonts are in its package; a picture is shown as it is.
html_theme_options = {"top_of_page_buttons": []}

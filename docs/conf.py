"""Sphinx configuration of the documentation site. `tools/build_site.py` makes the pages and passes project and version."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "fsskit"
language = "en"
smartquotes = False  # quotes in the texts about parameters are code
extensions = ["myst_nb", "mathml"]

# notebooks: what is stored is shown, nothing is executed
nb_execution_mode = "off"
nb_output_stderr = "show"
nb_merge_streams = True
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]  # the picture beside it is shown
nb_ipywidgets_js = {}  # no scripts from elsewhere: live pages bring their own
myst_enable_extensions = ["dollarmath", "amsmath", "attrs_inline"]
myst_heading_anchors = 4
myst_update_mathjax = False

# pages: everything that they need lies beside them
html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_last_updated_fmt = None
html_sidebars = {"index": []}
html_theme_options = {
    "show_nav_level": 1,
    "navigation_depth": 3,
    "show_toc_level": 2,
    "header_links_before_dropdown": 7,
    "footer_start": ["copyright"],
    "footer_end": [],
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}

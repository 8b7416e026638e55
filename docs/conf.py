"""How Sphinx makes the site from these pages; `make docs` builds it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

from nas_proxy import __version__ as release

project = "nas_proxy"
author = copyright = "The nas_proxy maintainers"
html_title = f"nas_proxy {release}"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click", "from_code"]
exclude_patterns = ["_build", "_extensions"]
default_role = "code"  # docstrings put names in single backticks

# Links to headings, such as trust.md#cascades; one that leads nowhere is a warning.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

add_module_names = False
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_use_ivar = True  # a dataclass's fields are told once, in its docstring

# Notebooks run anew with each build, in an empty folder, and a cell that fails fails the build.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 1800  # of a cell, on a machine that has other work
nb_merge_streams = True

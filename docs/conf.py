"""The documentation site: `make docs` builds it to docs/_build/html."""

import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

project = "jaxmia"
author = "the authors of jaxmia"
release = "0.1.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "public", "wings"]
exclude_patterns = ["_build", "_ext", "_generated"]
nitpicky = True
# Not looked up: names of other projects (it takes a network), axes of arrays, names without a module in annotations.
OUTSIDE = "annotated_types collections jax jaxlib jaxtyping ml_dtypes np numpy os pandas pathlib pydantic rich typing"
nitpick_ignore_regex = [("py:.*", rf"({OUTSIDE.replace(' ', '|')})\..*|[^.]*|Annotated\[.*|.*\.(T|TaskT)")]

html_theme = "sphinx_book_theme"
html_title = "jaxmia"
html_favicon = "_static/icon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"navbar_persistent": [], "show_toc_level": 2, "use_download_button": False}
html_context = {"default_mode": "auto"}
html_show_sphinx = False

myst_heading_anchors = 4
# The notebooks are run at every build, each in a folder that is then gone; an error in one fails the build.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # seconds for a cell
nb_merge_streams = True

autodoc_member_order = "bysource"
default_role = "code"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_attr_annotations = False  # docstrings give dtypes and shapes

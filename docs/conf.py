"""How the documentation is built: ``make docs``.

Nothing here reaches for the network: no other project's inventory, no remote font or script.
"""

import sys
from importlib.metadata import version as installed
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE / "_ext"))

import generated  # noqa: E402  (beside this file)

project = "causalnet"
author = "The causalnet authors"
copyright = author
release = version = installed("causalnet-transformers")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
    "rooms",
]
exclude_patterns = ["_build", "_ext", "_generated/*.md", "images", "conf.py", "README.md"]
suppress_warnings = ["config.cache"]
nitpicky = True
# Names of other packages are not looked up: their inventories are on the network.
nitpick_ignore_regex = [("py:.*", r"(?!causalnet\.).*")]
default_role = "code"
templates_path = []

html_theme = "furo"
html_title = f"causalnet {release}"
html_static_path = ["_static"]
html_css_files = ["causalnet.css"]
html_copy_source = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
pygments_style, pygments_dark_style = "tango", "monokai"

myst_enable_extensions = ["colon_fence", "deflist", "attrs_block"]
myst_heading_anchors = 3
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
copybutton_prompt_text = "$ "

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
python_maximum_signature_line_length = 100
python_use_unqualified_type_names = True
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# Tutorials run once for each state of the code; the outputs are kept outside the tree.
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache"
nb_execution_cache_path = str(generated.tutorial_cache())
nb_execution_timeout = 240
nb_execution_raise_on_error = True
nb_merge_streams = True
# What libraries say on stderr (a progress bar that a page cannot have) belongs to the run, not to the page.
nb_output_stderr = "remove"
nb_ipywidgets_js = {}

# Another state of the code: every page is read again, docstrings are in them.
code_state = generated.code_state()
generated.write_all()

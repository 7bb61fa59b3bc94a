"""Settings of the documentation: `sphinx-build -W docs docs/_build`."""

import hf_sls

project = "hf_sls"
author = "the hf_sls authors"
version = release = hf_sls.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "results"]
html_theme = "furo"
html_title = "hf_sls"
myst_enable_extensions = ["dollarmath"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"

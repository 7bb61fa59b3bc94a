"""Settings of the documentation: `sphinx-build -W docs docs/_build`."""

from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.images import get_image_size
from sphinx.writers.html5 import HTML5Translator

import hf_sls

project = "hf_sls"
version = release = hf_sls.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_show_copyright = False
html_theme = "furo"
html_title = f"hf_sls {release}"
html_favicon = "_static/icon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
default_role = "py:obj"


def inline_math(translator: HTML5Translator, node: nodes.math) -> None:
    """Write a formula in a line as MathML, which browsers show without a script."""
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def display_math(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula of its own as MathML, in a box that scrolls on a narrow screen."""
    translator.body.append(f'<div class="formula">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def let_wide_pictures_scroll(app: Sphinx, document: nodes.document) -> None:
    """Give the class `wide` to the paragraph or figure of a picture of several panels, which a phone cannot shrink."""
    for image in document.findall(nodes.image):
        size = get_image_size(Path(app.srcdir) / image["uri"])
        if size is not None and size[0] > 2 * size[1]:
            box = image.parent
            while isinstance(box, nodes.Inline):
                box = box.parent
            box["classes"].append("wide")


def setup(app: Sphinx) -> None:
    """Register the renderer of formulas, and the look at pictures."""
    app.connect("doctree-read", let_wide_pictures_scroll)
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))

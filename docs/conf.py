"""The documentation site: Sphinx over the Markdown files of the repository, which link each other.

The source folder is the repository, so that every link works on the site as it does in a checkout.
"""

import os
import shutil
import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmext.version import __version__  # noqa: E402

project = 'mmext'
copyright = 'mmext contributors'
author = 'mmext contributors'
version = release = __version__
root_doc = 'docs/index'
language = 'en'

include_patterns = [
    'docs/**.md', 'docs/**.rst', 'configs/*/README.md', 'configs/README.md',
    'projects/*/README.md', 'projects/README.md', 'CHANGELOG.md', 'CONTRIBUTING.md', 'SECURITY.md',
]  # fmt: skip
exclude_patterns = ['work_dirs', 'data', 'build', 'zoo', 'tests', '.*', '**/results']
extensions = [
    'myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.autosummary', 'sphinx.ext.napoleon',
    'sphinx_copybutton', 'sphinx_design',
]  # fmt: skip
nitpicky = False

# Markdown and notebooks: tutorials run when the site is built, with this interpreter's `mmext`.
os.environ['PATH'] = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
myst_enable_extensions = ['amsmath', 'attrs_inline', 'colon_fence', 'deflist', 'dollarmath']
myst_heading_anchors = 4
myst_dmath_double_inline = True
nb_execution_mode = os.environ.get('MMEXT_DOCS_EXECUTE', 'cache')
nb_execution_timeout = -1
nb_execution_raise_on_error = True
nb_execution_cache_path = str(ROOT / 'build' / 'notebooks')
nb_merge_streams = True

# Docstrings.
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_default_options = {'members': True, 'show-inheritance': True}
autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_math_renderer = 'mathml'
html_theme = 'furo'
html_favicon = '_static/mmext.svg'
html_title = f'mmext {release}'
html_static_path = ['_static']
html_css_files = ['site.css']
html_extra_path = ['_extra']
html_copy_source = False
html_show_sourcelink = False
copybutton_exclude = '.linenos, .gp, .go'


def copy_figures(app, error) -> None:
    """Put the figures where pages name them in HTML, which Sphinx does not follow."""
    if error is None and app.builder.format == 'html':
        target = Path(app.outdir, 'docs/figures')
        shutil.copytree(ROOT / 'docs/figures', target, dirs_exist_ok=True)


def visit_math(self, node) -> None:
    """Write a formula as MathML, which browsers show without a script from elsewhere."""
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def visit_math_block(self, node) -> None:
    """Write a formula on a line of its own."""
    latex = node.astext()
    if '\\\\' in latex and '\\begin' not in latex:
        latex = f'\\begin{{aligned}}{latex}\\end{{aligned}}'
    self.body.append(f'<div class="math">{convert(latex, display="block")}</div>')
    raise nodes.SkipNode


def setup(app) -> None:
    """Called by Sphinx."""
    app.add_html_math_renderer('mathml', (visit_math, None), (visit_math_block, None))
    app.connect('build-finished', copy_figures)

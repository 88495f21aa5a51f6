"""Every plugin passes the conformance kit, alone and with those that it composes with.

The checks in mixed precision have the mark of ``pytest.mark.gpu``.
"""

import sys
from pathlib import Path

import pytest
from plugin_settings import PLUGINS

from mmext.testing import check_refusal

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'projects'))
import compatibility  # noqa: E402

pytest_plugins = ['mmext.testing.pytest_plugin']

SETTINGS = {row.name: row for row in PLUGINS}
#: Pairs that each bring another mechanism together; the others are slow.
FAST = {
    ('cst', 'terngrad'),
    ('smoothout', 'terngrad'),
    ('force_regularization', 'smoothout'),
    ('guided_cw', 'mat'),
}


def pairs(verdict):
    """Pairs that the metafiles decide so, of the plugins that have a row."""
    return [
        tuple(SETTINGS[name] for name in pair)
        for pair, said in compatibility.verdicts().items()
        if said == verdict and set(pair) <= set(SETTINGS)
    ]


PAIRS = [
    pytest.param(
        *pair, marks=[] if tuple(plugin.name for plugin in pair) in FAST else [pytest.mark.slow]
    )
    for pair in pairs('composes')
]


def test_promise(plugin_check):
    plugin_check()


def test_together(plugin_pair):
    plugin_pair()


@pytest.mark.parametrize(
    'first, second', pairs('refuses'), ids=lambda plugin: getattr(plugin, 'name', None)
)
def test_refused(first, second, tmp_path_factory):
    check_refusal(first, second, tmp_path_factory.mktemp('data'))

"""Conformance kit: does a plugin keep the promises that make plugins work together?

Anybody's plugin, not ours alone: describe it by :class:`PluginSettings` and call
:func:`check_plugin`, or let pytest do it::

    # conftest.py
    pytest_plugins = ['mmext.testing.pytest_plugin']

    # test_my_plugin.py
    PLUGINS = [PluginSettings('mine', {'my_project.MyHook': 'HOOKS'}, hosts.classifier, 'mine.py')]

    def test_my_plugin(plugin_check):
        plugin_check()
"""

from collections.abc import Iterable
from pathlib import Path

from mmext.testing import hosts
from mmext.testing.checks import (
    CHECKS,
    check_accumulation,
    check_amp,
    check_arguments,
    check_builds,
    check_checkpoint,
    check_config,
    check_ranks,
    check_ranks_resume,
    check_removal,
    check_resolves,
    check_resume,
    check_trains,
)
from mmext.testing.pairs import check_pair, check_refusal, pair_settings
from mmext.testing.ranks import RankRuns
from mmext.testing.settings import ConformanceError, PluginSettings, SkippedError
from mmext.testing.trial import Run, Trial

__all__ = [
    'CHECKS',
    'ConformanceError',
    'PluginSettings',
    'RankRuns',
    'Run',
    'SkippedError',
    'Trial',
    'check_accumulation',
    'check_amp',
    'check_arguments',
    'check_builds',
    'check_checkpoint',
    'check_config',
    'check_pair',
    'check_plugin',
    'check_ranks',
    'check_ranks_resume',
    'check_refusal',
    'check_removal',
    'check_resolves',
    'check_resume',
    'check_trains',
    'hosts',
    'pair_settings',
]


def check_plugin(
    settings: PluginSettings, checks: Iterable[str] | None = None, folder: Path | None = None
) -> dict[str, str]:
    """Check a plugin on real short trainings; about ten seconds and one launch of two processes.

    Args:
        settings: The plugin.
        checks: Names among :data:`CHECKS`; None: all.
        folder: For work dirs and data; None: a temporary one.

    Returns:
        Check -> ``'passed'`` or ``'skipped: <reason>'``.

    Raises:
        ConformanceError: The first promise that is not kept: what is wrong, and the fix.
        ValueError: There is no such check.
    """
    names = list(CHECKS if checks is None else checks)
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise ValueError(f'unknown checks {unknown}: choose among {", ".join(CHECKS)}')
    trial = Trial(settings, folder)
    found = {}
    for name in names:
        try:
            CHECKS[name](trial)
        except SkippedError as reason:
            found[name] = f'skipped: {reason}'
        else:
            found[name] = 'passed'
    return found

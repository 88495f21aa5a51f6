"""Fixtures ``plugin_check`` and ``plugin_pair`` for pytest.

``pytest_plugins = ['mmext.testing.pytest_plugin']`` in a test module or in the top ``conftest.py``
turns it on. A test that asks for ``plugin_check`` runs once for every check of every row of its
module's ``PLUGINS``; one that asks for ``plugin_pair`` once for every row of its module's list
``PAIRS``, ``(first, second)`` or ``pytest.param(first, second, marks=...)``. The fixture is a
function that does it. Runs are shared, and the two-rank runs of a session are one launch.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmext.testing.checks import CHECKS
from mmext.testing.pairs import check_pair
from mmext.testing.ranks import RankRuns
from mmext.testing.settings import PluginSettings, SkippedError
from mmext.testing.trial import Trial

_ON_RANKS = ('ranks', 'ranks_resume')


class _Session:
    """What the tests of a session share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / 'data'
        self.ranks = RankRuns(folder)
        self.trials: dict[int, Trial] = {}

    def trial(self, settings: PluginSettings) -> Trial:
        key = id(settings)
        if key not in self.trials:
            self.trials[key] = Trial(settings, self.folder / settings.name, self.data)
        return self.trials[key]


def pytest_configure(config: pytest.Config) -> None:
    """Tell pytest the marks, in case the project has not."""
    config.addinivalue_line('markers', 'slow: takes minutes')
    config.addinivalue_line('markers', 'gpu: needs a CUDA device, or means more with one')


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each row and check, or for each pair."""
    if 'plugin_check' in metafunc.fixturenames:
        cases = [
            pytest.param(
                (settings, check),
                id=f'{settings.name}-{check}',
                marks=[
                    getattr(pytest.mark, mark)
                    for mark, meant in (('slow', check in settings.slow), ('gpu', check == 'amp'))
                    if meant
                ],
            )
            for settings in _table(metafunc, 'plugin_check', 'PLUGINS')
            for check in CHECKS
        ]
        metafunc.parametrize('plugin_check', cases, indirect=True)
    if 'plugin_pair' in metafunc.fixturenames:
        rows = _table(metafunc, 'plugin_pair', 'PAIRS')
        marks = [getattr(row, 'marks', []) for row in rows]
        pairs = [getattr(row, 'values', row) for row in rows]
        cases = [
            pytest.param(pair, id=f'{pair[0].name}-{pair[1].name}', marks=mark)
            for pair, mark in zip(pairs, marks, strict=True)
        ]
        metafunc.parametrize('plugin_pair', cases, indirect=True)


@pytest.fixture(scope='session')
def _kit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> _Session:
    session = _Session(tmp_path_factory.mktemp('kit'))
    for item in request.session.items:
        case = getattr(getattr(item, 'callspec', None), 'params', {}).get('plugin_check')
        if case is not None and case[1] in _ON_RANKS and case[1] not in case[0].skip:
            session.ranks.add(session.trial(case[0]))
    return session


@pytest.fixture
def plugin_check(request: pytest.FixtureRequest, _kit: _Session) -> Callable[[], None]:
    """Function that runs one check of one plugin, or skips the test."""
    settings, name = request.param
    trial = _kit.trial(settings)

    def run() -> None:
        more = [_kit.ranks] if name in _ON_RANKS else []
        try:
            CHECKS[name](trial, *more)
        except SkippedError as reason:
            pytest.skip(str(reason))

    return run


@pytest.fixture
def plugin_pair(request: pytest.FixtureRequest, _kit: _Session) -> Callable[[], None]:
    """Function that trains two plugins together."""
    first, second = request.param
    folder = _kit.folder / f'{first.name}-{second.name}'
    return lambda: check_pair(first, second, folder, _kit.data)


def _table(metafunc: pytest.Metafunc, fixture: str, name: str) -> Any:
    table = getattr(metafunc.module, name, None)
    if table is None:
        raise pytest.UsageError(f'{metafunc.module.__name__} uses {fixture} but has no list {name}')
    return table

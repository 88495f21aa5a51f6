"""Fixtures of the system tests; all skip where its packages are not installed."""

import pytest

pytest.importorskip('grpc')
pytest.importorskip('cryptography')
pytest.importorskip('prometheus_client')


@pytest.fixture
def world(tmp_path):
    """Development CA, token issuer and edges."""
    from mvst_world import World

    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def clouds(tmp_path):
    """The same with a cloud."""
    pytest.importorskip('flwr')
    from mvst_cloud import Cloudy

    made = Cloudy(tmp_path)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def loggers():
    """Processes set up their logging once; tests run several in one process."""
    import logging

    from mmengine.logging import MMLogger

    from mmext.plugins.mvstylizer.system.logs import LOGGER

    touched = [LOGGER, logging.getLogger('flwr'), MMLogger.get_current_instance()]
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in touched]
    yield
    for logger, (level, propagate, handlers) in zip(touched, before, strict=True):
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers = handlers

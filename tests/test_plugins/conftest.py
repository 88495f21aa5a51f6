"""Settings of all plugin tests."""

import pytest
from mmengine.config import Config


@pytest.fixture(scope='module', autouse=True)
def unformatted_configs():
    """MMEngine formats a config for each run and checkpoint, for seconds; nothing here reads it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, 'pretty_text', property(lambda cfg: repr(cfg._cfg_dict)))
        yield

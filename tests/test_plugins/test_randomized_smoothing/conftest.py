import pytest
from smoothing_runs import no_formatting


@pytest.fixture(scope='module', autouse=True)
def unformatted_configs():
    """Spare these runs the formatting of their configs."""
    with pytest.MonkeyPatch.context() as patch:
        no_formatting(patch.setattr)
        yield

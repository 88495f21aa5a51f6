"""``_base_ = 'mmext::…'``: let MMEngine find mmext's configs."""

from mmengine.config import utils as _utils


def install() -> None:
    """Add mmext to the packages whose configs MMEngine resolves. Idempotent."""
    _utils.MODULE2PACKAGE.setdefault('mmext', 'mmext')

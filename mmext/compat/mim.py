"""``_base_ = 'mmext::…'``: let MMEngine find mmext's configs, and find those of any package."""

from pathlib import Path

from mmengine.config import utils as _utils


def install() -> None:
    """Add mmext to the packages whose configs MMEngine resolves. Idempotent."""
    _utils.MODULE2PACKAGE.setdefault('mmext', 'mmext')


def config_folder(package: Path) -> Path:
    """Folder of the configs of an OpenMMLab package, given the folder of its code.

    A wheel carries them in ``.mim``; a checkout on PYTHONPATH has them beside the package.
    """
    folders = [package / '.mim' / 'configs', package.parent / 'configs']
    return next((folder for folder in folders if folder.is_dir()), folders[0])

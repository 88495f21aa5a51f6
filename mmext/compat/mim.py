"""``_base_ = 'mmext::…'``: let MMEngine find mmext's configs, and find those of any package."""

from pathlib import Path

from mmengine.config import Config
from mmengine.config import utils as _utils

from mmext.shipped import config_folder


def install() -> None:
    """Add mmext to the packages whose configs MMEngine resolves. Idempotent.

    MMEngine puts the types of an external base under the scope of its package. mmext's configs name
    the host's types as the host does and prefix ours, so theirs stay under the default scope.
    """
    _utils.MODULE2PACKAGE.setdefault('mmext', 'mmext')
    find = Config._get_cfg_path
    if getattr(find, 'knows_mmext', False):
        return

    def find_ours(cfg_path: str, filename: str) -> tuple[str, str | None]:
        package, external, relative = cfg_path.partition('::')
        if package != 'mmext' or not external:
            return find(cfg_path, filename)
        return str(config_folder(Path(__file__).resolve().parents[1]) / relative), None

    find_ours.knows_mmext = True  # type: ignore[attr-defined]
    Config._get_cfg_path = staticmethod(find_ours)

"""Run by ``mmext.pth`` when Python starts: whoever imports MMEngine gets mmext along with it.

A host's ``tools/train.py`` imports mmdet, and with it ``mmcv.ops``, before MMEngine meets the first
``type='mmext.…'``, and reads ``_base_ = 'mmext::…'`` before anything of mmext is imported. For both
``import mmext``, a matter of milliseconds, must have come first.
"""

import sys


class _ImportMmext:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == 'mmengine':
            import mmext  # noqa: F401
        return None


sys.meta_path.insert(0, _ImportMmext)

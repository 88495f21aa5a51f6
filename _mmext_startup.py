"""Run by ``mmext.pth`` when Python starts: makes the mmcv ops fallback reachable.

A host's own ``tools/train.py`` imports mmdet, and with it ``mmcv.ops``, before MMEngine meets the
first ``type='mmext.…'``. This adds one entry to the end of ``sys.meta_path``: when nothing else has
found ``mmcv._ext``, it imports mmext, which appends the fallback behind it.
"""

import sys


class _ImportMmext:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == 'mmcv._ext':
            import mmext  # noqa: F401
        return None


sys.meta_path.append(_ImportMmext)

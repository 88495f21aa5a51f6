"""Run by ``mmext.pth`` when Python starts: a host's own tools find what mmext adds to them.

A host's ``tools/train.py`` imports mmdet, and with it ``mmcv.ops``, before MMEngine meets the first
``type='mmext.…'``, and reads ``_base_ = 'mmext::…'`` before anything of mmext is imported. Two
entries of ``sys.meta_path`` import mmext in time: the last one when nothing else has found
``mmcv._ext``, to which mmext then appends the fallback; the first one lets MMEngine's Config ask
for it at the first such base.
"""

import sys
from importlib.machinery import PathFinder


class _ImportMmext:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == 'mmcv._ext':
            import mmext  # noqa: F401
        return None


class _WatchConfig:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != 'mmengine.config.config':
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None:
            run = spec.loader.exec_module

            def exec_module(module):
                run(module)
                _ask_mmext(module.Config)

            spec.loader.exec_module = exec_module
        return spec


def _ask_mmext(config):
    find = config._get_cfg_path

    def find_or_import(cfg_path, filename):
        if not cfg_path.startswith('mmext::'):
            return find(cfg_path, filename)
        import mmext  # noqa: F401  (puts a function of its own in the place of this one)

        return config._get_cfg_path(cfg_path, filename)

    config._get_cfg_path = staticmethod(find_or_import)


sys.meta_path.append(_ImportMmext)
sys.meta_path.insert(0, _WatchConfig)

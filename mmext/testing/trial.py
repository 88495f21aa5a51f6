"""Short trainings of a plugin, and what is left of them."""

import contextlib
import copy
import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmext import launch
from mmext.engine import phases
from mmext.testing.settings import PluginSettings

#: Iterations of a run; checkpoints are written after each.
ITERATIONS = 3

_NAMES = itertools.count()
_OPTIONAL_HOOKS = ('CurvesHook', 'RichProgressHook', 'IterSeedHook')
_KIT_HOOKS = ('mmext.PlainCheckpointHook',)
# torch's registries of callbacks on modules, parameters and optimizers.
_MODULE_HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')
_PARAMETER_HOOKS = ('_backward_hooks', '_post_accumulate_grad_hooks')
_OPTIMIZER_HOOKS = ('_optimizer_step_pre_hooks', '_optimizer_step_post_hooks')


@dataclass
class Run:
    """A finished training.

    Args:
        runner: The Runner, after ``train()``.
        start: Weights and buffers before the first iteration.
        losses: The total of each iteration.
        left: What the plugin left on wrapper, optimizer, model and torch, see :func:`traces`.
    """

    runner: Runner
    start: dict[str, Tensor]
    losses: list[float] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def checkpoint(self, iteration: int) -> Path:
        """The file written after an iteration, counted from 1."""
        return Path(self.runner.work_dir) / f'iter_{iteration}.pth'

    def load(self, iteration: int) -> dict[str, Any]:
        """That file's content."""
        return torch.load(self.checkpoint(iteration), map_location='cpu', weights_only=False)


class Trial:
    """A plugin with its runs, which the checks share.

    Args:
        settings: The plugin.
        folder: For work dirs; None: a temporary one that lives as long as the object.
        data: For data files of the host; None: ``folder / 'data'``.
    """

    def __init__(
        self, settings: PluginSettings, folder: Path | None = None, data: Path | None = None
    ) -> None:
        self.settings = settings
        self._temporary: Any = None
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix='mmext-testing-')
            folder = Path(self._temporary.name)
        self.folder = Path(folder)
        self.data = self.folder / 'data' if data is None else Path(data)
        self.data.mkdir(parents=True, exist_ok=True)
        #: Where its two-rank runs are, once a check has asked for them.
        self.ranks: Any = None

    @cached_property
    def base(self) -> Config:
        """The plugin's config as the settings give it."""
        with quick():
            return self.settings.config(self.data)

    def config(self, iterations: int = ITERATIONS) -> Config:
        """A fresh config of a short run: MMEngine changes the one that it gets."""
        cfg = copy.deepcopy(self.base)
        name = f'{self.settings.name}-{next(_NAMES)}'
        folder = self.folder / name.replace('/', '-').replace(' ', '')
        shorten(cfg, folder, name, iterations, bool(self.settings.host_draws))
        return cfg

    def build(self) -> Runner:
        """Build the Runner of a short run."""
        with quick():
            cfg = self.config()
            launch.prepare(cfg)
            return launch.build_runner(cfg)

    def train(self, cfg: Config, amp: bool = False) -> Run:
        """Build the Runner and train, with ``amp`` in mixed precision."""
        with quick():
            launch.prepare(cfg, amp=amp)
            runner = launch.build_runner(cfg)
            run = Run(runner, {})
            before: dict[str, Any] = {}
            first = Call('before_run', lambda runner: before.update(traces(runner)))
            last = Call('before_train', lambda runner: run.start.update(state(runner)))
            losses = Call('after_train_iter', lambda runner: run.losses.append(loss(runner)))
            # The first sees what was there before any hook, the others what all hooks have done.
            runner.register_hook(first, priority='HIGHEST')
            runner.register_hook(last, priority='LOWEST')
            runner.register_hook(losses, priority='LOWEST')
            runner.train()
        after = traces(runner)
        run.left = [
            f'{place}: {after.get(place)} (before the training: {before.get(place)})'
            for place in sorted({*before, *after})
            if before.get(place) != after.get(place)
        ]
        return run

    @cached_property
    def whole(self) -> Run:
        """The run that most checks look at."""
        return self.train(self.config())


class Call(Hook):
    """Call a function of the Runner at one point of a run."""

    def __init__(self, point: str, function: Callable[[Runner], Any]) -> None:
        setattr(self, point, lambda runner, *_, **__: function(runner))


def shorten(
    cfg: Config, work_dir: Path, name: str, iterations: int, seed_iterations: bool = False
) -> None:
    """Make any training config a run of a few iterations on the CPU, in place.

    By iterations, no validation, no workers, a checkpoint after each iteration, weights of a
    fixed seed. ``mmext.IterSeedHook`` is there with ``seed_iterations`` only: it would hide that a
    plugin draws from the global generators, which a run without the hook does not resume.
    """
    train_cfg = dict(cfg.get('train_cfg') or {})
    if train_cfg.pop('by_epoch', False) or 'max_epochs' in train_cfg:
        train_cfg = {'type': 'IterBasedTrainLoop'}
    for key in ('max_epochs', 'val_interval', 'val_begin', 'dynamic_intervals'):
        train_cfg.pop(key, None)
    train_cfg.setdefault('type', 'IterBasedTrainLoop')
    cfg.train_cfg = {**train_cfg, 'max_iters': iterations}
    for stage in ('val', 'test'):
        for part in ('dataloader', 'cfg', 'evaluator'):
            cfg[f'{stage}_{part}'] = None
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.pop('prefetch_factor', None)
    hooks = dict(cfg.get('default_hooks') or {})
    hooks['checkpoint'] = {
        'type': 'CheckpointHook', 'interval': 1, 'by_epoch': False, 'max_keep_ckpts': -1
    }  # fmt: skip
    hooks['logger'] = {'type': 'LoggerHook', 'interval': 1, 'log_metric_by_epoch': False}
    cfg.default_hooks = hooks
    custom = [
        hook
        for hook in cfg.get('custom_hooks') or []
        if not str(hook['type']).endswith(_OPTIONAL_HOOKS)
    ]
    present = {hook['type'] for hook in custom}
    wanted = ('mmext.IterSeedHook', *_KIT_HOOKS) if seed_iterations else _KIT_HOOKS
    cfg.custom_hooks = custom + [{'type': kind} for kind in wanted if kind not in present]
    cfg.log_processor = {'type': 'LogProcessor', 'by_epoch': False, 'window_size': 1}
    cfg.log_level = 'ERROR'
    cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': 0}
    cfg.load_from, cfg.resume, cfg.launcher = None, False, 'none'
    cfg.work_dir = str(work_dir)
    # MMEngine keeps loggers, message hubs and visualizers under these names.
    cfg.experiment_name = name
    cfg.visualizer = {'type': 'Visualizer', 'name': name}


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """Leave out what MMEngine does for people to read: seconds for each run and checkpoint."""
    with (
        mock.patch('mmengine.runner.runner.collect_env', dict),
        mock.patch.object(Config, 'pretty_text', property(lambda cfg: repr(cfg._cfg_dict))),
    ):
        yield


def plain_text(cfg: Config) -> str:
    """A config as Python without formatting."""
    return '\n'.join(f'{key} = {value!r}' for key, value in cfg.to_dict().items()) + '\n'


def state(runner: Runner) -> dict[str, Tensor]:
    """Copies of all weights and buffers."""
    model = getattr(runner.model, 'module', runner.model)
    return {name: value.detach().clone().cpu() for name, value in model.state_dict().items()}


def loss(runner: Runner) -> float:
    """The total loss of the last iteration, as MMEngine logs it; NaN where there is none."""
    logged = runner.message_hub.log_scalars
    # Models with several optimizers log losses of their own and no total.
    names = ['train/loss'] if 'train/loss' in logged else [n for n in logged if 'loss' in n]
    values = [float(logged[name].current()) for name in names]
    return sum(values) if values else math.nan


def optimized(runner: Runner) -> dict[str, Tensor]:
    """Name -> parameter that an optimizer of the run owns."""
    owned = {
        id(parameter)
        for wrapper in phases.members(runner.optim_wrapper).values()
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }
    model = getattr(runner.model, 'module', runner.model)
    # By the names of the checkpoint, which need not be those of the modules.
    named = model.state_dict(keep_vars=True)
    return {name: value for name, value in named.items() if id(value) in owned}


def traces(runner: Runner) -> dict[str, Any]:
    """What plugins may change outside of themselves: classes, callbacks and torch's switches."""
    found: dict[str, Any] = {
        'torch.is_grad_enabled()': torch.is_grad_enabled(),
        'torch.get_default_dtype()': torch.get_default_dtype(),
        'torch.are_deterministic_algorithms_enabled()': (
            torch.are_deterministic_algorithms_enabled()
        ),
    }
    for member, wrapper in phases.members(runner.optim_wrapper).items():
        place = f'optim_wrapper[{member}]' if member else 'optim_wrapper'
        found[f'class of {place}'] = type(wrapper).__name__
        _count(found, wrapper.optimizer, f'{place}.optimizer', _OPTIMIZER_HOOKS)
    for name, module in runner.model.named_modules():
        place = f'model.{name}' if name else 'model'
        found[f'class of {place}'] = type(module).__name__
        _count(found, module, place, _MODULE_HOOKS)
        for method in ('forward', 'train_step', '__call__'):
            if method in vars(module):
                found[f'{place}.{method}'] = 'replaced'
    for name, parameter in runner.model.named_parameters():
        _count(found, parameter, f'model.{name}', _PARAMETER_HOOKS)
    return found


def _count(found: dict[str, Any], owner: Any, place: str, names: tuple[str, ...]) -> None:
    for name in names:
        callbacks = getattr(owner, name, None)
        if callbacks:
            found[f'{place}.{name}'] = len(callbacks)


def first_difference(one: Any, other: Any, place: str = '') -> str | None:
    """Where two nested states differ first, bit for bit; None where they are equal."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if one.keys() != other.keys():
            keys = sorted(map(str, one.keys() ^ other.keys()))
            return f'{place or "the states"} have different keys: {", ".join(keys[:5])}'
        pairs = [(f'{place}.{key}' if place else str(key), one[key], other[key]) for key in one]
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return f'{place} have lengths {len(one)} and {len(other)}'
        pairs = [
            (f'{place}[{index}]', *pair) for index, pair in enumerate(zip(one, other, strict=True))
        ]
    elif isinstance(one, Tensor) and isinstance(other, Tensor):
        return _tensor_difference(one, other, place)
    else:
        # NaN differs from itself and is no difference.
        same = one == other or (one != one and other != other)
        return None if same else f'{place}: {one!r} and {other!r}'
    return next(filter(None, (first_difference(a, b, where) for where, a, b in pairs)), None)


def _tensor_difference(one: Tensor, other: Tensor, place: str) -> str | None:
    if one.dtype != other.dtype or one.shape != other.shape:
        return f'{place}: {one.dtype} {tuple(one.shape)} and {other.dtype} {tuple(other.shape)}'
    apart = (one != other) & ~((one != one) & (other != other))
    if not apart.any():
        return None
    most = (one.double() - other.double())[apart].abs().max().item()
    return f'{place}: {int(apart.sum())} of {one.numel()} elements differ, by up to {most:.3g}'

"""The promises of a plugin, one function each.

Every check takes :class:`PluginSettings`, or a :class:`Trial` to share its runs with other checks,
and raises :class:`ConformanceError`, or :class:`SkippedError` where it does not apply.
"""

import functools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from unittest import mock

import mmengine.registry
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmext.testing.ranks import RankRuns
from mmext.testing.settings import ConformanceError, PluginSettings, SkippedError
from mmext.testing.trial import ITERATIONS, Trial, first_difference, optimized

#: Name -> check, in the order in which they make sense.
CHECKS: dict[str, Callable[..., None]] = {}

_SCOPES = (None, 'mmdet', 'mmpretrain')
_UNKNOWN = 'no_such_argument'

Fail = Callable[[str, str], ConformanceError]


def _check(function: Callable[[Trial, Fail], None]) -> Callable[..., None]:
    name = function.__name__.removeprefix('check_')

    @functools.wraps(function)
    def run(subject: PluginSettings | Trial, *args: Any) -> None:
        trial = subject if isinstance(subject, Trial) else Trial(subject)
        if name in trial.settings.skip:
            raise SkippedError(trial.settings.skip[name])
        fail = functools.partial(ConformanceError, trial.settings.name, name)
        function(trial, fail, *args)

    CHECKS[name] = run
    return run


@_check
def check_resolves(trial: Trial, fail: Fail) -> None:
    """``type='prefix.Name'`` is found under the default scopes None, mmdet and mmpretrain."""
    for name, where in trial.settings.types.items():
        registry = getattr(mmengine.registry, where, None)
        if registry is None:
            raise fail(f'types names the registry {where!r}', 'take a registry of MMEngine')
        for scope in _SCOPES:
            if scope is not None and find_spec(scope) is None:
                continue
            # Without a scope, MMEngine would take that of the last Runner.
            with (
                mock.patch.object(DefaultScope, '_instance_dict', OrderedDict()),
                registry.switch_scope_and_registry(scope) as node,
            ):
                found = node.get(name)
            if found is None:
                raise fail(
                    f'{where} has no {name!r} under default_scope={scope!r}',
                    'register the class in a child registry whose scope is the prefix, and make '
                    '`<prefix>.registry` or one of its locations import the class',
                )


@_check
def check_builds(trial: Trial, fail: Fail) -> None:
    """The config names every type of the plugin and the Runner, model and hooks build from it."""
    # Constructors are named by a key of their own.
    mentioned = {
        value
        for node in _dicts(trial.base.to_dict())
        for key, value in node.items()
        if key in ('type', 'constructor') and isinstance(value, str)
    }
    absent = [name for name in trial.settings.types if name not in mentioned]
    if absent:
        raise fail(
            f'the config never uses {", ".join(absent)}, so nothing here would test it',
            'give the settings a host and an overlay that use every type',
        )
    try:
        trial.build()
    except Exception as error:
        raise fail(
            f'{type(error).__name__}: {error}',
            'the traceback above leads to the line; types and their arguments are resolved by '
            'MMEngine as in any config',
        ) from error


@_check
def check_trains(trial: Trial, fail: Fail) -> None:
    """Three iterations on the CPU: losses and weights are finite, and the weights move."""
    try:
        run = trial.whole
    except Exception as error:
        raise fail(
            f'{type(error).__name__}: {error}', 'the traceback above leads to the line'
        ) from error
    if len(run.losses) != ITERATIONS or not all(map(math.isfinite, run.losses)):
        raise fail(
            f'losses of {ITERATIONS} iterations: {run.losses}',
            'look for a division by zero or an update with the wrong sign or scale',
        )
    weights = optimized(run.runner)
    broken = [name for name, value in weights.items() if not value.isfinite().all()]
    if broken:
        raise fail(f'weights are not finite: {", ".join(broken[:5])}', 'see the first bad update')
    if all(torch.equal(value.detach().cpu(), run.start[name]) for name, value in weights.items()):
        raise fail('no weight has changed', 'the plugin keeps the optimizer from stepping')


@_check
def check_config(trial: Trial, fail: Fail) -> None:
    """``cfg.dump`` and ``Config.fromfile`` give the same config: MMEngine stores it that way."""
    cfg = trial.settings.config(trial.data)
    path = trial.folder / 'dumped_config.py'
    path.parent.mkdir(parents=True, exist_ok=True)
    fix = 'use plain values and registered names in configs; build objects inside the class'
    try:
        cfg.dump(path)
        again = Config.fromfile(path)
    except Exception as error:
        raise fail(
            f'cannot be written and read again: {type(error).__name__}: {error}', fix
        ) from error
    difference = first_difference(cfg.to_dict(), again.to_dict())
    if difference:
        raise fail(f'read again it differs: {difference}', fix)


@_check
def check_accumulation(trial: Trial, fail: Fail) -> None:
    """With ``accumulative_counts=2`` the trained weights move at every second iteration only."""
    cfg = trial.config(iterations=4)
    for wrapper in _wrapper_configs(cfg):
        wrapper['accumulative_counts'] = 2
    run = trial.train(cfg)
    names = list(optimized(run.runner))
    states = [run.start, *(run.load(index)['state_dict'] for index in range(1, 5))]
    fix = (
        'act in the phases before_update and after_update of mmext.engine.phases, or ask '
        'optim_wrapper.should_update()'
    )
    for index, (before, after) in enumerate(zip(states, states[1:], strict=False), 1):
        moved = [name for name in names if not torch.equal(before[name], after[name])]
        if moved and index % 2:
            raise fail(
                f'iteration {index} only accumulates, but these weights have changed: '
                f'{", ".join(moved[:5])}',
                fix,
            )
        if not moved and not index % 2:
            raise fail(f'iteration {index} should update the weights and has not', fix)
        if not all(after[name].isfinite().all() for name in names):
            raise fail(f'weights are not finite after iteration {index}', fix)


@_check
def check_amp(trial: Trial, fail: Fail) -> None:
    """Mixed precision (float16 on a GPU, bfloat16 on a CPU): weights move and stay finite.

    On a GPU the optim wrapper must have its Amp counterpart.
    """
    fix = (
        'register <Name>AmpOptimWrapper beside <Name>OptimWrapper; compute what overflows in '
        'half precision in float32, and take .float() before .numpy()'
    )
    try:
        run = trial.train(trial.config(iterations=6), amp=True)
    except Exception as error:
        raise fail(f'{type(error).__name__}: {error}', fix) from error
    weights = optimized(run.runner)
    if not all(value.isfinite().all() for value in weights.values()):
        raise fail('weights are not finite', fix)
    # GradScaler skips its first steps until the scale fits.
    if all(torch.equal(value.detach().cpu(), run.start[name]) for name, value in weights.items()):
        raise fail('no weight has changed in 6 iterations', fix)


@_check
def check_resume(trial: Trial, fail: Fail) -> None:
    """A run resumed after the first iteration ends with the bits of the uninterrupted one.

    Without ``mmext.IterSeedHook``, unless the settings say that the host draws.
    """
    whole = trial.whole
    cfg = trial.config()
    cfg.load_from, cfg.resume = str(whole.checkpoint(1)), True
    # Whatever else the process has drawn must not matter.
    torch.rand(5)
    resumed = trial.train(cfg)
    one, other = whole.load(ITERATIONS), resumed.load(ITERATIONS)
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        difference = first_difference(one.get(part), other.get(part), part)
        if difference:
            raise fail(
                f'uninterrupted and resumed run differ: {difference}',
                'draw with mmext.engine.rng from seed, rank and runner.iter, and derive counters '
                'from runner.iter, or keep them in a buffer or in the message hub; if it is the '
                'host that draws (dropout), say so in host_draws',
            )


@_check
def check_ranks(trial: Trial, fail: Fail, runs: RankRuns | None = None) -> None:
    """Two processes (gloo, DDP) train and end with the same weights.

    Takes :class:`RankRuns` as a second argument to share the launch with other plugins.
    """
    found = _rank_results(trial, fail, runs)
    difference = first_difference(found[0]['all'], found[1]['all'])
    if difference:
        raise fail(
            f'the ranks differ: {difference}',
            'change weights by the averaged gradient alone, or by draws that all ranks share '
            '(mmext.engine.rng with one constant rank)',
        )
    if first_difference(found[0]['start'], found[0]['end']) is None:
        raise fail('no weight has changed on two ranks', 'the ranks never step')


@_check
def check_ranks_resume(trial: Trial, fail: Fail, runs: RankRuns | None = None) -> None:
    """Two processes that resume after the first iteration end as if never interrupted.

    A checkpoint has what rank 0 knows. Takes :class:`RankRuns` like :func:`check_ranks`.
    """
    for rank, result in enumerate(_rank_results(trial, fail, runs)):
        difference = first_difference(result['all'], result['resumed'])
        if difference:
            raise fail(
                f'uninterrupted and resumed run differ on rank {rank}: {difference}',
                'put the rank into the key of every draw and keep nothing that only one rank '
                'knows; where a network in eval mode takes part in the training, batch-norm '
                'statistics must be the same on all ranks: '
                'model_wrapper_cfg=dict(broadcast_buffers=True)',
            )


@_check
def check_removal(trial: Trial, fail: Fail) -> None:
    """After the training, wrapper, optimizer, model and torch are as they were before it."""
    run = trial.whole
    if run.left:
        raise fail(
            'left behind: ' + '; '.join(run.left[:5]),
            'undo in after_train what before_train has done: phases.unregister(name), '
            'handle.remove(), and put replaced methods back',
        )


@_check
def check_checkpoint(trial: Trial, fail: Fail) -> None:
    """The checkpoint loads with ``weights_only=True``: no code of its maker runs on loading it.

    MMEngine's own objects are taken out by ``mmext.PlainCheckpointHook``, which the kit adds.
    """
    path = trial.whole.checkpoint(ITERATIONS)
    try:
        torch.load(path, map_location='cpu', weights_only=True)
    except UnpicklingError as error:
        objects = list(_objects(trial.whole.load(ITERATIONS)))
        where = '; '.join(objects[:5]) or str(error).splitlines()[0]
        raise fail(
            f'holds more than tensors and plain values: {where}',
            'keep tensors, numbers, strings, lists and dicts in buffers, the message hub and '
            'before_save_checkpoint',
        ) from error


@_check
def check_arguments(trial: Trial, fail: Fail) -> None:
    """An unknown argument of any of the plugin's types is an error that names the argument."""
    for kind in trial.settings.types:
        cfg = trial.config(iterations=1)
        nodes = [node for node in _dicts(cfg) if node.get('type') == kind]
        for node in nodes:
            node[_UNKNOWN] = 1
        if not nodes:
            # A constructor has no arguments in a config.
            continue
        fix = 'list the arguments in __init__ and hand **kwargs to the parent only'
        try:
            trial.train(cfg)
        except Exception as error:
            # The second is Python's word for a class without arguments.
            if _UNKNOWN not in str(error) and 'takes no arguments' not in str(error):
                raise fail(
                    f'{kind}({_UNKNOWN}=1) fails with {type(error).__name__}: {error}, which does '
                    'not name the argument',
                    fix,
                ) from error
        else:
            raise fail(f'{kind} takes {_UNKNOWN}=1 without a word', fix)


def _rank_results(trial: Trial, fail: Fail, runs: RankRuns | None) -> list[dict[str, Any]]:
    if trial.ranks is None:
        trial.ranks = runs or RankRuns(trial.folder)
    found = trial.ranks.result(trial)
    if isinstance(found, str):
        raise fail(
            found,
            'in two processes the model is wrapped by DDP: unwrap it with is_model_wrapper, and '
            'let every parameter take part in every step',
        )
    return found


def _dicts(node: Any) -> Iterator[Any]:
    if hasattr(node, 'items'):
        yield node
        for value in list(node.values()):
            yield from _dicts(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _dicts(value)


def _wrapper_configs(cfg: Config) -> list[Any]:
    """Configs of the single optim wrapper, or of the members of several."""
    wrapper = cfg.optim_wrapper
    if 'optimizer' in wrapper:
        return [wrapper]
    return [value for value in wrapper.values() if hasattr(value, 'get') and 'optimizer' in value]


def _objects(node: Any, place: str = '') -> Iterator[str]:
    """Places of a checkpoint with values that are not plain."""
    if hasattr(node, 'items'):
        for key, value in node.items():
            yield from _objects(value, f'{place}[{key!r}]')
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _objects(value, f'{place}[{index}]')
    elif not isinstance(node, torch.Tensor | str | bytes | int | float | bool | type(None) | Path):
        yield f'{place} is a {type(node).__name__}'

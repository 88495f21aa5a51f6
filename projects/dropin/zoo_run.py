"""Train a shipped config of a host for two iterations with overlays, in a process with limits.

What is changed of a config, and only after the overlays are in: data are invented, images smaller,
pretrained weights and validation left out, and mixed precision (which needs a GPU) is switched off
after its wrapper has been looked up. The probe checks while the model trains that each plugin does
its work.
"""

import contextlib
import math
import multiprocessing
import os
import resource
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import mmengine
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPERS, init_default_scope
from torch import nn
from zoo_data import replace, write_images

from mmext import launch
from mmext.engine import phases
from mmext.launch import overlay

OVERLAYS = ('terngrad', 'smoothout', 'force_regularization')
#: Keys of transforms and batch augments whose numbers are pixels.
SIZES = {'scale', 'scales', 'img_scale', 'crop_size', 'size', 'second_size', 'random_size_range',
         'border'}  # fmt: skip
#: Folder of the installed packages.
PACKAGES = f'{Path(mmengine.__file__).parents[1]}/'
CPU_SECONDS, WALL_SECONDS, MEMORY_GIB = 60, 1500, 6


def shrink(value: Any, factor: float) -> Any:
    """Multiply sizes of more than 48 pixels, in steps of 16; fractions stay."""
    if isinstance(value, (list, tuple)):
        return type(value)(shrink(item, factor) for item in value)
    if isinstance(value, int) and abs(value) > 48:
        size = 16 * max(2, round(abs(value) * factor / 16))
        return size if value > 0 else -size
    return value


def walk(node: Any):
    """Every dict of a config, outermost first."""
    if isinstance(node, dict):
        yield node
        for value in list(node.values()):
            yield from walk(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from walk(value)


def resize(node: Any, factor: float) -> None:
    """Shrink the sizes of all transforms below ``node``."""
    for part in walk(node):
        for key in SIZES & part.keys():
            part[key] = shrink(part[key], factor)


def forget_weights(cfg: Config) -> None:
    """Remove what would be downloaded."""
    for part in walk(cfg._cfg_dict):
        for key in ('pretrained', 'teacher_ckpt', 'load_from'):
            if isinstance(part.get(key), str):
                part[key] = None
        init = part.get('init_cfg')
        inits = init if isinstance(init, list) else [init]
        if any(isinstance(one, dict) and 'Pretrained' in str(one.get('type')) for one in inits):
            part['init_cfg'] = None


def prepare(cfg: Config, folder: Path, factor: float) -> dict[str, str]:
    """Make a config trainable here; returns what was looked up on the way.

    Args:
        cfg: Changed in place.
        folder: For the image and the work dir.
        factor: Of the sizes in pixels.
    """
    told = {}
    forget_weights(cfg)
    multilabel = 'MultiLabel' in repr(cfg.model) or 'CSRA' in repr(cfg.model)
    detection = cfg.get('default_scope') == 'mmdet'
    loader = cfg.train_dataloader
    write_images(folder)
    options = dict(folder=str(folder), labels=1 if detection else 2, multilabel=multilabel)
    loader.dataset = replace(loader.dataset, options)
    loader.update(num_workers=0, persistent_workers=False)
    if 'source_ratio' not in (loader.get('sampler') or {}):
        loader.batch_size = 2
    if loader.dataset.get('kind') == 'video':
        loader.sampler = dict(type='DefaultSampler', shuffle=True)
        loader.batch_sampler = None
    if factor != 1:
        resize(loader.dataset, factor)
        resize(cfg.get('data_preprocessor'), factor)
        resize(cfg.model.get('data_preprocessor'), factor)
    for key in ('dataloader', 'evaluator', 'cfg'):
        cfg[f'val_{key}'] = cfg[f'test_{key}'] = None
    for part in walk(loader.dataset):
        # mmcv's adjust_hue casts a negative number to uint8, which NumPy 2 refuses.
        if part.get('type') == 'ColorJitter' and part.pop('hue', 0):
            told['hue'] = 'left out'
    told.update(without_amp(cfg))
    cfg.default_hooks = {**(cfg.get('default_hooks') or {}), 'checkpoint': None}
    cfg.randomness = dict(seed=0)
    cfg.log_level = 'ERROR'
    cfg.resume, cfg.load_from = False, None
    launch.prepare(cfg, work_dir=str(folder / 'run'))
    return told


def without_amp(cfg: Config) -> dict[str, str]:
    """Look the optimizer wrapper up and take mixed precision out of it where there is no GPU.

    Raises:
        KeyError: The registry does not know the wrapper.
    """
    wrapper = str(cfg.optim_wrapper.get('type', 'OptimWrapper'))
    if OPTIM_WRAPPERS.get(wrapper) is None:
        raise KeyError(f'{wrapper} is not registered')
    if 'Amp' not in wrapper or torch.cuda.is_available():
        return {}
    cfg.optim_wrapper.type = wrapper.replace('Amp', '')
    for key in ('dtype', 'loss_scale', 'use_fsdp'):
        cfg.optim_wrapper.pop(key, None)
    return {'amp': wrapper}


class Probe(Hook):
    """Watches one training: are the losses finite, and does each plugin act?"""

    priority = 'LOWEST'

    def __init__(self, overlays: tuple[str, ...]) -> None:
        self.overlays = overlays
        self.losses: list[float] = []
        self.acts = dict.fromkeys(OVERLAYS, False)
        self.restored = True

    def before_train(self, runner) -> None:
        """Choose what to watch; the plugins have attached already."""
        groups = runner.optim_wrapper.optimizer.param_groups
        params = [p for group in groups for p in group['params'] if p.requires_grad]
        self.watched = max(params, key=lambda p: p.numel() if p.ndim > 1 else 0)
        known = {id(p) for p in params}
        convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
        weights = [m.weight for m in runner.model.modules() if isinstance(m, convolutions)]
        self.filters = [weight for weight in weights if id(weight) in known]
        self.params = params
        if not self.overlays:
            return
        attached = phases.attach(runner.optim_wrapper)
        attached.register('before_forward', self.on_forward, 'probe', order=10**9)
        attached.register('after_backward', self.on_backward, 'probe', order=10**9)
        attached.register('before_update', self.on_gradient, 'probe-first', order=-(10**9))
        attached.register('before_update', self.on_update, 'probe-last', order=10**9)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Keep the clean weights."""
        self.clean = self.watched.detach().clone()

    def on_forward(self, model: nn.Module) -> None:
        """SmoothOut has put noise in."""
        self.acts['smoothout'] |= not torch.equal(self.watched.detach(), self.clean)

    def on_backward(self) -> None:
        """SmoothOut has taken it out."""
        self.restored &= torch.equal(self.watched.detach(), self.clean)

    def on_gradient(self, optimizer) -> None:
        """TernGrad has left three values in each gradient that it does not keep float."""
        from mmext.plugins.terngrad.exchange import MIN_NUMEL

        grads = [p.grad for p in self.params if p.grad is not None and p.numel() >= MIN_NUMEL]
        ternary = [g.detach().reshape(-1)[:4096].unique().numel() <= 3 for g in grads]
        self.acts['terngrad'] |= bool(ternary) and all(ternary)
        self.before = self._filters()

    def on_update(self, optimizer) -> None:
        """The force has moved filters or their gradients."""
        self.acts['force_regularization'] |= self._filters() != self.before

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Keep the loss and end with the second iteration, or the epoch it is in.

        The schedule keeps its length: learning rates and hooks are those of the beginning.
        """
        self.losses.append(float(outputs['loss']))
        runner.train_loop.stop_training = len(self.losses) > 1

    def _filters(self) -> list[tuple[float, float]]:
        return [
            (float(w.detach().square().sum()), float(w.grad.square().sum()))
            for w in self.filters
            if w.grad is not None
        ]

    def verdict(self) -> None:
        """Raise where a plugin did nothing."""
        idle = [name for name in self.overlays if not self.acts[name]]
        if idle:
            raise RuntimeError(f'no effect seen of {", ".join(idle)}')
        if not self.restored:
            raise RuntimeError('the noise of smoothout was still in after the backward pass')


def load(path: str, overlays: tuple[str, ...]) -> Config:
    """The config with overlays, as ``tools/train.py --with`` makes it; its scope is the default."""
    cfg = launch.load_config(path)
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    return overlay.apply(cfg, overlays) if overlays else cfg


def train(path: str, overlays: tuple[str, ...], factor: float, folder: Path) -> dict[str, Any]:
    """Train a config for two iterations."""
    cfg = load(path, overlays)
    told = prepare(cfg, folder, factor)
    runner = launch.build_runner(cfg)
    probe = Probe(overlays)
    runner.register_hook(probe)
    runner.train()
    probe.verdict()
    if not all(map(math.isfinite, probe.losses)):
        raise RuntimeError(f'losses {probe.losses} are not finite')
    return {**told, 'losses': probe.losses, 'batch': cfg.train_dataloader.batch_size}


def resolve(path: str, overlays: tuple[str, ...], factor: float, folder: Path) -> dict[str, Any]:
    """Build model, optimizer wrapper and hooks of a config, without data."""
    cfg = load(path, overlays)
    forget_weights(cfg)
    model = cfg.model
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(model)
    without_amp(cfg)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    hooks = [HOOKS.build(hook) for hook in cfg.get('custom_hooks') or []]
    return {'wrapper': type(wrapper).__name__, 'hooks': [type(hook).__name__ for hook in hooks]}


def _refuse(*_: Any, **__: Any) -> None:
    raise OSError('no network: this study downloads nothing')


def error_text(error: Exception) -> str:
    """Type and message of an error in one line; files by their path below the packages."""
    text = ' '.join(str(error).split()).replace(PACKAGES, '')
    return f'{type(error).__name__}: {text[:300]}'


def _child(task, arguments: tuple, room: int, home: str, log: str, pipe) -> None:
    with open(log, 'w') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    seconds, size = CPU_SECONDS * room, MEMORY_GIB * room * 2**30
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    torch.set_num_threads(1)
    socket.socket.connect = _refuse  # type: ignore[method-assign, assignment]
    # Nobody reads the formatted config here, and MMEngine formats it for seconds.
    Config.pretty_text = property(lambda cfg: repr(cfg._cfg_dict))  # type: ignore[assignment]
    # Teachers are named by a path below this folder.
    os.chdir(home)
    began = time.process_time()
    try:
        with tempfile.TemporaryDirectory(prefix='zoo') as folder:
            found = {'ok': True, **task(*arguments, Path(folder))}
    except Exception as error:
        traceback.print_exc()
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f'{Path(frame.filename).parent.name}/{Path(frame.filename).name}:{frame.lineno}'
        text = error_text(error)
        limit = isinstance(error, MemoryError) or 'allocate memory' in text
        found = {'ok': False, 'error': text, 'where': where, 'limit': limit}
    found['cpu_s'] = time.process_time() - began
    found['peak_mib'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    pipe.send(found)
    sys.stdout.flush()
    os._exit(0)


def attempt(
    task, path: str, overlays: tuple[str, ...], factor: float, log: Path, room: int = 1
) -> dict[str, Any]:
    """Run :func:`train` or :func:`resolve` in a child with limits of time and memory.

    ``room`` multiplies the limits.

    Returns:
        dict: ``ok`` and what the task told, or ``ok=False`` with ``error``.
    """
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe(duplex=False)
    home = str(Path(*Path(path).parts[: Path(path).parts.index('.mim') + 1]))
    log.parent.mkdir(parents=True, exist_ok=True)
    arguments = (path, overlays, factor)
    child = context.Process(target=_child, args=(task, arguments, room, home, str(log), theirs))
    child.start()
    theirs.close()
    found = None
    with contextlib.suppress(EOFError):
        found = ours.recv() if ours.poll(WALL_SECONDS) else None
    if found is None:
        child.kill()
    child.join()
    if found is not None:
        return found
    limits = f'{CPU_SECONDS * room} s of CPU, {MEMORY_GIB * room} GiB'
    error = f'ended by signal {-(child.exitcode or 0)} (limits: {limits})'
    return {'ok': False, 'error': error, 'where': '', 'limit': True,
            'cpu_s': float(CPU_SECONDS * room), 'peak_mib': 0.0}  # fmt: skip

"""An edge's share of a round: training on its collected frames by MMEngine's Runner."""

import copy
import secrets
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from torch import Tensor
from torch.utils.data import Dataset

from mmext.engine import rng
from mmext.registry import STYLIZERS

from ..flow import resize
from .aggregation import State, floating
from .images import ImageLimits, decode


@dataclass(frozen=True)
class TrainOptions:
    """How an edge trains; all ours.

    Args:
        iterations (int): Steps of a round. Default 40.
        batch_size (int): Crops a step. Default 8.
        lr (float): Of Adam. Default 3e-4.
        side (int): Of the square crops, pixels. Default 96.
        min_frames (int): With fewer frames an edge sits a round out. Default 8.
        seed (int): Of all draws, together with the number of the round.
    """

    iterations: int = 40
    batch_size: int = 8
    lr: float = 3e-4
    side: int = 96
    min_frames: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ('iterations', 'batch_size', 'lr', 'side', 'min_frames'):
            if not getattr(self, name) > 0:
                raise ValueError(f'{name}={getattr(self, name)} must be positive')


class Crops(Dataset):
    """Random square crops of pictures, ``{'inputs': (3, side, side)}`` in [0, 255].

    A pure function of the index.

    Args:
        paths (Sequence[Path]): JPEG or PNG files.
        side (int): Of the crops, pixels.
        length (int): Crops of an epoch.
        seed (int): Of the draws.
    """

    def __init__(self, paths: Sequence[Path], side: int, length: int, seed: int) -> None:
        if not paths:
            raise ValueError('paths is empty: there is nothing to train on')
        self._paths = list(paths)
        self._side = side
        self._length = length
        self._seed = seed

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = np.random.default_rng(rng.derive_seed(self._seed, 'crops', index))
        path = self._paths[generator.integers(len(self._paths))]
        frame = _read(path)
        height, width = frame.shape[:2]
        # From the whole frame to a window of its smaller side's half.
        window = round(min(height, width) * generator.uniform(0.5, 1))
        top, left = generator.integers(height - window + 1), generator.integers(width - window + 1)
        crop = resize(frame[top : top + window, left : left + window], (self._side, self._side))
        return {'inputs': torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1).float()}


#: MMEngine's message hub and the global generators belong to the process.
_one_at_a_time = threading.Lock()


@lru_cache(maxsize=32)
def _read(path: Path) -> np.ndarray:
    # Few frames make many crops.
    return decode(path.read_bytes(), ImageLimits())


def train(
    config: Mapping[str, Any],
    base: State,
    paths: Sequence[Path],
    options: TrainOptions,
    number: int = 0,
) -> dict[str, Tensor]:
    """Train from given weights and return the weights after it.

    Args:
        config (Mapping): ``type`` and arguments of a trained stylizer.
        base (Mapping): Weights to begin with.
        paths (Sequence[Path]): Frames.
        options (TrainOptions): How.
        number (int): Of the round; draws of the rounds differ.

    Returns:
        dict: Names -> tensors on the CPU.
    """
    seed = rng.derive_seed(options.seed, 'federated', number) & 0x7FFFFFFF
    crops = Crops(paths, options.side, options.iterations * options.batch_size, seed)
    experiment = f'federated_{secrets.token_hex(8)}'
    try:
        with _one_at_a_time, tempfile.TemporaryDirectory() as folder, rng.isolated(seed):
            model = build_trainable(config)
            model.load_state_dict(dict(base))
            model.train()
            runner = Runner(
                model=model,
                work_dir=folder,
                experiment_name=experiment,
                train_dataloader=dict(
                    batch_size=options.batch_size,
                    num_workers=0,
                    sampler=dict(type='DefaultSampler', shuffle=False),
                    collate_fn=dict(type='default_collate'),
                    dataset=crops,
                ),
                train_cfg=dict(by_epoch=False, max_iters=options.iterations),
                optim_wrapper=dict(
                    optimizer=dict(type='Adam', lr=options.lr),
                    clip_grad=dict(max_norm=1.0),
                ),
                default_hooks=dict(
                    timer=None, logger=None, param_scheduler=None, checkpoint=None,
                    sampler_seed=None, runtime_info=dict(type='RuntimeInfoHook'),
                ),
                randomness=dict(seed=seed),
                log_level='ERROR',
                default_scope='mmengine',
            )  # fmt: skip
            runner.train()
    finally:
        _forget(experiment)
        # A frame that is deleted later must not live on in memory.
        _read.cache_clear()
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _forget(experiment: str) -> None:
    """Take out what a Runner has registered in MMEngine, which would keep it for good."""
    for manager in (MMLogger, MessageHub, Visualizer, DefaultScope):
        for name in [name for name in manager._instance_dict if name.startswith(experiment)]:
            gone = manager._instance_dict.pop(name)
            for handler in getattr(gone, 'handlers', ()):
                handler.close()


def delta_of(base: State, after: State) -> dict[str, Tensor]:
    """Floating-point weights after minus before."""
    return {name: after[name] - value for name, value in floating(base).items()}


def held_out_loss(
    config: Mapping[str, Any], state: State, paths: Sequence[Path], side: int = 96, crops: int = 32
) -> float:
    """Self-supervised loss of given weights on fixed crops with fixed draws.

    Args:
        config (Mapping): ``type`` and arguments of a trained stylizer.
        state (Mapping): Weights.
        paths (Sequence[Path]): Pictures that nobody trains on.
        side (int): Of the crops, pixels.
        crops (int): How many.

    Returns:
        float: Mean over batches of 8 of the sum of the losses; lower is better.
    """
    model = build_trainable(config)
    model.load_state_dict(dict(state))
    model.eval()
    data = Crops(paths, side, crops, seed=20_000_003)
    totals = []
    with torch.inference_mode():
        for number, start in enumerate(range(0, crops, 8)):
            photos = torch.stack([data[i]['inputs'] for i in range(start, min(start + 8, crops))])
            generator = rng.generator(1, 'held out', 0, number)
            losses = model.losses(photos / 255, generator)
            totals.append(sum(float(value) for value in losses.values()))
    return sum(totals) / len(totals)


def build_trainable(config: Mapping[str, Any]):
    """A stylizer that can be trained.

    Raises:
        ValueError: The class has no weights.
    """
    model = STYLIZERS.build(copy.deepcopy(dict(config)))
    if not isinstance(model, torch.nn.Module) or not hasattr(model, 'losses'):
        raise ValueError(
            f'{config["type"]} cannot be trained; take mmext.NeuralColorMapping or '
            'mmext.WaveletStylizer'
        )
    return model

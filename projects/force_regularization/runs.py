"""Parts of the runs of both studies: configs, runners, accuracy, fine-tuning."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs/force_regularization'
METHODS = ('plain', 'l1', 'l2', 'trp')
PREFIX = {'plain': '', 'l1': 'force-l1_', 'l2': 'force-l2_', 'trp': 'trp_'}
TITLES = {
    'plain': 'plain',
    'l1': 'L1 force',
    'l2': 'L2 force',
    'trp': 'TRP',
    'plain-as-l2': "plain at L2's ranks",
}


class Curve(Hook):
    """Loss of every training iteration and accuracy at some of them."""

    def __init__(self, interval: int | None = None) -> None:
        self.interval = interval
        self.loss: list[float] = []
        self.accuracy: list[tuple[int, float]] = []

    def before_train(self, runner) -> None:
        if self.interval:
            self._evaluate(runner, 0)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.loss.append(float(outputs['loss'].detach()))
        if self.interval and (runner.iter + 1) % self.interval == 0:
            self._evaluate(runner, runner.iter + 1)

    def _evaluate(self, runner, iteration: int) -> None:
        self.accuracy.append((iteration, accuracy(runner, runner.model, 'val')))
        runner.model.train()


def path(network: str, method: str) -> Path:
    """File of the shipped config of one method."""
    return CONFIGS / f'{PREFIX[method]}{network}.py'


def read(network: str, method: str) -> Config:
    """Shipped config of one method."""
    return Config.fromfile(path(network, method))


def build(cfg: Config, work_dir: Path, seed: int, hooks: tuple[Hook, ...] = ()) -> Runner:
    """Runner without checkpoints, progress bar and curves."""
    cfg = Config(copy.deepcopy(cfg._cfg_dict))
    cfg.work_dir = str(work_dir)
    cfg.randomness = dict(seed=seed)
    cfg.log_level = 'WARNING'
    cfg.experiment_name = f'{work_dir.name}-{os.getpid()}-{id(cfg)}'
    cfg.default_hooks.checkpoint = None
    cfg.custom_hooks = [
        hook for hook in cfg.get('custom_hooks', [])
        if hook['type'] not in ('mmext.RichProgressHook', 'mmext.CurvesHook')
    ]  # fmt: skip
    runner = Runner.from_cfg(cfg)
    for hook in hooks:
        runner.register_hook(hook)
    return runner


_SETS: dict[str, Any] = {}


@torch.no_grad()
def accuracy(runner: Runner, model: nn.Module, split: str) -> float:
    """Top-1 accuracy in percent."""
    key = f'{split}-{json.dumps(runner.cfg[f"{split}_dataloader"].dataset, sort_keys=True)}'
    if key not in _SETS:
        _SETS[key] = list(Runner.build_dataloader(runner.cfg[f'{split}_dataloader']))
    model.eval()
    hits = total = 0
    for batch in _SETS[key]:
        for sample in model.val_step(copy.deepcopy(batch)):
            hits += int(sample.pred_label == sample.gt_label)
            total += 1
    return 100 * hits / total


def finetune(
    cfg: Config, model: nn.Module, work_dir: Path, seed: int, interval: int
) -> tuple[Runner, Curve]:
    """Train a low-rank model by the schedule of ``cfg``."""
    cfg = Config(copy.deepcopy(cfg._cfg_dict))
    # MMEngine initialises models when the training begins, so weights come by a file.
    work_dir.mkdir(parents=True, exist_ok=True)
    cfg.load_from = str(work_dir / 'lowrank.pth')
    torch.save(model.state_dict(), cfg.load_from)
    curve = Curve(interval)
    runner = build(cfg, work_dir, seed, (curve,))
    runner.train()
    return runner, curve


def images_of(cfg: Config) -> torch.Tensor:
    """One normalised image of the shape that the network sees."""
    size = cfg.train_dataloader.dataset.size
    return torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(0))

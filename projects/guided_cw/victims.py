"""The attacked models: small LeNets, trained once per seed and kept, and networks of the zoo."""

from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner
from torch import Tensor, nn

from mmext import zoo
from mmext.attacks.adversarial import build_test_dataset, load_classifier, logits_fn

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {
    'digits': 'configs/guided_cw/victim_lenet_digits.py',
    'glyphs': 'configs/guided_cw/victim_lenet_glyphs.py',
}


class Victim(NamedTuple):
    """A trained model and images that it classifies rightly."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    accuracy: float


def train(name: str, seed: int, work: Path, quick: bool) -> Path:
    """Checkpoint of a victim, trained where there is none yet."""
    done = work / f'{name}_{seed}' / 'victim.pth'
    if done.exists():
        return done
    cfg = Config.fromfile(ROOT / CONFIGS[name])
    cfg.work_dir = str(done.parent)
    cfg.randomness = dict(seed=seed)
    cfg.custom_hooks = [dict(type='mmext.IterSeedHook')]
    cfg.default_hooks.checkpoint.interval = cfg.train_cfg.max_epochs
    if quick:
        cfg.train_cfg.max_epochs = 3
        cfg.param_scheduler[0].total_steps = 3
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    runner = Runner.from_cfg(cfg)
    runner.train()
    draft = done.with_suffix('.tmp')
    torch.save({'state_dict': runner.model.state_dict()}, draft)
    draft.rename(done)
    return done


def load(name: str, seed: int, split: str, count: int, work: Path, quick: bool) -> Victim:
    """A victim and its first ``count`` rightly classified images of a split."""
    cfg = Config.fromfile(ROOT / CONFIGS[name])
    model = load_classifier(cfg, str(train(name, seed, work, quick)))
    init_default_scope('mmpretrain')
    loader = cfg.val_dataloader if split == 'val' else cfg.test_dataloader
    items = list(DATASETS.build(loader.dataset))
    images = torch.stack([item['inputs'] for item in items]).float() / 255
    labels = torch.cat([item['data_samples'].gt_label for item in items])
    with torch.no_grad():
        inputs = model.data_preprocessor({'inputs': images * 255})['inputs']
        right = model(inputs).argmax(1) == labels
    rows = right.nonzero().squeeze(1)[:count]
    return Victim(model, images[rows], labels[rows], 100 * float(right.float().mean()))


def from_zoo(name: str, count: int) -> Victim:
    """A network of the zoo and its first ``count`` rightly classified test images."""
    entry = zoo.find(name)
    cfg = Config.fromfile(entry.config)
    model = load_classifier(cfg, str(entry.weights))
    dataset = build_test_dataset(cfg)
    items = [dataset[index] for index in range(min(2 * count, len(dataset)))]
    raw = torch.stack([item['inputs'] for item in items]).float()
    images = (raw.flip(1) if model.data_preprocessor.to_rgb else raw) / 255
    labels = torch.cat([item['data_samples'].gt_label for item in items])
    with torch.no_grad():
        right = logits_fn(model)(images).argmax(1) == labels
    rows = right.nonzero().squeeze(1)[:count]
    return Victim(model, images[rows], labels[rows], 100 * float(right.float().mean()))

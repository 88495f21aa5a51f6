"""Train networks on one of two ranks, sharded and not, and write what came out: PART OUT."""

import copy
import os
import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from plugin_settings import PLUGINS
from torch import nn

from mmext import launch
from mmext.engine import phases
from mmext.engine.shards import shard_of, whole
from mmext.testing import hosts
from mmext.testing.trial import quick, shorten

SGD = {'type': 'SGD', 'lr': 0.05, 'momentum': 0.9, 'weight_decay': 1e-4}
ADAMW = {'optimizer': {'type': 'AdamW', 'lr': 1e-3}}
CLIP = {'clip_grad': {'max_norm': 0.1}}
FORCE = {'type': 'mmext.ForceRegularizationHook', 'strength': 0.01, 'interval': 2}
SMOOTH = {'type': 'mmext.SmoothOutHook', 'strength': 0.0}
#: Name -> model, optim wrapper and hooks of runs that are compared with DistributedDataParallel.
RUNS = {
    'plain': ('Awkward', {}, []),
    'clipped': ('Awkward', CLIP, []),
    'accumulated': ('Awkward', {'accumulative_counts': 2}, []),
    'smoothout of strength 0': ('Awkward', {}, [SMOOTH]),
    'force': ('Awkward', {}, [FORCE]),
    'adaptive force': ('ImageClassifier', {}, [{**FORCE, 'mode': 'adaptive', 'kind': 'l2'}]),
    'decoupled force': ('ImageClassifier', ADAMW, [FORCE]),
    'adamw': ('ImageClassifier', {**ADAMW, **CLIP}, []),
    'autocast': ('ImageClassifier', {}, [{'type': 'mmext.AutocastHook'}]),
}
#: Name -> model, optim wrapper, hooks of runs that are refused.
REFUSED = {
    '"sam"': ('Awkward', {}, [{'type': 'mmext.SAMHook'}]),
    'TrainedRankPruningHook': ('Awkward', {}, [{'type': 'mmext.TrainedRankPruningHook'}]),
    'TernGrad': ('Awkward', {'type': 'mmext.TernGradOptimWrapper'}, []),
    'SharpnessHook': ('Awkward', {}, [{'type': 'mmext.SharpnessHook', 'strength': 0.1}]),
    'EMAHook': ('Awkward', {}, [{'type': 'EMAHook'}]),
    'Stepping': ('Stepping', {}, []),
    'MATClassifier': ('MATClassifier', {}, []),
    'CWAttack': ('CWAttack', {}, [{'type': 'mmext.AttackModelHook'}]),
}


@MODELS.register_module()
class Awkward(BaseModel):
    """All that shards can stumble over, and a part that is entered by a method."""

    def __init__(self, data_preprocessor=None) -> None:
        super().__init__(data_preprocessor)
        # Three rows on two ranks, one row, a scalar, layers that share a weight, a frozen one.
        self.conv = nn.Conv2d(1, 3, 5, stride=3)
        self.norm = nn.BatchNorm2d(3)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(3, 8).requires_grad_(False)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 8))
            for _ in range(3)
        )
        self.head = _Head()
        self.seen: list[dict[str, torch.Tensor]] = []

    def forward(self, inputs, data_samples=None, mode='loss'):
        x = self.norm(self.conv(inputs)).relu().mean((2, 3)) * self.scale
        x = self.frozen(self.second(self.first(x).tanh()))[:, None]
        x = (x + self.attention(x, x, x)[0]).squeeze(1)
        for block in self.blocks:
            x = x + block(x)
        self.seen.append(self.first.weight.detach().clone())
        labels = torch.tensor([int(sample.gt_label) for sample in data_samples])
        return {'loss': self.head.loss(x, labels)}


@MODELS.register_module()
class Stepping(Awkward):
    """Steps by itself."""

    def train_step(self, data, optim_wrapper):
        raise AssertionError('it was to be refused')


class _Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 10)
        self.bias = nn.Parameter(torch.ones(1))

    def loss(self, x, labels):
        return nn.functional.cross_entropy(self.fc(x) * self.bias, labels)


def config(
    out: Path, name: str, model: str, wrapper: dict, hooks: list, validate: bool = False
) -> Config:
    """A training of four iterations with a checkpoint after each."""
    cfg = hosts.classifier(out)
    loader = {**cfg.train_dataloader, 'sampler': {'type': 'DefaultSampler', 'shuffle': False}}
    if model == 'MATClassifier':
        cfg.model = {
            'type': 'mmext.MATClassifier',
            'classifier': cfg.model,
            'strengths': [2.0, 4.0],
        }
    elif model == 'CWAttack':
        attack = {'type': 'mmext.CWAttack', 'steps': 2, 'search_steps': 1}
        cfg.model.data_preprocessor.batch_augments = {'augments': attack}
    elif model != 'ImageClassifier':
        cfg.model = {'type': model}
        cfg.data_preprocessor = {'type': 'mmpretrain.ClsDataPreprocessor', 'mean': [80.0],
                                 'std': [91.0], 'num_classes': 10}  # fmt: skip
    cfg.custom_hooks = copy.deepcopy(hooks)
    cfg.optim_wrapper = {'type': 'OptimWrapper', 'optimizer': dict(SGD), **copy.deepcopy(wrapper)}
    # Dropout of a resumed run draws as the uninterrupted one.
    shorten(cfg, out / name, name, 4, seed_iterations=True)
    if validate:
        cfg.train_cfg.val_interval = 4
        cfg.default_hooks.checkpoint.save_best = 'accuracy/top1'
        for stage in ('val', 'test'):
            cfg[f'{stage}_dataloader'], cfg[f'{stage}_cfg'] = copy.deepcopy(loader), {}
            cfg[f'{stage}_evaluator'] = {'type': 'mmpretrain.Accuracy', 'topk': (1, 3)}
    return cfg


class Note(Hook):
    """Keep what a run logs, its weights and the state of its gradients."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.norms, self.losses, self.clean = [], [], []
        self.has_gradients, self.restored = [], []

    def before_train(self, runner) -> None:
        self.start = whole_state(runner.model)
        shards = [shard_of(p) for p in runner.model.parameters()]
        clean: list[torch.Tensor] = []
        model = getattr(runner.model, 'module', runner.model)
        noisy = model.first.weight if isinstance(model, Awkward) else None
        attached = phases.attach(runner.optim_wrapper)

        def keep(model) -> None:
            clean[:] = [part.clone() for part in shards]
            if noisy is not None:
                self.clean.append(whole(noisy.detach()).clone())

        def compare() -> None:
            self.restored.append(all(map(torch.equal, clean, shards)))
            gradients = [p.grad is not None for p in runner.model.parameters() if p.requires_grad]
            self.has_gradients.append(gradients)

        attached.register('before_forward', keep, 'note', order=-9999, shards=True)
        attached.register('after_backward', compare, 'note', order=9999, shards=True)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        scalars = runner.message_hub.log_scalars
        self.losses.append(float(scalars['train/loss'].current()))
        if 'train/grad_norm' in scalars:
            self.norms.append(scalars['train/grad_norm'].current())


def whole_state(model) -> dict[str, torch.Tensor]:
    """Weights and buffers; all ranks must call it."""
    state = getattr(model, 'module', model).state_dict()
    # A scalar has one row while it trains.
    return {name: whole(value).squeeze().clone() for name, value in state.items()}


def train(cfg: Config, shard: bool, resume: Path | None = None) -> dict:
    """Train and return what came out."""
    with quick():
        if shard:
            cfg.setdefault('strategy', {'type': 'mmext.FSDP2Strategy', 'min_params': 100})
        cfg.find_unused_parameters = True
        launch.prepare(cfg, shard=shard, resume=resume and str(resume), launcher='pytorch')
        runner = launch.build_runner(cfg)
        note = Note()
        runner.register_hook(note)
        runner.train()
    # Rank 0 has written the last checkpoint.
    torch.distributed.barrier()
    return {
        **vars(note),
        'end': whole_state(runner.model),
        'held': sum(shard_of(p).numel() for p in runner.model.parameters()),
        'seen': getattr(getattr(runner.model, 'module', runner.model), 'seen', []),
        'metrics': {
            key: value.current()
            for key, value in runner.message_hub.log_scalars.items()
            if key.startswith(('val/accuracy', 'train/dcr/student_distance'))
        },
    }


def refusal(cfg: Config) -> str:
    try:
        train(cfg, True)
    except TypeError as error:
        return str(error)
    return 'not refused'


def small(out: Path) -> dict:
    """Runs of some seconds."""
    found: dict = {'runs': {}, 'resumed': {}, 'refused': {}}
    for index, (name, (model, wrapper, hooks)) in enumerate(RUNS.items()):
        found['runs'][name] = [
            train(config(out, f'run{index}-{int(shard)}', model, wrapper, hooks), shard)
            for shard in (False, True)
        ]
    for before, after in ((True, True), (True, False), (False, True)):
        cfg = config(out, f'resumed-{int(before)}{int(after)}', 'Awkward', {}, [])
        checkpoint = out / f'run0-{int(before)}' / 'iter_2.pth'
        found['resumed'][before, after] = train(cfg, after, checkpoint)
    noise = {**SMOOTH, 'strength': 0.05, 'adapt': 'filter', 'clean_fraction': 0.5}
    found['noise'] = train(config(out, 'noise', 'Awkward', {}, [noise]), True)
    found['validated'] = train(config(out, 'validated', 'ImageClassifier', {}, [], True), True)
    for index, (name, case) in enumerate(REFUSED.items()):
        cfg = config(out, f'refused{index}', *case, validate=name == 'SharpnessHook')
        found['refused'][name] = refusal(cfg)
    return found


def cst(out: Path) -> dict:
    """Cycle self-training of a small detector with its own clipping, also resumed."""
    settings = next(plugin for plugin in PLUGINS if plugin.name == 'cst')

    def config(name: str) -> Config:
        cfg = settings.config(out / f'data{os.environ["RANK"]}')
        teacher, consistency = cfg.custom_hooks
        teacher.clip_grad = {'max_norm': 1.0}
        consistency.interval = 1
        cfg.optim_wrapper.pop('clip_grad', None)
        cfg.strategy = {'type': 'mmext.FSDP2Strategy', 'min_params': 100_000}
        shorten(cfg, out / name, name, 3)
        return cfg

    runs = [train(config(f'cst-{int(shard)}'), shard) for shard in (False, True)]
    return {'runs': runs, 'resumed': train(config('resumed'), True, out / 'cst-1' / 'iter_2.pth')}


def main() -> None:
    part, out = {'small': small, 'cst': cst}[sys.argv[1]], Path(sys.argv[2])
    torch.set_num_threads(1)
    found = part(out)
    torch.save(found, out / f'rank{torch.distributed.get_rank()}.pth')


if __name__ == '__main__':
    main()

"""A small network on random points, trained by MMEngine's Runner in a fraction of a second."""

import itertools

import mmengine.runner.runner
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

# Asking compilers for their versions takes longer than the training.
mmengine.runner.runner.collect_env = dict
_NAMES = itertools.count()


class Points(Dataset):
    """64 fixed images ``(2, 6, 6)`` with targets."""

    def __init__(self):
        generator = torch.Generator().manual_seed(5)
        self.images = torch.randn(64, 2, 6, 6, generator=generator)
        self.targets = torch.randn(64, generator=generator)

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return {'image': self.images[index], 'target': self.targets[index]}


class Net(BaseModel):
    """Convolution, batch norm, two layers that share a weight, and a frozen layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 1)
        self.before_loss = []

    def forward(self, image, target, mode='loss'):
        x = self.norm(self.conv(image)).relu().mean((2, 3))
        x = self.head(self.frozen(self.second(self.first(x).tanh()))).squeeze(1)
        for call in self.before_loss:
            call(self)
        error = (x - target).square().mean()
        return {'loss': error} if mode == 'loss' else [error]


class Loss(BaseMetric):
    """Mean squared error."""

    def process(self, data_batch, data_samples):
        self.results += [float(error) for error in data_samples]

    def compute_metrics(self, results):
        return {'mse': sum(results) / len(results)}


class Call(Hook):
    """Call something at one point of the run."""

    def __init__(self, point, call):
        setattr(self, point, lambda runner, *_, **__: call(runner))


def build(work_dir, hooks=(), max_iters=4, model=None, lr=0.05, validate=False, **kwargs):
    """A Runner that saves after every iteration; shuffles by the run's seed."""
    torch.manual_seed(1)
    loader = {
        'dataset': Points(),
        'batch_size': 8,
        'num_workers': 0,
        'collate_fn': {'type': 'default_collate'},
    }
    arguments = {
        'model': model or Net(),
        'work_dir': str(work_dir),
        'train_dataloader': {**loader, 'sampler': {'type': 'InfiniteSampler', 'seed': 2}},
        'train_cfg': {
            'type': 'mmext.ResumableIterTrainLoop',
            'max_iters': max_iters,
            'val_interval': max_iters if validate else 10**6,
        },
        'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': lr, 'momentum': 0.9}},
        'default_hooks': {
            'checkpoint': {'type': 'CheckpointHook', 'interval': 1, 'by_epoch': False},
            'logger': {'type': 'LoggerHook', 'interval': 1, 'log_metric_by_epoch': False},
        },
        'custom_hooks': list(hooks),
        'log_processor': {'by_epoch': False, 'window_size': 1},
        'visualizer': {'type': 'Visualizer', 'name': f'smoothout{next(_NAMES)}'},
        'randomness': {'seed': 3},
        'experiment_name': f'smoothout{next(_NAMES)}',
        'log_level': 'WARNING',
    }
    if validate:
        arguments |= {
            'val_dataloader': {**loader, 'sampler': {'type': 'DefaultSampler', 'shuffle': False}},
            'val_cfg': {},
            'val_evaluator': [Loss()],
        }
    return Runner(**{**arguments, **kwargs})


def copies(model):
    """Name -> copy of every parameter and buffer."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(first, second):
    """Whether two states are the same bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def parameters(state):
    """The part of a state that is trained."""
    return {k: v for k, v in state.items() if 'running' not in k and 'num_batches' not in k}


def smooth(**kwargs):
    return {'type': 'mmext.SmoothOutHook', 'strength': 0.05, **kwargs}


class Spy:
    """A network that notes its weights at the end of every forward."""

    def __init__(self, net=None):
        self.net = net or Net()
        self.seen = []
        self.net.before_loss.append(lambda model: self.seen.append(copies(model)))

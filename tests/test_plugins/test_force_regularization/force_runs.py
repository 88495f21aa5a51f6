"""Short trainings of a small convolutional network by MMEngine's Runner."""

import copy
from pathlib import Path

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

ITERATIONS = 6


class SmallNet(BaseModel):
    """Two convolutions, the second grouped on request, and a linear layer."""

    def __init__(self, groups=1):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.body = nn.Conv2d(6, 8, 3, groups=groups, bias=False)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.head = nn.Linear(8, 3)

    def forward(self, x, y, mode='tensor'):
        x = torch.tanh(self.depthwise(torch.tanh(self.body(torch.tanh(self.stem(x))))))
        logits = self.head(x.mean((2, 3)))
        if mode == 'loss':
            return {'loss': nn.functional.cross_entropy(logits, y)}
        return logits


def samples(count=24):
    """Fixed random images and labels."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(count, 2, 8, 8, generator=generator)
    labels = torch.randint(3, (count,), generator=generator)
    return [{'x': image, 'y': label} for image, label in zip(images, labels, strict=True)]


def network(seed=0, **kwargs):
    torch.manual_seed(seed)
    return SmallNet(**kwargs)


def runner(work_dir, *hooks, model=None, optim=None, iterations=ITERATIONS, **kwargs):
    """A Runner of ``iterations`` batches of 4, in order, with a checkpoint after each."""
    optim = optim or {'optimizer': {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9}}
    return Runner(
        model=model or network(),
        work_dir=str(work_dir),
        train_dataloader={
            'batch_size': 4,
            'dataset': samples(),
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            'collate_fn': {'type': 'default_collate'},
        },
        train_cfg={'max_iters': iterations, 'type': 'mmext.ResumableIterTrainLoop'},
        optim_wrapper=copy.deepcopy(optim),
        custom_hooks=list(hooks),
        default_hooks={
            'checkpoint': {
                'type': 'CheckpointHook', 'interval': 1, 'by_epoch': False, 'save_last': False,
            },
            'logger': {'type': 'LoggerHook', 'interval': 1},
        },
        experiment_name=f'{Path(work_dir).name}-{id(work_dir)}-{torch.rand(1).item()}',
        randomness={'seed': 0},
        log_level='WARNING',
        default_scope='mmengine',
        **kwargs,
    )  # fmt: skip


def weights(model):
    model = getattr(model, 'module', model)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def pairwise_force(weight, kind):
    """The force by its definition, pair by pair in float64."""
    filters = weight.detach().double().reshape(len(weight), -1)
    result = torch.zeros_like(filters)
    for i, own in enumerate(filters):
        length = own.norm()
        if length <= 1e-4:
            continue
        w_i = own / length
        for j, other in enumerate(filters):
            if i == j or other.norm() <= 1e-4:
                continue
            f = other / other.norm() - w_i
            distance = f.norm()
            if distance <= 1e-4:
                continue
            if kind == 'l1':
                f = f / distance
            result[i] += length * (f - (f @ w_i) * w_i)
    return result.reshape(weight.shape)

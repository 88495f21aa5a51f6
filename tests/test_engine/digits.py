"""A convolutional classifier of handwritten digits, trained by MMEngine's own loop."""

import copy

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import nn
from torch.nn import functional as F

#: The convolutions of :class:`DigitNet`, for tests that look at each.
LAYERS = ('stem', 'large', 'strided', 'small', 'mix')


class DigitNet(BaseModel):
    """A stem, three depthwise convolutions (5x5, strided, plain 3x3) and a 1x1 convolution."""

    def __init__(self, channels=16):
        super().__init__()
        depthwise = dict(padding=1, groups=channels, bias=False)
        self.stem = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.large = nn.Conv2d(channels, channels, 5, **{**depthwise, 'padding': 2})
        self.strided = nn.Conv2d(channels, channels, 3, 2, **depthwise)
        self.small = nn.Conv2d(channels, channels, 3, **depthwise)
        self.mix = nn.Conv2d(channels, channels, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in LAYERS)
        self.fc = nn.Linear(channels * 16, 10)

    def forward(self, inputs, target, mode='loss'):
        features = inputs
        for name, norm in zip(LAYERS, self.norms, strict=True):
            features = norm(getattr(self, name)(features)).relu()
        logits = self.fc(features.flatten(1))
        if mode == 'loss':
            return {'loss': F.cross_entropy(logits, target)}
        return list((logits.argmax(1) == target).float())


class Accuracy(BaseMetric):
    """Share of right answers."""

    def process(self, data_batch, data_samples):
        self.results += [float(right) for right in data_samples]

    def compute_metrics(self, results):
        return {'digits/accuracy': sum(results) / len(results)}


def _pack(item):
    image = torch.from_numpy(item['img'][..., 0].copy())[None].float() / 128 - 1
    return {'inputs': image, 'target': item['gt_label']}


def arguments(max_iters, validate=False, **optim_wrapper):
    """Arguments of a Runner, or of the fixture ``toy_runner``, that trains the network."""
    loader = dict(
        batch_size=32,
        num_workers=0,
        collate_fn=dict(type='default_collate'),
        dataset=dict(type='mmext.DigitsDataset', split='train', size=8, pipeline=[_pack]),
    )
    torch.manual_seed(0)
    made = dict(
        model=DigitNet(),
        train_dataloader=dict(**loader, sampler=dict(type='InfiniteSampler', seed=1)),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters),
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-4), **optim_wrapper
        ),
        param_scheduler=None,
    )
    if validate:
        held_out = copy.deepcopy(loader)
        held_out['dataset']['split'] = 'val'
        made['val_dataloader'] = dict(**held_out, sampler=dict(type='DefaultSampler'))
        made['val_cfg'], made['val_evaluator'] = {}, [Accuracy()]
    return made


def losses(runner):
    """The loss of every iteration."""
    return torch.from_numpy(runner.message_hub.log_scalars['train/loss'].data[0]).double()

"""A Runner small enough to train in a fraction of a second; a fixture to be imported."""

import itertools
import random

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmext.datasets.streams import SeededConcatDataset

_NAMES = itertools.count()


class ToySource(BaseDataset):
    """Points with a random pipeline that uses all three global generators."""

    def __init__(self, size):
        self.size = size
        self.loaded = 0
        # Serialising runs the garbage collector, which is slow here.
        super().__init__(pipeline=[self.augment], serialize_data=False)

    def load_data_list(self):
        return [{'value': index} for index in range(self.size)]

    def augment(self, data):
        self.loaded += 1
        noise = random.random() + np.random.rand() + torch.rand(3)
        return {'inputs': noise + data['value'], 'target': torch.tensor(float(data['value'] % 2))}


class ToyModel(BaseModel):
    """Two layers with dropout."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, inputs, target, mode='loss'):
        error = (self.layers(inputs).squeeze(1) - target).square().mean()
        return {'loss': error} if mode == 'loss' else [error]


class ToyMetric(BaseMetric):
    """Mean squared error."""

    def process(self, data_batch, data_samples):
        self.results += [float(error) for error in data_samples]

    def compute_metrics(self, results):
        return {'toy/mse': float(np.mean(results))}


@pytest.fixture
def toy_runner(tmp_path, monkeypatch):
    """Return a function that builds a Runner in ``tmp_path``."""
    # Asking compilers for their versions takes longer than the training.
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)

    def build(
        max_iters=6, num_workers=0, val_interval=None, work_dir=None, persistent=False, **kwargs
    ):
        loader = {
            'dataset': SeededConcatDataset([ToySource(4), ToySource(7)], seed=1),
            'batch_size': 4,
            'num_workers': num_workers,
            'persistent_workers': persistent,
            'collate_fn': {'type': 'default_collate'},
        }
        sampler = {'type': 'mmext.MultiSourceSampler', 'batch_size': 4, 'source_ratio': [1, 1]}
        torch.manual_seed(0)
        arguments = {
            'model': ToyModel(),
            'work_dir': str(work_dir or tmp_path),
            'train_dataloader': {**loader, 'sampler': {**sampler, 'seed': 2}},
            'train_cfg': {
                'type': 'mmext.ResumableIterTrainLoop',
                'max_iters': max_iters,
                'val_interval': val_interval or 1000,
            },
            'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 0.01, 'momentum': 0.9}},
            'param_scheduler': {
                'type': 'LinearLR',
                'by_epoch': False,
                'start_factor': 0.1,
                'end': 6,
            },
            'default_hooks': {
                'checkpoint': {'type': 'CheckpointHook', 'interval': 3, 'by_epoch': False},
                'logger': {'type': 'LoggerHook', 'interval': 1, 'log_metric_by_epoch': False},
            },
            'log_processor': {'by_epoch': False, 'window_size': 1},
            'visualizer': {
                'type': 'Visualizer',
                'vis_backends': [{'type': 'LocalVisBackend'}],
                'name': f'toy{next(_NAMES)}',
            },
            'randomness': {'seed': 3},
            'experiment_name': f'toy{next(_NAMES)}',
        }
        if val_interval:
            order = {'type': 'DefaultSampler', 'shuffle': False}
            arguments['val_dataloader'] = {**loader, 'sampler': order}
            arguments['val_cfg'] = {}
            arguments['val_evaluator'] = [ToyMetric()]
        return Runner(**{**arguments, **kwargs})

    return build

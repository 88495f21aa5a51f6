"""A project on MMEngine alone: least squares in float64 on eight fixed samples."""

import torch
from mmengine.dist import get_rank
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from torch import nn
from torch.utils.data import Dataset


def samples() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs ``(8, 3)`` and targets ``(8,)``, float64."""
    grid = torch.arange(24, dtype=torch.float64).reshape(8, 3)
    return torch.sin(1 + grid), torch.cos(grid.sum(1))


@DATASETS.register_module()
class ToyDataset(Dataset):
    """The samples as dicts of ``x`` and ``y``."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        x, y = samples()
        return {'x': x[index], 'y': y[index]}


@MODELS.register_module()
class ToyModel(BaseModel):
    """Predicts ``x . weight``, which starts at zero; the loss is the mean squared error."""

    def __init__(self, size=3):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size, dtype=torch.float64))

    def forward(self, x, y, mode='tensor'):
        output = x @ self.weight
        if mode == 'loss':
            return {'loss': (output - y).square().mean()}
        return [{'error': (a - b).detach()} for a, b in zip(output, y, strict=True)]


@METRICS.register_module()
class ToyMetric(BaseMetric):
    """Mean squared error over the set."""

    def process(self, data_batch, data_samples):
        self.results.extend(float(sample['error']) ** 2 for sample in data_samples)

    def compute_metrics(self, results):
        return {'mse': sum(results) / len(results)}


@HOOKS.register_module()
class SaveEveryRank(Hook):
    """Writes what each rank ends with to ``rank<r>.pth``; the Runner saves only rank 0."""

    def after_train(self, runner):
        model = getattr(runner.model, 'module', runner.model)
        torch.save(
            {
                'weight': model.weight.detach(),
                'lr': runner.optim_wrapper.get_lr()['lr'],
                'iterations': runner.iter,
                'threads': torch.get_num_threads(),
            },
            f'{runner.work_dir}/rank{get_rank()}.pth',
        )

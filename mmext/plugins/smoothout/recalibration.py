"""Batch-norm statistics of the clean weights."""

from itertools import islice

from mmengine.model import is_model_wrapper
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader


class _TrainingForward(nn.Module):
    """A model of MMEngine as ``update_bn`` calls it: with a batch and nothing else."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        model.train()

    def modules(self, *args):
        """Skip what stays in evaluation mode: frozen batch norms keep their statistics."""
        return (module for module in super().modules(*args) if module.training)

    def forward(self, batch: dict) -> None:
        data = self.model.data_preprocessor(batch['batch'], True)
        self.model._run_forward(data, mode='loss')


def recalibrate_bn(model: nn.Module, dataloader: DataLoader, batches: int) -> None:
    """Replace the running statistics of all batch norms by those of the present weights.

    SmoothOut collects them at noisy weights but evaluates clean ones. They become plain averages
    over ``batches`` batches (torch's ``update_bn``). The data are loaded in this process by a new
    loader, so that one that is being read stays where it is. Each rank takes its own share.

    Args:
        model (nn.Module): A ``mmengine.model.BaseModel`` in training mode, maybe wrapped. Batch
            norms that it keeps in evaluation mode (``norm_eval``) are left alone.
        dataloader (DataLoader): Training data.
        batches (int): Number of batches, >= 1; fewer where there are no more.

    Raises:
        ValueError: ``batches`` is not positive.

    Cost: ``batches`` forward passes without gradients.
    """
    if batches < 1:
        raise ValueError(f'batches={batches} must be at least 1')
    loader = DataLoader(
        dataloader.dataset,
        batch_sampler=dataloader.batch_sampler,
        collate_fn=dataloader.collate_fn,
    )
    # A dict keeps update_bn from taking a batch that is a list apart.
    wrapped = ({'batch': batch} for batch in islice(loader, batches))
    update_bn(wrapped, _TrainingForward(model.module if is_model_wrapper(model) else model))

"""A Runner small enough to train in a fraction of a second, and mixed precision on a CPU."""

import pytest
import torch
from mmengine.optim.optimizer import amp_optimizer_wrapper
from toy_runs import toy_runner

__all__ = ['toy_runner']


@pytest.fixture
def amp_on_cpu(monkeypatch):
    """Let AmpOptimWrapper be built without CUDA, with torch's GradScaler for the CPU."""
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(
        amp_optimizer_wrapper,
        'GradScaler',
        lambda **kwargs: torch.amp.GradScaler('cpu', **kwargs),
    )

"""A small network on real digits, trained once."""

import pytest
import torch
from torch import nn

from mmext.datasets.digits import handwritten_digits


def digits(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's digits, (N, 1, 8, 8) in [0, 1]."""
    images, labels = handwritten_digits(split)
    return torch.from_numpy(images / 16).float()[:, None], torch.from_numpy(labels.copy())


@pytest.fixture(scope='session')
def net() -> nn.Module:
    """Convolution and two layers, above 95 % on the digits."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 48), nn.ReLU(),
        nn.Linear(48, 10),
    )  # fmt: skip
    x, y = digits('train')
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(200):
        rows = torch.arange(step * 100, step * 100 + 100) % len(x)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


@pytest.fixture(scope='session')
def data(net) -> tuple[torch.Tensor, torch.Tensor]:
    """48 test digits; all but the first are classified rightly."""
    x, y = digits('test')
    right = net(x).argmax(1) == y
    assert right.float().mean() > 0.95
    wrong, rows = (~right).nonzero()[0], right.nonzero().squeeze(1)[:47]
    rows = torch.cat([wrong, rows])
    return x[rows], y[rows]

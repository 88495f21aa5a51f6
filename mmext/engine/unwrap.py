"""Models and what torch wraps them in; imports nothing of MMEngine."""

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel or DataParallel; any other comes back as it is.

    MMEngine's wrappers but those of FSDP are subclasses of torch's.
    """
    return model.module if isinstance(model, DistributedDataParallel | DataParallel) else model

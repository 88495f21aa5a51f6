"""What the trained parts share: self-supervised training by MMEngine, and their weights.

Without MMEngine they are plain modules, which stylise and have ``losses``.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmext.engine import rng

from .interfaces import Frame

try:
    from mmengine.model import BaseModel
except ModuleNotFoundError as error:
    if error.name != 'mmengine':
        raise

    class BaseModel(nn.Module):  # type: ignore[no-redef]
        """What is left of MMEngine's."""

        def __init__(self, data_preprocessor: None = None) -> None:
            super().__init__()


#: Weights that ship with mmext, one file per class; metafile.yml has their sha256.
WEIGHTS = Path(__file__).parent / 'weights'


class SelfSupervised(BaseModel):
    """Base of networks that learn from photos alone.

    Random draws depend on (seed, rank, iteration), so ranks differ and a resumed run equals an
    uninterrupted one. Sub-classes give :meth:`losses`.
    """

    #: Name of the shipped weights.
    shipped = ''

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        """Losses of a batch, or what :meth:`tensor` makes of it.

        Args:
            inputs: Photos, float (N, 3, H, W) in [0, 255].
            data_samples: Not used.
            mode: 'loss' or 'tensor'.

        Raises:
            ValueError: Another ``mode``.
        """
        if mode == 'loss':
            from mmengine.dist import get_rank
            from mmengine.logging import MessageHub

            hub = MessageHub.get_current_instance()
            seed, iteration = (int(hub.get_info(name, 0) or 0) for name in ('seed', 'iter'))
            generator = rng.generator(seed, 'mvstylizer', get_rank(), iteration)
            return self.losses(inputs.float() / 255, generator)
        if mode == 'tensor':
            return self.tensor(inputs.float() / 255)
        raise ValueError(f"mode={mode!r} must be 'loss' or 'tensor'")

    def losses(self, photos: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of photos (N, 3, H, W) in [0, 1]; draws come from ``generator``, on the CPU."""
        raise NotImplementedError

    def tensor(self, photos: Tensor) -> Tensor:
        """What the network makes of photos (N, 3, H, W) in [0, 1] without a style."""
        raise NotImplementedError

    def load_weights(self, weights: str | None) -> None:
        """Load weights into the network and put it in eval mode.

        Args:
            weights: 'shipped', those of mmext; a path of a checkpoint, MMEngine's or a bare
                state dict; None: stay as initialised, in training mode.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It does not fit this network.
        """
        if weights is None:
            return
        path = WEIGHTS / f'{self.shipped}.pth' if weights == 'shipped' else Path(weights)
        if not path.is_file():
            raise FileNotFoundError(f'weights {path} do not exist')
        try:
            loaded = _read(path)
            state = loaded.get('state_dict', loaded)
            self.load_state_dict({name: value.float() for name, value in state.items()})
        except (RuntimeError, AttributeError, ValueError) as error:
            raise ValueError(
                f'weights {path} do not fit {type(self).__name__}: {str(error)[:200]}'
            ) from error
        self.eval()


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except Exception:  # of the unpicklers, which junk makes fail in any way
        # The host's loader also reads the log buffers that MMEngine keeps beside the weights.
        from mmext.launch.checkpoint import read_checkpoint

        return read_checkpoint(str(path), logger='silent')


def to_tensor(frame: Frame, like: torch.nn.Module | None = None) -> Tensor:
    """Frame uint8 (H, W, 3) as float (1, 3, H, W) in [0, 1], on the device of a module."""
    # A copy: torch shares no read-only or reversed arrays.
    tensor = torch.from_numpy(np.array(frame, order='C')).permute(2, 0, 1)[None]
    if like is not None:
        tensor = tensor.to(next(like.parameters()).device)
    return tensor.float() / 255


def to_frame(tensor: Tensor) -> Frame:
    """Inverse of :func:`to_tensor`, rounded and clipped."""
    pixels = (tensor[0].detach() * 255).round_().clamp_(0, 255).byte()
    return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())

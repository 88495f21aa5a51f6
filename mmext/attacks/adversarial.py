"""Pixels of a classifier: where attacks and noise live.

MMPretrain's classifiers take images that their data preprocessor has normalised in units of 0 to
255, after changing BGR to RGB, and then padded. Perturbations are measured in pixels. Here pixels
have the range [0, 1], the normalisation is a part of the attacked function, and padding is told
apart from the image.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

# Attacks work without MMEngine; what reads a config imports it.
if TYPE_CHECKING:
    from mmengine.config import Config

LogitsFn = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PixelSpace:
    """The affine map between pixels in [0, 1] and the normalised inputs of a classifier.

    ``pixels = (raw - low) / (high - low)`` and ``inputs = (raw - mean) / std``, where ``raw`` is
    what the data preprocessor receives. Nothing is clamped, so noise passes unchanged. Pixels have
    the channel order of the model, after BGR to RGB.

    Args:
        mean, std: Of the data preprocessor, in raw units, shape (C, 1, 1); None: no normalisation.
        bounds: Range of ``raw``, (low, high).
    """

    mean: Tensor | None = None
    std: Tensor | None = None
    bounds: tuple[float, float] = (0.0, 255.0)

    @classmethod
    def of(cls, model: nn.Module, bounds: Sequence[float] = (0, 255)) -> 'PixelSpace':
        """Read it from ``model.data_preprocessor`` (or from a data preprocessor itself).

        Args:
            model: Classifier of MMPretrain, or its data preprocessor.
            bounds: Range of the images that the preprocessor receives; (0, 255) for uint8 images.

        Raises:
            ValueError: ``bounds`` is no range.
        """
        if len(bounds) != 2 or not bounds[0] < bounds[1]:
            raise ValueError(f'bounds={tuple(bounds)} must be (low, high) with low < high')
        preprocessor = getattr(model, 'data_preprocessor', model)
        mean, std = (
            value.detach().reshape(-1, 1, 1) if isinstance(value, Tensor) else None
            for value in (getattr(preprocessor, name, None) for name in ('mean', 'std'))
        )
        return cls(mean, std, (float(bounds[0]), float(bounds[1])))

    @property
    def width(self) -> float:
        """Raw units in one unit of pixels: a strength of 8 raw units is ``8 / width`` pixels."""
        return self.bounds[1] - self.bounds[0]

    def to_inputs(self, pixels: Tensor) -> Tensor:
        """Pixels (N, C, H, W) to the inputs of the model; differentiable."""
        raw = pixels * self.width + self.bounds[0]
        if self.mean is None or self.std is None:
            return raw
        return (raw - self.mean.to(raw)) / self.std.to(raw)

    def to_pixels(self, inputs: Tensor) -> Tensor:
        """Inverse of :meth:`to_inputs`."""
        raw = inputs
        if self.mean is not None and self.std is not None:
            raw = raw * self.std.to(raw) + self.mean.to(raw)
        return (raw - self.bounds[0]) / self.width


def content_mask(inputs: Tensor, data_samples: Sequence[Any] | None) -> Tensor | None:
    """Tell images from padding by the ``img_shape`` of the data samples.

    Images stand at the top left of the batch. An attack must leave the rest alone.

    Args:
        inputs: Batch after the data preprocessor, (N, C, H, W).
        data_samples: N samples with ``img_shape`` (H, W), as ``PackInputs`` writes it, or None.

    Returns:
        Bool (N, 1, H, W), True on the image; None where no sample is padded or sizes are unknown.
    """
    if data_samples is None or not all('img_shape' in sample for sample in data_samples):
        return None
    height, width = inputs.shape[-2:]
    sizes = [tuple(sample.img_shape[:2]) for sample in data_samples]
    if all(h >= height and w >= width for h, w in sizes):
        return None
    limits = torch.tensor(sizes, device=inputs.device)
    rows = torch.arange(height, device=inputs.device) < limits[:, :1]
    columns = torch.arange(width, device=inputs.device) < limits[:, 1:]
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def attack_labels(data_samples: Sequence[Any], device: torch.device | str) -> Tensor:
    """Labels an attack leads away from, int64 (N,): the likeliest class where labels are soft.

    Raises:
        ValueError: A sample has no label, or several.
    """
    labels = []
    for sample in data_samples:
        if 'gt_score' in sample:
            labels.append(sample.gt_score.argmax().reshape(1))
        elif 'gt_label' in sample and sample.gt_label.numel() == 1:
            labels.append(sample.gt_label.reshape(1))
        else:
            raise ValueError(
                'an attack needs one gt_label or gt_score per sample; multi-label and unlabelled '
                'samples have none to lead away from'
            )
    return torch.cat([label.to(device) for label in labels])


def check_logits(logits: Any) -> Tensor:
    """Return ``logits`` (N, K) if attacks can work on them. Costs one transfer from the device.

    Raises:
        ValueError: They are no (N, K) tensor, not finite, or probabilities: a softmax saturates,
            its gradient vanishes, and an attack would report robustness that is not there.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f'an attack needs logits of shape (N, num_classes), the model gives {found}; attack a '
            'classifier with a classification head'
        )
    values = logits.detach().float()
    one_sum = (values.sum(1) - 1).abs() < 1e-3
    probable = ((values >= 0) & (values <= 1)).all(1) & one_sum
    finite, probabilities = torch.stack([values.isfinite().all(), probable.all()]).tolist()
    if not finite:
        raise ValueError('the model gives logits that are not finite; check its weights and inputs')
    if probabilities and len(values):
        raise ValueError(
            'the model gives probabilities (rows in [0, 1] that sum to 1) where logits are '
            'needed; remove the softmax from its head'
        )
    return logits


def logits_fn(
    classifier: nn.Module, bounds: Sequence[float] = (0, 255), check: bool = True
) -> LogitsFn:
    """Make the function from pixels to logits that attacks and smoothing call.

    It keeps whatever mode and grad state is current: wrap its use in :func:`attack_mode`.

    Args:
        classifier: Any MMPretrain classifier with ``mode='tensor'``, without DDP wrapper.
        bounds: See :meth:`PixelSpace.of`.
        check: Run :func:`check_logits` on the first call.

    Returns:
        Pixels (N, C, H, W) in [0, 1] -> logits (N, K), float32.

    Raises:
        ValueError: On the first call, see :func:`check_logits`.

    Example:
        >>> logits = logits_fn(classifier)
        >>> with attack_mode(classifier, images.device.type):
        ...     result = pgd(logits, images, labels, eps=8 / 255)
    """
    space = PixelSpace.of(classifier, bounds)
    unchecked = check

    def logits(pixels: Tensor) -> Tensor:
        nonlocal unchecked
        found = classifier(space.to_inputs(pixels), mode='tensor')
        if isinstance(found, tuple | list) and len(found) == 1:
            found = found[0]
        if isinstance(found, Tensor) and found.ndim == 1 and len(pixels) == 1:
            # MMPretrain's LeNet5 squeezes a batch of one.
            found = found[None]
        if unchecked:
            check_logits(found)
            unchecked = False
        return found.float()

    return logits


@contextmanager
def attack_mode(model: nn.Module, device_type: str = 'cpu') -> Iterator[None]:
    """Evaluate and differentiate by the input: the state in which a model is attacked.

    Inside, every submodule is in eval mode (batch norm neither learns from adversarial images nor
    mixes samples, no rank waits for another), parameters need no gradient, autograd is on even
    under ``no_grad``, and autocast is off: in half precision 0.999999 is 1 and its atanh infinite.
    Outside, everything is as it was, each submodule's ``training`` included (frozen stages), also
    after an exception. Differentiate with ``torch.autograd.grad``: ``backward`` would reach the
    hooks of DistributedDataParallel.

    Args:
        model: The attacked model, unwrapped.
        device_type: Of the inputs, 'cpu' or 'cuda'.
    """
    modules = [(module, module.training) for module in model.modules()]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for module, _ in modules:
            module.training = False
        for parameter in parameters:
            parameter.requires_grad_(False)
        with torch.enable_grad(), torch.autocast(device_type, enabled=False):
            yield
    finally:
        for module, training in modules:
            module.training = training
        for parameter in parameters:
            parameter.requires_grad_(True)


def load_classifier(cfg: 'Config', checkpoint: str, device: str = 'cpu') -> nn.Module:
    """Build the model of a config and load a checkpoint that must fit it.

    Args:
        cfg: Config of a run with a classifier of MMPretrain (or of an mmext model around one).
        checkpoint: Path or address of the weights.
        device: Where the model shall be.

    Returns:
        The model in eval mode.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: The config has no model, or the checkpoint does not fit it.
    """
    from mmengine.registry import MODELS, DefaultScope
    from mmengine.runner import load_checkpoint

    from mmext.launch.checkpoint import check_checkpoint

    if cfg.get('model') is None:
        raise ValueError(f'config {cfg.filename} has no model')
    settings = cfg.model.copy()
    if cfg.get('data_preprocessor') is not None:
        settings.setdefault('data_preprocessor', cfg.data_preprocessor)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmpretrain')):
        model = MODELS.build(settings)
    check_checkpoint(model, checkpoint)
    load_checkpoint(model, checkpoint, map_location='cpu', logger='silent')
    return model.to(device).eval()


def build_test_dataset(cfg: 'Config') -> Any:
    """Build the data set that ``cfg.test_dataloader`` names.

    Raises:
        ValueError: The config has no test data.
    """
    from mmengine.registry import DATASETS, init_default_scope

    loader = cfg.get('test_dataloader')
    if loader is None:
        raise ValueError(f'config {cfg.filename} has no test_dataloader: there are no images')
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    return DATASETS.build(loader.dataset)

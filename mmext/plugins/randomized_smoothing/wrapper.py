"""What both models of this plugin share: they hold a classifier."""

from typing import Any

from mmpretrain.models.classifiers import BaseClassifier
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from mmext.attacks.adversarial import PixelSpace

from .functional import check_sigma


class ClassifierWrapper(BaseClassifier):
    """A model around one MMPretrain classifier that works on noise in pixel space.

    The data preprocessor is the classifier's. Checkpoints of the bare classifier load as well.

    Args:
        classifier: Config of a classifier, or the classifier.
        sigma: Standard deviation of the noise in pixels of range [0, 1], > 0.
        data_preprocessor: For the classifier, unless that has its own. MMEngine's Runner passes
            the ``data_preprocessor`` of a config here.
        bounds: Range of the images that the data preprocessor receives.

    Raises:
        ValueError: ``sigma`` is not positive, or the classifier mixes images.
    """

    def __init__(
        self,
        classifier: dict | nn.Module,
        sigma: float,
        data_preprocessor: dict | nn.Module | None = None,
        bounds: tuple[float, float] = (0, 255),
    ) -> None:
        check_sigma(sigma)
        if not isinstance(classifier, nn.Module):
            settings = dict(classifier)
            if data_preprocessor is not None:
                settings.setdefault('data_preprocessor', data_preprocessor)
            classifier = MODELS.build(settings)
        super().__init__(data_preprocessor=classifier.data_preprocessor)
        self.classifier = classifier
        self.sigma = sigma
        self.bounds = bounds
        PixelSpace.of(classifier, bounds)
        self._register_load_state_dict_pre_hook(_accept_bare_classifier)

    @property
    def space(self) -> PixelSpace:
        """Map between pixels and inputs, on the device of the data preprocessor."""
        return PixelSpace.of(self.classifier, self.bounds)

    def extract_feat(self, inputs: Tensor, **kwargs: Any) -> Any:
        """Features of the classifier, without noise."""
        return self.classifier.extract_feat(inputs, **kwargs)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter in the classifier, for MMPretrain's layer-wise learning rates."""
        return self.classifier.get_layer_depth(param_name.removeprefix(f'{prefix}classifier.'))

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'
    ) -> Any:
        """Dispatch to the bare classifier ('tensor'), :meth:`predict` or :meth:`loss`.

        Raises:
            ValueError: Unknown ``mode``.
        """
        if mode == 'tensor':
            return self.classifier(inputs, mode='tensor')
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        raise ValueError(f"mode={mode!r} is unknown; choose 'tensor', 'predict' or 'loss'")


def _accept_bare_classifier(state_dict: dict, prefix: str, *_: Any) -> None:
    keys = [key for key in state_dict if key.startswith(prefix)]
    if any(key.startswith(f'{prefix}classifier.') for key in keys):
        return
    for key in keys:
        state_dict[f'{prefix}classifier.{key.removeprefix(prefix)}'] = state_dict.pop(key)

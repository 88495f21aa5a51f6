"""Networks whose features tell how near images are."""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmext.launch.records import sha256


class Extractor:
    """Images uint8 (N, C, H, W) to features (N, D) and class probabilities (N, K).

    Attributes:
        suffix: Of the names of the measures; '' for Inception alone.
        protocol: What the extractor is, for the protocol stamp.
        knows_classes: Whether its classes are those of the data.
    """

    suffix = ''
    protocol = ''
    knows_classes = False

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Extract, without gradients, on the device of the images."""
        raise NotImplementedError


class InceptionExtractor(Extractor):
    """Inception-v3 of FID as a TorchScript file that the user has.

    The file takes uint8 (N, 3, H, W), resizes by itself, and gives 2048 features with
    ``return_features=True`` and class probabilities with ``no_output_bias=True`` (the Inception
    score of the literature leaves that bias out), as the file ``inception-2015-12-05.pt`` of
    StyleGAN's authors does. Grey images are repeated.

    Args:
        path: Of the file.

    Raises:
        FileNotFoundError: There is no such file; nothing is downloaded.
        ValueError: It is no TorchScript file, or not that network.
    """

    def __init__(self, path: str | None = None) -> None:
        if path is None or not Path(path).is_file():
            raise FileNotFoundError(
                f'the Inception file {path} does not exist. FID and IS need a TorchScript '
                'Inception-v3 (inception-2015-12-05.pt of the StyleGAN authors); nothing is '
                "downloaded: put it there, or use extractor=dict(type='classifier', config=..., "
                'checkpoint=...), whose measures are named FID-C and IS-C'
            )
        try:
            self.network = torch.jit.load(path, map_location='cpu').eval()
        except RuntimeError as error:
            raise ValueError(f'{path} is no TorchScript file: {error}') from error
        known = {argument.name for argument in self.network.forward.schema.arguments}
        missing = {'return_features', 'no_output_bias'} - known
        if missing:
            raise ValueError(
                f'the network in {path} has no argument {" and ".join(sorted(missing))}: it is not '
                'the Inception-v3 that FID and IS are measured with'
            )
        self.protocol = f'inception {Path(path).name} sha256 {sha256(path)[:12]}'

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Extract."""
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        network = self.network.to(images.device)
        return network(images, return_features=True), network(images, no_output_bias=True)


class ClassifierExtractor(Extractor):
    """A classifier of MMPretrain, trained on the real data.

    Args:
        config: Path of its config, or ``pkg::path`` as in the tools.
        checkpoint: Its weights.

    Raises:
        FileNotFoundError: One of them does not exist; the message says how to train it.
        ValueError: The checkpoint does not fit the config.
    """

    suffix = '-C'
    knows_classes = True

    def __init__(self, config: str, checkpoint: str) -> None:
        from mmext.attacks.adversarial import load_classifier
        from mmext.launch import load_config

        cfg = load_config(config)
        if not Path(checkpoint).is_file():
            raise FileNotFoundError(
                f'the classifier {checkpoint} does not exist; train it: mmext train '
                f'{config} --work-dir {Path(checkpoint).parent}'
            )
        self.network: Any = load_classifier(cfg, checkpoint)
        preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
        # MMPretrain's preprocessors expect BGR then; generators make RGB.
        self._reverses = bool(preprocessor.get('to_rgb'))
        name = f'classifier {Path(config.rpartition("::")[2]).stem}'
        self.protocol = f'{name} sha256 {sha256(checkpoint)[:12]}'

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Extract."""
        network = self.network.to(images.device)
        images = images.flip(1) if self._reverses else images
        inputs = network.data_preprocessor({'inputs': images})['inputs']
        features = network.extract_feat(inputs)
        logits = network.head(features)
        features = features[-1] if isinstance(features, tuple | list) else features
        if features.ndim == 4:
            features = features.mean((2, 3))
        return features, logits.softmax(1)


class EfficientNetLite0Extractor(Extractor):
    """EfficientNet-Lite0 with the ImageNet weights of an installed package, nothing to download.

    Images are scaled to 224x224, bilinearly and with antialiasing. The features are the 1,280 that
    its classifier sees, the probabilities those of ImageNet's 1,000 classes, so IS says little
    where the images show none of them. Values compare neither with FID nor with other extractors.

    Raises:
        ImportError: The weights are not installed; the message is the command that installs them.
    """

    suffix = '-EfficientNetLite0'

    def __init__(self) -> None:
        from .efficientnet_features import PROTOCOL, EfficientNetFeatures

        self.network = EfficientNetFeatures((8,), with_logits=True)
        self.protocol = PROTOCOL

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Extract."""
        network = self.network.to(images.device)
        images = torch.nn.functional.interpolate(
            images.float() / 255, (224, 224), mode='bilinear', antialias=True
        )
        features, logits = network(images)
        return features.mean((2, 3)), logits.softmax(1)


EXTRACTORS: dict[str, type[Extractor]] = {
    'inception': InceptionExtractor,
    'classifier': ClassifierExtractor,
    'efficientnet_lite0': EfficientNetLite0Extractor,
}


def build_extractor(settings: dict) -> Extractor:
    """Build an extractor from ``dict(type=<one of EXTRACTORS>, ...)``.

    Raises:
        ValueError: Unknown type or arguments.
    """
    settings = dict(settings)
    kind = settings.pop('type', None)
    if kind not in EXTRACTORS:
        raise ValueError(f'extractor.type={kind!r} must be one of {", ".join(EXTRACTORS)}')
    known = [*inspect.signature(EXTRACTORS[kind].__init__).parameters][1:]
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise ValueError(f'extractor {kind!r} has no {unknown}; there are: {", ".join(known)}')
    return EXTRACTORS[kind](**settings)

"""How a GAN makes images outside of training."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmext.engine import rng

SAMPLE_MODELS = ('ema', 'orig', 'ema/orig')
STREAM = 'ctf_gan'


class SamplingGAN(BaseModel):
    """Modes 'tensor' and 'predict' of :class:`~mmext.plugins.ctf_gan.CTFGAN`.

    Args:
        data_preprocessor: See there.
        test_cfg: See there.
        init_cfg: See there.

    Raises:
        ValueError: An entry of ``test_cfg`` is unknown or out of its range.
    """

    generator: Any
    generator_ema: Any
    num_classes: int

    def __init__(
        self,
        data_preprocessor: dict | nn.Module,
        test_cfg: Mapping[str, Any] | None,
        init_cfg: dict | None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        defaults = {'sample_model': 'ema/orig', 'num_fakes': 1, 'seed': 0}
        unknown = [key for key in test_cfg or {} if key not in defaults]
        if unknown:
            raise ValueError(
                f'test_cfg has unknown entries {unknown}; there are: {", ".join(defaults)}'
            )
        self.test_cfg: dict[str, Any] = {**defaults, **(test_cfg or {})}
        if self.test_cfg['num_fakes'] < 1:
            raise ValueError(f'test_cfg.num_fakes={self.test_cfg["num_fakes"]} must be at least 1')
        check_sample_model(self.test_cfg['sample_model'])

    def make(
        self, generator: nn.Module, noise: Tensor, label: Tensor, return_lq: bool = False
    ) -> Any:
        """Images of ``generator``; with ``return_lq`` also its low-quality stage or None."""
        raise NotImplementedError

    def forward(
        self, inputs: Any, data_samples: Sequence[Any] | None = None, mode: str = 'tensor'
    ) -> Any:
        """Make images; training has ``train_step`` instead of a mode.

        Args:
            inputs: Noise (N, noise_size), or a dict with some of: ``noise``, ``num_batches`` (N),
                ``labels`` (N,), ``sample_model``, ``seed``; or with ``img``, real images.
            data_samples: With ``img``, their samples.
            mode: 'tensor': images in [-1, 1] of one generator; 'predict': data samples.

        Returns:
            'tensor': (N, C, H, H). 'predict': N samples with ``gt_label`` and ``fake_img`` (uint8),
            or, for ``sample_model='ema/orig'``, ``ema.fake_img`` and ``orig.fake_img``. With
            ``img`` always the latter, and ``gt_img``; ``num_fakes`` > 1 gives
            (num_fakes, C, H, H) for each.

        Raises:
            ValueError: Unknown ``mode`` or ``sample_model``, or labels out of range.
        """
        if mode not in ('tensor', 'predict'):
            raise ValueError(f"mode={mode!r} is unknown; choose 'tensor' or 'predict'")
        inputs = {'noise': inputs} if isinstance(inputs, Tensor) else dict(inputs)
        if 'img' in inputs and mode == 'predict':
            return self._predict_for(inputs['img'], data_samples or ())
        noise, label = self._requested(inputs)
        which = inputs.get('sample_model', self.test_cfg['sample_model'])
        check_sample_model(which)
        if mode == 'tensor':
            return self.sample(noise, label, which.partition('/')[0])
        names = self._names(which)
        made = {name: self._pixels(noise, label, name) for name in names}
        samples = []
        for row in range(len(noise)):
            samples.append(BaseDataElement(gt_label=label[row : row + 1]))
            for name, images in made.items():
                if len(names) == 1:
                    samples[-1].set_field(images[row], 'fake_img')
                else:
                    samples[-1].set_field(BaseDataElement(fake_img=images[row]), name)
        return samples

    @torch.no_grad()
    def sample(self, noise: Tensor, label: Tensor | None, sample_model: str = 'ema') -> Tensor:
        """Images (N, C, H, H) in [-1, 1] in eval mode; 'ema' without an average is 'orig'.

        Raises:
            ValueError: ``sample_model`` is neither 'ema' nor 'orig'.
        """
        if sample_model not in ('ema', 'orig'):
            raise ValueError(f"sample_model={sample_model!r} must be 'ema' or 'orig'")
        averaged = sample_model == 'ema' and self.generator_ema is not None
        network = self.generator_ema if averaged else bare(self.generator)
        if label is None:
            label = torch.zeros(len(noise), dtype=torch.long, device=noise.device)
        was_training = network.training
        network.eval()
        try:
            return self.make(network, noise, label)
        finally:
            network.train(was_training)

    def draw(self, count: int, seed: int, *key: Any) -> tuple[Tensor, Tensor]:
        """Noise (count, noise_size) and uniform labels (count,), a function of the key alone.

        Drawn on the CPU, so that every device sees the same.
        """
        generator = rng.generator(seed, *key)
        noise = torch.randn(count, bare(self.generator).noise_size, generator=generator)
        label = torch.randint(max(self.num_classes, 1), (count,), generator=generator)
        device = next(self.parameters()).device
        return noise.to(device), label.to(device)

    def labels_of(self, samples: Sequence[Any] | None, device: torch.device) -> Tensor:
        """Labels (N,) of data samples; zeros without classes.

        Raises:
            ValueError: Labels are missing or out of range.
        """
        if not self.num_classes:
            return torch.zeros(len(samples or ()), dtype=torch.long, device=device)
        labels = [getattr(sample, 'gt_label', None) for sample in samples or ()]
        if not labels or any(label is None for label in labels):
            raise ValueError(
                f'a GAN of {self.num_classes} classes needs gt_label in every data sample; '
                'num_classes=0 in generator and discriminator is a GAN without classes'
            )
        found = torch.as_tensor([int(label) for label in labels])  # type: ignore[arg-type]
        self._check_labels(found)
        return found.to(device)

    def _check_images(self, images: Tensor) -> None:
        generator = bare(self.generator)
        wanted = generator.out_channels, generator.output_scale, generator.output_scale
        if tuple(images.shape[1:]) != wanted:
            found, made = (' x '.join(map(str, shape)) for shape in (images.shape[1:], wanted))
            raise ValueError(
                f'images are {found}, but the generator makes {made}: change them in the pipeline, '
                'or output_scale and out_channels of the generator, input_scale and '
                'input_channels of the discriminator'
            )

    def _check_labels(self, labels: Tensor) -> None:
        low, high = int(labels.min()), int(labels.max())
        if self.num_classes and not 0 <= low <= high < self.num_classes:
            raise ValueError(
                f'labels {low}..{high} do not fit num_classes={self.num_classes} of the generator'
            )

    def _requested(self, inputs: dict) -> tuple[Tensor, Tensor]:
        noise, label = inputs.get('noise'), inputs.get('labels')
        count = inputs.get('num_batches', 1 if label is None else len(label))
        count = count if noise is None else len(noise)
        seed = inputs.get('seed', self.test_cfg['seed'])
        drawn, drawn_label = self.draw(count, seed, f'{STREAM}/sample', 0, 0)
        noise = drawn if noise is None else noise.to(drawn)
        label = drawn_label if label is None else torch.as_tensor(label).to(drawn_label)
        if len(label) != len(noise):
            raise ValueError(f'{len(label)} labels for {len(noise)} noise vectors')
        self._check_labels(label)
        return noise, label

    def _names(self, which: str) -> list[str]:
        has_average = self.generator_ema is not None
        names = [name for name in which.split('/') if name == 'orig' or has_average]
        return names or ['orig']

    def _pixels(self, noise: Tensor, label: Tensor, name: str) -> Tensor:
        return self.data_preprocessor.destruct(self.sample(noise, label, name))

    def _predict_for(self, images: Tensor, samples: Sequence[Any]) -> list[BaseDataElement]:
        """For each real image fakes of its class; the noise depends on the image's number alone."""
        self._check_images(images)
        labels = self.labels_of(samples, images.device)
        repeats, seed = self.test_cfg['num_fakes'], self.test_cfg['seed']
        noises = []
        for sample in samples:
            number = getattr(sample, 'sample_idx', None)
            if number is None:
                raise ValueError(
                    'samples need sample_idx, which decides the noise of an image: use '
                    'mmext.PackGANInputs, or sample_idx in meta_keys of PackInputs'
                )
            noises.append(self.draw(repeats, seed, f'{STREAM}/val', 0, int(number))[0])
        noise, wanted = torch.cat(noises), labels.repeat_interleave(repeats)
        real = self.data_preprocessor.destruct(images)
        names = self._names(self.test_cfg['sample_model'])
        made = {name: self._pixels(noise, wanted, name) for name in names}
        found = []
        for row in range(len(images)):
            found.append(BaseDataElement(gt_label=labels[row : row + 1], gt_img=real[row]))
            for name, fakes in made.items():
                mine = fakes[row * repeats : (row + 1) * repeats]
                fake = BaseDataElement(fake_img=mine[0] if repeats == 1 else mine)
                found[-1].set_field(fake, name)
        return found


def bare(network: Any) -> Any:
    """The network inside DistributedDataParallel."""
    return network.module if is_model_wrapper(network) else network


def check_sample_model(which: str) -> None:
    """Raise ValueError where ``which`` names no generator."""
    if which not in SAMPLE_MODELS:
        raise ValueError(f'sample_model={which!r} must be one of {", ".join(SAMPLE_MODELS)}')

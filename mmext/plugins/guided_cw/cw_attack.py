"""Guided CW in a data pipeline or in the data preprocessor."""

from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmext.attacks.adversarial import PixelSpace, attack_mode, load_classifier, logits_fn
from mmext.attacks.batch_attack import BatchAttack
from mmext.registry import TRANSFORMS

from .functional import GUIDES, cw_l2


@TRANSFORMS.register_module()
class CWAttack(BatchAttack):
    """Replace images by adversarial ones of least L2 distance.

    Two forms:

    - **Batch augment** of MMPretrain's data preprocessor: white-box on the model in training, on
      whole batches, bound by ``mmext.AttackModelHook``, see the example.
    - **Pipeline transform**: runs per sample in a loader worker, where there is no model in
      training. So it attacks a *frozen* source model that ``source`` names, on the CPU, for every
      sample anew. To pay once, make the images with ``mmext attack --save DIR`` and read them
      with ``mmext.LoadAdversarialImage``. Needs ``img`` and ``gt_label``; ``img`` becomes float32
      in its old range, since rounding to 8 bits undoes attacks of least norm.

    Images whose attack fails stay as they are.

    Args:
        source: ``dict(config=..., checkpoint=...)`` of the frozen model. Only for pipelines.
        probability: Share of the samples to attack, in [0, 1].
        steps, search_steps, lr, initial_const, guide, kappa: See
            :func:`.functional.cw_l2`. Defaults are ours and small: this runs in training.
        bounds: Range of the raw images.

    Raises:
        ValueError: A number outside its range.

    Example:
        >>> model = dict(data_preprocessor=dict(batch_augments=dict(augments=dict(
        ...     type='mmext.CWAttack', steps=10, search_steps=3))))
        >>> custom_hooks = [dict(type='mmext.AttackModelHook')]
        >>> pipeline = [dict(type='mmext.CWAttack', source=dict(config='victim.py',
        ...                  checkpoint='victim.pth')), dict(type='PackInputs')]

    Cost: ``steps * search_steps`` forward and backward passes of every attacked image.
    """

    stream = 'guided_cw'

    def __init__(
        self,
        source: dict | None = None,
        probability: float = 1.0,
        steps: int = 20,
        search_steps: int = 5,
        lr: float | None = None,
        initial_const: float | None = None,
        guide: str = 'gradient',
        kappa: float = 0.0,
        bounds: tuple[float, float] = (0, 255),
    ) -> None:
        super().__init__(bounds)
        if not 0 <= probability <= 1:
            raise ValueError(f'probability={probability} must be in [0, 1]')
        if guide not in GUIDES:
            raise ValueError(f'guide={guide!r} must be one of {", ".join(GUIDES)}')
        if source is not None and set(source) != {'config', 'checkpoint'}:
            raise ValueError(f'source must be dict(config=..., checkpoint=...), got {source}')
        self.source = source
        self.probability = probability
        self.settings: dict[str, Any] = dict(
            steps=steps, search_steps=search_steps, lr=lr, initial_const=initial_const,
            guide=guide, kappa=kappa,
        )  # fmt: skip
        self._frozen: nn.Module | None = None

    def perturb(self, model: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
        """Attack a drawn share of a batch, pixels (N, C, H, W) in [0, 1]."""
        rows = torch.arange(len(labels), device=pixels.device)
        if self.probability < 1:
            draw = torch.rand(len(labels), generator=self.generator())
            rows = (draw < self.probability).nonzero().squeeze(1).to(pixels.device)
        attacked = pixels.clone()
        if len(rows):
            found = cw_l2(
                logits_fn(model, self.bounds), pixels[rows], labels[rows], **self.settings
            )
            attacked[rows] = found.x_adv
        return attacked

    def transform(self, results: dict) -> dict:
        """Attack ``results['img']`` with the frozen source model.

        Raises:
            ValueError: There is no ``source``.
        """
        if self.source is None:
            raise ValueError(
                'mmext.CWAttack in a pipeline has no model in training to attack; give '
                'source=dict(config=..., checkpoint=...)'
            )
        if self.probability < 1 and np.random.rand() >= self.probability:
            return results
        if self._frozen is None:
            self._frozen = load_classifier(
                Config.fromfile(self.source['config']), self.source['checkpoint']
            )
        model = self._frozen
        flip = bool(getattr(model.data_preprocessor, 'to_rgb', False)) and results['img'].ndim == 3
        image = torch.from_numpy(np.atleast_3d(results['img']).astype(np.float32)).permute(2, 0, 1)
        image = image.flip(0) if flip and len(image) == 3 else image
        space = PixelSpace(bounds=(float(self.bounds[0]), float(self.bounds[1])))
        pixels = space.to_pixels(image)[None].contiguous()
        labels = torch.tensor([int(results['gt_label'])])
        with attack_mode(model):
            found = cw_l2(logits_fn(model, self.bounds), pixels, labels, **self.settings)
        image = space.to_inputs(found.x_adv)[0]
        image = image.flip(0) if flip and len(image) == 3 else image
        results['img'] = image.permute(1, 2, 0).numpy().reshape(results['img'].shape)
        return results

    def __getstate__(self) -> dict:
        # Each loader worker loads the frozen model itself.
        return {**super().__getstate__(), '_frozen': None}

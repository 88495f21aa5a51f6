"""Read adversarial images that mmext attack has saved."""

import json
from pathlib import Path

import numpy as np

from mmext.registry import TRANSFORMS

INDEX = 'index.json'


def image_name(sample_idx: int) -> str:
    """File of a sample below the folder of saved images."""
    return f'{sample_idx:07d}.npy'


def write_index(folder: Path, settings: dict) -> None:
    """Say what the images of ``folder`` are made of."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).write_text(json.dumps(settings, indent=2) + '\n')


@TRANSFORMS.register_module()
class LoadAdversarialImage:
    """Take a sample's image from a folder written by ``mmext attack --save DIR``.

    Stands where ``LoadImageFromFile`` and the geometric transforms before the attack were: the
    saved image is what the attacked model saw, after the pipeline of its test data, so no resize or
    crop must come between. Images are float32 in the range of the raw pixels, (H, W, C), BGR where
    the pipeline's are; nothing is rounded to 8 bits. Samples are found by ``sample_idx``, so the
    data set must be the attacked one.

    Args:
        folder: The ``DIR`` of ``--save``.

    Raises:
        FileNotFoundError: ``folder`` was not written by the tool, or lacks a sample.

    Example:
        >>> pipeline = [dict(type='mmext.LoadAdversarialImage', folder='work_dirs/adv'),
        ...             dict(type='PackInputs')]
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        if not (self.folder / INDEX).is_file():
            raise FileNotFoundError(
                f'{folder} has no {INDEX}: make it with mmext attack CONFIG CHECKPOINT --save '
                f'{folder}'
            )

    def __call__(self, results: dict) -> dict:
        """Set ``img``, ``img_shape`` and ``ori_shape``."""
        return self.transform(results)

    def transform(self, results: dict) -> dict:
        """Set ``img``, ``img_shape`` and ``ori_shape``.

        Raises:
            FileNotFoundError: The sample was not attacked.
        """
        path = self.folder / image_name(results['sample_idx'])
        if not path.is_file():
            raise FileNotFoundError(
                f'{path} does not exist: sample {results["sample_idx"]} was not attacked; run '
                'mmext attack on the whole data set'
            )
        results['img'] = np.load(path)
        results['img_shape'] = results['ori_shape'] = results['img'].shape[:2]
        return results

    def __repr__(self) -> str:
        return f'LoadAdversarialImage(folder={str(self.folder)!r})'

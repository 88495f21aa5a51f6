"""Keep attacked images for the figure of the documentation.

Plain and guided CW attack the first test images that the network of the study on glyphs (seed 0)
classifies rightly, with 5 constants, 50 steps and the learning rate 0.01. Writes
``results/pictures/glyphs.png``, a row of images for clean, CW and guided CW each (where an attack
fails, the clean image), and ``glyphs.json``, what the network makes of them.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'projects'), str(Path(__file__).resolve().parent)]

from harness.folders import write_json  # noqa: E402
from victims import CONFIGS, load  # noqa: E402

from mmext.attacks.adversarial import attack_mode, logits_fn  # noqa: E402
from mmext.plugins.guided_cw import cw_l2  # noqa: E402

IMAGES, CONSTANTS, STEPS = 8, 5, 50
OUT = Path(__file__).resolve().parent / 'results/pictures'


def strip(images: Tensor) -> np.ndarray:
    """Images (N, 1, H, W) in [0, 1] beside each other, uint8 (H, N W)."""
    return (255 * np.concatenate(list(images[:, 0].numpy()), axis=1)).round().astype(np.uint8)


def main() -> None:
    """Attack, and write the images and the numbers."""
    victim = load('glyphs', 0, 'test', IMAGES, ROOT / 'work_dirs/guided_cw', quick=False)
    names = DATASETS.build(Config.fromfile(ROOT / CONFIGS['glyphs']).test_dataloader.dataset)
    characters = names.metainfo['classes']
    rows = [strip(victim.images)]
    told: dict[str, object] = {'clean': [characters[label] for label in victim.labels]}
    with attack_mode(victim.model):
        network = logits_fn(victim.model)
        for method, guide in (('CW', 'none'), ('guided CW', 'gradient')):
            found = cw_l2(
                network, victim.images, victim.labels, steps=STEPS, search_steps=CONSTANTS,
                guide=guide, abort_early=False,
            )  # fmt: skip
            rows.append(strip(found.x_adv))
            seen = network(found.x_adv).argmax(1)
            told[method] = [
                {'seen as': characters[label], 'L2': round(l2, 3)} if success else None
                for label, l2, success in zip(seen, found.l2.tolist(), found.success, strict=True)
            ]
    OUT.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(OUT / 'glyphs.png'), np.concatenate(rows))
    write_json(OUT / 'glyphs.json', told, indent=1)


if __name__ == '__main__':
    main()

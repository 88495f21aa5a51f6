"""The standard robust evaluation beside the reference AutoAttack: agreement and time.

Both attack the first test images of networks of the zoo, or of ``--config`` and ``--checkpoint``.
The reference is the package pyautoattack; where it is not installed, only ours runs.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'projects')]

from harness.folders import write_json  # noqa: E402

from mmext import zoo  # noqa: E402
from mmext.attacks.adversarial import (  # noqa: E402
    PixelSpace,
    attack_mode,
    build_test_dataset,
    load_classifier,
    logits_fn,
)
from mmext.attacks.standard import PARTS, standard  # noqa: E402

#: Network, norm and strength; strengths at which some images stand and some fall.
CASES = (
    ('lenet_mnist', 'linf', 0.1),
    ('lenet_mnist', 'l2', 1.0),
    ('resnet20_cifar10-jpeg', 'linf', 1 / 255),
    ('c1_cifar10-jpeg', 'l2', 0.15),
)


def reference(logits, x, y, norm: str, eps: float) -> torch.Tensor | None:
    """What the reference breaks, bool (N,), or None where it is not installed."""
    try:
        from pyautoattack import AutoAttack
    except ImportError:
        return None
    attack = AutoAttack(logits, norm={'linf': 'Linf', 'l2': 'L2'}[norm], eps=eps, seed=0)
    attacked, *_ = attack.run_standard_evaluation(x.clone(), y, batch_size=len(x))
    with torch.no_grad():
        return logits(attacked).argmax(1) != y


def compare(name: str, cfg: Config, checkpoint: str, norm: str, eps: float, images: int) -> dict:
    """Robust accuracy, agreement and CPU seconds of both."""
    model = load_classifier(cfg, checkpoint)
    dataset = build_test_dataset(cfg)
    items = [dataset[index] for index in range(images)]
    data = model.data_preprocessor({key: [item[key] for item in items] for key in items[0]}, False)
    x = PixelSpace.of(model).to_pixels(data['inputs']).clamp(0, 1)
    y = torch.cat([sample.gt_label for sample in data['data_samples']])
    with attack_mode(model):
        logits = logits_fn(model)
        began = time.process_time()
        draws = torch.Generator().manual_seed(0)
        found = standard(logits, x, y, eps=eps, norm=norm, generator=draws)
        seconds = time.process_time() - began
        theirs = reference(logits, x, y, norm, eps)
        theirs_seconds = time.process_time() - began - seconds
    told = {
        'network': name, 'norm': norm, 'eps': eps, 'images': images,
        'robust %': 100 * float((~found.success).float().mean()),
        'seconds': seconds,
        'broken by': {part: int((found.by == i).sum()) for i, part in enumerate(PARTS)},
    }  # fmt: skip
    if theirs is not None:
        told |= {
            'reference robust %': 100 * float((~theirs).float().mean()),
            'agree %': 100 * float((theirs == found.success).float().mean()),
            'ours alone': int((found.success & ~theirs).sum()),
            'reference alone': int((theirs & ~found.success).sum()),
            'reference seconds': theirs_seconds,
        }
    return told


def main() -> None:
    """Compare, print and write ``agreement.json`` after each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', type=int, default=200)
    parser.add_argument('--cases', type=int, nargs='+', default=range(len(CASES)))
    parser.add_argument('--config')
    parser.add_argument('--checkpoint')
    parser.add_argument('--norm', default='linf')
    parser.add_argument('--eps', type=float, default=0.2)
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/mat')
    args = parser.parse_args()
    torch.set_num_threads(1)
    made = []
    if args.config:
        cfg = Config.fromfile(args.config)
        jobs = [(args.config, cfg, args.checkpoint, args.norm, args.eps)]
    else:
        jobs = []
        for index in args.cases:
            name, norm, eps = CASES[index]
            entry = zoo.find(name)
            jobs.append((name, Config.fromfile(entry.config), str(entry.weights), norm, eps))
    for job in jobs:
        made.append(compare(*job, args.images))
        print(made[-1], flush=True)
        write_json(args.work_dir / 'agreement.json', made, indent=2)


if __name__ == '__main__':
    main()

"""CW-L2 of mmext, foolbox, ART, adv-lib and torchattacks: time and L2 at equal settings.

The libraries take turns in one process and attack the same images of the same model. ART has no
Adam: its own line search runs for the same number of iterations. torchattacks has no search for the
constant: it gets the product of the steps with a constant of 1.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'projects'), str(Path(__file__).resolve().parent)]

from evidence import summary, write_result  # noqa: E402
from victims import load  # noqa: E402

import mmext  # noqa: E402, F401
from mmext.engine.adversarial import attack_mode, logits_fn  # noqa: E402
from mmext.plugins.guided_cw import cw_l2  # noqa: E402


class Pixels(nn.Module):
    """The victim as a module on pixels, for the other libraries."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.logits = logits_fn(model, check=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of pixels in [0, 1]."""
        return self.logits(pixels)


def attacks(net: nn.Module, search_steps: int, steps: int) -> dict:
    """Name -> function of images and labels."""
    import foolbox
    import torchattacks
    from adv_lib.attacks import carlini_wagner_l2
    from art.attacks.evasion import CarliniL2Method
    from art.estimators.classification import PyTorchClassifier

    ours = {'steps': steps, 'search_steps': search_steps, 'lr': 0.01}
    theirs = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=search_steps, steps=steps, stepsize=0.01, initial_const=1e-3
    )

    def with_foolbox(x, y):
        model = foolbox.PyTorchModel(net, bounds=(0, 1), device='cpu')
        return theirs(model, x, y, epsilons=None)[0]

    def with_art(x, y):
        classifier = PyTorchClassifier(
            net, nn.CrossEntropyLoss(), x.shape[1:], int(net(x[:1]).shape[1]), clip_values=(0, 1),
            device_type='cpu',
        )  # fmt: skip
        attack = CarliniL2Method(
            classifier, confidence=0, learning_rate=0.01, binary_search_steps=search_steps,
            max_iter=steps, initial_const=1e-3, batch_size=len(x), verbose=False,
        )  # fmt: skip
        return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))

    return {
        'mmext CW': lambda x, y: cw_l2(net, x, y, **ours).x_adv,
        'mmext CW, warm start': lambda x, y: cw_l2(net, x, y, warm_start=True, **ours).x_adv,
        'mmext guided CW': lambda x, y: cw_l2(net, x, y, guide='gradient', **ours).x_adv,
        'adv-lib': lambda x, y: carlini_wagner_l2(
            net, x, y, binary_search_steps=search_steps, max_iterations=steps, learning_rate=0.01
        ),
        'foolbox': with_foolbox,
        'ART': with_art,
        'torchattacks': lambda x, y: torchattacks.CW(net, c=1, steps=search_steps * steps, lr=0.01)(
            x, y
        ),
    }


def _yes(value: bool) -> str:
    return 'yes' if value else 'no'


def main() -> None:
    """Time, judge and write results/speed.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='few steps, no result file')
    parser.add_argument('--work-dir', dest='work', type=Path, default=ROOT / 'work_dirs/guided_cw')
    parser.add_argument('--images', type=int, default=32)
    parser.add_argument('--steps', type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    search_steps, repeats = 9, 3
    if args.quick:
        args.images, args.steps, search_steps, repeats = 4, 10, 2, 1
    out = (args.work if args.quick else Path(__file__).resolve().parent) / 'results'
    victim = load('digits', 0, 'test', args.images, args.work, args.quick)
    net = Pixels(victim.model).eval()
    runs: dict = {}
    with attack_mode(victim.model):
        methods = attacks(net, search_steps, args.steps)
        for _ in range(repeats):
            for name, attack in methods.items():
                began = time.process_time()
                found = attack(victim.images.clone(), victim.labels.clone()).float()
                seconds = time.process_time() - began
                with torch.no_grad():
                    hit = net(found).argmax(1) != victim.labels
                # foolbox gives black images for failures, and black may count as adversarial.
                hit &= found.flatten(1).any(1)
                l2 = (found - victim.images).flatten(1).norm(dim=1)
                median = float(torch.where(hit, l2, torch.inf).median())
                runs.setdefault(name, []).append((seconds, 100 * float(hit.float().mean()), median))
                sys.stdout.write(f'{name}: {seconds:.1f} s, {runs[name][-1][1:]}\n')
                sys.stdout.flush()
    rows = []
    for name, values in runs.items():
        seconds, success, median = map(list, zip(*values, strict=True))
        ratios = [a / b[0] for a, b in zip(seconds, runs['mmext CW'], strict=True)]
        told = {
            's': summary(seconds),
            'success %': summary(success),
            'time / ours': summary(ratios),
        }
        if np.isfinite(median).all():
            told['median L2'] = summary(median)
        rows.append({'method': name, 'setting': f'{search_steps}x{args.steps}', 'metrics': told})
    told = {row['method']: row['metrics'] for row in rows}
    needed = [told[name] for name in ('foolbox', 'ART')]
    faster = [other['time / ours']['mean'] >= 3 for other in needed]
    mine = told['mmext CW'].get('median L2', {'mean': np.inf})['mean']
    nearer = [mine <= o.get('median L2', {'mean': np.inf})['mean'] * 1.001 for o in needed]
    verdict = 'met' if all(faster + nearer) else 'partly' if any(faster) else 'not met'
    write_result(
        out / 'speed.json',
        claim='CW at least 3 times as fast as foolbox and ART at equal settings, with equal or '
        'smaller L2 (ours)',
        paper=None,
        command='python projects/guided_cw/speed.py',
        data={'set': 'digits', 'images': len(victim.images)},
        seeds=[0],
        rows=rows,
        verdict=verdict,
        why=f'CPU time of one thread, libraries interleaved, {repeats} rounds; '
        f'{search_steps} constants x {args.steps} steps, lr 0.01. At least 3 times as fast as '
        f'foolbox: {_yes(faster[0])}, as ART: {_yes(faster[1])}; median L2 equal or smaller than '
        f'foolbox: {_yes(nearer[0])}, than ART: {_yes(nearer[1])}.',
    )


if __name__ == '__main__':
    main()

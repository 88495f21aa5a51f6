"""CW-L2 of mmext, foolbox, ART, adv-lib and torchattacks: time and L2 at equal settings.

The libraries take turns in one process and attack the same images of the same model. ART has no
Adam: its own line search runs for the same number of iterations. torchattacks has no search for the
constant: it gets the product of the steps with a constant of 1.
"""

import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'projects'), str(Path(__file__).resolve().parent)]

from benchmark import in_turns, options  # noqa: E402
from evidence import row, write_result  # noqa: E402
from victims import load  # noqa: E402

from mmext.attacks.adversarial import attack_mode, logits_fn  # noqa: E402
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


def main() -> None:
    """Time, judge and write results/speed.json."""
    args = options(__doc__, work_dir=ROOT / 'work_dirs/guided_cw')
    torch.set_num_threads(1)
    images, steps, search_steps, repeats = (4, 10, 2, 1) if args.quick else (32, 200, 9, 3)
    out = (args.work_dir if args.quick else Path(__file__).resolve().parent) / 'results'
    victim = load('digits', 0, 'test', images, args.work_dir, args.quick)
    net = Pixels(victim.model).eval()

    def measured(attack) -> tuple[float, float, float]:
        """CPU seconds, success in percent and median L2."""
        began = time.process_time()
        found = attack(victim.images.clone(), victim.labels.clone()).float()
        seconds = time.process_time() - began
        with torch.no_grad():
            hit = net(found).argmax(1) != victim.labels
        # foolbox gives black images for failures, and black may count as adversarial.
        hit &= found.flatten(1).any(1)
        l2 = (found - victim.images).flatten(1).norm(dim=1)
        return (
            seconds,
            100 * float(hit.float().mean()),
            float(torch.where(hit, l2, torch.inf).median()),
        )

    with attack_mode(victim.model):
        ways = {name: partial(measured, attack)
                for name, attack in attacks(net, search_steps, steps).items()}  # fmt: skip
        runs = in_turns(ways, repeats, warm_up=0)
    rows = []
    for name, values in runs.items():
        seconds, success, median = zip(*values, strict=True)
        ratios = [a / b[0] for a, b in zip(seconds, runs['mmext CW'], strict=True)]
        told = {'s': seconds, 'success %': success, 'time / ours': ratios}
        if np.isfinite(median).all():
            told['median L2'] = median
        rows.append(row(name, f'{search_steps}x{steps}', told))
        print(name, values)
    told = {row['method']: row['metrics'] for row in rows}
    faster = [told[name]['time / ours']['mean'] >= 3 for name in ('foolbox', 'ART')]
    mine, *others = (told[name].get('median L2', {'mean': np.inf})['mean']
                     for name in ('mmext CW', 'foolbox', 'ART'))  # fmt: skip
    nearer = [mine <= other * 1.001 for other in others]
    yes = ['yes' if value else 'no' for value in faster + nearer]
    write_result(
        out / 'speed.json',
        claim='CW at least 3 times as fast as foolbox and ART at equal settings, with equal or '
        'smaller L2 (ours)',
        command='python projects/guided_cw/speed.py',
        data={'set': 'digits', 'images': len(victim.images)},
        rows=rows,
        verdict='met' if all(faster + nearer) else 'partly' if any(faster) else 'not met',
        why=f'CPU time of one thread, libraries interleaved, {repeats} rounds; '
        f'{search_steps} constants x {steps} steps, lr 0.01. At least 3 times as fast as '
        f'foolbox: {yes[0]}, as ART: {yes[1]}; median L2 equal or smaller than foolbox: {yes[2]}, '
        f'than ART: {yes[3]}.',
    )


if __name__ == '__main__':
    main()

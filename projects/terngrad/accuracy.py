"""Accuracy of ternary against float gradients: digits, 1 to 8 workers, SGD and Adam, five seeds.

The batch of 64 is split over the workers, so a float run is the same for any number of them. All
hyper-parameters are equal and none was tuned.
"""

import itertools
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'projects')]

import torch  # noqa: E402
from harness.grid import Run  # noqa: E402
from harness.report import Found, figure  # noqa: E402
from harness.study import Arm, Rule, Study  # noqa: E402
from mmengine.optim import OptimWrapper  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from mmext.datasets.digits import handwritten_digits  # noqa: E402
from mmext.engine import rng  # noqa: E402
from mmext.plugins.terngrad import TernGradOptimWrapper  # noqa: E402

OPTIMIZERS = ('SGD-momentum', 'Adam')
# Added when Adam had lost: is it slower, or worse?
LONG = 'Adam, 3x epochs'
METHODS = ('float', 'TernGrad', 'TernGrad, no clipping')
WORKERS = (1, 2, 4, 8)
BATCH, EPOCHS = 64, 20
Case = tuple[str, str, int]


def network() -> nn.Module:
    """Two convolutions and two fully connected layers, 29,830 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(128, 180), nn.ReLU(), nn.Linear(180, 10),
    )  # fmt: skip


def digits(*splits: str) -> tuple[Tensor, Tensor]:
    """Images ``(n, 1, 8, 8)`` around zero and labels."""
    pairs = [handwritten_digits(split) for split in splits]
    images = torch.cat([torch.from_numpy(images.copy()) for images, _ in pairs])
    labels = torch.cat([torch.from_numpy(labels.copy()) for _, labels in pairs])
    return images.float().unsqueeze(1) / 8 - 1, labels


def train(run: Run) -> dict:
    """One run; percent of errors on held-out digits, and the last training loss."""
    optimizer, method, workers = (run.arm.options[k] for k in ('optimizer', 'method', 'workers'))
    if run.speed:
        raise ValueError(f'{run.speed}: this study trains in float32 and one memory format')
    torch.manual_seed(rng.derive_seed(run.seed, 'accuracy'))
    model = network()
    epochs = (1 if run.quick else EPOCHS) * (3 if optimizer == LONG else 1)
    if optimizer != 'SGD-momentum':
        inner: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    else:
        inner = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    if method == 'float':
        wrapper = OptimWrapper(inner)
    else:
        wrapper = TernGradOptimWrapper(
            optimizer=inner, clip_factor=2.5 if method == 'TernGrad' else None, seed=run.seed,
            virtual_workers=True, accumulative_counts=workers,
        )  # fmt: skip
    images, labels = (part[: 128 if run.quick else None] for part in digits('train'))
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(inner, steps)
    order = torch.Generator().manual_seed(rng.derive_seed(run.seed, 'order'))
    began = time.perf_counter()
    for _ in range(epochs):
        shuffled = torch.randperm(len(images), generator=order)
        for chosen in shuffled[: steps // epochs * BATCH].split(BATCH):
            for part in chosen.chunk(workers):
                with wrapper.optim_context(model):
                    loss = nn.functional.cross_entropy(model(images[part]), labels[part])
                wrapper.update_params(loss)
            schedule.step()
    minutes = (time.perf_counter() - began) / 60
    held, truth = digits(*(('val',) if run.split == 'val' else ('val', 'test')))
    with torch.no_grad():
        wrong = (model(held).argmax(1) != truth).double().mean().item()
        final = nn.functional.cross_entropy(model(images), labels).item()
    return {'error': 100 * wrong, 'train_loss': final, 'minutes': minutes}


def cases() -> list[Case]:
    """All (optimizer, method, workers)."""
    found = [
        (optimizer, method, workers)
        for optimizer, method in itertools.product(OPTIMIZERS, METHODS)
        for workers in ((1,) if method == 'float' else WORKERS)
    ]
    return found + [(LONG, 'float', 1), (LONG, 'TernGrad', 1), (LONG, 'TernGrad', 4)]


def name(case: Case) -> str:
    """Of an arm."""
    optimizer, method, workers = case
    return f'{method}, {optimizer}' + ('' if method == 'float' else f', N={workers}')


def rows(found: Found) -> list[dict]:
    """Rows of the result, each with the setting of its case."""
    settings = {
        name(case): f'batch {BATCH} in {case[2]} parts, {EPOCHS} epochs, {case[0]}'
        for case in cases()
    }
    return [row | {'setting': settings[row['method']]} for row in found.rows()]


def judge(found: Found) -> tuple[str, str]:
    """Verdict: mean loss of accuracy with clipping below 2 points in every case."""
    losses = {
        case: found.mean(name(case)) - found.mean(name((case[0], 'float', 1)))
        for case in cases()
        if case[1] != 'float'
    }

    def spans(method: str, *optimizers: str) -> str:
        parts = []
        for optimizer in optimizers:
            found = [loss for case, loss in losses.items() if case[:2] == (optimizer, method)]
            parts.append(f'{optimizer} {min(found):+.2f} to {max(found):+.2f}')
        return ', '.join(parts)

    worst = max(loss for case, loss in losses.items()
                if case[0] in OPTIMIZERS and case[1] == 'TernGrad')  # fmt: skip
    return 'partly' if worst < 2 else 'not met', (
        f'change of the error in points with clipping: {spans("TernGrad", *OPTIMIZERS, LONG)}; '
        f'without: {spans(METHODS[2], *OPTIMIZERS)}. The bound of 2 points '
        f'{"holds" if worst < 2 else "does not hold"} on digits at equal epochs; AlexNet and '
        'GoogLeNet on ImageNet were not run.'
    )


def draw(result: dict, folder: Path, found: Found) -> None:
    """Error over the number of workers."""
    told = {row['method']: row['metrics']['error %'] for row in result['rows']}
    colours = dict(zip(METHODS, ('black', 'tab:orange', 'tab:blue'), strict=True))
    with figure(folder / 'accuracy.png', columns=2, size=(4.5, 3.6)) as panels:
        for axis, optimizer in zip(panels, OPTIMIZERS, strict=True):
            base = told[name((optimizer, 'float', 1))]
            axis.axhline(base['mean'], color=colours['float'], label='float')
            low, high = (base['mean'] + sign * base['std'] for sign in (-1, 1))
            axis.axhspan(low, high, color=colours['float'], alpha=0.12)
            for method in METHODS[1:]:
                points = [(n, told[case]) for n in WORKERS
                          if (case := name((optimizer, method, n))) in told]  # fmt: skip
                axis.errorbar(
                    [n for n, _ in points], [value['mean'] for _, value in points],
                    [value['std'] for _, value in points], color=colours[method], marker='o',
                    capsize=3, label=method,
                )  # fmt: skip
            axis.set_xscale('log', base=2)
            axis.set_xticks(WORKERS, WORKERS)
            axis.set_title(optimizer, fontsize=10)
            axis.set(xlabel='workers', ylabel='error, % (719 digits)')
        panels[0].legend(fontsize=8)


STUDY = Study(
    name='accuracy',
    script=__file__,
    claim='TernGrad does not lose accuracy on AlexNet and less than 2 % elsewhere; clipping is '
    'needed',
    paper='top-1 57.33 float, 57.28 to 57.61 TernGrad, 54.63 without clipping (AlexNet)',
    data=lambda work, quick: {
        'set': 'handwritten digits, 8 px', 'train': 1078, 'held out': 'val + test, 719'
    },
    arms=tuple(
        Arm(name(case), name(case), dict(optimizer=case[0], method=case[1], workers=case[2]))
        for case in cases()
    ),
    seeds=(0, 1, 2, 3, 4),
    train=train,
    metrics=lambda record: {
        'error %': record['error'], 'train cross-entropy': record['train_loss']
    },
    metric='error %',
    higher=False,
    costs={'minutes': 'minutes'},
    rows=rows,
    sources=(network, digits),
    rule=Rule(
        'partly, as ImageNet is out of reach: with clipping the mean error rises by less than 2 '
        'points in every case of equal epochs; not met: in some case by more',
        judge,
        compare=tuple((name((optimizer, method, 4)), name((optimizer, 'float', 1)))
                      for optimizer in OPTIMIZERS for method in METHODS[1:]),
        smallest_effect=2.0,
    ),
    draw=draw,
    quick_arms=tuple(name(case) for case in cases() if case[2] < 4),
)  # fmt: skip

if __name__ == '__main__':
    STUDY.main()

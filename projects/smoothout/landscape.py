"""A sharp and a flat minimum in one and two dimensions: which of them holds the iterates?

Every start of a grid is a row of one parameter, trained by MMEngine's Runner with and without
SmoothOutHook; the noise of each row is its own. The sharp minimum is the deeper one.
"""

import json
import sys
from itertools import product
from pathlib import Path

import mmengine.runner.runner
import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'projects')]

from benchmark import options  # noqa: E402
from evidence import row, write_result  # noqa: E402
from harness.report import figure  # noqa: E402

SHARP, FLAT = (0.0, 1.55, 0.1), (2.5, 2.0, 1.5)  # place on the first axis, depth, width
STRENGTH, LR, ITERATIONS, DRAWS = 1.2, 0.01, 1500, 5
METHODS = {'gradient descent': 0.0, 'SmoothOut': STRENGTH}
OUT = Path(__file__).resolve().parent / 'results'


def loss(x: Tensor) -> Tensor:
    """Loss ``(N,)`` of points ``(N, d)``: two wells of Gaussian shape."""
    total = torch.zeros(x.shape[:-1], dtype=x.dtype)
    for place, depth, width in (SHARP, FLAT):
        centre = torch.zeros(x.shape[-1], dtype=x.dtype)
        centre[0] = place
        total = total - depth * torch.exp(-(x - centre).square().sum(-1) / (2 * width**2))
    return total


class Points(BaseModel):
    """Independent points that descend the loss."""

    def __init__(self, starts: np.ndarray) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.tensor(starts))

    def forward(self, index, mode='loss'):
        """Sum over the points, so that each has its own gradient."""
        return {'loss': loss(self.points).sum()}


def starts(dimensions: int) -> np.ndarray:
    """Grid of starts in the well of the sharp minimum, each several times."""
    axis = np.linspace(-0.15, 0.15, 31 if dimensions == 1 else 9)
    grid = np.stack(np.meshgrid(*[axis] * dimensions, indexing='ij'), -1)
    return np.repeat(grid.reshape(-1, dimensions), DRAWS, 0)


def descend(dimensions: int, strength: float, iterations: int, out: Path) -> np.ndarray:
    """Positions after the training, ``(N, d)``."""
    hooks = [dict(type='mmext.SmoothOutHook', strength=strength)] if strength else []
    model = Points(starts(dimensions))
    runner = Runner(
        model=model,
        work_dir=str(out),
        train_dataloader=dict(
            dataset=[dict(index=0)], batch_size=1, num_workers=0,
            sampler=dict(type='InfiniteSampler'), collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=False, max_iters=iterations),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=LR)),
        default_hooks=dict(logger=None, checkpoint=None),
        custom_hooks=hooks,
        randomness=dict(seed=0),
        log_level='ERROR',
        experiment_name=f'landscape{dimensions}-{strength}',
    )  # fmt: skip
    runner.train()
    return model.points.detach().numpy()


def draw(result: dict, path: Path) -> None:
    """Both landscapes with the ends of all starts."""
    colours = {'gradient descent': 'tab:red', 'SmoothOut': 'tab:blue'}
    with figure(path, columns=2, size=(4.5, 3.6)) as (left, right):
        x = torch.linspace(-2.5, 6, 1701, dtype=torch.float64)
        values = loss(x[:, None])
        left.plot(x, values, 'k', lw=1.2, label='loss L(w)')
        half = int(STRENGTH / 0.005)
        smooth = np.convolve(values, np.ones(2 * half + 1) / (2 * half + 1), mode='valid')
        left.plot(x[half:-half], smooth, 'k--', lw=1.2, label='E L(w + n)')
        axis = torch.linspace(-1.2, 4, 300, dtype=torch.float64)
        grid = torch.stack(torch.meshgrid(axis, axis - 1.4, indexing='xy'), -1)
        right.contour(axis, axis - 1.4, loss(grid), 14, colors='0.6', linewidths=0.7)
        for row in result['rows']:
            ends = np.array(row['ends'])
            marker = dict(color=colours[row['method']], marker='o', s=14, alpha=0.5, zorder=3)
            label = f'end of {row["method"]}'
            if ends.shape[1] == 1:
                left.scatter(ends[:, 0], loss(torch.tensor(ends)), label=label, **marker)
            else:
                right.scatter(*ends.T, label=label, **marker)
        first = starts(2)
        right.scatter(*first.T, marker='s', s=3, color='k', label='starts')
        left.set(xlabel='weight w', ylabel='loss', title='one dimension', xlim=(-1.3, 4.8))
        right.set(xlabel='weight 1', ylabel='weight 2', title='two dimensions', aspect='equal')
        for axes in (left, right):
            axes.legend(fontsize=7, loc='upper right')


def main() -> None:
    """Run, write results/landscape.json and draw results/landscape.png from it."""
    args = options(__doc__, work_dir=ROOT / 'work_dirs/smoothout', out=OUT)
    mmengine.runner.runner.collect_env = dict
    torch.set_num_threads(1)
    iterations = 20 if args.quick else ITERATIONS
    rows, shares = [], []
    for dimensions, (method, strength) in product((1, 2), METHODS.items()):
        flat = np.eye(1, dimensions)[0] * FLAT[0]
        ends = descend(dimensions, strength, iterations, args.work_dir / 'landscape')
        near = np.linalg.norm(ends - flat, axis=1) < FLAT[2] / 2
        # One share for each time that the grid is repeated.
        shares.append((100 * near.reshape(-1, DRAWS).mean(0)).tolist())
        setting = f'{dimensions}-D, {len(ends) // DRAWS} starts in the sharp well'
        told = {f'% in the flat minimum, {dimensions}-D': shares[-1]}
        rows.append(row(method, setting, told, ends=ends.round(4).tolist()))
        print(f'{dimensions}-D {method}: {shares[-1]}')
    met = not any(shares[0] + shares[2]) and min(shares[1] + shares[3]) == 100
    path = args.out / 'landscape.json'
    write_result(
        path,
        claim='SmoothOut can eliminate sharp minima',
        command='python projects/smoothout/landscape.py',
        data={'sharp minimum (place, depth, width)': SHARP, 'flat': FLAT, 'strength': STRENGTH,
              'iterations': iterations, 'draws': DRAWS},
        rows=rows,
        verdict='not testable here' if args.quick else 'met' if met else 'not met',
        why='the same starts and steps with and without the hook; the sharp minimum is the deeper '
        'one. With this strength, chosen from the formula, a ripple is all that the smoothed loss '
        'keeps of it. Draws are independent noises from every start.',
    )  # fmt: skip
    draw(json.loads(path.read_text()), args.out / 'landscape.png')


if __name__ == '__main__':
    main()

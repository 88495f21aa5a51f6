"""Time and memory that SmoothOut adds to a training step of ResNet-18, with SAM for scale.

All methods train the same network on the same batch and take turns step by step in one process on
one thread; time is the processor's, so other programs on the machine count as little as possible.
"""

import statistics
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'projects'), str(Path(__file__).resolve().parent)]

from benchmark import afresh, in_turns, options, peak_mib  # noqa: E402
from evidence import row, write_result  # noqa: E402

from mmext.engine import phases  # noqa: E402
from mmext.plugins.smoothout import SAMHook, SmoothOutHook  # noqa: E402

METHODS = {
    'plain': None,
    'SmoothOut': dict(strength=0.006),
    'AdaSmoothOut': dict(strength=0.1, adapt='filter'),
    'SAM': None,
}
BATCH, SIZE, WIDTH = 64, 32, 64


class Method:
    """A network of its own with its optimizer, and its next step."""

    def __init__(self, name: str) -> None:
        init_default_scope('mmpretrain')
        torch.manual_seed(0)
        self.model = MODELS.build(dict(
            type='ImageClassifier',
            backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=WIDTH, stem_channels=WIDTH),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=8 * WIDTH),
        ))  # fmt: skip
        self.parameters = sum(param.numel() for param in self.model.parameters())
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.runner = SimpleNamespace(
            model=self.model, optim_wrapper=OptimWrapper(optimizer), iter=0, max_iters=100, rank=0,
            seed=0, message_hub=MessageHub.get_instance(name),
        )  # fmt: skip
        if name == 'SAM':
            SAMHook().before_train(self.runner)
        self.inside = 0.0  # processor seconds of the hook itself
        if METHODS[name] is not None:
            SmoothOutHook(**METHODS[name]).before_train(self.runner)
            # The hook has the orders 1000 and -1000.
            self._clock('before_forward', 999, 1001)
            self._clock('after_backward', -1001, -999)
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (BATCH, 3, SIZE, SIZE), generator=generator)
        samples = [DataSample().set_gt_label(index % 10) for index in range(BATCH)]
        self.data = dict(inputs=images.float(), data_samples=samples)

    def _clock(self, phase: str, before: int, after: int) -> None:
        def add(sign: int, *_) -> None:
            self.inside += sign * time.process_time()

        attached = phases.attach(self.runner.optim_wrapper)
        for name, sign, order in (('start', -1, before), ('stop', 1, after)):
            attached.register(phase, partial(add, sign), f'{name} {phase}', order)

    def step(self) -> tuple[float, float]:
        """Processor seconds of one training step, and percent of them in the hook."""
        self.inside = 0.0
        began = time.process_time()
        self.model.train_step(self.data, self.runner.optim_wrapper)
        self.runner.iter += 1
        took = time.process_time() - began
        return took, 100 * self.inside / took


def peak_of(name: str) -> float:
    """Peak memory of this process after two steps of one method, in MiB."""
    torch.set_num_threads(1)
    method = Method(name)
    for _ in range(2):
        method.step()
    return peak_mib()


def main() -> None:
    """Measure and write results/overhead.json."""
    args = options(__doc__, out=Path(__file__).resolve().parent / 'results')
    torch.set_num_threads(1)
    methods = {name: Method(name) for name in METHODS}
    taken = in_turns({n: m.step for n, m in methods.items()}, rounds=2 if args.quick else 6)
    seconds, inside = ({n: [pair[i] for pair in v] for n, v in taken.items()} for i in (0, 1))
    size = methods['plain'].parameters * 4 / 2**20
    # glibc would keep what was freed, some 50 MiB that differ from run to run.
    glibc = dict(MALLOC_MMAP_THRESHOLD_='65536', MALLOC_TRIM_THRESHOLD_='0', MALLOC_TOP_PAD_='0')
    peaks = {name: 0.0 if args.quick else afresh(peak_of, name, **glibc) for name in METHODS}
    extra = {name: peak - peaks['plain'] for name, peak in peaks.items()}
    rows, ratios, shares = [], {}, {}
    for name in METHODS:
        pairs = zip(seconds[name], seconds['plain'], strict=True)
        ratios[name] = statistics.median(own / plain for own, plain in pairs)
        shares[name] = statistics.median(inside[name])
        cost = {
            'median time ratio': ratios[name],
            'median % of the step in the hook': shares[name],
            'extra memory / parameters': extra[name] / size,
        }
        setting = f'ResNet-18, batch {BATCH} of {SIZE} x {SIZE}, one CPU thread'
        rows.append(row(name, setting, {'s/step': seconds[name]}, cost=cost))
        print(name, cost)
    own = ('SmoothOut', 'AdaSmoothOut')
    # Two peaks of resident sets agree to 0.5 MiB; the code itself takes some 1.5 MiB.
    met = all(shares[name] < 5 and extra[name] <= size + 2 for name in own)
    cheap = all(ratios[name] < ratios['SAM'] - 0.5 for name in own)
    write_result(
        args.out / 'overhead.json',
        claim='the stochastic version only adds injecting and removing noise: < 5 % time, <= 1x '
        'parameters of memory',
        command='python projects/smoothout/overhead.py',
        data={'images': 'random', 'parameters': methods['plain'].parameters},
        rows=rows,
        verdict='not testable here' if args.quick else
        'met' if met else 'partly' if cheap else 'not met',
        why='judged by the processor time inside the hook, which other programs on the machine '
        'disturb less than the ratio of neighbouring whole steps beside it. Memory is the '
        'difference of the peak resident sets of processes that train one method each, and 2 MiB '
        'more than the parameters are granted for the code.',
    )  # fmt: skip


if __name__ == '__main__':
    main()

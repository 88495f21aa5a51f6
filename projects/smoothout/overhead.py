"""Time and memory that SmoothOut adds to a training step of ResNet-18, with SAM for scale.

All methods train the same network on the same batch and take turns step by step in one process on
one thread; time is the processor's, so other programs on the machine count as little as possible.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'projects'), str(Path(__file__).resolve().parent)]

from evidence import summary, write_result  # noqa: E402
from sam import SAMClassifier  # noqa: E402

from mmext.engine import phases  # noqa: E402
from mmext.plugins.smoothout import SmoothOutHook  # noqa: E402

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
        self.model = MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=dict(
                    type='ResNet_CIFAR', depth=18, base_channels=WIDTH, stem_channels=WIDTH
                ),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=10, in_channels=8 * WIDTH),
            )
        )
        self.parameters = sum(param.numel() for param in self.model.parameters())
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.runner = SimpleNamespace(
            model=self.model,
            optim_wrapper=OptimWrapper(optimizer),
            iter=0,
            max_iters=100,
            rank=0,
            seed=0,
            message_hub=MessageHub.get_instance(name),
        )
        if name == 'SAM':
            self.model.__class__ = SAMClassifier
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
        attached = phases.attach(self.runner.optim_wrapper)

        def start(*_):
            self.inside -= time.process_time()

        def stop(*_):
            self.inside += time.process_time()

        attached.register(phase, start, f'start {phase}', before)
        attached.register(phase, stop, f'stop {phase}', after)

    def step(self) -> float:
        """Processor seconds of one training step."""
        self.inside = 0.0
        began = time.process_time()
        self.model.train_step(self.data, self.runner.optim_wrapper)
        self.runner.iter += 1
        return time.process_time() - began


def largest_resident_set() -> float:
    """Peak resident set of this process, in MiB."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) / 1024


def peak_mib(name: str) -> float:
    """Peak memory of a process that trains one method, in MiB."""
    command = [sys.executable, __file__, '--memory-of', name]
    # glibc would keep what was freed, some 50 MiB that differ from run to run.
    glibc = dict(MALLOC_MMAP_THRESHOLD_='65536', MALLOC_TRIM_THRESHOLD_='0', MALLOC_TOP_PAD_='0')
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **glibc}
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure and write results/overhead.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=6)
    parser.add_argument('--quick', action='store_true', help='2 rounds, no memory')
    parser.add_argument('--out', type=Path, default=Path(__file__).resolve().parent / 'results')
    parser.add_argument('--memory-of', choices=METHODS, help=argparse.SUPPRESS)
    args, _ = parser.parse_known_args()
    torch.set_num_threads(1)
    if args.memory_of:
        method = Method(args.memory_of)
        for _ in range(2):
            method.step()
        print(largest_resident_set())
        return
    rounds = 2 if args.quick else args.rounds
    methods = {name: Method(name) for name in METHODS}
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    inside: dict[str, list[float]] = {name: [] for name in METHODS}
    for index in range(rounds + 1):
        for name, method in methods.items():
            took = method.step()
            if index:  # the first allocates
                seconds[name].append(took)
                inside[name].append(100 * method.inside / took)
    size = methods['plain'].parameters * 4 / 2**20
    peaks = {name: 0.0 if args.quick else peak_mib(name) for name in METHODS}
    rows = []
    ratios, shares = {}, {}
    for name in METHODS:
        pairs = zip(seconds[name], seconds['plain'], strict=True)
        ratios[name] = statistics.median(own / plain for own, plain in pairs)
        shares[name] = statistics.median(inside[name])
        rows.append(
            {
                'method': name,
                'setting': f'ResNet-18, batch {BATCH} of {SIZE} x {SIZE}, one CPU thread',
                'metrics': {'s/step': summary(seconds[name])},
                'cost': {
                    'median time ratio': ratios[name],
                    'median % of the step in the hook': shares[name],
                    'extra memory / parameters': (peaks[name] - peaks['plain']) / size,
                },
            }
        )
        extra = peaks[name] - peaks['plain']
        print(f'{name}: time x {ratios[name]:.3f}, hook {shares[name]:.2f} %, + {extra:.1f} MiB')
    own = ('SmoothOut', 'AdaSmoothOut')
    # Two peaks of resident sets agree to 0.5 MiB; the code itself takes some 1.5 MiB.
    most = size + 2
    met = all(shares[name] < 5 and peaks[name] - peaks['plain'] <= most for name in own)
    cheap = all(ratios[name] < ratios['SAM'] - 0.5 for name in own)
    write_result(
        args.out / 'overhead.json',
        claim='the stochastic version only adds injecting and removing noise: < 5 % time, <= 1x '
        'parameters of memory',
        paper=None,
        command='python projects/smoothout/overhead.py',
        data={'images': 'random', 'parameters': methods['plain'].parameters},
        seeds=[0],
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

"""Time of a training step on the CPU in float32, channels_last, bfloat16 and both.

The arms of a network train on the same batch and take turns step by step in one process on one
thread; time is the processor's, so that other programs on the machine count as little as possible.
"""

import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from mmpretrain.structures import DataSample

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'projects')]

from benchmark import afresh, in_turns, options  # noqa: E402
from evidence import row, write_result  # noqa: E402

from mmext.engine.hooks.autocast import AutocastHook  # noqa: E402
from mmext.engine.hooks.channels_last import ChannelsLastHook  # noqa: E402

ARMS: dict[str, tuple[type, ...]] = {
    'float32': (),
    'channels_last': (ChannelsLastHook,),
    'bfloat16': (AutocastHook,),
    'both': (AutocastHook, ChannelsLastHook),
}
#: Network -> config, batch size, shape of an image.
NETWORKS = {
    'LeNet': ('plain/lenet_mnist.py', 64, (1, 28, 28)),
    'KeskarC1': ('plain/c1_cifar10-jpeg.py', 128, (3, 32, 32)),
    'ResNet-20': ('plain/resnet20_cifar10-jpeg.py', 128, (3, 32, 32)),
    'FCOS, EfficientNet-Lite0': ('cst/supervised_fcos_lite0_digits.py', 8, (3, 160, 160)),
}
#: Environment variables under which oneDNN takes this processor for one of the Skylake server
#: generation, which has AVX-512 but no bfloat16 instructions.
WITHOUT_BFLOAT16 = {'ONEDNN_MAX_CPU_ISA': 'AVX512_CORE'}
WITH, WITHOUT = 'bfloat16 instructions', 'no bfloat16 instructions'


class Arm:
    """A network of its own with its optimizer, and its next step."""

    def __init__(self, network: str, arm: str) -> None:
        config, batch, shape = NETWORKS[network]
        cfg = Config.fromfile(ROOT / 'configs' / config)
        init_default_scope(cfg.default_scope)
        torch.manual_seed(0)
        # Weights change no time.
        cfg.model.backbone.pop('init_cfg', None)
        self.model = MODELS.build(cfg.model).train()
        optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self.wrapper = OptimWrapper(optimizer)
        for hook in ARMS[arm]:
            hook().before_train(SimpleNamespace(model=self.model, optim_wrapper=self.wrapper))
        inputs: Any = torch.randint(256, (batch, *shape), dtype=torch.uint8)
        if cfg.default_scope == 'mmdet':
            inputs = list(inputs)
        samples = [_sample(cfg.default_scope, index, shape[1:]) for index in range(batch)]
        self.data = dict(inputs=inputs, data_samples=samples)

    def step(self) -> float:
        """Milliseconds of processor time of one training step."""
        began = time.process_time()
        self.model.train_step(self.data, self.wrapper)
        return 1000 * (time.process_time() - began)


def _sample(scope: str, index: int, size: tuple[int, int]) -> Any:
    if scope == 'mmpretrain':
        return DataSample().set_gt_label(index % 10)
    sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1, 1)))
    boxes = torch.tensor([[20.0, 30, 70, 90], [80, 60, 140, 150]])
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([index % 10, 3]))
    return sample


def rows_of(rounds: int, processor: str) -> list[dict]:
    """Rows of the result; prints them too. The first step of an arm allocates: it is left out."""
    torch.set_num_threads(1)
    rows = []
    for network, (_, batch, (channels, height, width)) in NETWORKS.items():
        taken = in_turns({name: Arm(network, name).step for name in ARMS}, rounds)
        for arm, values in taken.items():
            gains = [plain / own for plain, own in zip(taken['float32'], values, strict=True)]
            setting = f'{network}, batch {batch} of {channels} x {height} x {width}, {processor}'
            cost = {'median ms/step': statistics.median(values)}
            rows.append(row(arm, setting, {'speed-up': gains}, cost=cost))
            print(f'{setting}: {arm} {cost["median ms/step"]:.1f} ms, '
                  f'x {statistics.median(gains):.2f}', flush=True)  # fmt: skip
    return rows


def main() -> None:
    """Measure and write results/cpu_speed.json."""
    args = options(__doc__, out=Path(__file__).resolve().parent / 'results')
    rounds = 3 if args.quick else 9
    native = torch.cpu._is_avx512_bf16_supported()
    rows = rows_of(rounds, WITH if native else WITHOUT)
    if native:
        rows += afresh(rows_of, rounds, WITHOUT, **WITHOUT_BFLOAT16)
    gains = [row['metrics']['speed-up']['mean'] for row in rows
             if row['method'] == 'both' and row['setting'].endswith(WITH)]  # fmt: skip
    write_result(
        args.out / 'cpu_speed.json',
        claim='bfloat16 autocast and channels_last together make a training step at least 1.5 '
        'times as fast on a processor with bfloat16 instructions',
        command='python projects/engine/cpu_speed.py',
        data={'images': 'random', 'threads': 1},
        rows=rows,
        verdict='not testable here' if args.quick or not native else
        'met' if min(gains) >= 1.5 else
        'partly' if max(gains) >= 1.5 else 'not met',
        why='judged by the mean ratio of neighbouring steps, by processor time; the arms take '
        'turns in one process. LeNet, whose convolutions have 1 and 6 input channels, gains least. '
        'Without bfloat16 instructions (oneDNN limited to AVX512_CORE) '
        'bfloat16 is slower than float32: use channels_last alone there.',
    )  # fmt: skip


if __name__ == '__main__':
    main()

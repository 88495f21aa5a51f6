"""Step time and bytes of one training over a real, rate-limited network, method by method.

ResNet-18 (11.2 million parameters) on digit images, one process for each rank, in network
namespaces. In every round each method takes one step, in turn, so a machine that slows down slows
all. Bytes are those that the interface of a rank has sent, everything included.
"""

import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'projects')]

import links  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torchvision  # noqa: E402
from benchmark import options  # noqa: E402
from evidence import row, write_result  # noqa: E402
from harness.folders import write_json  # noqa: E402
from mmengine.model import BaseModel, MMDistributedDataParallel  # noqa: E402
from mmengine.optim import OptimWrapper  # noqa: E402
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook  # noqa: E402

from mmext.datasets.digits import DigitsDataset  # noqa: E402
from mmext.plugins.terngrad import TernGradOptimWrapper  # noqa: E402

METHODS = ('fp32', 'fp16', 'bf16', 'PowerSGD rank 1', 'PowerSGD rank 2', 'TernGrad')
CASES = ((2, '1gbit'), (4, '1gbit'), (2, '100mbit'), (4, '100mbit'), (2, None), (4, None))
BATCH = 4
WORK = ROOT / 'work_dirs/terngrad'


class Classifier(BaseModel):
    """ResNet-18 with ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torchvision.models.resnet18(num_classes=10)

    def forward(self, inputs, target, mode='loss'):
        """Loss of a batch."""
        return {'loss': torch.nn.functional.cross_entropy(self.net(inputs), target)}


def build(method: str):
    """Replica and optim wrapper of a method; the start is the same for all."""
    torch.manual_seed(0)
    # torch's PowerSGD waits for collectives inside gloo's callbacks, which hangs with more than one
    # bucket: it gets one.
    caps = {'bucket_cap_mb': 200} if method.startswith('PowerSGD') else {}
    model = MMDistributedDataParallel(
        Classifier(), device_ids=None, broadcast_buffers=False, **caps
    )
    if method in ('fp16', 'bf16'):
        model.register_comm_hook(None, getattr(default_hooks, f'{method}_compress_hook'))
    elif method.startswith('PowerSGD'):
        rank = dict(matrix_approximation_rank=int(method[-1]), start_powerSGD_iter=2)
        state = powerSGD_hook.PowerSGDState(None, **rank)
        model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    if method.startswith('TernGrad'):
        transport = 'auto' if method.endswith('auto') else 'ternary'
        wrapper = TernGradOptimWrapper(optimizer=optimizer, seed=0, transport=transport)
    else:
        wrapper = OptimWrapper(optimizer=optimizer)
    wrapper.message_hub = type(wrapper.message_hub).get_instance(method)
    return model, wrapper


def batches(rank: int):
    """This rank's digits, forever, as float images (batch, 3, 28, 28)."""
    data = DigitsDataset(split='train', channels=3)
    images = torch.stack([torch.from_numpy(data[i]['img']) for i in range(len(data))])
    labels = torch.from_numpy(data.get_gt_labels())
    generator = torch.Generator().manual_seed(rank)
    while True:
        chosen = torch.randperm(len(data), generator=generator)[:BATCH]
        yield images[chosen].permute(0, 3, 1, 2) / 127.5 - 1, labels[chosen]


def worker(rank: int, methods: Sequence[str], rounds: int, path: Path) -> None:
    """One rank; rank 0 writes {methods: {method: {seconds, bytes}}, numel}."""
    parts = {method: build(method) for method in methods}
    data = batches(rank)
    found: dict[str, dict[str, list[float]]] = {m: {'seconds': [], 'bytes': []} for m in methods}

    def step(method: str, images: torch.Tensor, labels: torch.Tensor) -> None:
        model, wrapper = parts[method]
        with wrapper.optim_context(model):
            loss = model(images, labels, mode='loss')['loss']
        wrapper.update_params(loss)

    # It times its own steps, which must follow each other.
    while 'TernGrad auto' in parts and not parts['TernGrad auto'][1].exchange.has_chosen:
        step('TernGrad auto', *next(data))
    # Buckets are rebuilt after the first iteration and PowerSGD starts at the third.
    warm_up = 3
    for index in range(warm_up + rounds):
        images, labels = next(data)
        for method in parts:
            dist.barrier()
            sent, began = links.sent_bytes(), time.perf_counter()
            step(method, images, labels)
            dist.barrier()
            if index >= warm_up:
                found[method]['seconds'].append(time.perf_counter() - began)
                found[method]['bytes'].append(links.sent_bytes() - sent)
    if rank == 0:
        model, _ = parts[methods[0]]
        numel = sum(parameter.numel() for parameter in model.parameters())
        path.write_text(json.dumps({'methods': found, 'numel': numel}))


def measure(n_ranks: int, rate: str | None, methods, rounds: int, timeout: float = 540) -> dict:
    """Rank 0's record of one case."""
    with links.namespaces(n_ranks, rate) as names, tempfile.NamedTemporaryFile() as file:
        path = Path(file.name)
        links.run_ranks(worker, n_ranks, names, (methods, rounds, path), timeout)
        return json.loads(path.read_text())


def case_name(n_ranks: int, rate: str | None) -> str:
    """As in the record's file name and the table."""
    return f'{n_ranks} ranks, {rate or "unlimited"}'


def collect(work: Path, make: bool = True) -> dict[str, dict]:
    """Records of all cases; those that are there are kept, the others made or missed."""
    records = {}
    for n_ranks, rate in CASES:
        name = case_name(n_ranks, rate)
        path = work / f'network {name}.json'
        if not path.exists():
            if not make:
                sys.exit(f'{path} is missing: run projects/terngrad/network.py first')
            write_json(path, measure(n_ranks, rate, METHODS, rounds=8))
            sys.stderr.write(f'{name}: done\n')
        records[name] = json.loads(path.read_text())
    return records


def medians(record: dict, key: str = 'seconds') -> dict[str, float]:
    """Median of seconds or bytes of each method."""
    return {name: statistics.median(found[key]) for name, found in record['methods'].items()}


def rows_of(name: str, record: dict) -> list[dict]:
    """Rows of the result for one case."""
    base, size = record['methods']['fp32'], medians(record, 'bytes')
    rows = []
    for method, found in record['methods'].items():
        ratios = [a / b for a, b in zip(base['seconds'], found['seconds'], strict=True)]
        told = {'s/step': found['seconds'], 'speed-up': ratios,
                'MB/step': [value / 1e6 for value in found['bytes']]}  # fmt: skip
        cost = {'median speed-up': statistics.median(ratios),
                'times fewer bytes': size['fp32'] / size[method]}  # fmt: skip
        setting = f'{BATCH} images a rank, {record["numel"]} parameters'
        rows.append(row(f'{method}, {name}', setting, told, cost=cost))
    return rows


def draw(records: dict[str, dict], path: Path) -> None:
    """Median step time of each method and case."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.5), layout='constrained')
    order = [case_name(n, rate) for rate in ('1gbit', '100mbit', None) for n in (2, 4)]
    for axis, name in zip(figure.subplots(2, 3).T.flat, order, strict=True):
        seconds = medians(records[name])
        colours = ['tab:orange' if method == 'TernGrad' else 'tab:blue' for method in seconds]
        bars = axis.barh(list(seconds), [s * 1e3 for s in seconds.values()], color=colours)
        axis.bar_label(bars, fmt='%.0f', padding=2)
        axis.invert_yaxis()
        axis.margins(x=0.15)
        axis.set_title(name.replace('gbit', ' Gbit/s').replace('mbit', ' Mbit/s'), fontsize=10)
        axis.set_xlabel('ms per step (median)')
    figure.savefig(path, dpi=110)


def judge(records: dict[str, dict]) -> dict[str, str]:
    """Verdict and its reason."""
    record = records[case_name(2, '1gbit')]
    size, seconds = medians(record, 'bytes'), medians(record)
    fewer, fastest = size['fp32'] / size['TernGrad'], min(seconds, key=seconds.__getitem__)
    goals = (fewer >= 15, fastest == 'TernGrad')
    losing = []
    for name, record in records.items():
        seconds = medians(record)
        if seconds['TernGrad'] > min(seconds.values()):
            losing.append(f'{name} ({min(seconds, key=seconds.__getitem__)})')
    lost = f'; not the fastest at {", ".join(losing)}' if losing else ''
    return {
        'verdict': 'met' if all(goals) else 'partly' if any(goals) else 'not met',
        'why': f'{fewer:.1f}x fewer bytes, fastest: {fastest}{lost}. Bytes are counted by the '
        'interface; all ranks share the cores of this machine, so encoding weighs more than where '
        'every rank has its own.',
    }


def main() -> None:
    """Measure all cases and write results/network.json."""
    args = options(__doc__, work_dir=WORK)
    # An ended study takes its namespaces with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if reason := links.missing():
        # The other studies can still run; the committed result stands.
        print(f'network.py is left out: it needs network namespaces (root, iproute2): {reason}')
        return
    if args.quick:
        print(json.dumps(measure(2, '1gbit', ('fp32', 'TernGrad'), 2)))
        return
    records = collect(args.work_dir)
    results = Path(__file__).resolve().parent / 'results'
    write_result(
        results / 'network.json',
        claim='TernGrad at 1 Gbit/s and 2 ranks: at least 15x fewer bytes than float32 and the '
        'fastest step of all methods',
        paper='3.04x for AlexNet on 8 GPUs, from the performance model',
        command='python projects/terngrad/network.py',
        data={'set': 'handwritten digits, 28 px', 'train': 1078},
        rows=[row for name, record in records.items() for row in rows_of(name, record)],
        **judge(records),
    )
    draw(records, results / 'network.png')


if __name__ == '__main__':
    main()

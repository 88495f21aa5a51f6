"""Train in one of several processes and write what this rank saw and ended with: OUT."""

import sys
from pathlib import Path

import torch
from mmengine.config import Config
from smoothout_runs import Net, build, copies

from mmext.compat import distributed


def train(out: Path, kind: str, cfg: Config) -> dict:
    """Two updates of two micro-batches with the optim wrapper ``kind``."""
    torch.manual_seed(0)
    net = Net()
    seen = []
    net.before_loss.append(lambda model: seen.append(copies(model)))
    runner = build(
        out / kind,
        [{'type': 'mmext.SmoothOutHook', 'strength': 0.05}],
        model=net,
        launcher='pytorch',
        cfg=cfg,
        optim_wrapper={
            'type': kind,
            'optimizer': {'type': 'SGD', 'lr': 0.1},
            'accumulative_counts': 2,
            # The layers of this net are so small that they would stay float.
            **({} if kind == 'OptimWrapper' else {'min_numel': 1}),
        },
    )
    start = copies(net)
    runner.train()
    left = type(runner.optim_wrapper).__name__
    return {'start': start, 'seen': seen, 'end': copies(net), 'wrapper': left}


def main() -> None:
    out = Path(sys.argv[1])
    cfg = Config({'env_cfg': {}})
    distributed.setup(cfg, 'pytorch')
    found = {kind: train(out, kind, cfg) for kind in ('OptimWrapper', 'mmext.TernGradOptimWrapper')}
    torch.save(found, out / f'rank{torch.distributed.get_rank()}.pth')


if __name__ == '__main__':
    main()

"""Train in one of several processes and write what this rank ended with: OUT."""

import sys
from pathlib import Path

import torch
from mmengine.runner import Runner
from smoothing_runs import config, no_formatting

import mmext  # noqa: F401
from mmext.compat import distributed


def main() -> None:
    out = Path(sys.argv[1])
    no_formatting()
    cfg = config(out)
    cfg.train_cfg.max_epochs = 1
    distributed.setup(cfg, 'pytorch')
    runner = Runner.from_cfg(cfg)
    noise = []
    inner = runner.model.module
    inner.classifier.register_forward_pre_hook(lambda _, args: noise.append(args[0].sum()))
    runner.train()
    torch.save({'state': inner.state_dict(), 'noise': noise}, out / f'rank{runner.rank}.pth')


if __name__ == '__main__':
    main()

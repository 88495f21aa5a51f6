"""Train in one of several processes and write what this rank ended with: SCENES OUT."""

import sys
from pathlib import Path

import torch
from mmengine.runner import Runner
from runs import config, no_formatting

import mmext  # noqa: F401
from mmext.compat import distributed


def main() -> None:
    scenes, out = map(Path, sys.argv[1:3])
    no_formatting()
    cfg = config(scenes, out, max_iters=4)
    cfg.launcher = 'pytorch'
    distributed.setup(cfg, 'pytorch')
    runner = Runner.from_cfg(cfg)
    runner.train()
    state = {k: v.clone() for k, v in runner.model.module.state_dict().items()}
    torch.save(state, out / f'rank{runner.rank}.pth')


if __name__ == '__main__':
    main()

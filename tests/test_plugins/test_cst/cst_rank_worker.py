"""Train in one of several processes, twice: SCENES OUT. Writes what this rank ended with."""

import sys
from pathlib import Path

import torch
from cst_runs import config, no_formatting
from mmengine.runner import Runner

import mmext  # noqa: F401
from mmext.compat import distributed


def main() -> None:
    scenes, out = map(Path, sys.argv[1:3])
    no_formatting()
    for sequential in (False, True):
        cfg = config(scenes, out / str(sequential), max_iters=4)
        cfg.model.semi_train_cfg.sequential_backward = sequential
        cfg.experiment_name = cfg.visualizer.name = str(sequential)
        distributed.setup(cfg, 'pytorch')
        runner = Runner.from_cfg(cfg)
        runner.train()
        state = {k: v.clone() for k, v in runner.model.module.state_dict().items()}
        torch.save(state, out / f'rank{runner.rank}-{sequential}.pth')


if __name__ == '__main__':
    main()

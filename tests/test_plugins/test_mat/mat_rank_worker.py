"""Train in one of several processes and write what this rank ended with: OUT."""

import sys
from pathlib import Path

import torch
from mat_runs import config, no_formatting
from mmengine.runner import Runner

import mmext  # noqa: F401
from mmext.compat import distributed
from mmext.plugins.mat import classifier


def main() -> None:
    out = Path(sys.argv[1])
    no_formatting()
    cfg = config(out, 'mat-parallel_lenet_digits.py', epochs=1)
    distributed.setup(cfg, 'pytorch')
    drawn, draw = [], classifier.draw_strengths

    def watched(*args):
        drawn.append(draw(*args))
        return drawn[-1]

    classifier.draw_strengths = watched
    runner = Runner.from_cfg(cfg)
    runner.train()
    state = runner.model.module.state_dict()
    torch.save({'state': state, 'drawn': drawn}, out / f'rank{runner.rank}.pth')


if __name__ == '__main__':
    main()

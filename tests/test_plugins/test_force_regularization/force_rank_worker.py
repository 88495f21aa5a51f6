"""Train in one of several processes and write what this rank ended with: OUT."""

import sys
from pathlib import Path

import torch
from force_runs import network, runner
from mmengine.config import Config

import mmext  # noqa: F401
from mmext.compat import distributed
from mmext.plugins.force_regularization import ForceRegularizationHook, TrainedRankPruningHook


def main() -> None:
    # Seconds of formatting that nobody reads.
    Config.pretty_text = property(lambda cfg: repr(cfg._cfg_dict))
    out = Path(sys.argv[1])
    cfg = Config({'launcher': 'pytorch'})
    distributed.setup(cfg, 'pytorch')
    run = runner(
        out, ForceRegularizationHook(strength=0.2), TrainedRankPruningHook(interval=2, energy=0.8),
        model=network(), cfg=cfg, launcher='pytorch',
    )  # fmt: skip
    seen = []
    run.model.module.stem.register_forward_pre_hook(
        lambda _, args: seen.append(float(args[0].sum()))
    )
    run.train()
    state = {k: v.clone() for k, v in run.model.module.state_dict().items()}
    torch.save({'state': state, 'seen': seen}, out / f'rank{run.rank}.pth')


if __name__ == '__main__':
    main()

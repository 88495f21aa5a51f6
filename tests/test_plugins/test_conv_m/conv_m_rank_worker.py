"""Train in one of several processes and write what this rank ended with: OUT."""

import sys
from pathlib import Path

import torch
from conv_m_runs import config, no_formatting
from mmengine.runner import Runner

import mmext  # noqa: F401
from mmext.compat import distributed
from mmext.plugins.conv_m import DomainAdaptationClassifier


def main() -> None:
    out = Path(sys.argv[1])
    no_formatting()
    cfg = config(out, iterations=3)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.custom_hooks = [dict(type='mmext.IterSeedHook')]
    distributed.setup(cfg, 'pytorch')
    seen, loss = [], DomainAdaptationClassifier.loss

    def watched(model, inputs, data_samples):
        seen.append((inputs.clone(), torch.cat([s.gt_label for s in data_samples])))
        return loss(model, inputs, data_samples)

    DomainAdaptationClassifier.loss = watched
    runner = Runner.from_cfg(cfg)
    runner.train()
    model = runner.model.module
    torch.save(
        {'parameters': {k: p.detach() for k, p in model.named_parameters()}, 'seen': seen},
        out / f'rank{runner.rank}.pth',
    )


if __name__ == '__main__':
    main()

"""Train in one of several processes, write what this rank ended with and load it again: OUT."""

import sys
from pathlib import Path

import torch
from gans import config, no_formatting
from mmengine.dist import barrier
from mmengine.runner import Runner

import mmext  # noqa: F401
from mmext.compat import distributed
from mmext.plugins.ctf_gan.sampling import SamplingGAN


def main() -> None:
    no_formatting()
    drawn, draw = [], SamplingGAN.draw

    def watched(self, *args):
        drawn.append(draw(self, *args))
        return drawn[-1]

    SamplingGAN.draw = watched
    for name, wrapper in (('plain', 'OptimWrapper'), ('terngrad', 'mmext.TernGradOptimWrapper')):
        out = Path(sys.argv[1]) / name
        cfg = config(out, iters=2)
        cfg.model.auxiliary_classifier = {}
        for network in ('generator', 'discriminator', 'transfer'):
            cfg.optim_wrapper[network].type = wrapper
        distributed.setup(cfg, 'pytorch')
        drawn.clear()
        runner = Runner.from_cfg(cfg)
        runner.train()
        model = runner.model.module
        state = {key: value.clone() for key, value in model.state_dict().items()}
        torch.save({'state': state, 'noise': drawn[0][0]}, out / f'rank{runner.rank}.pth')
        # Rank 0 may still be writing the checkpoint.
        barrier()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(0)
        runner.load_checkpoint(str(out / 'iter_2.pth'), strict=True)
        for key, value in model.state_dict().items():
            assert torch.equal(value, state[key]), key


if __name__ == '__main__':
    main()

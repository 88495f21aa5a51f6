"""One of the ranks that :mod:`mmext.testing.ranks` starts, with a folder OUT as its argument.

Trains every ``OUT/<i>/config.py`` in turn, once from the start and once from the first checkpoint,
and writes what it ended with to ``OUT/<i>/rank<r>.pth``.
"""

import os
import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmext import launch
from mmext.testing.trial import Call, optimized, quick, state


def main() -> None:
    """Train all configs below the folder that the command line names, as one of the ranks."""
    folders = [path for path in Path(sys.argv[1]).iterdir() if path.is_dir()]
    torch.set_num_threads(1)
    for folder in sorted(folders, key=lambda path: int(path.name)):
        start, whole = _train(Config.fromfile(folder / 'config.py'))
        again = Config.fromfile(folder / 'config.py')
        again.load_from, again.resume = f'{again.work_dir}/iter_1.pth', True
        for key in ('work_dir', 'experiment_name'):
            again[key] += '-resumed'
        again.visualizer.name += '-resumed'
        # Rank 0 writes the checkpoints.
        torch.distributed.barrier()
        _, resumed = _train(again)
        trained, end = optimized(whole), state(whole)
        # Written under another name first: the file says that the trainings have ended.
        draft = folder / f'rank{whole.rank}.tmp'
        result = {
            'start': {name: start[name] for name in trained},
            'end': {name: end[name] for name in trained},
            'all': _without_statistics(end),
            'resumed': _without_statistics(state(resumed)),
        }
        torch.save(result, draft)
        os.replace(draft, folder / f'rank{whole.rank}.pth')


def _train(cfg: Config) -> tuple[dict[str, torch.Tensor], Runner]:
    """Train; return the state before the first iteration and the Runner."""
    start: dict[str, torch.Tensor] = {}
    with quick():
        launch.prepare(cfg, launcher='pytorch')
        runner = launch.build_runner(cfg)
        first = Call('before_train', lambda runner: start.update(state(runner)))
        runner.register_hook(first, priority='LOWEST')
        runner.train()
    return start, runner


def _without_statistics(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All weights and buffers but those of batch norm, which every rank has of its own."""
    ends = ('running_mean', 'running_var', 'num_batches_tracked')
    return {name: value for name, value in values.items() if not name.endswith(ends)}


if __name__ == '__main__':
    main()

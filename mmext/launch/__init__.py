"""What ``mmext train`` and ``mmext test`` do between the command line and the Runner.

The functions change a :class:`~mmengine.config.Config` in place and know no argparse, so that a
notebook or a test can take the same steps: :func:`load_config`, :func:`prepare` or
:func:`prepare_test`, :func:`build_runner`. Mistakes of the user are ValueError or
FileNotFoundError, raised before anything is built.
"""

from mmext.launch.checkpoint import check_checkpoint
from mmext.launch.config import load_config, merge_options
from mmext.launch.runs import build_runner, built, dump_results, prepare, prepare_test

__all__ = [
    'build_runner',
    'built',
    'check_checkpoint',
    'dump_results',
    'load_config',
    'merge_options',
    'prepare',
    'prepare_test',
]

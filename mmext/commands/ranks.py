"""``--ranks N``: several processes of one command on this machine."""

import argparse
import os
import sys


def start(args: argparse.Namespace) -> None:
    """Become torchrun with ``args.ranks`` copies of the command, if more than this one is wanted.

    Args:
        args: With ``ranks``, ``launcher`` and ``argv``, the words of the command line. The copies
            get ``--launcher pytorch``, by which they know that they are copies.

    Raises:
        ValueError: The number is not positive.
    """
    if args.ranks is None or args.launcher != 'none':
        return
    if args.ranks < 1:
        raise ValueError(f'--ranks must be at least 1, got {args.ranks}')
    name, *rest = args.argv
    torchrun = ('torch.distributed.run', '--standalone', '--nproc_per_node', str(args.ranks))
    command = ('-m', 'mmext', name, '--launcher', 'pytorch', *rest)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, '-m', *torchrun, *command])

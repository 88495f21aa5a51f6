"""Run a command of mmext for a script of this folder, installed or not."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])


def run(name: str) -> None:
    """Do as ``mmext NAME`` with the arguments of the script, and exit."""
    if find_spec('mmext') is None:
        sys.path.insert(0, ROOT)
        # For the processes that the command starts.
        os.environ['PYTHONPATH'] = os.pathsep.join([ROOT, *filter(None, [os.getenv('PYTHONPATH')])])
    from mmext.commands.main import main

    sys.exit(main([name, *sys.argv[1:]]))

#!/usr/bin/env python
"""Prepare data sets; see ``mmext/commands/data.py``."""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmext') is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmext.commands.data import main

if __name__ == '__main__':
    main()

"""Run the study of this plugin and refresh the claims tables."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from evidence import reproduce  # noqa: E402

if __name__ == '__main__':
    reproduce(HERE, ('study.py',))

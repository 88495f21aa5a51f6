"""Run the studies of this plugin and refresh the claims tables."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from evidence import reproduce  # noqa: E402

if __name__ == '__main__':
    reproduce(HERE, ('speed.py', 'quality.py', 'upscaling.py', 'system.py', 'system_federated.py'))

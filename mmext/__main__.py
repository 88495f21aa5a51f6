"""``python -m mmext``: the command."""

import sys

from mmext.commands.main import main

if __name__ == '__main__':
    sys.exit(main())

#!/usr/bin/env python
"""The command ``mmext sample``; for its options: ``--help``."""

from _command import run

if __name__ == '__main__':
    run('sample')

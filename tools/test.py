#!/usr/bin/env python
"""The command ``mmext test``; for its options: ``--help``."""

from _command import run

if __name__ == '__main__':
    run('test')

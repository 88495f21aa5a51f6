"""The command ``mmext``: a module for each of its commands, which the scripts of ``tools/`` call.

A module has its description as docstring, ``add_arguments(parser)`` and ``run(args)``, which
returns the exit code or None. It imports torch and MMEngine in ``run``: ``--help`` is quick.
"""

"""Machinery of a training step that several plugins share.

``rng`` gives every consumer its own stateless random stream, ``phases`` adds the events between
forward and optimizer step that MMEngine does not have, ``loops`` and ``hooks`` make a resumed run
equal to an uninterrupted one and show a run to people. Nothing here knows any plugin.
"""

"""Machinery of a training step that several plugins share.

``rng`` gives every consumer its own stateless random stream, ``phases`` adds the events between
forward and optimizer step that MMEngine does not have, ``loops`` and ``hooks`` make a resumed run
equal to an uninterrupted one and show a run to people. Nothing here knows any plugin.

Modules that have left this room import under their old names for one release, with a warning.
"""

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_MOVED = {
    'mmext.engine.adversarial': 'mmext.attacks.adversarial',
    'mmext.engine.annotations': 'mmext.launch.annotations',
    'mmext.engine.attacks': 'mmext.attacks.gradient_attacks',
    'mmext.engine.batch_attack': 'mmext.attacks.batch_attack',
    'mmext.engine.checkpoint': 'mmext.launch.checkpoint',
    'mmext.engine.comparison': 'mmext.launch.comparison',
    'mmext.engine.hooks.attack_model': 'mmext.attacks.attack_model',
    'mmext.engine.launch': 'mmext.launch',
    'mmext.engine.loss_draws': 'mmext.attacks.loss_draws',
    'mmext.engine.overlay': 'mmext.launch.overlay',
    'mmext.engine.records': 'mmext.launch.records',
}


class _Moved(MetaPathFinder, Loader):
    """Finds a module that has moved and gives the one at its new place."""

    def find_spec(self, fullname: str, path=None, target=None) -> ModuleSpec | None:
        """As importlib asks; None for all other modules."""
        return ModuleSpec(fullname, self) if fullname in _MOVED else None

    def create_module(self, spec: ModuleSpec) -> None:
        """The default."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the moved module in the place of the empty one."""
        name = _MOVED[module.__name__]
        warnings.warn(f'{module.__name__} is {name} now', FutureWarning, stacklevel=2)
        sys.modules[module.__name__] = importlib.import_module(name)


sys.meta_path.append(_Moved())

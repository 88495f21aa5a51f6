"""Stylizers of an edge by model version."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from mmext.registry import STYLIZERS

from ..interfaces import Stylizer
from .models import ModelStore


class VersionedStylizers:
    """Builds the stylizer of a version once and keeps the last few.

    Args:
        config (Mapping): ``type`` and arguments of a class in ``STYLIZERS``; version 0 is this.
        models (ModelStore): States of the other versions.
        keep (int): Stylizers in memory, at least 2. Default 3.

    Raises:
        ValueError: ``keep`` is below 2 (a swap needs the old one and the new one).
    """

    def __init__(self, config: Mapping[str, Any], models: ModelStore, keep: int = 3) -> None:
        if keep < 2:
            raise ValueError(f'keep={keep} must be at least 2: a swap needs the old and the new')
        self._config = dict(config)
        self._models = models
        self._keep = keep
        self._built: OrderedDict[int, Stylizer] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def current(self) -> int:
        """Version that new sessions and scenes get."""
        return self._models.current

    def has(self, version: int) -> bool:
        """Whether a version can be had."""
        return self._models.has(version)

    def get(self, version: int) -> Stylizer:
        """Stylizer of a version; thread-safe.

        Raises:
            FileNotFoundError: The version is not here.
            ValueError: The stylizer has no weights to load.
        """
        with self._lock:
            if version not in self._built:
                self._built[version] = build(self._config, self._models, version)
            self._built.move_to_end(version)
            while len(self._built) > self._keep:
                self._built.popitem(last=False)
            return self._built[version]


def build(config: Mapping[str, Any], models: ModelStore, version: int) -> Stylizer:
    """A new stylizer with the weights of a version.

    Raises:
        FileNotFoundError: The version is not here.
        ValueError: The stylizer has no weights to load.
    """
    stylizer = STYLIZERS.build(dict(config))
    if version:
        if not hasattr(stylizer, 'load_state_dict'):
            raise ValueError(
                f'{config["type"]} has no weights, so version {version} cannot be loaded; take a '
                'trained stylizer or an empty model folder'
            )
        stylizer.load_state_dict(models.load(version))
    if hasattr(stylizer, 'eval'):
        stylizer.eval()
    return stylizer

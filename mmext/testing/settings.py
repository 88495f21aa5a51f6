"""What the kit has to know about a plugin."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config

from mmext.launch import overlay


def _unchanged(cfg: Config) -> None:
    """Leave the config as it is."""


@dataclass(frozen=True)
class PluginSettings:
    """One plugin as the kit sees it.

    Args:
        name: Name in reports.
        types: Registered name -> registry of MMEngine that finds it, for example
            ``{'mmext.SmoothOutHook': 'HOOKS'}``. The config must use each of them.
        host: Function of a folder for data files (shared by all plugins of a session) that returns
            a config of a small training; see :mod:`mmext.testing.hosts`. Loops, logging, workers
            and checkpoints are set by the kit.
        overlay: Name or path of the overlay that adds the plugin to the host; None: the host's
            config has the plugin already.
        adjust: Changes the config in place after the overlay, to make a short run meaningful.
        skip: Check -> reason why it does not apply. The reason appears wherever results do.
        slow: Checks that the pytest plugin marks ``slow``.
        host_draws: What the host itself draws from the global random generators in training, for
            example ``'dropout'``: then all runs have ``mmext.IterSeedHook``. Empty: nothing, and
            none has it, even if the config does: it would hide that the plugin draws from them.

    Example:
        >>> settings = PluginSettings(
        ...     'smoothout', {'mmext.SmoothOutHook': 'HOOKS'}, hosts.classifier, 'smoothout')
        >>> check_plugin(settings)
    """

    name: str
    types: Mapping[str, str]
    host: Callable[[Path], Config]
    overlay: str | None = None
    adjust: Callable[[Config], None] = _unchanged
    skip: Mapping[str, str] = field(default_factory=dict)
    slow: frozenset[str] = frozenset()
    host_draws: str = ''

    def config(self, data: Path) -> Config:
        """The host's config with the plugin in it."""
        cfg = self.host(data)
        if self.overlay is not None:
            cfg = overlay.apply(cfg, [self.overlay])
        self.adjust(cfg)
        return cfg


class ConformanceError(AssertionError):
    """A plugin does not keep a promise; the message has the check, what is wrong and the fix."""

    def __init__(self, plugin: str, check: str, problem: str, fix: str) -> None:
        super().__init__(f'{plugin}: {check}: {problem}\nfix: {fix}')


class SkippedError(Exception):
    """A check does not apply here; the message says why."""

"""Two plugins in one run."""

from pathlib import Path

from mmengine.config import Config

from mmext.launch import overlay
from mmext.testing.checks import CHECKS
from mmext.testing.settings import ConformanceError, PluginSettings
from mmext.testing.trial import Trial

#: What two plugins must pass together.
PAIR_CHECKS = ('builds', 'trains', 'resume', 'removal')


def pair_settings(first: PluginSettings, second: PluginSettings) -> PluginSettings:
    """Both plugins as one.

    The host is that of the choosier one: with a config of its own before one that wraps a
    classifier or a detector before one that serves any model.

    Raises:
        ValueError: Both have a config of their own, so neither can be added to the other.
    """
    pickiest = max(first, second, key=_choosiness)
    names = [plugin.overlay for plugin in (first, second) if plugin.overlay is not None]
    if not names:
        raise ValueError(
            f'{first.name} and {second.name} cannot be combined: each needs a config of its own; '
            'leave one of them out'
        )

    def host(data: Path) -> Config:
        cfg = overlay.apply(pickiest.host(data), names)
        first.adjust(cfg)
        second.adjust(cfg)
        return cfg

    return PluginSettings(
        f'{first.name} + {second.name}',
        {**first.types, **second.types},
        host,
        host_draws=pickiest.host_draws,
    )


def check_pair(
    first: PluginSettings,
    second: PluginSettings,
    folder: Path | None = None,
    data: Path | None = None,
) -> None:
    """Two plugins train together, resume bit for bit and leave nothing behind.

    Raises:
        ConformanceError: They do not.
    """
    trial = Trial(pair_settings(first, second), folder, data)
    for name in PAIR_CHECKS:
        CHECKS[name](trial)


def check_refusal(first: PluginSettings, second: PluginSettings, data: Path) -> str:
    """Two plugins that do not go together are one error, before anything is built.

    Returns:
        Its text.

    Raises:
        ConformanceError: There is no error, or it does not name what cannot be combined.
    """
    name = f'{first.name} + {second.name}'
    fix = 'let the overlays claim one key, or name different hosts; see mmext.launch.overlay'
    try:
        pair_settings(first, second).config(data)
    except ValueError as error:
        text = str(error)
    else:
        raise ConformanceError(name, 'refusal', 'no error', fix)
    unnamed = [plugin.name for plugin in (first, second) if not _named(plugin, text)]
    if unnamed or 'leave' not in text:
        problem = f'the error does not name {", ".join(unnamed) or "the fix"}: {text}'
        raise ConformanceError(name, 'refusal', problem, fix)
    return text


def _choosiness(plugin: PluginSettings) -> int:
    if plugin.overlay is None:
        return 2
    return int(overlay.serves(plugin.overlay) is not None)


def _named(plugin: PluginSettings, text: str) -> bool:
    """By its name, its overlay's or that of one of its types."""
    names = [plugin.name, *plugin.types] + ([plugin.overlay] if plugin.overlay else [])
    return any(name in text for name in names)

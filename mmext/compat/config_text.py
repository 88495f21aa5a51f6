"""Format a config once instead of at every checkpoint.

MMEngine puts ``Config.pretty_text`` into the log, a file, the visualizer and every checkpoint, and
runs yapf over the whole config each time: two seconds and more for a semi-supervised detector's.
"""

from mmengine.config import Config


def install() -> None:
    """Let ``Config.pretty_text`` remember the last config it has formatted. Idempotent."""
    formatted = Config.pretty_text
    if getattr(formatted.fget, 'remembers', False):
        return
    last: dict[str, str] = {}

    def pretty_text(self) -> str:
        """Config as formatted Python."""
        key = repr(self._cfg_dict)
        if key not in last:
            text = formatted.fget(self)
            last.clear()
            last[key] = text
        return last[key]

    pretty_text.remembers = True  # type: ignore[attr-defined]
    Config.pretty_text = property(pretty_text)

"""Which plugins a run has: noted in its config, so in its work dir and its checkpoints.

``--with terngrad`` merges a fragment into a config, and nothing in the result tells it from a
config that always was so. :func:`note` writes what was merged under the key ``mmext_plugins``.
MMEngine writes the config into the work dir and into each checkpoint, where :func:`of_checkpoint`
finds it again, so that a resumed run cannot lose its plugins and a command that takes a checkpoint
builds the network it belongs to.
"""

import ast
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmext.launch import overlay
from mmext.launch.checkpoint import read_checkpoint
from mmext.launch.console import say

#: Key of a config.
KEY = 'mmext_plugins'


@dataclass(frozen=True)
class Identity:
    """The plugins of a run.

    Args:
        names: Overlays in the order in which they were given; a fragment of one's own by its
            absolute path.
        fragments: Name -> SHA-256 of the fragment, as merged.
        options: Those of ``--cfg-options`` that change what the overlays have set, or have gone
            into it.
        chosen: What the overlays chose for the config, in lines for people.
    """

    names: list[str] = field(default_factory=list)
    fragments: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    chosen: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return ' '.join(self.names) or 'no plugins'

    def command(self) -> str:
        """What gives a run these plugins."""
        options = ' '.join(f'{key}={value}' for key, value in self.options.items())
        return f'--with {" ".join(self.names)}' + (f' --cfg-options {options}' if options else '')


def note(
    cfg: Config,
    overlays: Sequence[str],
    options: Mapping[str, Any],
    chosen: Sequence[str] = (),
    completed: Sequence[str] = (),
) -> None:
    """Write into ``cfg`` what was merged into it, after what it has been noted to have.

    Args:
        cfg: Changed in place.
        overlays: Names of ``--with``.
        options: All of ``--cfg-options``.
        chosen, completed: As :func:`overlay.complete` returned them.
    """
    had = of_config(cfg) or Identity()
    fragments = {_lasting(name): overlay.load(name) for name in overlays}
    touching = {
        key: value
        for key, value in options.items()
        if _touches(key, fragments) or key.partition('.')[0] in completed
    }
    digests = {name: _digest(fragment) for name, fragment in fragments.items()}
    cfg[KEY] = asdict(
        Identity(
            [*had.names, *fragments],
            {**had.fragments, **digests},
            {**had.options, **touching},
            [*had.chosen, *chosen],
        )
    )


def of_config(cfg: Config) -> Identity | None:
    """The plugins that a config was noted to have; None: nothing is noted."""
    noted = cfg.get(KEY)
    return None if noted is None else Identity(**{key: noted[key] for key in noted})


def of_checkpoint(path: str) -> Identity | None:
    """The plugins of the run that wrote a checkpoint; None: it does not tell.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a checkpoint.
    """
    saved = read_checkpoint(path, logger='silent')
    meta = saved.get('meta') if isinstance(saved, Mapping) else None
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    # MMPretrain's published checkpoints hold the config as an object.
    return _read(text) if isinstance(text, str) else None


def resolve(cfg: Config, overlays: Sequence[str], checkpoint: str, resume: bool) -> Identity:
    """Which plugins a command shall merge into its config, given the checkpoint that it takes.

    Says in one line what was taken from the checkpoint.

    Args:
        cfg: Config of the host, before overlays.
        overlays: Names of ``--with``.
        checkpoint: Path.
        resume: Whether the training of the checkpoint shall go on, which only the same plugins
            may. A test may have others, for example a defence that needs no training.

    Returns:
        Identity: Names to merge, and options that come before those of the command line.

    Raises:
        ValueError: The training was of other plugins, or of others by these names.
    """
    asked = Identity([*overlays])
    found = of_checkpoint(checkpoint)
    had = (of_config(cfg) or Identity()).names
    own = [*had, *map(_lasting, overlays)]
    if found is None:
        if resume and own:
            say(
                f'{checkpoint} does not tell which plugins it was trained with: it goes on with '
                f'{" ".join(own)}'
            )
        return asked
    if had and set(had) == set(found.names):
        return asked
    if own and set(own) != set(found.names):
        if resume:
            raise ValueError(
                f'--resume: {checkpoint} was trained with {found}, this run would have '
                f'{Identity(own)}. Leave out --with to go on as it was. To go on with other '
                'plugins on purpose, start a new run from its weights: without --resume, in '
                f'another --work-dir, with --cfg-options load_from={checkpoint}'
            )
        if found.names:
            say(f'{checkpoint} was trained with {found}, and is used with {Identity(own)}')
        return asked
    if not found.names or had:
        return asked
    _check_fragments(found, checkpoint)
    if found.options or not own:
        say(f'{found.command()}: taken from {checkpoint}')
    return found


def _check_fragments(found: Identity, checkpoint: str) -> None:
    """Refuse overlays that are no longer what they were."""
    for name, digest in found.fragments.items():
        if _digest(overlay.load(name)) != digest:
            raise ValueError(
                f'the overlay {name} has changed since {checkpoint} was written: use the config '
                f'in its work dir, {Path(checkpoint).parent}/*.py, which has the old one merged in'
            )


class FreshScalars(Hook):
    """Drop from the log of a resumed run what only the run before it has written.

    MMEngine puts the scalars of a checkpoint back and goes on to log the last value of each. One
    that this run writes at intervals appears again with its next value.
    """

    # After the hooks that write scalars and before the one that logs them.
    priority = 55

    def before_train(self, runner: Runner) -> None:
        """Remember the scalars of the checkpoint."""
        scalars = runner.message_hub.log_scalars
        # Others are logged where they are written.
        self._old = {k: v.data[0] for k, v in scalars.items() if k.startswith('train/')}

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Drop those that the first iteration has not written."""
        scalars = runner.message_hub.log_scalars
        for key, history in self._old.items():
            if key in scalars and scalars[key].data[0] is history:
                del scalars[key]
        self._old = {}


def _lasting(name: str) -> str:
    return os.path.abspath(name) if name.endswith('.py') else name


def _digest(fragment: dict[str, Any]) -> str:
    return hashlib.sha256(repr(fragment).encode()).hexdigest()


def _touches(key: str, fragments: Mapping[str, dict[str, Any]]) -> bool:
    """Whether an option changes what an overlay has set, or where it has put the host's model."""
    for fragment in fragments.values():
        for claim in overlay.claims(fragment):
            section = claim.partition('[')[0].partition('.')[0]
            if overlay.overlap(key, claim) or (
                key.partition('.')[0] == section and section in ('custom_hooks', 'model')
            ):
                return True
    return False


def _read(text: str) -> Identity | None:
    """The note in the text of a config. Nothing of the text is run."""
    try:
        body = ast.parse(text).body
    except SyntaxError:
        return None
    for line in body:
        if isinstance(line, ast.Assign) and getattr(line.targets[0], 'id', None) == KEY:
            return Identity(**_value(line.value))
    return None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and getattr(node.func, 'id', None) == 'dict':
        # MMEngine writes dict({...}) where a key is no identifier.
        pairs = [item for part in node.args for item in _value(part).items()]
        return dict(pairs) | {word.arg: _value(word.value) for word in node.keywords}
    if isinstance(node, ast.Dict):
        items = zip(node.keys, node.values, strict=True)
        return {_value(key): _value(value) for key, value in items if key is not None}
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    return ast.literal_eval(node)

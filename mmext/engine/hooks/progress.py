"""Progress bar for people who watch a run in a terminal."""

import contextlib
import io
import logging
import sys
import weakref
from collections.abc import Mapping
from typing import Any, ClassVar

from mmengine.hooks import Hook
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from mmext.registry import HOOKS


@HOOKS.register_module()
class RichProgressHook(Hook):
    """Show iteration, remaining time, loss, learning rate and the latest validation metric.

    Works on rank 0 and only where the console (standard error) is a terminal; elsewhere it does
    nothing. Log lines appear above the bar. The terminal and the logger are restored after the
    run, also after an error or an interrupt (at the latest when Python exits).

    Args:
        interval (int): Update the bar every ``interval`` iterations, >= 1.
        console (rich.console.Console, optional): Where to draw; standard error by default.

    Raises:
        ValueError: ``interval`` is not positive.

    Example:
        >>> custom_hooks = [dict(type='mmext.RichProgressHook')]
    """

    # After RuntimeInfoHook, which puts loss and learning rate into the message hub.
    priority = 'VERY_LOW'

    def __init__(self, interval: int = 1, console: Console | None = None) -> None:
        if interval < 1:
            raise ValueError(f'interval must be at least 1, got {interval}')
        self.interval = interval
        self.console = console
        self._display: _Display | None = None
        self._tasks: dict[str, TaskID] = {}
        self._metric = ''

    def before_run(self, runner) -> None:
        """Forget the display of an earlier run that ended with an error."""
        self.after_run(runner)

    def before_train(self, runner) -> None:
        """Start the training's bar at the iteration the run resumes from."""
        self._begin(runner, 'train', runner.max_iters, runner.iter)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Advance the bar; the numbers come from MMEngine's message hub, without a device sync."""
        done = runner.iter + 1
        if self._display and (done % self.interval == 0 or done == runner.max_iters):
            scalars = runner.message_hub.log_scalars
            parts = [_latest(scalars, 'loss', '.4g'), _latest(scalars, 'lr', '.3g'), self._metric]
            text = '  '.join(part for part in parts if part)
            self._display.progress.update(self._tasks['train'], completed=done, text=text)

    def before_val(self, runner) -> None:
        """Add a bar for the validation."""
        self._begin(runner, 'val', len(runner.val_dataloader))

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Advance the validation's bar."""
        self._advance('val', batch_idx)

    def after_val_epoch(self, runner, metrics: Mapping[str, Any] | None = None) -> None:
        """Keep the first metric for the training's bar and remove the validation's."""
        for name, value in (metrics or {}).items():
            if isinstance(value, (int, float)):
                self._metric = f'{name} {value:.4g}'
                break
        self._end('val')

    def before_test(self, runner) -> None:
        """Add a bar for the test."""
        self._begin(runner, 'test', len(runner.test_dataloader))

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Advance the test's bar."""
        self._advance('test', batch_idx)

    def after_test_epoch(self, runner, metrics: Mapping[str, Any] | None = None) -> None:
        """Remove the test's bar."""
        self._end('test')

    def after_run(self, runner) -> None:
        """Leave the terminal as it was."""
        if self._display:
            self._display.stop()
            self._display = None
            self._tasks.clear()

    def _begin(self, runner, name: str, total: int, completed: int = 0) -> None:
        if runner.rank != 0:
            return
        if self._display is None:
            console = self.console or Console(stderr=True)
            if not console.is_terminal:
                return
            self._display = _Display(console, runner.logger.handlers)
            self._display.start()
            # MMEngine calls no hook where a run raises; this fires when the runner is dropped
            # and at exit.
            weakref.finalize(runner, self._display.stop)
        self._tasks[name] = self._display.progress.add_task(
            name, total=total, completed=completed, text=''
        )

    def _advance(self, name: str, batch_idx: int) -> None:
        if self._display and (batch_idx + 1) % self.interval == 0:
            self._display.progress.update(self._tasks[name], completed=batch_idx + 1)

    def _end(self, name: str) -> None:
        if self._display:
            self._display.progress.remove_task(self._tasks.pop(name))


class _Display:
    """A live progress bar and the log handlers that print above it meanwhile."""

    _current: ClassVar['_Display | None'] = None

    def __init__(self, console: Console, handlers: list[logging.Handler]) -> None:
        self.progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn('{task.fields[text]}'),
            console=console,
            refresh_per_second=4,
            transient=True,
            # Output that goes to a file must go on doing so.
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )
        self._handlers = handlers
        self._streams: list[tuple[logging.StreamHandler, Any]] = []

    def start(self) -> None:
        # Rich draws one display at a time: a run that was interrupted may have left its own.
        if _Display._current:
            _Display._current.stop()
        _Display._current = self
        self.progress.start()
        console = self.progress.console
        for handler in self._handlers:
            if not isinstance(handler, logging.StreamHandler):
                continue
            # A handler keeps the stream it was made with, so rich's redirection misses it. Files
            # stay: they do not share the screen with the bar.
            stream = handler.stream
            if stream is console.file or (stream is not None and stream.isatty()):
                handler.setStream(_AboveBar(console))
                self._streams.append((handler, stream))

    def stop(self) -> None:
        """Remove the bar and restore streams; harmless when called again."""
        if _Display._current is self:
            _Display._current = None
        # The terminal may be gone by now.
        with contextlib.suppress(OSError, ValueError):
            self.progress.stop()
        for handler, stream in self._streams:
            if isinstance(handler.stream, _AboveBar):
                handler.stream = stream
        self._streams.clear()


class _AboveBar(io.TextIOBase):
    """A stream whose whole lines a console prints above its live display.

    Unlike rich's FileProxy it does not break long lines, so they can be copied and searched.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rest = ''

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split('\n')
        for line in lines:
            self._console.print(Text.from_ansi(line), soft_wrap=True)
        return len(text)


def _latest(scalars: Mapping[str, Any], name: str, spec: str) -> str:
    """Format the newest ``train/<name>``, or the first key that contains or ends with it."""
    keys = [f'train/{name}', *(key for key in scalars if key.startswith('train/') and name in key)]
    for key in keys:
        if key in scalars:
            return f'{key.removeprefix("train/")} {scalars[key].current():{spec}}'
    return ''

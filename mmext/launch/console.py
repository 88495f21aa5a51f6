"""What a run says on the terminal before it trains; its log file has everything."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner

#: Records with more lines than this are for the file.
MOST_LINES = 5
# Parts of lines of MMEngine on its own code, twice in every run, and on each parameter.
_ASIDES = (
    'will be deprecated in future',
    'is skipped since its requires_grad',
    'paramwise_options -- ',
)


def say(text: str) -> None:
    """Write a line to stderr, on rank 0: before the Runner no logger has the level of the run."""
    if os.environ.get('RANK', '0') == '0':
        sys.stderr.write(f'{text}\n')


class ShortStartHook(Hook):
    """Keep configs, build flags and lists of hooks off the terminal until the first iteration."""

    def __init__(self) -> None:
        self._started = False
        #: Whether everything is built, so that errors are no longer those of the config.
        self.built = False

    def passes(self, record: logging.LogRecord) -> bool:
        """Whether the terminal shows a record; a filter of :mod:`logging`."""
        if self._started:
            return True
        text = record.getMessage()
        return text.count('\n') < MOST_LINES and not any(part in text for part in _ASIDES)

    def before_train(self, runner: Runner) -> None:
        """Data, optimizer and evaluators are there."""
        self.built = True

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """From here on the terminal shows all."""
        self._started = True

    before_val = before_test = after_train_iter


@contextmanager
def short_start() -> Iterator[ShortStartHook]:
    """Build a Runner inside, whose terminal obeys the hook; register the hook with it."""
    hook = ShortStartHook()
    build = Runner.build_logger

    def build_logger(self: Runner, *args: Any, **kwargs: Any) -> MMLogger:
        logger = build(self, *args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(hook.passes)
        return logger

    Runner.build_logger = build_logger
    try:
        yield hook
    finally:
        Runner.build_logger = build

"""The bar in a terminal that is a string, during real trainings."""

import gc
import io
import logging
import re
import sys

import pytest
from mmengine.hooks import Hook
from rich.console import Console

from mmext.engine.hooks import RichProgressHook
from mmext.engine.hooks.progress import _AboveBar, _Display
from mmext.registry import HOOKS

TOKEN = re.compile(r'\x1b\[([0-9;?]*)([a-zA-Z])|[\r\n]|[^\x1b\r\n]+')


class Actions(Hook):
    """Calls a function at an iteration."""

    def __init__(self, iteration, function):
        self.iteration, self.function = iteration, function

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == self.iteration:
            self.function(runner)


def terminal(width=100, **kwargs):
    return Console(force_terminal=True, file=io.StringIO(), width=width, **kwargs)


def handlers_of(runner):
    return [h for h in runner.logger.handlers if not isinstance(h, logging.FileHandler)]


def watched(toy_runner, console, *actions, interval=1, **kwargs):
    """A runner with a bar whose logger writes to the same terminal."""
    hook = RichProgressHook(interval=interval, console=console)
    runner = toy_runner(custom_hooks=[hook, *actions], **kwargs)
    (handler,) = handlers_of(runner)
    handler.setStream(console.file)
    return runner, hook


def screen(console):
    """Lines (not blank ones) that an endlessly wide and high terminal shows in the end."""
    lines, row, column = [''], 0, 0
    output = console.file.getvalue()
    assert TOKEN.sub('', output) == ''
    for token in TOKEN.finditer(output):
        number, command = token.groups()
        if command == 'K':
            lines[row] = ''
        elif command == 'A':
            row -= int(number)
        elif command:
            assert command in 'mhl', 'not known here'
        elif token[0] == '\r':
            column = 0
        elif token[0] == '\n':
            row, column = row + 1, 0
            lines += [''] * (row == len(lines))
        else:
            line, end = lines[row].ljust(column), column + len(token[0])
            lines[row], column = line[:column] + token[0] + line[end:], end
    return [line.rstrip() for line in lines if line.strip()]


def test_bar_shows_numbers_and_log_lines_stay_whole(toy_runner):
    console = terminal()
    long = 'x' * 300
    bars = []

    def look(runner):
        runner.logger.info(f'note {long}')
        # Draws now rather than at the next tick of the clock.
        hook._display.progress.refresh()
        bars.append(screen(console)[-1])

    actions = [Actions(iteration, look) for iteration in (3, 5)]
    runner, hook = watched(toy_runner, console, *actions, max_iters=6, val_interval=2)
    runner.train()
    # The bar moves after all other hooks of an iteration.
    assert re.search(r'^train .* 3/6 .*loss \S+ +lr \S+ +toy/mse \S+$', bars[0])
    assert re.search(r'^train .* 5/6 ', bars[1])
    # Nothing of the bars is left among the lines, and no line is broken.
    lines = screen(console)
    start = next(number for number, line in enumerate(lines) if 'Iter(train) [1/6]' in line)
    stamp = re.compile(r'^\d\d/\d\d \d\d:\d\d:\d\d - mmengine - INFO - (.*)$')
    messages = [stamp.match(line)[1] for line in lines[start:]]
    assert [message for message in messages if 'note' in message] == [f'note {long}'] * 2
    counts = [re.match(r'Iter\((\w+)\) +\[ *(\d+)/', message) for message in messages]
    validation = [('val', str(count)) for count in (1, 2, 3, 3)]
    expected = [('train', '1'), ('train', '2'), *validation, ('train', '3')]
    assert [match.groups() for match in counts if match][:7] == expected
    assert not any('\u2501' in line for line in lines)


def test_terminal_and_logger_are_restored(toy_runner):
    console = terminal()
    seen = []
    runner, _ = watched(
        toy_runner,
        console,
        Actions(0, lambda runner: seen.append(handlers_of(runner)[0].stream)),
        max_iters=2,
    )
    standard = sys.stdout, sys.stderr
    runner.train()
    assert isinstance(seen[0], _AboveBar)
    assert handlers_of(runner)[0].stream is console.file
    assert (sys.stdout, sys.stderr) == standard and _Display._current is None
    output = console.file.getvalue()
    # Cursor hidden and shown again.
    assert output.rindex('\x1b[?25h') > output.rindex('\x1b[?25l')
    size = len(output)
    runner.logger.info('after')
    assert console.file.getvalue()[size:].endswith('after\n')


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
def test_restored_after_an_error(toy_runner, error):
    console = terminal()

    def fail(_):
        raise error

    runner, hook = watched(toy_runner, console, Actions(1, fail), max_iters=3)
    (handler,) = handlers_of(runner)
    with pytest.raises(error):
        runner.train()
    display = hook._display
    assert display.progress.live.is_started
    # Dropping the runner does what the end of the process would: both run its finalizers.
    del runner, hook
    gc.collect()
    assert not display.progress.live.is_started
    assert handler.stream is console.file and _Display._current is None


def test_next_run_replaces_the_bar_of_a_failed_one(toy_runner, tmp_path):
    console = terminal()

    def fail(_):
        raise RuntimeError

    failed, failed_hook = watched(toy_runner, console, Actions(1, fail), max_iters=3)
    with pytest.raises(RuntimeError):
        failed.train()
    runner, _ = watched(toy_runner, console, max_iters=2, work_dir=tmp_path / 'next')
    runner.train()
    assert not failed_hook._display.progress.live.is_started
    assert handlers_of(failed)[0].stream is console.file
    # The same runner may try again.
    failed._hooks[:] = [hook for hook in failed._hooks if not isinstance(hook, Actions)]
    failed.train()
    assert failed_hook._display is None and not failed_hook._tasks


def test_validation_and_test_alone_have_a_bar(toy_runner):
    console = terminal()
    runner, hook = watched(toy_runner, console, max_iters=2, val_interval=1)
    seen = []

    class Look(Hook):
        priority = 'LOWEST'

        def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            tasks = hook._display.progress.tasks
            seen.append([(task.description, task.completed, task.total) for task in tasks])

    runner.register_hook(Look())
    runner.val()
    # 11 points in batches of 4.
    assert seen == [[('val', count, 3)] for count in (1, 2, 3)]
    assert hook._display is None


def test_interval_and_resumed_start(toy_runner):
    console = terminal()
    completed = []
    hook_of = {}

    class Look(Hook):
        priority = 'LOWEST'

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            (task,) = hook_of['hook']._display.progress.tasks
            completed.append((int(task.completed), int(task.total)))

    runner, hook_of['hook'] = watched(toy_runner, console, Look(), interval=2, max_iters=7)
    runner.train_loop._iter = 3
    runner.train()
    # Starts at 3, moves at even iterations and at the last one.
    assert completed == [(4, 7), (4, 7), (6, 7), (7, 7)]
    with pytest.raises(ValueError, match='interval'):
        RichProgressHook(interval=0)


@pytest.mark.parametrize('case', ['no terminal', 'rank 1'])
def test_nothing_is_drawn_elsewhere(toy_runner, case):
    console = Console(file=io.StringIO()) if case == 'no terminal' else terminal()
    runner, hook = watched(toy_runner, console, max_iters=2, val_interval=1)
    if case == 'rank 1':
        runner._rank = 1
    handlers_of(runner)[0].setStream(io.StringIO())
    runner.train()
    assert hook._display is None and console.file.getvalue() == ''


def test_log_that_goes_to_a_file_is_not_moved_to_the_terminal(toy_runner):
    console = terminal()
    runner, _ = watched(toy_runner, console, max_iters=2)
    log = io.StringIO()
    handlers_of(runner)[0].setStream(log)
    runner.train()
    assert log.getvalue().count('Iter(train)') == 2
    assert 'Iter(train)' not in console.file.getvalue()


def test_default_console_is_standard_error(toy_runner, capsys):
    # Under pytest standard error is no terminal, so a default hook is silent.
    assert HOOKS.get('mmext.RichProgressHook') is RichProgressHook
    toy_runner(1, custom_hooks=[{'type': 'mmext.RichProgressHook'}]).train()
    assert '\x1b[?25' not in ''.join(capsys.readouterr())

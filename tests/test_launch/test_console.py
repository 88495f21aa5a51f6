"""The terminal at the start of a run, and the log file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    'config',
    [ROOT / 'configs/terngrad/float_lenet_digits.py', ROOT / 'tests/toy/toy_config.py'],
    ids=lambda path: path.stem,
)
def test_at_most_25_lines_before_the_first_of_the_training(config, tmp_path):
    environment = {**os.environ, 'PYTHONPATH': str(ROOT / 'tests/toy'), 'OMP_NUM_THREADS': '1'}
    options = ['train_cfg.max_epochs=1', 'log_level=INFO', 'default_hooks.logger.type=LoggerHook']
    done = subprocess.run(
        [sys.executable, ROOT / 'tools/train.py', config, '--work-dir', tmp_path,
         '--cfg-options', *options, 'default_hooks.logger.interval=1'],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, found, _ = (done.stderr + done.stdout).partition('Epoch(train)')
    assert found and before.count('\n') <= 25, before
    assert 'Checkpoints will be saved to' in before
    (log,) = tmp_path.glob('*/*.log')
    whole = log.read_text().partition('Epoch(train)')[0]
    assert 'Config:\n' in whole and 'Hooks will be executed in the following order' in whole
    assert whole.count('\n') > 100


def test_tables_of_an_evaluation_are_shown(tmp_path):
    import logging

    from mmext.launch.console import ShortStartHook

    hook = ShortStartHook()

    def passes(text):
        return hook.passes(logging.LogRecord('x', logging.INFO, '', 1, text, (), None))

    table = 'a\n' * 20
    assert passes('one line') and passes('a\nb') and not passes(table)
    assert not passes('"FileClient" will be deprecated in future.')
    # Of the networks that do not train, hundreds of lines.
    assert not passes('teacher1.neck.weight is skipped since its requires_grad=False')
    assert not passes('paramwise_options -- student1.neck.bias:weight_decay=0.0')
    hook.before_test(None)
    assert passes(table)

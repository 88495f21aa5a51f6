import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger

from mmext.commands.main import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path):
    (tmp_path / 'base.py').write_text("model = dict(type='A', depth=18)\nlr = 0.1\n")
    path = tmp_path / 'child.py'
    path.write_text(
        "_base_ = 'base.py'\nmodel = dict(depth=50)\nstages = [dict(width=1), dict(width=2)]\n"
    )
    return str(path)


RESOLVED = {'model': {'type': 'A', 'depth': 50}, 'lr': 0.2, 'stages': [{'width': 1}, {'width': 7}]}
OPTIONS = ['--cfg-options', 'stages.1.width=7', 'lr=0.2']


@pytest.fixture
def print_config(config):
    return lambda *argv: main(['config', config, *OPTIONS, *argv])


def test_what_is_printed_is_the_resolved_config(print_config, capsys):
    print_config()
    printed = capsys.readouterr().out
    assert Config.fromstring(printed, '.py').to_dict() == RESOLVED


@pytest.mark.parametrize('suffix', ['py', 'json', 'yml'])
def test_what_is_written_is_the_resolved_config(print_config, tmp_path, suffix, capsys):
    out = str(tmp_path / f'all.{suffix}')
    print_config('--out', out)
    assert Config.fromfile(out).to_dict() == RESOLVED
    assert capsys.readouterr().out == ''


def test_an_unknown_format_is_refused(print_config, capsys):
    with pytest.raises(SystemExit) as stopped:
        print_config('--out', 'all.txt')
    assert stopped.value.code == 2 and 'all.txt' in capsys.readouterr().err


def test_a_checkout_runs_without_installation_and_reports_one_line(tmp_path, toy_environment):
    command = [sys.executable, ROOT / 'tools' / 'print_config.py', 'lost.py']
    result = subprocess.run(
        command, env=toy_environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stdout == ''
    assert result.stderr.splitlines()[-1] == (
        'mmext config: error: config file lost.py does not exist'
    )
    assert 'Traceback' not in result.stderr


def test_the_difference_is_what_the_options_change(print_config, capsys):
    print_config('--diff')
    changed = [line for line in capsys.readouterr().out.splitlines() if line[:1] in '+-']
    assert changed == ['--- before', '+++ after', '-lr = 0.1', '+lr = 0.2', '-    dict(width=2),',
                       '+    dict(width=7),']  # fmt: skip


def test_the_difference_from_another_config(print_config, config, capsys):
    print_config('--diff', str(Path(config).with_name('base.py')))
    changed = [line for line in capsys.readouterr().out.splitlines() if line[:1] in '+-']
    assert '-lr = 0.1' in changed and "-model = dict(depth=18, type='A')" in changed
    assert "+model = dict(depth=50, type='A')" in changed


def test_what_an_overlay_adds(print_config, tmp_path, capsys):
    (tmp_path / 'mine.py').write_text("custom_hooks = [dict(type='mmext.IterSeedHook')]")
    print_config('--with', str(tmp_path / 'mine.py'), '--diff')
    assert "dict(type='mmext.IterSeedHook')" in capsys.readouterr().out


@pytest.mark.parametrize('argv', [[], ['--diff']])
def test_what_is_logged_goes_to_stderr(print_config, config, tmp_path, monkeypatch, capsys, argv):
    # The first logger of a process keeps the stdout of its time.
    monkeypatch.setattr(MMLogger, '_instance_dict', OrderedDict())
    hooks = "custom_hooks = [dict(type='A')]\n"
    Path(config).write_text(Path(config).read_text() + hooks)
    (tmp_path / 'mine.py').write_text(hooks)
    print_config('--with', str(tmp_path / 'mine.py'), *argv)
    out, err = capsys.readouterr()
    assert err.count('the config has a A already') == 1 and 'already' not in out
    if argv:
        assert out.startswith('--- before')
    else:
        assert Config.fromstring(out, '.py').custom_hooks == [dict(type='A')]


def test_a_difference_is_not_written_to_a_file(print_config, capsys):
    with pytest.raises(SystemExit, match='2'):
        print_config('--diff', '--out', 'all.py')
    assert 'choose one' in capsys.readouterr().err

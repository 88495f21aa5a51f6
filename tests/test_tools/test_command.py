"""The command ``mmext`` itself; what its commands do is tested beside them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmext import shipped
from mmext.commands.main import COMMANDS, build_parser, main

ROOT = Path(__file__).parents[2]
HEAVY = ('torch', 'mmengine', 'mmcv', 'matplotlib', 'numpy')


def mmext(*argv, **environment):
    return subprocess.run(
        [sys.executable, '-X', 'importtime', '-m', 'mmext', *map(str, argv)],
        env={**os.environ, **environment}, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    'argv', [['--help'], ['train', '--help'], ['plugins'], ['train', '--list', 'mmext::plain']]
)
def test_what_needs_no_torch_does_not_import_it(argv):
    done = mmext(*argv)
    imported = set(re.findall(r'\| +(\w+)$', done.stderr, re.MULTILINE))
    assert done.returncode == 0 and 'argparse' in imported
    assert not imported & set(HEAVY)


def test_without_a_word_all_commands_are_listed(capsys):
    with pytest.raises(SystemExit, match='0'):
        main([])
    out = capsys.readouterr().out
    assert all(re.search(rf'^    {name}\s', out, re.MULTILINE) for name in COMMANDS)


@pytest.mark.parametrize('name', COMMANDS)
def test_every_command_has_help_with_examples(name, capsys):
    with pytest.raises(SystemExit, match='0'):
        main([name, '--help'])
    out = capsys.readouterr().out
    assert out.startswith(f'usage: mmext {name} ') and f'  mmext {name}' in out


def test_scripts_of_tools_are_the_commands():
    called = {
        found[1]
        for path in (ROOT / 'tools').glob('*.py')
        if (found := re.search(r"^    run\('(\w+)'\)$", path.read_text(), re.MULTILINE))
    }
    # The plugins are what is new.
    assert called == set(COMMANDS) - {'plugins'}


def test_configs_are_found_by_a_part_of_their_name(capsys):
    assert main(['train', '--list', 'mmext::LENET_mnist']) == 0
    assert capsys.readouterr().out == 'mmext::plain/lenet_mnist.py\n'
    main(['train', '--list', 'mmpretrain::resnet/resnet18*cifar10', '--json'])
    assert 'mmpretrain::resnet/resnet18_8xb16_cifar10.py' in json.loads(capsys.readouterr().out)
    found = shipped.find_configs('')
    assert {name.partition('::')[0] for name in found} == set(shipped.HOSTS)
    assert not [name for name in found if '_base_' in name or '/overlays/' in name]
    with pytest.raises(SystemExit, match='2'):
        main(['train', '--list', 'nobody::resnet'])
    assert 'pip install nobody' in capsys.readouterr().err


def test_plugins_and_their_papers(capsys):
    main(['plugins'])
    lines = capsys.readouterr().out.splitlines()
    folders = {path.parent.name for path in (ROOT / 'configs').glob('*/metafile.yml')} - {'plain'}
    assert {line.split()[0] for line in lines[: len(folders)]} == folders
    main(['plugins', 'terngrad'])
    out = capsys.readouterr().out
    assert 'arxiv.org/abs/1705.07878' in out and '--with terngrad' in out
    main(['plugins', '--json'])
    told = json.loads(capsys.readouterr().out)
    assert set(told) == folders and told['mat']['Type'] == 'mmext.MATClassifier'
    with pytest.raises(SystemExit, match='2'):
        main(['plugins', 'terngard'])
    assert 'terngrad' in capsys.readouterr().err


def test_ranks_start_torchrun(toy, toy_environment):
    done = subprocess.run(
        [sys.executable, '-m', 'mmext', 'train', toy, '--ranks', '2', '--work-dir', 'run'],
        env=toy_environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(f'run/rank{rank}.pth') for rank in range(2))
    assert torch.equal(first['weight'], second['weight']) and first['iterations'] == 2
    done = subprocess.run(
        [sys.executable, '-m', 'mmext', 'train', toy, '--ranks', '0'],
        env=toy_environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and '--ranks must be at least 1' in done.stderr


@pytest.mark.parametrize(
    ('line', 'offered'),
    [
        ('mmext tr', 'train'),
        ('mmext train --work', '--work-dir'),
        ('mmext train x.py --with tern', 'terngrad'),
        ('mmext train mmext::plain/lenet_m', 'mmext::plain/lenet_mnist.py'),
        ('mmext config pla', 'plain.py'),
    ],
)
def test_completion(line, offered, tmp_path):
    (tmp_path / 'plain.py').touch()
    answer = tmp_path / 'answer'
    done = subprocess.run(
        [sys.executable, '-m', 'mmext'], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, '_ARGCOMPLETE': '1', 'COMP_LINE': line, 'COMP_POINT': str(len(line)),
             '_ARGCOMPLETE_STDOUT_FILENAME': str(answer), '_ARGCOMPLETE_IFS': '\n',
             '_ARGCOMPLETE_COMP_WORDBREAKS': ''},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert offered in answer.read_text().split()


def test_every_parser_is_sound():
    build_parser()

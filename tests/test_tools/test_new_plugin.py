"""tools/new_plugin.py, and docs/add_a_plugin.md followed to the letter in a copy."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LEAVE = shutil.ignore_patterns('.git', 'data', 'work_dirs', 'build', '*.egg-info', '.mim',
                               '__pycache__', 'results', '*.png', 'wheels')  # fmt: skip


@pytest.fixture
def checkout(tmp_path):
    """A copy of what belongs to the project."""
    target = tmp_path / 'checkout'
    shutil.copytree(ROOT, target, ignore=LEAVE)
    return target


@pytest.fixture
def generate(tool, tmp_path):
    """tools/new_plugin.py on copies of the shared files alone."""
    target = tmp_path / 'bare'
    for file in ('mmext/registry.py', 'mmext/version.py', 'model-index.yml',
                 'tests/plugin_settings.py'):  # fmt: skip
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, target / file)

    def run(*argv):
        tool('new_plugin').main([*argv, '--root', str(target)])
        return target

    return run


def test_the_document_followed_to_the_letter(checkout, tmp_path):
    text = (checkout / 'docs/add_a_plugin.md').read_text()
    blocks = re.findall(r'```bash\n(.*?)```', text, re.DOTALL)
    assert len(blocks) == 2 and 'new_plugin.py' in blocks[0]
    programs = tmp_path / 'bin'
    programs.mkdir()
    (programs / 'python').write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (programs / 'python').chmod(0o755)
    environment = {
        **os.environ, 'PATH': f'{programs}:{os.environ["PATH"]}', 'PYTHONPATH': str(checkout),
        'OMP_NUM_THREADS': '1',
    }  # fmt: skip
    for block in blocks:
        done = subprocess.run(
            ['bash', '-euo', 'pipefail', '-c', block],
            cwd=checkout, env=environment, capture_output=True, text=True, timeout=280,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert 'mmext.GradientCentralizationHook' in done.stdout
    # What the two overlays change.
    added = [line for line in done.stdout.splitlines() if line.startswith('+')]
    assert any("type='mmext.SmoothOutHook'" in line for line in added)
    assert any("type='mmext.GradientCentralizationHook'" in line for line in added)
    assert (checkout / 'mmext/plugins/gradient_centralization/hook.py').exists()
    assert '`mmext.GradientCentralizationHook`' in (checkout / 'README.md').read_text()


def test_the_shared_files_get_one_entry_each(generate, capsys):
    root = generate('gradient_noise')
    generate('entropy_sgd', '--title', "Pratik's Entropy-SGD", '--paper',
             'https://arxiv.org/abs/1611.01838')  # fmt: skip
    listed = capsys.readouterr().out.split()
    assert 'mmext/plugins/entropy_sgd/hook.py' in listed
    owners = {}
    text = (root / 'mmext/registry.py').read_text()
    exec(re.search(r'^OWNERS.*?^}\n', text, re.DOTALL | re.MULTILINE)[0], owners)
    assert owners['OWNERS']['mmext.plugins.gradient_noise'] == ('GradientNoiseHook',)
    assert owners['OWNERS']['mmext.plugins.entropy_sgd'] == ('EntropySgdHook',)
    before = (ROOT / 'mmext/registry.py').read_text()
    assert set(before.splitlines()) < set(text.splitlines())
    index = yaml.safe_load((root / 'model-index.yml').read_text())['Import']
    assert index[-2:] == ['configs/gradient_noise/metafile.yml', 'configs/entropy_sgd/metafile.yml']
    meta = yaml.safe_load((root / 'configs/entropy_sgd/metafile.yml').read_text())
    assert meta['Collections'][0]['Paper'] == {
        'URL': 'https://arxiv.org/abs/1611.01838', 'Title': "Pratik's Entropy-SGD"}  # fmt: skip
    # The bare folder has no plugin but the one before.
    plugin = meta['Collections'][0]['Plugin']
    assert (plugin['Composes With'], plugin['Refuses']) == (['gradient_noise'], [])
    assert plugin['Type'] == 'mmext.EntropySgdHook'
    settings = (root / 'tests/plugin_settings.py').read_text()
    assert settings.count("'gradient_noise'") == 2 and compile(settings, 'settings', 'exec')
    for path in root.rglob('*'):
        if path.is_file():
            assert not re.search(r'@[A-Z_]+@', path.read_text()), path


@pytest.mark.parametrize(
    ('argv', 'named'),
    [
        (['Noise'], 'lower case'),
        (['gradient__noise'], 'single underscores'),
        (['2noise'], 'lower case'),
        (['../noise'], 'lower case'),
        (['n' * 25], 'at most 24'),
        (['class'], 'a word of Python'),
        (['random'], 'a word of Python'),
        (['noise', '--title', 'a "b"'], '--title'),
        (['noise', '--title', ' '], '--title'),
        (['noise', '--paper', 'arXiv 1'], '--paper'),
        (['noise', '--paper', 'https://arxiv.org/abs/1'], '--paper'),
        (['taken'], 'taken'),
    ],
)
def test_bad_names_are_refused_and_nothing_is_written(generate, tmp_path, argv, named, capsys):
    taken = tmp_path / 'bare/configs/taken'
    taken.mkdir(parents=True)
    (taken / 'README.md').touch()
    before = {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()}
    with pytest.raises(SystemExit, match='2'):
        generate(*argv)
    assert named in capsys.readouterr().err
    assert {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()} == before


def test_what_is_no_checkout_is_said(tool, tmp_path, capsys):
    with pytest.raises(SystemExit, match='2'):
        tool('new_plugin').main(['noise', '--root', str(tmp_path)])
    assert 'no checkout of mmext' in capsys.readouterr().err


def test_a_shared_file_without_a_place_is_named(generate, tmp_path, capsys):
    (tmp_path / 'bare/mmext/registry.py').write_text('nothing\n')
    with pytest.raises(SystemExit, match='2'):
        generate('noise')
    assert 'registry.py has no place' in capsys.readouterr().err
    assert not (tmp_path / 'bare/mmext/plugins').exists()

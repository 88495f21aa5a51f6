"""``mmext new``, and docs/add_a_plugin.md followed to the letter in a copy."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmext.commands import new
from mmext.commands.main import main

KINDS = ('hook', 'two-pass', 'wrapper', 'model', 'transform')
#: Kind and what the fast suite leaves out of its tests; the document itself has the first kind.
EXAMPLES = [
    ('two-pass', 'ranks'),
    *(pytest.param(kind, 'nothing', marks=pytest.mark.slow) for kind in KINDS[1:]),
]
ROOT = Path(__file__).parents[2]
LEAVE = shutil.ignore_patterns('.git', 'data', 'work_dirs', 'build', '*.egg-info', '.mim',
                               '__pycache__', 'results', '*.png', 'wheels')  # fmt: skip


def environment(checkout, **more):
    """Of child processes that take mmext from a copy."""
    return {**os.environ, 'PYTHONPATH': str(checkout), 'OMP_NUM_THREADS': '1', **more}


@pytest.fixture
def checkout(tmp_path):
    """A copy of what belongs to the project."""
    target = tmp_path / 'checkout'
    shutil.copytree(ROOT, target, ignore=LEAVE)
    return target


@pytest.fixture
def generate(tmp_path):
    """``mmext new`` on copies of the shared files alone."""
    target = tmp_path / 'bare'
    for file in ('mmext/registry.py', 'mmext/version.py', 'model-index.yml',
                 'tests/plugin_settings.py'):  # fmt: skip
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, target / file)

    def run(*argv):
        main(['new', *argv, '--root', str(target)])
        return target

    return run


def test_the_document_followed_to_the_letter(checkout, tmp_path):
    text = (checkout / 'docs/add_a_plugin.md').read_text()
    blocks = re.findall(r'```bash\n(.*?)```', text, re.DOTALL)
    assert len(blocks) == 2 and 'mmext new ' in blocks[0]
    programs = tmp_path / 'bin'
    programs.mkdir()
    for name, command in (('python', ''), ('mmext', ' -m mmext')):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable}{command} "$@"\n')
        (programs / name).chmod(0o755)
    path = f'{programs}:{os.environ["PATH"]}'
    for block in blocks:
        done = subprocess.run(
            ['bash', '-euo', 'pipefail', '-c', block],
            cwd=checkout, env=environment(checkout, PATH=path), capture_output=True, text=True,
            timeout=280,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert 'mmext.GradientCentralizationHook' in done.stdout
    # What the two overlays change.
    added = [line for line in done.stdout.splitlines() if line.startswith('+')]
    assert any("type='mmext.SmoothOutHook'" in line for line in added)
    assert any("type='mmext.GradientCentralizationHook'" in line for line in added)
    assert (checkout / 'mmext/plugins/gradient_centralization/hook.py').exists()
    assert '`mmext.GradientCentralizationHook`' in (checkout / 'docs/plugins.md').read_text()


@pytest.mark.parametrize(('kind', 'without'), EXAMPLES)
def test_an_example_of_a_kind_passes_its_tests_and_the_kit(checkout, kind, without):
    name = f'example_{kind.replace("-", "_")}'
    commands = [
        ['tools/new_plugin.py', name, '--kind', kind],
        [
            '-m', 'pytest', '-q', '-p', 'no:cacheprovider', f'tests/test_plugins/test_{name}',
            'tests/test_conformance.py', 'tests/test_cards.py', 'tests/test_configs.py',
            '-k', f'({name} and not {without}) or the_compatibility_page_and_the_cards_are_fresh',
        ],
    ]  # fmt: skip
    for command in commands:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=checkout, env=environment(checkout), capture_output=True, text=True, timeout=280,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    passed = int(re.search(r'(\d+) passed', done.stdout)[1])
    # Ten promises at least, card, config and page, and its own tests.
    assert passed >= 20 and 'failed' not in done.stdout


@pytest.mark.parametrize('name', ['n', 'n' * 24])
def test_lint_and_format_of_every_kind_whatever_the_length_of_the_name(generate, name):
    for kind, last in zip(KINDS, 'abcde', strict=True):
        root = generate(f'{name[:-1]}{last}', '--kind', kind, '--title', 'T' * 40)
    shutil.copy(ROOT / 'pyproject.toml', root)
    # The bare folder has too little of mmext for ruff to see that it is the project's own.
    ours = 'lint.isort.known-first-party = ["mmext"]'
    for command in (['check', '--config', ours, '.'], ['format', '--check', '.']):
        done = subprocess.run(
            [sys.executable, '-m', 'ruff', *command], cwd=root, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize(
    ('kind', 'classes', 'registry', 'module'),
    [
        ('hook', ['MyPaperHook'], 'HOOKS', 'hook'),
        ('two-pass', ['MyPaperHook'], 'HOOKS', 'hook'),
        ('wrapper', ['MyPaperAmpOptimWrapper', 'MyPaperOptimWrapper'], 'OPTIM_WRAPPERS',
         'optim_wrapper'),
        ('model', ['MyPaperClassifier'], 'MODELS', 'classifier'),
        ('transform', ['MyPaper'], 'TRANSFORMS', 'augment'),
    ],
)  # fmt: skip
def test_names_follow_the_kind(generate, kind, classes, registry, module):
    root = generate('my_paper', '--kind', kind)
    text = (root / f'mmext/plugins/my_paper/{module}.py').read_text()
    for cls in classes:
        assert re.search(rf'^@{registry}.register_module\(\)\nclass {cls}\b', text, re.MULTILINE)
    tables = {}
    shared = (root / 'mmext/registry.py').read_text()
    for table in ('OWNERS', 'NEEDS'):
        exec(re.search(rf'^{table}.*?^}}\n', shared, re.DOTALL | re.MULTILINE)[0], tables)
    assert tables['OWNERS']['mmext.plugins.my_paper'] == tuple(classes)
    assert ('mmext.plugins.my_paper' in tables['NEEDS']) == (kind == 'model')
    settings = (root / 'tests/plugin_settings.py').read_text()
    assert f"{{'mmext.{classes[-1]}': '{registry}'}}" in settings
    meta = yaml.safe_load((root / 'configs/my_paper/metafile.yml').read_text())['Collections'][0]
    assert meta['Plugin']['Type'] == f'mmext.{classes[-1]}' and meta['Name'] == 'MyPaper'
    overlay = (root / 'configs/overlays/my_paper.py').read_text()
    assert f"type='mmext.{classes[-1]}'" in overlay


@pytest.mark.parametrize('kind', KINDS)
def test_the_card_says_that_nothing_is_written_or_tested(generate, kind, capsys):
    root = generate('my_paper', '--kind', kind)
    assert 'no --paper' in capsys.readouterr().out
    card = (root / 'configs/my_paper/README.md').read_text()
    parts = re.split(r'^## (.+)\n', card, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    for title in ('Idea', 'Hyper-parameters', 'Cost', 'Claims', 'Citation'):
        assert 'Not written yet' in sections[title], title
    assert 'not tested with others yet' in sections['Composes with']
    # Nothing of the example's paper, nor of any other.
    assert set(re.findall(r'\d{4}\.\d{4,5}', card)) == {'0000.00000'}
    examples = [about.example for about in new.KINDS.values()]
    words = {word.lower() for example in examples for word in re.findall('[A-Za-z]{6,}', example)}
    prose = ' '.join(text for title, text in sections.items() if not title.startswith('Use it'))
    assert {'centralization', 'korpelevich'} <= words
    assert not words & set(re.findall('[a-z]+', prose.lower()))
    plugin = yaml.safe_load((root / 'configs/my_paper/metafile.yml').read_text())
    plugin = plugin['Collections'][0]['Plugin']
    assert (plugin['Composes With'], plugin['Refuses']) == ([], [])
    assert plugin['Extra Passes'] == plugin['Extra Memory'] == 'not written yet'


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
    # Whatever else there is: nothing has been tested together.
    plugin = meta['Collections'][0]['Plugin']
    assert (plugin['Composes With'], plugin['Refuses']) == ([], [])
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
        (['noise', '--kind', 'loop'], 'invalid choice'),
        (['degrade', '--kind', 'transform'], 'mmext.Degrade exists'),
        (['tensor', '--kind', 'transform'], 'which mmext/plugins/tensor/functional.py imports'),
        (['noise_amp', '--kind', 'wrapper'], 'must not end in amp'),
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


def test_what_is_no_checkout_is_said(tmp_path, capsys):
    with pytest.raises(SystemExit, match='2'):
        main(['new', 'noise', '--root', str(tmp_path)])
    assert 'no checkout of mmext' in capsys.readouterr().err


def test_a_shared_file_without_a_place_is_named(generate, tmp_path, capsys):
    (tmp_path / 'bare/mmext/registry.py').write_text('nothing\n')
    with pytest.raises(SystemExit, match='2'):
        generate('noise')
    assert 'registry.py has no place' in capsys.readouterr().err
    assert not (tmp_path / 'bare/mmext/plugins').exists()

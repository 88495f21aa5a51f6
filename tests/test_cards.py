"""Method cards: uniform sections, commands that parse, claims that have results, fresh tables."""

import argparse
import ast
import json
import re
import runpy
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'projects'))
import compatibility  # noqa: E402
import reproduce  # noqa: E402
from plugin_settings import OUTSIDE, PLUGINS  # noqa: E402
from project_scripts import importable  # noqa: E402

SECTIONS = ('Idea', 'Use it in an existing project', 'In plain PyTorch', 'Hyper-parameters', 'Cost',
            'What to expect', 'When not to use it', 'Composes with', 'Claims',
            'Citation')  # fmt: skip
READMES = sorted((ROOT / 'configs').glob('*/README.md'))
CARDS = {
    path.parent.name: path
    for path in READMES
    if (ROOT / 'mmext/plugins' / path.parent.name).is_dir()
}
# Everything else that is read: cards have tests of their own for their commands.
LISTS = [ROOT / 'configs/README.md', ROOT / 'projects/README.md']
DOCUMENTS = [ROOT / 'README.md', *sorted(ROOT.glob('docs/*.md')), *LISTS,
             *sorted(ROOT.glob('projects/*/README.md')),
             *(path for path in READMES if path not in CARDS.values())]  # fmt: skip
# Where a path in a command is ours: work dirs, data and checkpoints are the reader's.
FOLDERS_OF_SCRIPTS = ('tools', 'projects', 'mmext/commands')
FOLDERS = ('configs/', 'projects/', 'tools/', 'tests/', 'mmext/', 'docs/', 'requirements/')
TARGETS = set(re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))


class ParsedError(Exception):
    """Raised in the place of what a tool does after reading its command line."""


def place(path: Path) -> str:
    """Name of a file in a test's name."""
    return str(path.relative_to(ROOT))


@cache
def parses(command: str) -> None:
    """Check the files and the arguments of a command as it stands in a document."""
    words = shlex.split(command, comments=True)
    assert '...' not in words, f'{command}: give the whole command'
    if words[0] == 'make':
        goals = {word for word in words[1:] if '=' not in word and not word.startswith('-')}
        assert goals <= TARGETS, command
        for plugin in (word.removeprefix('PLUGIN=') for word in words if 'PLUGIN=' in word):
            assert plugin in reproduce.STUDIES, command
        return
    if words[0] == 'mmext':
        words[:1] = ['python', '-m', 'mmext']
    for word in words[1:]:
        if word.startswith(FOLDERS) and not set(word) & set('<$'):
            assert (ROOT / word).exists(), f'{command}: there is no {word}'
    module = words[2] if words[1] == '-m' else ''
    ours = module.split('.')[0] == 'mmext' or words[1].startswith(FOLDERS)
    # What is in brackets, behind a variable or of another project is for the reader to fill in.
    if not ours or set(command) & set('[$|<&;'):
        return
    if module == 'mmext':
        module = 'mmext.commands.main'
    script = ROOT / (f'{module.replace(".", "/")}.py' if module else words[1])
    assert script.is_file(), f'{command}: there is no {script.relative_to(ROOT)}'
    if script.suffix == '.sh':
        return
    arguments = words[3:] if module else words[2:]
    text = script.read_text()
    # Studies and commands have their parser in what they call.
    calls = re.search(r'^from (harness|mmext\.commands)\b', text, re.MULTILINE)
    if 'argparse' not in text and not calls:
        assert not arguments, f'{command}: {words[1]} takes no arguments'
        return
    reads = r'\.parse_(known_)?args\(|^ +(STUDY\.)?main\('
    assert re.search(reads, text, re.MULTILINE), f'{command}: who parses it?'
    parse = argparse.ArgumentParser.parse_args
    parse_known = argparse.ArgumentParser.parse_known_args

    def stop(parser, *args, **kwargs):
        # What a program does not know it may hand on to others; parse_args refuses it.
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(argparse.ArgumentParser, 'parse_known_args', parse_known)
            parse(parser, *args, **kwargs)
        raise ParsedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, 'parse_args', stop)
        patch.setattr(argparse.ArgumentParser, 'parse_known_args', stop)
        patch.setattr(sys, 'argv', [str(script), *arguments])
        patch.syspath_prepend(str(script.parent))
        try:
            with importable(script.parent):
                if module:
                    runpy.run_module(module, run_name='__main__')
                else:
                    runpy.run_path(str(script), run_name='__main__')
        except ParsedError:
            return
        except SystemExit as error:
            pytest.fail(f'{command}: exit code {error.code}, see standard error')
    pytest.fail(f'{command}: the program never reads its command line')


def commands(text: str) -> list[str]:
    """Commands of a Markdown text or a docstring.

    They stand in code blocks without a language or in bash, between backticks, or, as examples of a
    docstring do, on lines of their own. ``mmext x CONFIG`` is a command; ``mmext x`` alone or with
    ``--an-option`` only speaks of it. A name in capitals is an argument as any other.
    """
    blocks = re.findall(r'^ *```(\w*)\n(.*?)^ *```', text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r'^ *```.*?^ *```', '', text, flags=re.DOTALL | re.MULTILINE)
    found = []
    for block in (block for kind, block in blocks if kind in ('', 'bash')):
        found += block.replace('\\\n', ' ').splitlines()
    found += [line for line in rest.replace('\\\n', ' ').splitlines() if line.startswith('  ')]
    found += re.findall(r'`([^`]+)`', rest.replace('``', '`'))
    found += [inner for line in found for inner in re.findall(r'\$\(([^()$]+)\)', line)]
    kept = []
    for command in (' '.join(part.split()) for part in found):
        command = re.sub(r'^([A-Z_]+=\S* )+', '', command)
        command = re.sub(r'^(?=tools/\S+\.sh [^-.])', 'bash ', command)
        if re.match(r'mmext \w+ [^-.]|make [^ ]|bash tools/|python ([\w$]\S*/|-m )', command):
            kept.append(command)
    return kept


@cache
def examples() -> dict[Path, list[str]]:
    """Script -> the commands in its docstring, where there are some."""
    scripts = sorted(
        path for folder in FOLDERS_OF_SCRIPTS for path in ROOT.glob(f'{folder}/**/*.py')
    )
    told = {path: ast.get_docstring(ast.parse(path.read_text())) or '' for path in scripts}
    return {path: found for path, text in told.items() if (found := commands(text))}


def sections(text: str) -> dict[str, str]:
    """Title -> text of the sections of the second level."""
    parts = re.split(r'^## (.+)\n', text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize('plugin', CARDS)
def test_a_card_has_all_sections_in_order_and_none_is_empty(plugin):
    text = CARDS[plugin].read_text()
    found = sections(text)
    assert tuple(found) == SECTIONS
    for title, content in found.items():
        assert len(content.split()) > 5, f'{plugin}: {title}'
    assert re.search(r'^> \[.+\]\(https://arxiv\.org/abs/[\d.]+\)', text, re.MULTILINE)
    assert '**Ours**' in found['Idea']
    assert f'<!-- composes:{plugin} -->' in found['Composes with']


@pytest.mark.parametrize('plugin', CARDS)
def test_commands_of_a_card_parse(plugin, capsys):
    found = commands(CARDS[plugin].read_text())
    assert found, f'{plugin}: the card has no command'
    for command in found:
        parses(command)


@pytest.mark.parametrize('path', [*CARDS.values(), *DOCUMENTS], ids=place)
def test_files_that_a_document_names_exist(path):
    text = path.read_text()
    named = re.findall(r'`((?:configs|projects|tools|mmext|docs|tests)/[\w./-]+\.\w+)`', text)
    named += [
        str((path.parent / link.partition('#')[0]).resolve().relative_to(ROOT))
        for link in re.findall(r'\]\((?!https?:|#)([^)]+)\)', text)
    ]
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize('path', LISTS, ids=place)
def test_a_list_of_folders_has_a_line_for_each(path):
    rows = re.findall(
        r'^\| (?:\[(\w+)\]\(\1/README\.md\)|`(\w+)`) \| \w', path.read_text(), re.MULTILINE
    )
    folders = {
        file.relative_to(path.parent).parts[0]
        for suffix in ('py', 'yml') for file in path.parent.glob(f'*/**/*.{suffix}')
    }  # fmt: skip
    assert sorted(linked or named for linked, named in rows) == sorted(folders)


@pytest.mark.parametrize('plugin', CARDS)
def test_every_row_of_the_claims_has_a_result_with_a_command_that_parses(plugin, capsys):
    pattern = r'<!-- claims:(\w+) -->\n(.*?)<!-- /claims -->'
    block = re.search(pattern, CARDS[plugin].read_text(), re.DOTALL)
    assert block[1] == plugin
    rows = [line for line in block[2].splitlines() if line.startswith('| ')][1:]
    results = [
        json.loads(path.read_text())
        for path in (ROOT / 'projects' / plugin / 'results').glob('*.json')
    ]
    for row in rows:
        claim = row.split(' | ')[1]
        matching = [result for result in results if claim == result['claim']]
        assert len(matching) == 1, row[:80]
        assert f'`{matching[0]["command"]}`' in row
        parses(matching[0]['command'])


@pytest.mark.parametrize('path', DOCUMENTS, ids=place)
def test_commands_of_the_other_documents_parse(path, capsys):
    for command in commands(path.read_text()):
        # The guide for authors makes a plugin; tests/test_tools/test_new_plugin.py follows it.
        if 'gradient_centralization' not in command:
            parses(command)


@pytest.mark.parametrize('path', examples(), ids=place)
def test_examples_of_a_script_parse(path, capsys):
    for command in examples()[path]:
        parses(command)


def test_the_documents_with_commands_are_read():
    """A pattern that finds nothing would pass all of the above."""
    for path, command in (
        ('configs/smoothout/README.md', 'mmext data mnist'),
        ('README.md', 'mmext stylize IN STYLE OUT'),
        ('CONTRIBUTING.md', 'make setup # pinned dependencies, mmext in editable form'),
        ('projects/dropin/README.md', 'python projects/dropin/compose_run.py'),
        ('docs/mvstylizer_operations.md',
         'python -m mmext.plugins.mvstylizer.edge --config edge.toml --enroll CODE'),
    ):  # fmt: skip
        assert command in commands((ROOT / path).read_text()), path
    assert len([path for path in examples() if path.is_relative_to(ROOT / 'mmext/commands')]) > 10


def test_broken_commands_are_noticed(capsys):
    for command, said in (
        ('mmext trian CONFIG', 'exit code 2'),
        ('mmext train CONFIG --wiht terngrad', 'exit code 2'),
        ('mmext train configs/nothing.py', 'there is no configs/nothing.py'),
        ('make reproduce PLUGIN=nothing', 'nothing'),
        ('make coffee', 'coffee'),
        ('python projects/cst/baselines.py --fast', 'takes no arguments'),
        ('python -m mmext.plugins.mvstylizer.clowd', 'there is no mmext/plugins/mvstylizer/clowd'),
        ('python -m mmext.plugins.mvstylizer.edge --confg edge.toml', 'exit code 2'),
        ('python $MMDET/.mim/tools/train.py projects/x.py', 'there is no projects/x.py'),
    ):
        with pytest.raises((AssertionError, pytest.fail.Exception), match=said):
            parses(command)
    text = 'a `mmext x\n y` b\n```bash\nmake demo  # all\n```\n`mmext.X` `mmext x` `mmext x --y`'
    assert commands(text) == ['make demo # all', 'mmext x y']
    text = 'say ``python -m a``:\n\n    A=1 tools/x.sh \\\n      y\n```python\npython -m b\n```'
    assert commands(text) == ['bash tools/x.sh y', 'python -m a']


def test_the_compatibility_page_and_the_cards_are_fresh():
    assert compatibility.refresh(check=True) == []


def test_metadata_is_complete_and_decides_every_pair():
    plugins = compatibility.metadata()
    assert set(CARDS) == set(plugins)
    for name, block in plugins.items():
        assert set(block) == set(compatibility.KEYS), name
        others = {path.parent.name for path in (ROOT / 'mmext/plugins').glob('*/__init__.py')}
        assert {*block['Composes With'], *block['Refuses']} <= others - {name}
    undecided = [pair for pair, verdict in in_the_kit().items() if verdict is None]
    assert not undecided


def test_every_plugin_is_in_the_kit_or_says_why_not():
    missing = set(compatibility.metadata()) - {row.name for row in PLUGINS}
    assert missing == set(OUTSIDE) and all(OUTSIDE.values())


def test_the_record_covers_every_plugin_and_pair():
    """What the page says is tested: nothing failed, nothing is missing."""
    record = json.loads(compatibility.RECORD.read_text())
    for pair, verdict in in_the_kit().items():
        outcome = record['pairs'][' + '.join(pair)]
        assert outcome.startswith({'composes': 'passed', 'refuses': 'refused: '}[verdict]), pair
    assert set(record['checks']) == {row.name for row in PLUGINS}
    for outcomes in record['checks'].values():
        assert not [outcome for outcome in outcomes.values() if outcome.startswith('failed')]


def in_the_kit():
    """Verdicts about pairs of plugins that the kit trains."""
    names = {row.name for row in PLUGINS}
    return {p: verdict for p, verdict in compatibility.verdicts().items() if set(p) <= names}

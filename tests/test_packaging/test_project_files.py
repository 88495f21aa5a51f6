"""The files that GitHub and readers of a release look for: valid, and about this project."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmext.version import __version__

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / '.github/workflows').glob('*.yml'))
FORMS = sorted((ROOT / '.github/ISSUE_TEMPLATE').glob('*_*.yml'))


def steps(workflow: Path) -> list[dict]:
    """All steps of a workflow."""
    jobs = yaml.safe_load(workflow.read_text())['jobs'].values()
    return [step for job in jobs for step in job['steps']]


@pytest.mark.parametrize(
    ('schema', 'files'),
    [
        ('github-workflows', WORKFLOWS),
        ('github-issue-forms', FORMS),
        ('github-issue-config', [ROOT / '.github/ISSUE_TEMPLATE/config.yml']),
        ('citation-file-format', [ROOT / 'CITATION.cff']),
    ],
)
def test_files_fit_their_schemas(schema, files):
    pytest.importorskip('check_jsonschema')
    command = [sys.executable, '-m', 'check_jsonschema', '--builtin-schema', f'vendor.{schema}']
    done = subprocess.run([*command, *files], capture_output=True, text=True)
    assert files and done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize('workflow', WORKFLOWS, ids=lambda path: path.stem)
def test_actions_have_a_major_version_and_targets_of_make_exist(workflow):
    makefile = (ROOT / 'Makefile').read_text()
    for step in steps(workflow):
        if 'uses' in step:
            assert re.fullmatch(r'[\w-]+/[\w-]+@(release/)?v\d+', step['uses'])
            continue
        for target in re.findall(r'\bmake ([a-z-]+)', step['run']):
            if target == 'docs' and not re.search(r'^docs:', makefile, re.MULTILINE):
                pytest.skip('the Makefile has no target docs yet')
            assert re.search(rf'^{target}:', makefile, re.MULTILINE), target


def test_the_tests_run_on_every_python_of_the_metadata():
    declared = re.findall(r'Python :: (3\.\d+)"', (ROOT / 'pyproject.toml').read_text())
    workflow = yaml.safe_load((ROOT / '.github/workflows/tests.yml').read_text())
    assert workflow['jobs']['tests']['strategy']['matrix']['python'] == declared
    low, high = declared[0], f'3.{int(declared[-1][2:]) + 1}'
    assert f'requires-python = ">={low},<{high}"' in (ROOT / 'pyproject.toml').read_text()
    for place in ('Makefile', 'tools/env.py'):
        text = (ROOT / place).read_text()
        assert f'(3, {low[2:]}) <= sys.version_info[:2] <= (3, {declared[-1][2:]})' in text


def test_the_changelog_begins_with_this_version():
    versions = re.findall(r'^## \[(.+?)\]', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    assert versions[0] == __version__

"""Tools that import mmext run in a checkout that is not installed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = sorted(
    path.relative_to(ROOT)
    for path in ROOT.glob('tools/**/*.py')
    if re.search(r'^(from|import) mmext', path.read_text(), re.MULTILINE)
)
# One of each depth is run; all have the lines.
RUN = ('tools/train.py', 'tools/dataset_converters/split_coco.py')
# Forgets an installed mmext, then is the tool.
UNINSTALLED = """
import runpy, sys
from importlib.util import find_spec
from pathlib import Path
sys.path = [p for p in sys.path if not (Path(p or '.') / 'mmext').is_dir()]
sys.meta_path = [f for f in sys.meta_path if 'mmext' not in repr(f)]
assert find_spec('mmext') is None
sys.argv[0] = sys.argv[1]
# As Python does for a script.
sys.path.insert(0, str(Path(sys.argv[0]).parent))
sys.argv[1:] = ['--help']
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.mark.parametrize('path', TOOLS, ids=str)
def test_a_tool_looks_into_its_checkout(path):
    text = (ROOT / path).read_text()
    lines = (
        "if find_spec('mmext') is None:\n"
        f'    sys.path.insert(0, str(Path(__file__).resolve().parents[{len(path.parts) - 1}]))\n'
    )
    first = re.search(r'^(from|import) mmext', text, re.MULTILINE)
    assert lines in text[: first.start()], f'{path}: before its first import of mmext, add\n{lines}'


@pytest.mark.parametrize('path', RUN)
def test_a_tool_runs_without_an_installation(path, tmp_path):
    done = subprocess.run(
        [sys.executable, '-c', UNINSTALLED, str(ROOT / path)],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith('usage: ')

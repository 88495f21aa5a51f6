"""The claims tables in the documents are those of the result files."""

import json
import sys

import pytest


@pytest.fixture
def evidence(import_script):
    return import_script('cst', 'evidence')


def test_no_claims_table_is_stale(evidence):
    assert evidence.refresh(check=True) == []


def test_every_result_is_complete(root, evidence):
    for path in root.glob('projects/*/results/*.json'):
        result = json.loads(path.read_text())
        assert result['verdict'] in evidence.VERDICTS, path
        assert {'claim', 'command', 'commit', 'hardware', 'versions', 'data', 'seeds'} <= set(
            result
        )
        for row in result['rows']:
            for value in row['metrics'].values():
                assert value == evidence.summary(value['values']), path


def test_tables_are_rewritten(evidence, tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, 'ROOT', tmp_path)
    block = '<!-- claims:{} -->\nold\n<!-- /claims -->\n'
    (tmp_path / 'README.md').write_text(f'a\n{block.format("toy")}{block.format("all")}b\n')
    evidence.write_result(
        tmp_path / 'projects/toy/results/speed.json',
        claim='is fast',
        paper='2x',
        command='make speed',
        data={},
        seeds=[0],
        rows=[dict(method='ours', metrics={'ratio': evidence.summary([2.0, 4.0])})],
        verdict='partly',
        why='because',
    )
    assert evidence.refresh(check=True) == [tmp_path / 'README.md']
    evidence.refresh(check=False)
    text = (tmp_path / 'README.md').read_text()
    assert text.startswith('a\n<!-- claims:toy -->\n') and text.endswith('<!-- /claims -->\nb\n')
    assert 'ours: ratio 3 +- 1.4' in text and '**partly**: because' in text
    assert '| [toy](projects/toy/README.md) | is fast | **partly** | `make speed` |' in text
    assert 'old' not in text
    assert evidence.refresh(check=True) == []
    with pytest.raises(ValueError, match='verdict'):
        evidence.write_result(
            tmp_path / 'x.json', claim='', paper=None, command='', data={}, seeds=[], rows=[],
            verdict='great', why='',
        )  # fmt: skip
    assert 'evidence' in sys.modules

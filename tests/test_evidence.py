"""The claims tables in the documents are those of the result files."""

import copy
import datetime
import itertools
import json
import sys

import pytest

# Studies in which a seed changes nothing that is compared, and why. Their values are repeated in
# one run, at least three times,
ONE_SEED = {
    'cst/cost': 'time and memory of a step',
    'engine/cpu_speed': 'time of a step',
    'force_regularization/cost': 'time of a step',
    'guided_cw/speed': 'time of an attack',
    'randomized_smoothing/throughput': 'samples per second',
    'smoothout/landscape': 'the share of many starts and draws',
    'smoothout/overhead': 'time and memory of a step',
    'terngrad/codec': 'elements per second',
    'terngrad/network': 'time and bytes of a step',
    'terngrad/wire': 'bits and time of a step',
}
# but for those of which there can be one only.
ONCE = {
    'dropin/compose': 'two runs, compared bit by bit',
    'dropin/zoo': 'one draw of the families, which are counted',
    'mvstylizer/system': 'one run of each fault, whose frames are counted',
    'terngrad/model': 'computed from a fit',
}
# Metrics with fewer than three values in studies of several seeds.
FEW_VALUES = {
    # A network is exported, and timed in other forms, once.
    'force_regularization/': ('faster x (',),
    # Counts; the pictures are judged in quality.json.
    'mvstylizer/speed': ('factor of key interval', 'key on the link', 'edge SSIM', 'warping error'),
}
# Results without a cost in any row.
NO_COST = {
    'guided_cw/speed': 'its metrics are the cost',
    'mvstylizer/speed': 'its metrics are the cost',
    'mvstylizer/system_federated': 'all methods take the same steps; the minutes are in why',
    'mvstylizer/upscaling': 'the cost of its methods is in speed.json',
    'randomized_smoothing/coverage': 'drawn counts, no network',
    'randomized_smoothing/t_certify': 'the networks and counts of adre.json',
    'smoothout/landscape': 'functions of one and two variables',
}


def faults(study: str, result: dict, evidence) -> list[str]:
    """What a result lacks of what every result has; see ``evidence.write_result``."""
    found = []
    for key, kind in (('claim', str), ('command', str), ('commit', str), ('date', str),
                      ('hardware', dict), ('versions', dict), ('data', dict), ('seeds', list),
                      ('rows', list), ('why', str)):  # fmt: skip
        if not isinstance(result.get(key), kind) or not result[key]:
            found.append(f'no {key}')
    if found:
        return found
    if 'paper' not in result or result['paper'] == '':
        found.append('no paper, which may be null')
    if result.get('verdict') not in evidence.VERDICTS:
        found.append(f'verdict {result.get("verdict")!r}')
    try:
        datetime.date.fromisoformat(result['date'])
    except ValueError:
        found.append(f'date {result["date"]}')
    if not {'cpu', 'cores', 'gpu'} <= set(result['hardware']):
        found.append('hardware without cpu, cores and gpu')
    if not {'python', 'torch', 'mmengine'} <= set(result['versions']):
        found.append('versions without python, torch and mmengine')
    seeds = len(set(result['seeds']))
    told = f'{seeds} seed' in result['why']
    if seeds < 3 and not told and study not in {**ONE_SEED, **ONCE}:
        found.append(f'{seeds} seeds, and why does not say so')
    for row in result['rows']:
        # A network that is there for its size and speed.
        only_cost = row.get('setting') == 'not trained' and row.get('cost')
        if not (row.get('method') and 'setting' in row and (row.get('metrics') or only_cost)):
            found.append(f'a row without method, setting or metrics: {row.get("method")}')
            continue
        few = [name for prefix in FEW_VALUES if study.startswith(prefix)
               for name in FEW_VALUES[prefix]]  # fmt: skip
        for name, value in row['metrics'].items():
            if value != evidence.summary(value['values']):
                found.append(f'{row["method"]}, {name}: not the mean of its values')
            enough = seeds if told and seeds < 3 else 3
            if len(value['values']) < enough and study not in ONCE and not name.startswith((*few,)):
                found.append(f'{row["method"]}, {name}: {len(value["values"])} values')
    if study not in NO_COST and not any(row.get('cost') for row in result['rows']):
        found.append('no cost')
    return found


@pytest.fixture
def evidence(import_script):
    return import_script('cst', 'evidence')


def test_no_claims_table_is_stale(evidence):
    assert evidence.refresh(check=True) == []


def test_every_result_is_complete(root, evidence):
    found = {}
    for path in root.glob('projects/*/results/*.json'):
        study = f'{path.parents[1].name}/{path.stem}'
        found[study] = faults(study, json.loads(path.read_text()), evidence)
    assert not {study: lacking for study, lacking in found.items() if lacking}
    assert {*ONE_SEED, *ONCE, *NO_COST} <= set(found), 'an exception for a study that is not there'


def test_incomplete_results_are_noticed(root, evidence):
    path = root / 'projects/smoothout/results/generalisation.json'
    whole = json.loads(path.read_text())

    def lacking(study='smoothout/generalisation', **changes):
        return faults(study, {**copy.deepcopy(whole), **changes}, evidence)

    assert lacking() == []
    for key in whole:
        without = {name: value for name, value in whole.items() if name != key}
        assert faults('smoothout/generalisation', without, evidence), key
    for key in ('claim', 'paper', 'command', 'why', 'date'):
        assert lacking(**{key: ''}), key
    assert lacking(paper=None) == [] and lacking(date='yesterday') == ['date yesterday']
    assert lacking(rows=[]) == ['no rows'] and lacking(hardware={'cpu': 'x'}) and lacking(data={})
    assert lacking(verdict='great') == ["verdict 'great'"] and lacking(versions={'torch': '2'})
    # Fewer than three seeds are told, or change nothing.
    assert lacking(seeds=[0]) == ['1 seeds, and why does not say so']
    assert lacking(seeds=[0], why='1 seed: it takes a day') == []
    assert lacking('smoothout/overhead', seeds=[0]) == []
    row = copy.deepcopy(whole['rows'][0])
    for name in row['metrics']:
        row['metrics'][name] = evidence.summary([1.0])
    assert len(lacking(rows=[row])) == len(row['metrics'])
    assert lacking('smoothout/overhead', seeds=[0], rows=[row])
    assert lacking('terngrad/model', seeds=[0], rows=[row]) == []
    assert lacking(rows=[row], seeds=[0], why='1 seed: it takes a day') == []
    assert lacking(rows=[{**whole['rows'][0], 'cost': {}}]) == ['no cost']
    empty = {**whole['rows'][0], 'metrics': {}}
    assert lacking(rows=[empty]) and lacking(rows=[{**empty, 'setting': 'not trained'}]) == []
    del row['setting']
    assert lacking(rows=[row])


def test_tables_are_rewritten(evidence, tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, 'ROOT', tmp_path)
    block = '<!-- claims:{} -->\nold\n<!-- /claims -->\n'
    page = tmp_path / 'docs/claims.md'
    page.parent.mkdir()
    page.write_text(f'a\n{block.format("toy")}{block.format("all")}b\n')
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
    assert evidence.refresh(check=True) == [page]
    evidence.refresh(check=False)
    text = page.read_text()
    assert text.startswith('a\n<!-- claims:toy -->\n') and text.endswith('<!-- /claims -->\nb\n')
    assert '| 1 | is fast | **partly** | [values](' in text
    assert '1. Because. The paper has 2x. On ' in text and 'README.md#speed)' in text
    assert '| [toy](../projects/toy/README.md) | is fast | **partly** | `make speed` |' in text
    assert 'old' not in text
    assert evidence.refresh(check=True) == []
    with pytest.raises(ValueError, match='verdict'):
        evidence.write_result(
            tmp_path / 'x.json', claim='', paper=None, command='', data={}, seeds=[], rows=[],
            verdict='great', why='',
        )  # fmt: skip
    assert 'evidence' in sys.modules


def test_intervals_stand_below_the_values(evidence, tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, 'ROOT', tmp_path)
    told = dict(setting='set A', ours='new', rival='old', metric='%', mean=1.5, values=[1.0, 2.0])
    metrics = dict(ratio=evidence.summary([2.0, 4.0]))
    path = tmp_path / 'projects/toy/results/speed.json'
    evidence.write_result(
        path, claim='is fast', paper=None, command='make speed', data={}, seeds=[0, 1],
        rows=[dict(method=f'm{index}', setting='x', metrics=metrics) for index in range(5)],
        verdict='met', why='because', pilot=None, rule={'text': 'more', 'smallest_effect': 1.0},
        intervals=[{**told, 'low': -4.85, 'high': 7.85}, {**told, 'low': None, 'high': None}],
    )  # fmt: skip
    result = json.loads(path.read_text())
    assert evidence.headline(result) == 'new - old: +1.5 [-4.85, +7.85] %'
    assert 'pilot' not in result and result['rule']['text'] == 'more'
    lines = evidence.measured('toy').splitlines()
    assert lines[-2:] == [
        '| new - old | set A | % | +1.5 | -4.85 to +7.85 | 2 |',
        '| new - old | set A | % | +1.5 |  | 2 |',
    ]
    assert lines[-4].startswith('| difference |') and lines[-5] == ''


def told(method: str, setting: object, cost: dict | None = None, **values: list) -> dict:
    metrics = {name: {'mean': v[0], 'std': v[1], 'values': v[:1]} for name, v in values.items()}
    return {'method': method, 'setting': setting, 'metrics': metrics, 'cost': cost}


@pytest.fixture
def shown(evidence, tmp_path, monkeypatch):
    """Rows of a study to the lines of its tables."""
    monkeypatch.setattr(evidence, 'ROOT', tmp_path)
    path = tmp_path / 'projects/toy/results/speed.json'
    path.parent.mkdir(parents=True)

    def lines(*rows):
        path.write_text(json.dumps({'rows': rows}))
        head, *rest = evidence.measured('toy').splitlines()
        assert head == '### speed'
        return [line for line in rest if set(line) - set('|-')]

    return lines


def test_numbers_can_be_read(shown):
    rows = [told('a', 'x', {'kB': 52999.4}, error=[0.12345, 0.0678], ms=[9.0, 1e-15])]
    assert shown(*rows) == [
        'X.',
        '| method | error | ms | kB |',
        '| a | 0.123±0.068 | 9 | 52,999 |',
    ]


def test_every_method_in_every_setting_makes_a_table_for_each_value(shown):
    rows = [
        told(m, s, x=[i, 0], y=[i / 8, 0])
        for i, (m, s) in enumerate(itertools.product('abc', 'stuv'))
    ]
    assert shown(*rows) == [
        '| x | a | b | c |', '| s | 0 | 4 | 8 |', '| t | 1 | 5 | 9 |', '| u | 2 | 6 | 10 |',
        '| v | 3 | 7 | 11 |',
        '| y | a | b | c |', '| s | 0 | 0.5 | 1 |', '| t | 0.125 | 0.625 | 1.12 |',
        '| u | 0.25 | 0.75 | 1.25 |', '| v | 0.375 | 0.875 | 1.38 |',
    ]  # fmt: skip
    # What has no setting stands in a table of its own.
    assert shown(*rows, told('d', '', x=[5, 0]))[-2:] == ['| method | x |', '| d | 5 |']


def test_many_values_of_few_methods_stand_below_each_other(shown):
    rows = [told(m, 'x', **{name: [i, 0] for i, name in enumerate('pqrstuv')}) for m in 'ab']
    assert shown(*rows)[:3] == ['X.', '|  | a | b |', '| p | 0 | 0 |']


def test_rows_of_other_values_stand_in_another_table(shown):
    rows = [told('a', 'x', p=[1, 0]), told('b', 'y', q=[2, 0]), told('c', 'x', p=[3, 0])]
    assert shown(*rows) == [
        'X.', '| method | p |', '| a | 1 |', '| c | 3 |', 'Y.', '| method | q |', '| b | 2 |',
    ]  # fmt: skip


def test_what_is_for_programs_is_not_shown(shown, evidence, monkeypatch):
    rows = [
        told('fit', [{'measured': 1.0}], p=[1, 0]),
        told('a', "faster, {'flops': 3.0}", q=[2, 0]),
    ]
    table = ['| method | p |', '| fit | 1 |', 'Faster.', '| method | q |', '| a | 2 |']
    assert shown(*rows) == table
    monkeypatch.setitem(evidence.LEFT_OUT, 'toy/speed', ('p', 'setting'))
    assert shown(*rows) == table[3:]


def test_what_is_left_out_is_in_the_results(root, evidence):
    for study, names in evidence.LEFT_OUT.items():
        plugin, _, name = study.partition('/')
        rows = json.loads((root / f'projects/{plugin}/results/{name}.json').read_text())['rows']
        there = {key for row in rows for part in ('metrics', 'cost') for key in row.get(part) or {}}
        assert set(names) <= {*there, *(row['method'] for row in rows), 'setting'}

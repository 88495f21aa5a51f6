"""The studies of the harness give the committed results again from records with their values."""

import dataclasses
import json
import re

import pytest


def row_of(result: dict, **wanted) -> dict:
    (row,) = (r for r in result['rows'] if all(r[key] == value for key, value in wanted.items()))
    return row


def value(row: dict, metric: str, index: int) -> float:
    return row['metrics'][metric]['values'][index]


def mat(results: dict, run) -> dict:
    row = row_of(results['working_zones'], method=run.arm.title)
    told = {name: value(row, name, run.seed) for name in row['metrics'] if '@' in name}
    accuracy = {f'robust/{name}': v for name, v in told.items() if not name.endswith('@0')}
    return {'accuracy': {'robust/clean': told['PGD-20@0'], **accuracy}, **row['cost']}


def smoothout(results: dict, run) -> dict:
    row = row_of(results['generalisation'], method=run.arm.title, setting=run.setting.title)
    names = {'accuracy': 'test %', 'keskar': 'C_eps', 'expected': 'E[L]-L'}
    return {key: value(row, name, run.seed) for key, name in names.items()} | row['cost']


def force(results: dict, run) -> dict:
    row, index = row_of(results[run.setting.name], method=run.arm.title), run.seed
    ratios = {'macs': 'fewer MACs x', 'params': 'smaller x', 'ms': 'faster x'}
    percent = {'dense': 'dense %', 'lra': 'after LRA %', 'finetuned': 'fine-tuned %'}
    forms = {n[10:-1]: told['values'] for n, told in row['metrics'].items() if 'x (' in n}
    return {
        **{key: [value(row, name, index), 1.0] for key, name in ratios.items()},
        **{key: value(row, name, index) for key, name in percent.items()},
        # One was measured for the first seed alone.
        'latency': {n: [v[index], 1.0] for n, v in forms.items() if index < len(v)},
        'layers': row['ranks'][index],
        'curve': row['curves'][index],
        'minutes': row['cost']['CPU minutes of training'],
    }


def cst(results: dict, run) -> dict:
    row, labelled = row_of(results['study'], key=run.arm.name), run.setting.title
    found = re.match(r'(\d+) iterations, predicts with (\w+)', row['setting'])
    return {
        'mAP': {
            name.partition(',')[0]: told['values'][run.seed]
            for name, told in row['networks'].items()
            if labelled in name
        },
        'network': found.group(2),
        'iterations': int(found.group(1)),
        'curve': row['curves'][labelled][run.seed],
        'minutes': row['cost']['minutes'],
    }


def conv_m(results: dict, run) -> dict:
    task, network = run.setting.name, run.arm.options['network']
    every = {(r['method'], r['setting']): r for n in ('ability', 'losses')
             for r in results[n]['rows']}  # fmt: skip
    row = every[run.arm.title, run.setting.title]
    record = dict(task=task, network=network, method=run.arm.options['method'])
    # A validation for each way of choosing, which is the best by its own score alone.
    ways = {'val': 'oracle % (chosen with target labels)', 'entropy': 'chosen by entropy %',
            'information': 'chosen by information %', 'snd': 'chosen by snd %'}  # fmt: skip
    record['validations'] = [
        {**dict.fromkeys(ways, 0.0), way: -1.0 if way == 'entropy' else 1.0,
         'test': value(row, name, run.seed)}
        for way, name in ways.items()
    ]  # fmt: skip
    classified = row_of(results['accuracy'], method=network)
    record |= {'test': value(row, 'last iteration %', run.seed), **row['cost'],
               'source_test': value(classified, f'{task}: source %', run.seed)}  # fmt: skip
    if 'embedding' in row and run.seed == 0:
        record['embedding'] = row['embedding']
    return record


def ctf_gan(results: dict, run) -> dict:
    result = results[run.setting.name]
    row = row_of(result, method=run.arm.title)
    if run.split == 'val':
        # Of trials the text alone is there.
        told = result['why'].partition('other learning rates')[2].partition(f'{run.arm.title} ')[2]
        scale = run.values['lr_scale']
        found = re.match(rf'(?:[\d.]+ \(x [\d.]+\), )*?([\d.]+) \(x {scale}\)', told)
        return found and {'found': fids(run, float(found.group(1)))}
    found = fids(run, 0.0) | {
        f'gan/{"orig" if " raw" in name else "ema"}/{name.replace(" raw", "")}':
        told['values'][run.seed] for name, told in row['metrics'].items()
    }  # fmt: skip
    record = {'found': found | {'gan/protocol': ''}, **row['cost']}
    if 'mean gate' in row['metrics']:
        record['gates'] = value(row, 'mean gate', run.seed)
        record['shut'] = {'gan/ema/FID-C': value(row, 'FID-C, gates shut', run.seed)}
    return record


def fids(run, value: float) -> dict:
    measures = ('FID-C', 'IS-C', 'precision-C', 'recall-C', 'accuracy')
    return {f'gan/{which}/{m}': value for which in ('ema', 'orig') for m in measures}


def terngrad(results: dict, run) -> dict:
    row = row_of(results['accuracy'], method=run.arm.title)
    names = {'error': 'error %', 'train_loss': 'train cross-entropy'}
    return {key: value(row, name, run.seed) for key, name in names.items()} | row['cost']


#: Script -> result and what makes a record of all results of the plugin and a run.
STUDIES = [
    ('cst/study', 'study', cst),
    ('mat/study', 'working_zones', mat),
    ('smoothout/generalisation', 'generalisation', smoothout),
    ('force_regularization/study', 'lenet_digits', force),
    ('force_regularization/study', 'resnet20_glyphs', force),
    ('terngrad/accuracy', 'accuracy', terngrad),
    ('ctf_gan/study', 'digits', ctf_gan),
    ('ctf_gan/study', 'glyphs', ctf_gan),
    ('conv_m/study', 'losses', conv_m),
    ('conv_m/study', 'accuracy', conv_m),
    ('conv_m/study', 'ability', conv_m),
]


@pytest.mark.parametrize(('script', 'name', 'rebuild'), STUDIES)
def test_the_committed_result_is_reported_again(
    root, tmp_path, import_script, monkeypatch, capsys, script, name, rebuild
):
    pytest.importorskip('mmpretrain', reason='needs the extra "pretrain"')
    plugin, _, module = script.partition('/')
    results = {path.stem: json.loads(path.read_text())
               for path in (root / f'projects/{plugin}/results').glob('*.json')}  # fmt: skip
    committed = results[name]
    loaded = import_script(plugin, module)
    from harness.session import sessions

    if plugin == 'conv_m':
        told = {row['method']: row['cost'] for row in results['accuracy']['rows']}
        monkeypatch.setattr(loaded, 'costs', lambda quick: told)
    # No data is made, and what was chosen by trials stands in the rows.
    studies = [
        dataclasses.replace(
            study, data=lambda work, quick: committed['data'],
            searches=tuple(dataclasses.replace(s, default=1) for s in study.searches),
            # Its pictures are not in the result.
            draw=None if plugin == 'ctf_gan' else study.draw,
        )
        for study in getattr(loaded, 'STUDIES', None) or [loaded.STUDY]
    ]  # fmt: skip
    choose = getattr(loaded, 'CHOOSE', 'study')
    picked = [f'--{choose}', name] if len(studies) > 1 else []
    (session,) = sessions(studies, choose, ['--work-dir', str(tmp_path), *picked])
    session.path = tmp_path / f'{name}.json'
    assert list(session.seeds) == committed['seeds']
    runs = session.grid(session.seeds)
    tried = [
        run
        for search in session.study.searches if search.fixed
        for part in session.trials(search, session.study.settings[0]).values()
        for run in part if plugin == 'ctf_gan'
    ]  # fmt: skip
    for run in [*runs, *tried]:
        if (record := rebuild(results, run)) is not None:
            run.keep(record)
    for other in set(results) - {name} if plugin == 'conv_m' else ():
        # The figures are of all three.
        (tmp_path / f'{other}.json').write_text(json.dumps(results[other]))
    session.report(runs)
    again = json.loads(session.path.read_text())
    for key in ('claim', 'paper', 'command', 'seeds', 'verdict', 'why'):
        assert again[key] == committed[key], key
    for new, row in zip(again['rows'], committed['rows'], strict=True):
        assert (new['method'], new['setting']) == (row['method'], row['setting'])
        assert new['metrics'] == row['metrics']
        assert new['cost'] == pytest.approx(row['cost'])
        for key in set(row) - {'metrics', 'cost', 'lr', 'strength'}:
            assert new[key] == row[key], key
    assert again['rule']['text'] and again['intervals']
    assert all(len(row['values']) == len(committed['seeds']) for row in again['intervals'])
    # The figure is drawn of what is in the file.
    if session.study.draw:
        assert sum(path.stat().st_size for path in tmp_path.glob('*.png')) > 10_000
    assert committed['verdict'] in capsys.readouterr().out

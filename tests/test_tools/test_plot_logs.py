import json
from pathlib import Path

import pytest


@pytest.fixture
def plot(tool, tmp_path, monkeypatch):
    """tools/analysis_tools/plot_logs.py beside two work dirs."""
    monkeypatch.chdir(tmp_path)
    for name, top1 in (('plain', 90.0), ('noisy', 92.0)):
        folder = Path(name) / '20260101_000000/vis_data'
        folder.mkdir(parents=True)
        lines = [{'loss': 2.0 / i, 'lr': 0.1, 'iter': i, 'step': i} for i in (1, 2, 3)]
        lines.append({'accuracy/top1': top1, 'time': 1.0, 'step': 1})
        (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)) + '\n')
    return tool('analysis_tools/plot_logs').main


def test_work_dirs_are_drawn_into_one_image(plot, monkeypatch, capsys):
    from mmext.launch import comparison

    seen = []
    draw = comparison.plot_runs
    monkeypatch.setattr(comparison, 'plot_runs', lambda *given: (seen.append(given), draw(*given)))
    plot(['plain', 'noisy', '--legend', 'a', 'b', '--out', 'both.png'])
    ((groups, keys, _),) = seen
    assert keys == ['train/loss', 'val/accuracy/top1']
    found = {name: runs[0]['val/accuracy/top1'][1].tolist() for name, runs in groups.items()}
    assert found == {'a': [90.0], 'b': [92.0]}
    assert Path('both.png').read_bytes()[:4] == b'\x89PNG'
    assert 'both.png: train/loss, val/accuracy/top1' in capsys.readouterr().out


def test_one_log_file_and_one_key_as_svg(plot):
    plot(['plain/20260101_000000/vis_data/scalars.json', '--keys', 'lr', '--out', 'lr.svg'])
    assert '<svg' in Path('lr.svg').read_text()


def test_the_same_folder_twice_has_two_names(plot, capsys):
    plot(['plain', 'plain', '--list'])
    assert capsys.readouterr().out.split() == [
        'train/iter', 'train/loss', 'train/lr', 'val/accuracy/top1', 'val/time']  # fmt: skip


@pytest.mark.parametrize(
    ('argv', 'named'),
    [
        (['lost'], 'no vis_data/scalars.json in lost'),
        (['plain', '--keys', 'mAP'], "no run has 'mAP'"),
        (['plain', '--legend', 'a', 'b'], '2 names for 1 runs'),
    ],
)
def test_mistakes_exit_with_2(plot, argv, named, capsys):
    with pytest.raises(SystemExit, match='2'):
        plot(argv)
    assert named in capsys.readouterr().err and not Path('logs.png').exists()

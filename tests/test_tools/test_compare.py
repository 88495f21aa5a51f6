import json
import shutil
from pathlib import Path

import pytest
import torch

from mmext.commands import compare as command
from mmext.commands.main import main

VALIDATED = """
_base_ = {toy!r}
val_dataloader = _base_.test_dataloader
val_cfg = dict()
val_evaluator = dict(type='ToyMetric')
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
"""
SLOWER = 'optim_wrapper = dict(optimizer=dict(lr=0.05))'


@pytest.fixture
def compare(toy, monkeypatch):
    """``mmext compare`` on a project that validates, and its two configs."""
    monkeypatch.setenv('PYTHONPATH', str(Path(toy).parent))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    Path('fast.py').write_text(VALIDATED.format(toy=toy))
    Path('slow.py').write_text("_base_ = 'fast.py'\n" + SLOWER)
    Path('slower.py').write_text(SLOWER)
    return lambda argv: main(['compare', *argv])


def error_after(lr, epochs=2):
    """Mean squared error after gradient descent by hand, in batches of two."""
    from toy_least_squares import samples

    x, y = samples()
    weight = torch.zeros(3, dtype=torch.float64)
    for start in [0, 2, 4, 6] * epochs:
        rows = slice(start, start + 2)
        error = x[rows] @ weight - y[rows]
        weight = weight - lr * 2 * (error[:, None] * x[rows]).mean(0)
    return (x @ weight - y).square().mean().item()


def test_two_configs_over_seeds_and_more_seeds_later(compare, capsys):
    compare(['fast.py', 'slow.py', '--seeds', '1', '--work-dir', 'c'])
    first = Path('c/records.jsonl').read_text()
    compare(['fast.py', 'slow.py', '--seeds', '2', '--work-dir', 'c'])
    records = Path('c/records.jsonl').read_text()
    # The runs of the first seed were not run again.
    assert records.startswith(first) and len(records.splitlines()) == 5
    result = json.loads(Path('c/compare.json').read_text())
    assert 'seed=1' in Path('c/slow_seed1/slow.py').read_text()
    mse = result['metrics']['mse']
    for side, lr in (('base', 0.1), ('other', 0.05)):
        assert mse[side]['values'] == pytest.approx([error_after(lr)] * 2, rel=1e-9)
    assert mse['difference']['mean'] == pytest.approx(error_after(0.05) - error_after(0.1))
    assert (result['base'], result['other'], result['seeds']) == ('fast', 'slow', [0, 1])
    assert {'s/iteration', 'minutes', 'peak MiB'} <= set(result['cost'])
    assert 50 < result['cost']['peak MiB']['base']['mean'] < 20_000
    assert Path('c/compare.png').read_bytes()[:4] == b'\x89PNG'
    out, err = capsys.readouterr()
    assert 'difference by seed' in out and 'mse' in out and '[4/4] slow, seed 1' in err


def test_overlays_are_the_second_config_and_a_cut_off_run_goes_on(compare, monkeypatch, capsys):
    argv = ['fast.py', '--with', 'slower.py', '--seeds', '1']
    train, calls = command.train, []

    def interrupted(config, work_dir, seed):
        calls.append(config.stem)
        if config.stem == 'slower':
            raise RuntimeError('slower with seed 0 failed, see its log')
        return train(config, work_dir, seed)

    monkeypatch.setattr(command, 'train', interrupted)
    with pytest.raises(SystemExit, match='1'):
        compare(argv)
    assert calls == ['fast', 'slower'] and 'see its log' in capsys.readouterr().err
    # The second run has already done its first epoch.
    folder = Path('work_dirs/compare/fast-slower')
    half = Path('half.py')
    half.write_text((folder / 'slower.py').read_text().replace('max_epochs=2', 'max_epochs=1'))
    train(half, folder / 'slower_seed0', 0)
    assert (folder / 'slower_seed0/epoch_1.pth').exists()
    monkeypatch.setattr(command, 'train', train)
    compare(argv)
    assert 'fast, seed 0' not in capsys.readouterr().err
    log = (folder / 'slower_seed0/output.log').read_text()
    assert 'epoch_1.pth' in log and len(list((folder / 'slower_seed0').glob('2*'))) == 2
    result = json.loads((folder / 'compare.json').read_text())
    assert result['metrics']['mse']['other']['values'] == pytest.approx([error_after(0.05)])


def test_a_run_that_fails_shows_the_end_of_its_log(compare, capsys):
    Path('broken.py').write_text("_base_ = 'fast.py'\nmodel = dict(no_such=1)\n")
    with pytest.raises(SystemExit, match='1'):
        compare(['broken.py', 'fast.py', '--seeds', '1', '--work-dir', 'c'])
    error = capsys.readouterr().err
    assert 'broken with seed 0 failed' in error and "'no_such'" in error


@pytest.mark.parametrize(
    ('argv', 'named'),
    [
        (['fast.py'], 'give a second config or --with'),
        (['fast.py', 'slow.py', '--with', 'terngrad'], 'one of them'),
        (['fast.py', 'slow.py', '--seeds', '0'], '--seeds'),
        (['fast.py', 'fast.py'], 'the same config'),
        (['lost.py', 'slow.py'], 'lost.py'),
        (['fast.py', '--with', 'nothing'], 'no overlay'),
        (['fast.py', 'slow.py', '--work-dir', 'old'], 'other settings'),
    ],
)
def test_mistakes_exit_with_2(compare, argv, named, capsys):
    Path('old').mkdir()
    Path('old/records.jsonl').write_text('{"configs": {"fast": "0"}}\n')
    with pytest.raises(SystemExit, match='2'):
        compare(argv)
    assert named in capsys.readouterr().err
    shutil.rmtree('old')

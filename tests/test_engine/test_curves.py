import json
import math

import numpy as np
import pytest
from PIL import Image

from mmext.engine.curves import plot_curves, read_scalars, smooth, training_minutes
from mmext.engine.hooks import CurvesHook
from mmext.registry import HOOKS


def write_run(work_dir, name, records, tail=''):
    folder = work_dir / name / 'vis_data'
    folder.mkdir(parents=True)
    text = ''.join(json.dumps(record) + '\n' for record in records)
    (folder / 'scalars.json').write_text(text + tail)
    return folder / 'scalars.json'


def train(step, loss, **more):
    return {'lr': 0.1, 'loss': loss, 'time': 1.0, 'iter': step, 'step': step, **more}


def plain(scalars):
    return {name: (list(steps), list(values)) for name, (steps, values) in scalars.items()}


def test_stages_and_types(tmp_path):
    file = write_run(
        tmp_path,
        '20240101_000000',
        [
            train(1, 2.0, memory=7, note='text', flag=True),
            {'toy/mse': 0.5, 'time': 9.0, 'per_class': [1, 2], 'step': 1},
            train(2, math.nan),
        ],
    )
    for path in (file, file.parent.parent, tmp_path, str(tmp_path)):
        scalars = plain(read_scalars(path))
        assert scalars['val/toy/mse'] == ([1], [0.5])
        assert scalars['val/time'] == ([1], [9.0]) and scalars['train/time'] == ([1, 2], [1, 1])
        assert scalars['train/memory'] == ([1], [7])
        assert np.isnan(scalars['train/loss'][1][1]) and scalars['train/loss'][1][0] == 2
        assert not {'train/note', 'train/flag', 'val/per_class', 'train/step'} & scalars.keys()


def test_later_run_wins_per_step_in_order_of_time(tmp_path):
    # Written in the wrong order, so neither directory order nor modification time helps.
    write_run(tmp_path, '20240102_000000', [train(4, 14.0), train(5, 15.0), train(3, 13.0)])
    write_run(tmp_path, '20240101_235959', [train(step, step) for step in range(1, 5)])
    steps, values = read_scalars(tmp_path)['train/loss']
    assert list(steps) == [1, 2, 3, 4, 5] and list(values) == [1, 2, 13, 14, 15]
    assert steps.dtype == np.int64 and values.dtype == np.float64


@pytest.mark.parametrize('tail', ['{"loss": 1.0, "st', '3', '"iter', ''])
def test_torn_last_line_is_skipped(tmp_path, tail):
    file = write_run(tmp_path, 'run', [train(1, 2.0)], tail)
    assert plain(read_scalars(file))['train/loss'] == ([1], [2])


def test_unreadable_sources_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='LocalVisBackend'):
        read_scalars(tmp_path)
    file = write_run(tmp_path, 'run', [], '{"loss"\n' + json.dumps(train(1, 2.0)) + '\n')
    with pytest.raises(ValueError, match='scalars.json, line 1 is damaged'):
        read_scalars(file)
    assert read_scalars(write_run(tmp_path, 'empty', [])) == {}


def test_minutes_count_every_iteration_by_the_mean_that_was_logged():
    # 10 iterations of 3 s, 20 of 6 s, 1 of 60 s.
    scalars = {'train/time': (np.array([10, 30, 31]), np.array([3.0, 6.0, 60.0]))}
    assert training_minutes(scalars) == pytest.approx(3.5)


def test_smooth_equals_the_weighted_mean():
    values = np.random.default_rng(0).normal(size=20)
    expected = []
    for end in range(1, 21):
        weights = np.exp(-np.arange(end)[::-1] / 3)
        expected.append((weights * values[:end]).sum() / weights.sum())
    np.testing.assert_allclose(smooth(values, 3), expected, rtol=1e-12)
    holes = smooth(np.array([np.nan, 4.0, np.inf, 4.0]), 3)
    np.testing.assert_array_equal(holes, [np.nan, 4, 4, 4])


def drawn(monkeypatch, scalars, path):
    """Draw and return the panels as (x label, y label, legend)."""
    from matplotlib.figure import Figure

    panels = []
    save = Figure.savefig

    def spy(figure, *args, **kwargs):
        for axes in figure.axes:
            legend = [text.get_text() for text in axes.get_legend().get_texts()]
            panels.append((axes.get_xlabel(), axes.get_ylabel(), legend))
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, 'savefig', spy)
    plot_curves(scalars, path)
    return panels


def series(*values, start=1):
    return np.arange(start, start + len(values)), np.array(values, dtype=float)


def test_plot_has_labelled_panels_and_is_an_image(tmp_path, monkeypatch):
    scalars = {
        'train/loss': series(3, 2, np.nan, 1),
        'train/loss_cls': series(1, 1, 1, 1),
        'train/lr': series(1, 1, 0.1, 0.1),
        'train/base_lr': series(1, 1, 1, 1),
        'train/grad_norm': series(1, 1, 1, 1),
        'val/toy/mse': series(4),
        'val/time': series(4),
        'val/coco/bbox_mAP_l': series(-1),
    }
    path = tmp_path / 'curves.png'
    panels = drawn(monkeypatch, scalars, path)
    assert [(x, legend) for x, _, legend in panels] == [
        ('iteration', ['loss', 'loss_cls']),
        ('iteration', ['lr']),
        ('iteration', ['toy/mse']),
    ]
    assert [label.split(' (')[0] for _, label, _ in panels] == [
        'training loss',
        'learning rate',
        'validation metric',
    ]
    with Image.open(path) as image:
        pixels = np.asarray(image.convert('RGB'))
    assert pixels.shape[0] > 500 and (pixels < 250).any(-1).mean() > 0.01
    assert [file.name for file in tmp_path.iterdir()] == ['curves.png']


def test_metric_axis_counts_epochs_where_the_logger_did(tmp_path, monkeypatch):
    by_epoch = {'train/loss': series(1, 1, 1, 1), 'train/epoch': series(1, 1, 2, 2)}
    for steps, unit in [((1, 2), 'epoch'), ((2, 4), 'iteration')]:
        scalars = {**by_epoch, 'val/mAP': (np.array(steps), np.zeros(2))}
        assert drawn(monkeypatch, scalars, tmp_path / 'a.png')[-1][0] == unit


def test_failed_plot_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'curves.png'
    path.write_text('old')
    with pytest.raises(ValueError, match='no loss'):
        plot_curves({'train/memory': series(1)}, path)

    def torn(figure, file, **kwargs):
        file.write_text('half')
        raise OSError('disk full')

    monkeypatch.setattr('matplotlib.figure.Figure.savefig', torn)
    with pytest.raises(OSError, match='disk full'):
        plot_curves({'train/loss': series(1, 2)}, path)
    assert path.read_text() == 'old'
    assert [file.name for file in tmp_path.iterdir()] == ['curves.png']


# Hook ------------------------------------------------------------------------------------------


def spy_on_plot(monkeypatch):
    seen = []
    draw = plot_curves

    def spy(scalars, path):
        seen.append(plain(scalars))
        draw(scalars, path)

    monkeypatch.setattr('mmext.engine.hooks.curves.plot_curves', spy)
    return seen


def test_fresh_run_shows_itself_and_resumed_run_its_beginning(toy_runner, tmp_path, monkeypatch):
    assert HOOKS.get('mmext.CurvesHook') is CurvesHook
    write_run(tmp_path, '20000101_000000', [train(step, -1.0) for step in (1, 9)])
    seen = spy_on_plot(monkeypatch)
    hooks = [{'type': 'mmext.CurvesHook'}]
    runner = toy_runner(3, val_interval=2, custom_hooks=hooks)
    runner.train()
    assert seen[0]['train/loss'][0] == [1, 2, 3]
    assert seen[0]['val/toy/mse'][0] == [2, 3]
    picture = tmp_path / 'curves.png'
    assert picture.stat().st_size > 10_000
    picture.unlink()

    # A second of difference, as the names of the runs are their times.
    monkeypatch.setattr('mmengine.runner.runner.time.time', lambda: 4e9)
    resumed = toy_runner(
        5, val_interval=2, custom_hooks=hooks, resume=True, load_from=str(tmp_path / 'iter_3.pth')
    )
    resumed.train()
    steps, values = seen[1]['train/loss']
    assert steps == [1, 2, 3, 4, 5, 9]
    assert values[:3] == seen[0]['train/loss'][1] and values[-1] == -1
    assert seen[1]['val/toy/mse'][0] == [2, 3, 4, 5]
    assert picture.exists()


def test_failing_plot_does_not_fail_the_training(toy_runner, tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError('no room')

    monkeypatch.setattr('mmext.engine.hooks.curves.plot_curves', fail)
    runner = toy_runner(1, custom_hooks=[{'type': 'mmext.CurvesHook', 'filename': 'x.png'}])
    runner.train()
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'ERROR' in log and 'x.png' in log and 'no room' in log


def test_other_ranks_do_not_draw(monkeypatch):
    seen = spy_on_plot(monkeypatch)

    class SecondRank:
        rank = 1

    CurvesHook().after_train(SecondRank())
    assert not seen

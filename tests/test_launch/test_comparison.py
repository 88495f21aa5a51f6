"""Comparing runs seed by seed, and the figure of several runs."""

import numpy as np
import pytest

from mmext.launch import comparison


def run(loss, top1=None, **more):
    steps = np.arange(1, len(loss) + 1) * 10
    scalars = {'train/loss': (steps, np.array(loss, float)), 'train/iter': (steps, steps)}
    if top1 is not None:
        scalars['val/accuracy/top1'] = (np.array([1, 2]), np.array([0.0, top1]))
        scalars['val/time'] = (np.array([1, 2]), np.array([9.0, 9.0]))
    for name, values in more.items():
        scalars[f'train/{name}'] = (steps[: len(values)], np.array(values, float))
    return scalars


def test_what_a_run_ends_with():
    losses = [*range(20, 0, -1)]
    assert comparison.end_values(run(losses, 71.5)) == {'accuracy/top1': 71.5, 'training loss': 1.5}
    assert comparison.end_values({}) == {}


def test_costs_are_a_median_and_a_maximum():
    assert comparison.costs(run([1], time=[0.1], memory=[5])) == {'s/iteration': 0.1, 'GPU MiB': 5}
    assert comparison.costs(run([1] * 5, time=[9, 1, 2, 3, 1.5])) == {'s/iteration': 2}


def test_seeds_are_paired():
    base = {0: {'a': 1.0, 'b': 2.0}, 1: {'a': 3.0}, 7: {'a': 100.0}}
    other = {1: {'a': 3.5, 'b': 1.0}, 0: {'a': 0.5, 'b': 1.0}}
    table = comparison.compare(base, other)
    # b is missing from one run and seed 7 from one side.
    assert list(table) == ['a']
    assert table['a']['base'] == {'mean': 2.0, 'std': pytest.approx(2**0.5), 'values': [1.0, 3.0]}
    assert table['a']['other']['values'] == [0.5, 3.5]
    assert table['a']['difference']['values'] == [-0.5, 0.5]
    assert comparison.describe([4.0])['std'] is None
    with pytest.raises(ValueError, match=r'no seed .*\[0\].*\[1\]'):
        comparison.compare({0: {}}, {1: {}})


def test_keys_are_found_with_and_without_their_stage():
    runs = [run([1.0], 5.0), run([1.0], lr=[0.1])]
    assert comparison.find_keys(runs) == ['train/loss', 'val/accuracy/top1']
    assert comparison.find_keys(runs, ['lr', 'accuracy/top1', 'train/lr']) == [
        'train/lr', 'val/accuracy/top1']  # fmt: skip
    with pytest.raises(ValueError, match=r"no run has 'mAP'; there are .*val/accuracy/top1"):
        comparison.find_keys(runs, ['mAP'])


def test_the_figure_has_the_mean_and_the_range_of_each_group(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, 'savefig', lambda self, path, **_: (
        drawn.append(self), open(path, 'w').close()))  # fmt: skip
    groups = {'plain': [run([1.0], 60.0), run([1.0], 70.0)], 'noisy': [run([1.0], 80.0)]}
    comparison.plot_runs(groups, ['val/accuracy/top1'], tmp_path / 'deep/a.png')
    (axes,) = [axes for axes in drawn[0].axes if axes.get_visible()]
    lines = {line.get_label(): line.get_ydata().tolist() for line in axes.lines}
    assert lines == {'plain': [0, 65], 'noisy': [0, 80]}
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0, 70)
    assert axes.get_ylabel() == 'accuracy/top1' and (tmp_path / 'deep/a.png').exists()


def test_runs_logged_at_different_steps_are_drawn_where_all_have_values():
    left = (np.array([1, 2, 4]), np.array([1.0, 2.0, 4.0]))
    right = (np.array([2, 3, 4]), np.array([20.0, 30.0, 40.0]))
    steps, values = comparison._together([left, right])
    assert steps.tolist() == [2, 4] and values.tolist() == [[2, 4], [20, 40]]


def test_nothing_to_draw_is_an_error(tmp_path):
    with pytest.raises(ValueError, match='no series'):
        comparison.plot_runs({'a': [{}]}, [], tmp_path / 'a.png')
    assert not list(tmp_path.iterdir())

"""Two real processes: noise of their own, weights in common."""

from pathlib import Path

import pytest
import torch
from smoothout_runs import equal, parameters

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope='module')
def ranks(two_ranks, tmp_path_factory):
    out = tmp_path_factory.mktemp('ranks')
    two_ranks(HERE / 'smoothout_rank_worker.py', out)
    return [torch.load(out / f'rank{rank}.pth') for rank in (0, 1)]


@pytest.mark.parametrize('kind', ['OptimWrapper', 'mmext.TernGradOptimWrapper'])
def test_ranks_stay_bit_identical_with_noise_of_their_own(ranks, kind):
    runs = [rank[kind] for rank in ranks]
    first, second = (parameters(run['end']) for run in runs)
    assert equal(first, second)
    start = runs[0]['start']['conv.weight']
    assert not torch.equal(first['conv.weight'], start)
    assert runs[0]['wrapper'] == kind.removeprefix('mmext.')  # nothing stays attached
    # Both micro-batches of the first update: the clean weights are still those of the start.
    noise = [run['seen'][micro]['conv.weight'] - start for run in runs for micro in (0, 1)]
    for i, a in enumerate(noise):
        assert 0.04 < a.abs().max() < 0.05001
        for b in noise[:i]:
            assert 0.02 < (a - b).std() < 0.06  # independent: 0.05 * sqrt(2 / 3) = 0.041


def test_ternary_gradients_are_those_at_the_noisy_weights(ranks):
    """Each update of a tensor is one of 2 * ranks + 1 multiples of the shared scaler."""
    plain, ternary = (
        [ranks[0][kind][part]['conv.weight'] for part in ('start', 'end')]
        for kind in ('OptimWrapper', 'mmext.TernGradOptimWrapper')
    )
    assert torch.equal(plain[0], ternary[0]) and not torch.equal(plain[1], ternary[1])
    after_one_update = ranks[0]['mmext.TernGradOptimWrapper']['seen'][2]['conv.weight']
    # Two updates of levels -1, -1/2, 0, 1/2, 1 each: few distinct values, were there noise in the
    # update there would be as many as weights.
    steps = (ternary[1] - ternary[0]).flatten()
    distinct = {round(value, 5) for value in steps.tolist()}
    assert len(distinct) <= 25 < steps.numel()
    assert not torch.equal(after_one_update, ternary[1])

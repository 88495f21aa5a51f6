"""Which way of travelling is chosen, on a link and a codec with known times."""

import itertools

import pytest

from mmext.plugins.terngrad.choice import MIXED, ROUNDS, WARM_UP, WAYS, Chooser

LAYERS = {0: 900, 1: 100, 2: 0}
BUCKETS = [(0,), (1, 2)]


def choose(costs, by_bucket=True, most=lambda values: values, slow_start=0.0):
    """Run a training until the choice; costs are seconds of each bucket by way."""
    lines = []
    chooser = Chooser(lines.append, by_bucket)
    clock = 0.0
    for update in itertools.count():
        chooser.begin(clock, LAYERS, most)
        if chooser.is_done:
            return chooser.ways, lines, update
        free = clock
        for bucket in BUCKETS:
            took = costs[chooser.ways[bucket[0]]][BUCKETS.index(bucket)]
            # All buckets are ready at once and wait for each other.
            chooser.took(bucket, clock, free + took)
            free += took
        clock = free + 1 + (slow_start if update < WARM_UP else 0)


@pytest.mark.parametrize('way', WAYS)
def test_the_fastest_way_wins(way):
    costs = {other: [2.0, 2.0] for other in WAYS} | {way: [1.0, 1.0]}
    ways, lines, updates = choose(costs)
    assert ways == dict.fromkeys(LAYERS, way)
    assert updates == WARM_UP + ROUNDS * len(WAYS)
    assert len(lines) == 1 and f'{way} 100%' in lines[0] and '5000' in lines[0]


def test_buckets_may_go_different_ways():
    costs = {'float32': [4.0, 1.0], 'bfloat16': [3.0, 2.0], 'ternary': [1.0, 3.0]}
    ways, lines, updates = choose(costs)
    assert ways == {0: 'ternary', 1: 'float32', 2: 'float32'}
    assert updates == WARM_UP + ROUNDS * (len(WAYS) + 2)
    assert 'float32 10%, ternary 90%' in lines[0] and f'{MIXED} 3000' in lines[0]
    alone, _, _ = choose(costs, by_bucket=False)
    assert alone == dict.fromkeys(LAYERS, 'ternary')


def test_a_less_exact_way_must_be_clearly_faster():
    costs = {'float32': [1.0, 1.0], 'bfloat16': [0.99, 1.0], 'ternary': [0.98, 1.0]}
    assert set(choose(costs, by_bucket=False)[0].values()) == {'float32'}


def test_first_updates_are_not_counted():
    costs = {'float32': [1.0, 1.0], 'bfloat16': [2.0, 2.0], 'ternary': [2.0, 2.0]}
    assert set(choose(costs, slow_start=1e6)[0].values()) == {'float32'}


def test_the_slowest_rank_decides():
    """Another rank says that ternary steps take it long."""
    costs = {'float32': [3.0, 3.0], 'bfloat16': [2.0, 2.0], 'ternary': [1.0, 1.0]}

    def most(values):
        values = values.clone()
        values[2::3] = 50
        return values

    assert set(choose(costs, most=most)[0].values()) == {'bfloat16'}

"""Aggregation against a flat float64 average, refusals, gate, resume."""

import json
import threading

import numpy as np
import pytest
import torch

from mmext.plugins.mvstylizer.system import aggregation as agg
from mmext.plugins.mvstylizer.system.federation import Federation
from mmext.plugins.mvstylizer.system.models import ModelStore, write_atomic

BOUNDS = agg.Bounds()


def base_state():
    generator = torch.Generator().manual_seed(0)
    return {
        'weight': torch.randn(4, 3, generator=generator),
        'bias': torch.randn(4, generator=generator),
        'steps': torch.tensor(17),
    }


def updates(count, scale=0.05):
    generator = torch.Generator().manual_seed(1)
    base = agg.floating(base_state())
    return [
        agg.Update(
            f'edge{i}',
            3 + 7 * i,
            {n: scale * torch.randn(v.shape, generator=generator) for n, v in base.items()},
        )
        for i in range(count)
    ]


def test_weighted_mean_equals_float64_numpy():
    base, parts = base_state(), updates(5)
    got = agg.federated_average(base, parts, BOUNDS)
    total = sum(u.examples for u in parts)
    for name in ('weight', 'bias'):
        mean = sum(u.examples * u.delta[name].numpy().astype(np.float64) for u in parts) / total
        np.testing.assert_allclose(got[name].numpy(), base[name].numpy() + mean, atol=1e-6)
        assert got[name].dtype == base[name].dtype
    assert got['steps'] == 17 and got['steps'].dtype == torch.int64


@pytest.mark.parametrize('split', [(1, 4), (2, 3), (1, 1, 3)])
def test_two_levels_equal_one(split):
    base, parts = base_state(), updates(5)
    flat = agg.federated_average(base, parts, BOUNDS)
    groups, at = [], 0
    for size in split:
        groups.append(agg.partial_sum(parts[at : at + size], BOUNDS))
        at += size
    two = agg.finish(base, agg.merge(groups))
    for name in flat:
        torch.testing.assert_close(two[name], flat[name], rtol=0, atol=1e-6)


def test_one_edge_is_local_training():
    base, (only,) = base_state(), updates(1)
    got = agg.federated_average(base, [only], BOUNDS)
    torch.testing.assert_close(got['weight'], base['weight'] + only.delta['weight'])


def test_no_edge_outweighs_by_claiming_examples():
    base, parts = base_state(), updates(2)
    greedy = agg.Update('edge1', 10**9, parts[1].delta)
    bounds = agg.Bounds(max_examples=10)
    got = agg.federated_average(base, [agg.Update('a', 10, parts[0].delta), greedy], bounds)
    mean = (parts[0].delta['bias'] + greedy.delta['bias']) / 2
    torch.testing.assert_close(got['bias'], base['bias'] + mean)


def change(update, **entries):
    return agg.Update(update.edge, update.examples, {**update.delta, **entries})


def test_faults_are_named():
    base, (good,) = base_state(), updates(1)
    missing = agg.Update('x', 3, {'bias': good.delta['bias']})
    nan = good.delta['bias'].clone()
    nan[0] = float('nan')
    cases = {
        None: good,
        'names': missing,
        'shape': change(good, bias=torch.zeros(5)),
        'type': change(good, bias=torch.zeros(4, dtype=torch.int64)),
        'not finite': change(good, bias=nan),
        'no examples': agg.Update('x', 0, good.delta),
        'norm': change(good, weight=100 * good.delta['weight']),
    }
    for reason, update in cases.items():
        assert agg.fault(update, base, BOUNDS) == reason
    steps = agg.Update('x', 3, {**good.delta, 'steps': torch.tensor(3.0)})
    assert agg.fault(steps, base, BOUNDS) == 'names'


def test_outlier_among_many_is_refused_and_twins_count_once():
    base, parts = base_state(), updates(4, scale=0.001)
    loud = agg.Update('loud', 5, {n: 40 * v for n, v in parts[0].delta.items()})
    assert agg.fault(loud, base, BOUNDS) is None
    taken, refused = agg.select([*parts, loud, parts[0]], base, BOUNDS)
    assert refused == {'loud': 'norm'}
    assert sorted(u.edge for u in taken) == ['edge0', 'edge1', 'edge2', 'edge3']
    with pytest.raises(ValueError, match='empty'):
        agg.partial_sum([], BOUNDS)


def federation(tmp_path, evaluate=lambda state: float(state['bias'].abs().sum()), **options):
    models = ModelStore(tmp_path / 'models')
    return Federation(models, tmp_path, base_state, evaluate, **options)


def toward_zero(share, edge='edge0'):
    base = base_state()
    return agg.Update(edge, 4, {n: -share * v for n, v in agg.floating(base).items()})


def test_gate_publishes_the_better_and_nothing_else(tmp_path):
    cloud = federation(tmp_path)
    good = cloud.close_round(0, [toward_zero(0.2)])
    assert (good.outcome, good.version, cloud.models.current) == ('published', 1, 1)
    assert good.after < good.before
    torch.testing.assert_close(cloud.state()['bias'], 0.8 * base_state()['bias'])
    bad = cloud.close_round(1, [toward_zero(-0.2)])
    assert (bad.outcome, bad.version, cloud.models.current) == ('gate', 1, 1)
    empty = cloud.close_round(1, [agg.Update('x', 0, {})])
    assert (empty.outcome, empty.refused) == ('no updates', {'x': 'names'})
    with pytest.raises(ValueError, match='made from version 0'):
        cloud.close_round(0, [toward_zero(0.1)])
    assert [done.number for done in cloud.rounds()] == [1, 2, 3]


def test_nan_of_the_held_out_loss_is_not_published(tmp_path):
    values = iter([1.0, float('nan')])
    cloud = federation(tmp_path, lambda state: next(values))
    assert cloud.close_round(0, [toward_zero(0.1)]).outcome == 'gate'


def test_poisoned_edge_leaves_the_model_as_without_it(tmp_path):
    honest = [toward_zero(0.1, f'edge{i}') for i in range(3)]
    poisoned = toward_zero(0.1, 'poisoned')
    poisoned.delta['weight'][0, 0] = float('inf')
    clean, dirty = federation(tmp_path / 'a'), federation(tmp_path / 'b')
    clean.close_round(0, honest)
    done = dirty.close_round(0, [*honest, poisoned])
    assert done.refused == {'poisoned': 'not finite'}
    for name, value in clean.state().items():
        assert torch.equal(value, dirty.state()[name])


def test_killed_between_model_and_mark_goes_on_from_the_model(tmp_path):
    """Killed at the worst moment: the model is published, the round is not noted."""
    cloud = federation(tmp_path)
    cloud.close_round(0, [toward_zero(0.2)])
    path = tmp_path / 'rounds.jsonl'
    line = path.read_text()
    path.write_text(line[: len(line) // 2])
    again = federation(tmp_path)
    assert again.rounds() == [] and again.models.current == 1
    done = again.close_round(1, [toward_zero(0.1)])
    assert (done.number, done.outcome, done.version) == (1, 'published', 2)


def test_rollback_and_numbers_that_are_never_used_twice(tmp_path):
    cloud = federation(tmp_path)
    for version in range(3):
        cloud.close_round(version, [toward_zero(0.05)])
    assert cloud.rollback() == 2 and cloud.models.current == 2
    assert cloud.rollback() == 1
    # Edges may have the version that an operator has deleted here.
    (tmp_path / 'models' / 'v000003.pth').unlink()
    assert cloud.close_round(1, [toward_zero(0.05)]).version == 4
    assert json.loads((tmp_path / 'models' / 'current.json').read_text())['last'] == 4


def test_rollback_goes_to_the_version_that_the_current_one_was_made_from(tmp_path):
    """1 good, 2 bad, back to 1, 3 made from 1 and bad, too: back to 1, not to the bad 2."""
    store = ModelStore(tmp_path)
    store.publish({'x': torch.tensor(1.0)})
    store.publish({'x': torch.tensor(2.0)})
    assert store.rollback() == 1
    assert store.publish({'x': torch.tensor(3.0)}, base=1) == 3
    assert ModelStore(tmp_path).rollback() == 1
    assert (store.rollback(), store.rollback()) == (0, 0)


def test_the_way_back_is_not_pruned(tmp_path):
    store = ModelStore(tmp_path, keep=2)
    for value in range(3):
        store.publish({'x': torch.tensor(float(value))})
    store.select(2)
    store.publish({'x': torch.tensor(4.0)})
    assert store.versions() == [2, 3, 4] and store.rollback() == 2
    # Where it is gone, the way goes on to the one before it.
    store.select(4)
    (tmp_path / 'v000002.pth').unlink()
    assert store.rollback() == 0


def test_a_rollback_while_a_round_closes_is_not_undone(tmp_path):
    cloud = federation(tmp_path)
    cloud.close_round(0, [toward_zero(0.2)])
    inner = cloud._evaluate

    def evaluate(state):
        if cloud.models.current == 1:
            # The operator's command is another process.
            ModelStore(tmp_path / 'models').rollback()
        return inner(state)

    cloud._evaluate = evaluate
    with pytest.raises(ValueError, match='made from version 1, current is 0'):
        cloud.close_round(1, [toward_zero(0.2)])
    assert cloud.models.current == 0 and cloud.models.versions() == [1]
    assert len(cloud.rounds()) == 1


def test_base_and_score_are_those_of_the_version_asked_for(tmp_path):
    cloud = federation(tmp_path)
    for version in range(2):
        cloud.close_round(version, [toward_zero(0.2)])
    cloud.models.rollback()
    fresh = federation(tmp_path)
    want = (base_state()['bias'].abs().sum() - 0.4 * base_state()['bias'].abs().sum()).item()
    assert fresh.score(2) == pytest.approx(want, rel=1e-5)
    torch.testing.assert_close(fresh.state(2)['bias'], 0.6 * base_state()['bias'])
    assert torch.equal(fresh.state(0)['bias'], base_state()['bias'])


def test_two_processes_do_not_change_a_store_at_once(tmp_path):
    running = ModelStore(tmp_path)
    running.publish({'x': torch.tensor(1.0)})
    with running._locked():
        draft = tmp_path / 'v000002.pth.7.9.tmp'
        draft.write_bytes(b'half')
        command = threading.Thread(target=lambda: ModelStore(tmp_path).rollback())
        command.start()
        command.join(0.3)
        assert command.is_alive() and draft.exists() and running.current == 1
    command.join(20)
    assert running.current == 0


def test_store_keeps_the_newest_and_the_current(tmp_path):
    store = ModelStore(tmp_path, keep=2)
    for value in range(5):
        store.publish({'x': torch.tensor(float(value))}, {'round': value})
    assert store.versions() == [4, 5] and store.note(5) == {'round': 4}
    store.select(4)
    store.publish({'x': torch.tensor(9.0)})
    store.select(4) if store.has(4) else None
    assert store.load(store.current)['x'] in (torch.tensor(3.0), torch.tensor(9.0))
    with pytest.raises(ValueError, match='no checkpoint'):
        store.add(9, b'junk')
    with pytest.raises(FileNotFoundError):
        store.select(77)
    (tmp_path / 'x.123.tmp').write_bytes(b'half')
    assert ModelStore(tmp_path).current == store.current
    assert not list(tmp_path.glob('*.tmp'))


def test_atomic_write_keeps_the_old_file_where_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / 'file'
    write_atomic(path, b'old')

    def full(*_):
        raise OSError(28, 'No space left on device')

    for step in ('os.fsync', 'os.replace'):
        with monkeypatch.context() as patch:
            patch.setattr(step, full)
            with pytest.raises(OSError, match='No space'):
                write_atomic(path, b'new')
        assert path.read_bytes() == b'old' and list(tmp_path.iterdir()) == [path]

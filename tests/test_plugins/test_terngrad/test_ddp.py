"""Real ranks (gloo): what the communication hook does."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from terngrad_runs import Net, batch, flat, step, wrapper_for

from mmext.plugins.terngrad.transport import wire_bits

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    """Results by size of the group and rank; a hang ends in a timeout."""
    out = tmp_path_factory.mktemp('ranks')
    command = [sys.executable, str(HERE / 'terngrad_rank_worker.py'), str(out)]
    root = HERE.parents[2]
    path = os.pathsep.join([str(root), str(root / 'projects')])
    environment = {**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [torch.load(out / f'rank{rank}.pth', weights_only=False) for rank in range(4)]
    return {
        2: [result[2] for result in found[:2]],
        4: [result[4] for result in found],
        'no wire': (out / 'no_wire').read_text(),
        'sums': [torch.load(out / f'sums{rank}.pth') for rank in range(8)],
    }


def virtual(count, steps, width=24, **settings):
    """The same training with virtual workers in this process."""
    torch.manual_seed(0)
    model = Net(width)
    wrapper = wrapper_for(model, virtual_workers=True, accumulative_counts=count, **settings)
    for index in range(steps):
        for worker in range(count):
            step(model, wrapper, batch(worker, index))
    return flat(model)


@pytest.mark.parametrize('count', [2, 4])
def test_replicas_stay_identical(ranks, count):
    for key in ('fifty', 'small buckets', 'scaled', 'accumulated'):
        first = ranks[count][0][key]
        assert first.isfinite().all()
        for other in ranks[count][1:]:
            assert torch.equal(first, other[key]), key


@pytest.mark.parametrize('count', [2, 4])
def test_virtual_workers_equal_real_ranks_bit_for_bit(ranks, count):
    assert torch.equal(ranks[count][0]['big bucket'], virtual(count, 4))


def test_virtual_workers_with_own_scalers_equal_real_ranks(ranks):
    real = ranks[2][0]['own scalers']
    assert torch.equal(real, virtual(2, 4, share_scaler=False))
    assert not torch.equal(real, ranks[2][0]['big bucket'])


@pytest.mark.parametrize('count', [2, 4])
def test_buckets_do_not_matter(ranks, count):
    assert torch.equal(ranks[count][0]['small buckets'], ranks[count][0]['big bucket'])


@pytest.mark.parametrize('count', [2, 4])
def test_loss_scale_does_not_matter(ranks, count):
    """A power of two changes no bit: with AMP the gradients arrive scaled."""
    assert torch.equal(ranks[count][0]['scaled'], ranks[count][0]['big bucket'])


def test_coding_changes_no_bit_and_halves_the_bytes(ranks):
    """Also where one rank has no zstandard: then nobody codes."""
    for result in ranks[2]:
        assert torch.equal(result['coded'], result['packed'])
        assert result['coded bytes'] < 0.75 * result['packed bytes']
    assert torch.equal(ranks[2][0]['coded'], virtual(2, 3, width=256))
    own = ranks[2][0]['coded, own scalers']
    assert torch.equal(own, virtual(2, 3, width=256, share_scaler=False))


def test_all_ways_of_adding_codes_are_exact_and_send_what_they_should(ranks):
    sent = {}
    for rank, result in enumerate(ranks['sums']):
        for name, equal, n_bytes in result['equal']:
            assert equal, (rank, name)
            sent[name] = max(n_bytes, sent.get(name, 0))
    numel = 200_003
    for n_ranks in (2, 3, 8):
        for way in ('all_gather', 'two_shot'):
            packed = sent[f'{way} {n_ranks} {numel} False']
            assert packed == pytest.approx(wire_bits(way, n_ranks) * numel / 8, rel=1e-3)
            assert sent[f'{way} {n_ranks} {numel} True'] < packed
        # Too short to pay: not even the lengths are sent.
        assert sent[f'add_up {n_ranks} 30 True'] <= 4 * n_ranks * wire_bits('ternary', n_ranks)


def test_rounded_sums_are_unbiased_with_the_stated_variance(ranks):
    """And equal on all ranks, coded or not."""
    first = ranks['sums'][0]['rounded']
    for result in ranks['sums']:
        for coded in (True, False):
            found = zip(first[True], result['rounded'][coded], strict=True)
            assert all(torch.equal(*pair) for pair in found)
    exact, draws = first['exact'].double(), torch.stack(first[True]).double()
    small, large = slice(0, 25_001), slice(-25_000, None)
    assert (draws[:, small] == exact[small]).all()
    exact, draws = exact[large], draws[:, large]
    step = exact.square().mean().sqrt() / 2
    assert step > 1.5
    fraction = (exact / step) % 1
    variance = step**2 * fraction * (1 - fraction)
    error, deviation = draws.mean(0) - exact, (variance / len(draws)).sqrt()
    inside = variance > 0.1 * step**2
    assert inside.sum() > 1000
    assert ((error / deviation)[inside].square().mean() - 1).abs() < 0.1
    assert error.sum().abs() < 4 * deviation.square().sum().sqrt() + 1e-3 * len(error)
    measured = (draws - exact).square().mean().item()
    assert measured == pytest.approx(variance.mean().item(), rel=0.02)
    assert measured < exact.square().mean() / 16


@pytest.mark.parametrize('count', [2, 4])
def test_error_feedback_of_ranks_equals_that_of_virtual_workers(ranks, count):
    real = ranks[count][0]['fed back']
    assert torch.equal(real, virtual(count, 4, error_feedback=True))
    assert not torch.equal(real, ranks[count][0]['big bucket'])


def test_error_feedback_with_own_scalers(ranks):
    real = ranks[2][0]['own fed back']
    assert torch.equal(real, virtual(2, 4, error_feedback=True, share_scaler=False))
    assert all(result['nan fed back'] for result in ranks[2])


def test_ranks_choose_alike_and_keep_the_choice_after_a_resume(ranks):
    chosen = [result['auto'] for result in ranks[2]]
    for one in chosen:
        assert one['ways'] == chosen[0]['ways'] == one['resumed']
        assert len(one['ways']) == one['layers'] and one['saved']
        assert set(one['ways'].values()) <= {'float32', 'bfloat16', 'ternary'}


@pytest.mark.parametrize('count', [2, 4])
def test_nan_on_one_rank_reaches_all(ranks, count):
    assert all(result['nan'] for result in ranks[count])


def test_nan_on_one_rank_reaches_all_with_own_scalers(ranks):
    assert all(result['own nan'] for result in ranks[2])


def test_float_layers_are_averaged_exactly(ranks):
    """Warm-up and keep_float against a mean computed by hand."""
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for index in range(3):
        optimizer.zero_grad()
        for worker in range(2):
            (model(**batch(worker, index), mode='loss')['loss'] / 2).backward()
        optimizer.step()
    for key in ('warm-up', 'kept float'):
        torch.testing.assert_close(ranks[2][0][key], flat(model), rtol=1e-5, atol=1e-6)


def test_accumulation_exchanges_the_accumulated_gradient(ranks):
    """Two micro-batches on each rank: a worker's gradient is the mean of its two."""
    torch.manual_seed(0)
    model = Net()
    wrapper = wrapper_for(model)
    parameters = list(model.parameters())
    wrapper.exchange.attach(model)
    for update in range(3):
        workers = []
        for worker in range(2):
            model.zero_grad()
            for micro in range(2):
                data = batch(worker, 2 * update + micro)
                (model(**data, mode='loss')['loss'] / 2).backward()
            workers.append([parameter.grad.clone() for parameter in parameters])
        wrapper.exchange.begin(5, update, 0, ternary=True, measure=False)
        for parameter, mean in zip(
            parameters, wrapper.exchange.average(parameters, workers), strict=True
        ):
            parameter.grad = mean
        wrapper.optimizer.step()
    torch.testing.assert_close(ranks[2][0]['accumulated'], flat(model), rtol=0, atol=0)


def test_ranks_resume_bit_for_bit(ranks):
    assert all(result['resumed'] for result in ranks[4])


def test_ranks_resume_with_the_errors_of_each(ranks):
    assert all(result['resumed errors'] for result in ranks[4])


def test_separate_replicas_all_exchange_codes(ranks):
    assert all(result['separate'] for result in ranks[4])


def test_diagnostics_are_logged(ranks):
    logged = ranks[2][0]['logged']
    numel = sum(parameter.numel() for parameter in Net().parameters())
    layers = len(list(Net().parameters()))
    mib = logged['train/terngrad/wire_mib'].current()
    # One scaler of 4 bytes for each layer and one code of 1.6 bits for each element at N = 2, and
    # less than a byte of padding for a bucket.
    assert 0 <= mib * 2**20 - (4 * layers + numel / 5) < layers
    assert 0.4 < logged['train/terngrad/zeros'].current() < 0.95
    assert 1 < logged['train/terngrad/norm_inflation'].current() < 3


@pytest.mark.parametrize('count', [2, 4])
def test_bytes_on_the_interface_are_those_of_the_formula(ranks, count):
    """Everything included: scalers, lengths, TCP, barriers. Coded, it is less."""
    if ranks['no wire']:
        pytest.skip(f'needs root and network namespaces: {ranks["no wire"]}')
    for result in ranks[count]:
        formula = result['wire']['numel'] * wire_bits('ternary', count) / 8
        assert 0.97 < result['wire']['sent'] / formula < 1.05
        assert result['coded wire']['sent'] < 0.8 * formula


@pytest.mark.parametrize(
    'name, message',
    [
        ('other_hook', 'RuntimeError: .*communication hook already'),
        ('without_ddp', 'TypeError: .*MMDistributedDataParallel.*4 ranks.*Net'),
        ('sparse', 'TypeError: .*sparse=False'),
        ('virtual_in_ranks', 'ValueError: virtual_workers=True.*False'),
        ('unsaved_errors', 'ValueError: error_feedback=True.*mmext.ErrorFeedbackHook'),
    ],
)
def test_errors_in_a_distributed_run(ranks, name, message):
    for result in ranks[4]:
        assert re.match(message, result['errors'][name], re.DOTALL), result['errors'][name]

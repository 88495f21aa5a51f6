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
    }


def virtual(count, steps, **settings):
    """The same training with virtual workers in this process."""
    torch.manual_seed(0)
    model = Net()
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


def test_transports_and_packings_agree(ranks):
    for key in ('int8', 'two-shot'):
        assert torch.equal(ranks[2][0][key], ranks[2][0]['big bucket']), key
    assert torch.equal(ranks[4][0]['all-gather'], ranks[4][0]['big bucket'])


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
    """Everything included: scalers, TCP, barriers."""
    if ranks['no wire']:
        pytest.skip(f'needs root and network namespaces: {ranks["no wire"]}')
    for result in ranks[count]:
        formula = result['wire']['numel'] * wire_bits('auto', count) / 8
        assert 0.97 < result['wire']['sent'] / formula < 1.05


@pytest.mark.parametrize(
    'name, message',
    [
        ('other_hook', 'RuntimeError: .*communication hook already'),
        ('without_ddp', 'TypeError: .*MMDistributedDataParallel.*4 ranks.*Net'),
        ('sparse', 'TypeError: .*sparse=False'),
        ('virtual_in_ranks', 'ValueError: virtual_workers=True.*False'),
    ],
)
def test_errors_in_a_distributed_run(ranks, name, message):
    for result in ranks[4]:
        assert re.match(message, result['errors'][name], re.DOTALL), result['errors'][name]

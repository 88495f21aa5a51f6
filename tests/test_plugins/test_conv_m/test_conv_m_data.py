"""Batches of two domains, dropped labels, the schedule, scores without labels, the report."""

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset
from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    METRICS,
    PARAM_SCHEDULERS,
    TRANSFORMS,
    init_default_scope,
)

from mmext.plugins.conv_m import AccuracyReportHook, LabelFreeSelection
from mmext.plugins.conv_m.functional import soft_neighbourhood_density


class Toy(BaseDataset):
    """``size`` samples with running labels, and meta information of its own."""

    def __init__(self, size, classes=('a', 'b', 'c'), first=0, **meta):
        self.size, self.first = size, first
        super().__init__(metainfo=dict(classes=classes, **meta), pipeline=[], serialize_data=False)

    def load_data_list(self):
        return [{'img': self.first + i, 'gt_label': i % 3} for i in range(self.size)]


def build(source, target):
    if target is not None:
        target.pipeline.transforms.insert(0, TRANSFORMS.build(dict(type='mmext.DropLabel')))
    return DATASETS.build(dict(type='mmext.TwoDomainDataset', source=source, target=target))


def sampler(dataset, **settings):
    return DATA_SAMPLERS.build(
        dict(type='mmext.TwoDomainSampler', seed=0, **settings), default_args=dict(dataset=dataset)
    )


def test_batches_have_source_first_and_both_domains_whole():
    dataset = build(Toy(12, domain='x'), Toy(8, first=100, domain='y', fonts=['z']))
    assert len(dataset) == 20 and dataset.metainfo['classes'] == ('a', 'b', 'c')
    chosen = sampler(dataset, batch_size=8, ratio=(3, 1))
    batches = np.array(list(itertools.islice(chosen, 64))).reshape(8, 8)
    assert (batches[:, :6] < 12).all() and (batches[:, 6:] >= 12).all()
    assert sorted(batches[:2, :6].ravel()) == list(range(12))
    assert sorted(batches[:4, 6:].ravel()) == list(range(12, 20))
    equal = sampler(dataset, batch_size=6)
    first = list(itertools.islice(equal, 6))
    assert [index < 12 for index in first] == [True] * 3 + [False] * 3
    equal.skip(6)
    assert next(iter(equal)) == sampler(dataset, batch_size=6).at(6)


def test_a_target_that_keeps_its_labels():
    with pytest.raises(ValueError, match='must begin with dict.*DropLabel'):
        DATASETS.build(dict(type='mmext.TwoDomainDataset', source=Toy(4), target=Toy(5)))


def test_domains_may_be_joined_and_wrapped():
    drop = TRANSFORMS.build(dict(type='mmext.DropLabel'))
    parts = [Toy(3), Toy(5, first=50)]
    repeated = RepeatDataset(Toy(4), 2)
    target = RepeatDataset(dict(type=lambda: ConcatDataset(parts)), 2)
    settings = dict(type='mmext.TwoDomainDataset', source=repeated, target=target)
    parts[0].pipeline.transforms.insert(0, drop)
    with pytest.raises(ValueError, match='must begin with'):
        DATASETS.build(settings)
    parts[1].pipeline.transforms.insert(0, drop)
    dataset = DATASETS.build(settings)
    assert len(dataset) == 8 + 16
    assert [dataset[i]['gt_label'] for i in (5, 8, 11, 23)] == [1, -1, -1, -1]
    assert [dataset[i]['img'] for i in (5, 8, 11, 23)] == [1, 0, 50, 54]


def test_a_plain_concatenation_is_welcome():
    dataset = ConcatDataset([Toy(4), Toy(5)])
    assert len(list(itertools.islice(sampler(dataset, batch_size=4), 8))) == 8


@pytest.mark.parametrize('ratio', [(1, 0), (0, 1), (1, -1), (1,), (1, 1, 1), (1, math.inf)])
def test_a_share_of_zero(ratio):
    with pytest.raises(ValueError, match='ratio=.* must be two shares above 0'):
        sampler(build(Toy(4), Toy(5)), batch_size=4, ratio=ratio)


def test_a_share_too_small_for_the_batch():
    with pytest.raises(ValueError, match='smallest batch_size that works is'):
        sampler(build(Toy(4), Toy(5)), batch_size=4, ratio=(20, 1))


@pytest.mark.parametrize('missing', ['source', 'target'])
def test_a_missing_domain(missing):
    parts = dict(source=Toy(4), target=Toy(4))
    parts[missing] = None
    with pytest.raises(ValueError, match=f'{missing} is missing: .*{missing}=dict'):
        build(**parts)
    with pytest.raises(ValueError, match='3 parts, domain adaptation needs two'):
        sampler(ConcatDataset([Toy(4)] * 3), batch_size=4)
    with pytest.raises(TypeError, match='ConcatDataset'):
        sampler(Toy(4), batch_size=4)


def test_classes_that_differ():
    with pytest.raises(ValueError) as error:
        build(Toy(4, ('cat', 'dog', 'cow')), Toy(4, ('cat', 'ox')))
    message = str(error.value)
    assert 'source has 3 classes and target 2' in message
    assert 'only in the source: cow, dog' in message and 'only in the target: ox' in message
    with pytest.raises(ValueError, match="number 1 is 'b' in the source and 'c' in the target"):
        build(Toy(4, ('a', 'b', 'c')), Toy(4, ('a', 'c', 'b')))
    # Where MMEngine was told to look away.
    parts = [Toy(4, ('cat', 'dog')), Toy(4, ('cat', 'ox'))]
    with pytest.raises(ValueError, match='only in the target: ox'):
        sampler(ConcatDataset(parts, ignore_keys='classes'), batch_size=4)
    many = [Toy(4, [f'{name}{i}' for i in range(15)]) for name in 'xy']
    with pytest.raises(ValueError, match='x0, x1, x10, .* and 5 more'):
        build(*many)


def test_drop_label_leaves_nothing_of_the_label():
    transform = TRANSFORMS.build(dict(type='mmext.DropLabel'))
    found = transform(dict(img=7, gt_label=2, gt_score=np.eye(3)[2], sample_idx=1))
    assert found == dict(img=7, gt_label=-1, sample_idx=1)
    assert transform(dict(img=7))['gt_label'] == -1
    init_default_scope('mmpretrain')
    pack = TRANSFORMS.build(dict(type='PackInputs'))
    packed = pack(transform(dict(img=np.zeros((4, 4, 1), np.uint8), gt_label=2)))
    assert packed['data_samples'].gt_label.tolist() == [-1]


def optimizer(lr=0.1):
    layers = [torch.nn.Linear(2, 2) for _ in range(2)]
    return torch.optim.SGD(
        [dict(params=layers[0].parameters()), dict(params=layers[1].parameters(), lr=10 * lr)],
        lr=lr,
    )


def rates(optim, schedulers, steps):
    found = []
    for _ in range(steps):
        found.append([group['lr'] for group in optim.param_groups])
        optim.step()
        for scheduler in schedulers:
            scheduler.step()
    return np.array(found)


def scheduler(optim, **settings):
    return PARAM_SCHEDULERS.build(
        dict(type='mmext.InvLR', **settings), default_args=dict(optimizer=optim)
    )


def test_inv_lr_is_its_formula():
    optim = optimizer()
    found = rates(optim, [scheduler(optim, gamma=0.01, power=0.75, by_epoch=False)], 200)
    steps = np.arange(200)
    expected = 0.1 * (1 + 0.01 * steps) ** -0.75
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-10)
    np.testing.assert_allclose(found[:, 1], 10 * expected, rtol=1e-10)


def test_inv_lr_begins_ends_and_goes_with_a_warm_up():
    optim = optimizer()
    warm = PARAM_SCHEDULERS.build(
        dict(type='LinearLR', start_factor=0.5, end=4, by_epoch=False),
        default_args=dict(optimizer=optim),
    )
    inv = scheduler(optim, gamma=0.5, power=1.0, by_epoch=False, begin=4, end=8)
    found = rates(optim, [warm, inv], 12)[:, 0]
    assert found[0] == pytest.approx(0.05) and found[3] == pytest.approx(0.1)
    expected = [0.1 / (1 + 0.5 * step) for step in range(4)]
    np.testing.assert_allclose(found[4:8], expected, rtol=1e-10)
    np.testing.assert_allclose(found[8:], expected[-1], rtol=1e-10)


def test_inv_lr_by_epochs_becomes_one_by_iterations():
    optim = optimizer()
    cls = PARAM_SCHEDULERS.get('mmext.InvLR')
    made = cls.build_iter_from_epoch(optim, gamma=1.0, power=0.75, epoch_length=10, end=3)
    found = rates(optim, [made], 40)[:, 0]
    assert found[10] == pytest.approx(0.1 * 2**-0.75)
    assert found[39] == found[30]
    with pytest.raises(ValueError, match='by_epoch=True and epoch_length'):
        cls.build_iter_from_epoch(optim)
    with pytest.raises(ValueError, match='gamma=-1'):
        scheduler(optim, gamma=-1)


def metric(scores):
    found = METRICS.build(dict(type='mmext.LabelFreeSelection'))
    # No label anywhere.
    found.process({}, [dict(pred_score=row) for row in scores])
    return found.evaluate(len(scores))


def test_scores_without_labels():
    scores = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).softmax(1)
    single = -(scores * scores.log()).sum(1).mean()
    mean = scores.mean(0)
    found = metric(scores)
    assert found == {
        'select/entropy': pytest.approx(float(single), rel=1e-5),
        'select/information': pytest.approx(float(-(mean * mean.log()).sum() - single), rel=1e-4),
        'select/snd': pytest.approx(float(soft_neighbourhood_density(scores.double())), rel=1e-6),
    }
    collapsed = metric(torch.eye(4)[[1] * 8])
    sure = metric(torch.eye(4)[[0, 1, 2, 3] * 2])
    assert collapsed['select/entropy'] == pytest.approx(0, abs=1e-9)
    assert collapsed['select/information'] == pytest.approx(0, abs=1e-9)
    assert sure['select/information'] == pytest.approx(math.log(4))
    with pytest.raises(ValueError, match='got 1'):
        metric(scores[:1])
    with pytest.raises(ValueError, match='temperature=0'):
        LabelFreeSelection(temperature=0)


def validate(hook, work_dir, rows, start=0):
    runner = SimpleNamespace(work_dir=str(work_dir), iter=start, rank=0)
    hook.before_train(runner)
    for iteration, accuracy, entropy, information, snd in rows:
        runner.iter = iteration
        hook.after_val_epoch(
            runner,
            {'accuracy/top1': accuracy, 'select/entropy': entropy,
             'select/information': information, 'select/snd': snd},
        )  # fmt: skip


ROWS = [(10, 50.0, 0.9, 1.0, 3.0), (20, 70.0, 0.8, 1.2, 3.4), (30, 60.0, 0.3, 1.3, 3.1)]


def test_the_report_names_each_choice(tmp_path):
    hook = AccuracyReportHook()
    validate(hook, tmp_path, ROWS)
    told = json.loads((tmp_path / 'target_accuracy.json').read_text())
    assert told['last_iteration'] == dict(accuracy=60.0, iteration=30)
    assert told['oracle (chosen with target labels)'] == dict(accuracy=70.0, iteration=20)
    assert told['chosen by select/entropy'] == dict(accuracy=60.0, iteration=30)
    assert told['chosen by select/snd'] == dict(accuracy=70.0, iteration=20)
    assert [row['iteration'] for row in told['validations']] == [10, 20, 30]


def test_the_report_survives_a_resume(tmp_path):
    validate(AccuracyReportHook(), tmp_path, [*ROWS[:2], (30, 99.0, 0, 0, 0)])
    resumed = AccuracyReportHook()
    validate(resumed, tmp_path, ROWS[2:], start=20)
    whole = AccuracyReportHook()
    validate(whole, tmp_path / '..', ROWS)
    assert resumed.report() == whole.report()
    fresh = AccuracyReportHook()
    validate(fresh, tmp_path, ROWS[2:])
    assert len(fresh.validations) == 1


def test_a_report_without_its_metrics(tmp_path):
    runner = SimpleNamespace(work_dir=str(tmp_path), iter=1, rank=0)
    with pytest.raises(ValueError, match='no select/entropy.*add mmext.LabelFreeSelection'):
        AccuracyReportHook().after_val_epoch(runner, {'accuracy/top1': 1.0})
    with pytest.raises(ValueError, match="'more' must be 'less' or 'greater'"):
        AccuracyReportHook(rules={'a': 'more'})

import copy

import numpy as np
import pytest
import torch
from cst_detectors import FAMILIES, batch, build, cycle, fcos, retinanet, sample
from mmengine.structures import InstanceData

from mmext.plugins.cst.consistency import DistributionConsistency
from mmext.plugins.cst.early_backward import early_backward

NETWORKS = ('teacher1', 'teacher2', 'student1', 'student2')


def unsupervised(model, inputs, samples, student):
    """Sum of the unsupervised losses of one student and its gradients."""
    torch.manual_seed(0)
    losses = model.loss(inputs, samples)
    part = {k: v for k, v in losses.items() if k.startswith(f'student{student}_unsup_')}
    total, _ = model.parse_losses(part)
    network = getattr(model, f'student{student}')
    parameters = [p for p in network.parameters() if p.requires_grad]
    return total, torch.autograd.grad(total, parameters, allow_unused=True)


def same(first, second):
    return all(
        (a is None and b is None) or torch.equal(a, b) for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize('family', FAMILIES)
def test_each_teacher_teaches_the_other_student_only(family):
    # Without reweighting, which by design looks at both teachers.
    plain = dict(type='mmext.DistributionConsistency', kind='none')
    model = build(cycle(FAMILIES[family](), consistency=plain))
    model.train()
    inputs, samples = batch()
    before = {s: unsupervised(model, inputs, samples, s)[1] for s in (1, 2)}
    with torch.no_grad():
        for parameter in model.teacher1.parameters():
            parameter.mul_(-1.5)
    after = {s: unsupervised(model, inputs, samples, s)[1] for s in (1, 2)}
    assert same(before[1], after[1]), 'T1 reached S1'
    assert not same(before[2], after[2]), 'T1 does not reach S2'


@pytest.mark.parametrize('family', FAMILIES)
def test_sequential_backward_gives_the_same_losses_and_gradients(family):
    model = build(cycle(FAMILIES[family]()))
    model.train()
    state = copy.deepcopy(model.state_dict())
    results = []
    for sequential in (False, True):
        model.load_state_dict(state)
        model.zero_grad()
        model.semi_train_cfg['sequential_backward'] = sequential
        torch.manual_seed(0)
        total, logs = model.parse_losses(model.loss(*batch()))
        # As an optimizer wrapper does it for a loss scale or gradient accumulation.
        (total * 4).backward()
        results.append((logs, [p.grad for p in model.parameters()]))
    assert results[0][0] == results[1][0]
    assert same(results[0][1], results[1][1])
    assert any(grad is not None and grad.any() for grad in results[1][1])


def test_sequential_backward_frees_the_first_student_before_the_second_runs(monkeypatch):
    model = build(cycle(fcos(), semi_train_cfg=dict(sequential_backward=True)))
    model.train()
    alive = []

    def watch(module, inputs, outputs):
        outputs[0].register_hook(lambda grad: alive.append('graph of S1 used'))

    model.student1.backbone.register_forward_hook(watch)
    second = model.student2.loss
    monkeypatch.setattr(
        model.student2, 'loss', lambda *args: (alive.append('S2 runs'), second(*args))[1]
    )
    model.loss(*batch())
    assert alive == ['graph of S1 used', 'graph of S1 used', 'S2 runs', 'S2 runs']


@pytest.mark.parametrize('overflow', [False, True])
def test_early_backward_scales_float16_and_survives_an_overflow(overflow):
    x = torch.tensor([3e4 if overflow else 3e-7], requires_grad=True)
    y = torch.tensor([1.0], requires_grad=True)
    with torch.autocast('cpu', torch.float16):
        # The gradient of y passes through float16, where 3e-7 alone loses its digits.
        loss = (y.half().float() * x.detach()).sum()
        kept = early_backward(loss, [x, y])
    kept.backward()
    assert x.grad is None and kept == loss
    torch.testing.assert_close(y.grad, x.detach(), rtol=2e-3, atol=0)


def test_poisoned_labels_of_a_teacher_reach_the_other_student_only(monkeypatch):
    model = build(cycle(fcos()))
    model.train()
    inputs, samples = batch()

    def pseudo(label_of_teacher1):
        def made(label):
            return [
                InstanceData(
                    bboxes=torch.tensor([[8.0, 8, 40, 40]]),
                    labels=torch.tensor([label]),
                    scores=torch.ones(1),
                    weights=torch.ones(1),
                )
                for _ in range(2)
            ]

        return lambda *args: ([made(label_of_teacher1), made(1)], {})

    monkeypatch.setattr(model, 'pseudo_instances', pseudo(1))
    clean = {s: unsupervised(model, inputs, samples, s)[0] for s in (1, 2)}
    monkeypatch.setattr(model, 'pseudo_instances', pseudo(2))
    poisoned = {s: unsupervised(model, inputs, samples, s)[0] for s in (1, 2)}
    assert torch.equal(clean[1], poisoned[1])
    assert not torch.equal(clean[2], poisoned[2])


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('kind', ['js', 'exp_kl', 'score'])
def test_identical_teachers_give_weight_one_and_different_ones_less(family, kind):
    consistency = dict(type='mmext.DistributionConsistency', kind=kind, boxes='iou')
    model = build(cycle(FAMILIES[family](), consistency=consistency))
    model.train()
    inputs, samples = batch()
    pseudo, statistics = model.pseudo_instances(inputs['unsup_teacher'], samples['unsup_teacher'])
    different, of_boxes = (torch.cat([found[key] for teacher in pseudo for found in teacher])
                           for key in ('weights', 'box_weights'))  # fmt: skip
    assert len(different) and (different < 1).any() and (different >= 0).all()
    assert (of_boxes < 1).any() and ((of_boxes >= 0) & (of_boxes <= 1)).all()
    model.teacher2.load_state_dict(model.teacher1.state_dict())
    pseudo, statistics = model.pseudo_instances(inputs['unsup_teacher'], samples['unsup_teacher'])
    for key in ('weights', 'box_weights'):
        equal = torch.cat([found[key] for teacher in pseudo for found in teacher])
        torch.testing.assert_close(equal, torch.ones_like(equal), rtol=0, atol=1e-4)
    assert statistics['dcr/agreement'] == 1
    assert statistics['dcr/js_mean'] < 1e-6


@pytest.mark.parametrize('family', FAMILIES)
def test_weights_reach_the_students_losses(family):
    model = build(cycle(FAMILIES[family]()))
    model.train()
    inputs, samples = batch()
    with torch.no_grad():
        # Untrained teachers agree nearly to the last bit.
        for parameter in model.teacher1.parameters():
            parameter.mul_(-1.5)
    model.consistency.share = 0.0
    unweighted = unsupervised(model, inputs, samples, 1)[1]
    model.consistency.share = 1.0
    assert not same(unweighted, unsupervised(model, inputs, samples, 1)[1])


@pytest.mark.parametrize('family', FAMILIES)
def test_no_pseudo_box_gives_zero_loss_and_a_whole_graph(family):
    model = build(cycle(FAMILIES[family](), semi_train_cfg=dict(score_thr=1.0)))
    model.train()
    inputs, samples = batch()
    losses = model.loss(inputs, samples)
    total, logs = model.parse_losses(losses)
    total.backward()
    assert all(float(v) == 0 for k, v in logs.items() if '_unsup_' in k and 'loss' in k)
    for student in model.students:
        assert all(p.grad is not None for p in student.parameters() if p.requires_grad)
    assert all(p.grad is None for teacher in model.teachers for p in teacher.parameters())
    assert torch.isfinite(total)


def test_a_teacher_that_writes_nan_teaches_nothing():
    model = build(cycle(fcos()))
    model.train()
    with torch.no_grad():
        for parameter in model.teacher2.bbox_head.parameters():
            parameter.fill_(float('nan'))
    inputs, samples = batch()
    total, logs = model.parse_losses(model.loss(inputs, samples))
    assert torch.isfinite(total) and logs['pseudo/teacher2'] == 0


def test_labelled_images_without_boxes_train():
    model = build(cycle(fcos()))
    model.train()
    inputs, samples = batch()
    samples['sup'] = [sample(), sample()]
    assert torch.isfinite(model.parse_losses(model.loss(inputs, samples))[0])


def test_burn_in_is_supervised_only():
    model = build(cycle(fcos()))
    model.train()
    model.unsup_scale = 0.0
    inputs, samples = batch()
    losses = model.loss(inputs, samples)
    assert losses and all('_sup_' in key for key in losses)


def test_ignored_boxes_weigh_nothing_and_are_no_background():
    cfg = cycle(fcos(), semi_train_cfg=dict(score_thr=0.999, ignore_score_thr=0.002))
    model = build(cfg)
    model.train()
    inputs, samples = batch()
    pseudo, statistics = model.pseudo_instances(inputs['unsup_teacher'], samples['unsup_teacher'])
    weights = torch.cat([found.weights for teacher in pseudo for found in teacher])
    assert len(weights) and (weights == 0).all() and statistics['pseudo/teacher1'] == 0


def test_normalised_weights_of_the_pseudo_boxes_have_mean_one(monkeypatch):
    """Ignore regions, which the teachers agree on less, do not count."""
    consistency = dict(type='mmext.DistributionConsistency', kind='js', temperature=1e-3)
    settings = dict(score_thr=0.5, ignore_score_thr=0.1)
    model = build(cycle(fcos(), consistency=consistency, semi_train_cfg=settings))
    model.train()
    boxes = torch.tensor([[2, 3, 30, 40], [10, 20, 50, 60], [5, 5, 60, 20], [30, 2, 60, 60.0]])
    scores, labels = torch.tensor([0.9, 0.8, 0.3, 0.2]), torch.tensor([0, 1, 2, 0])
    for teacher, least in zip(model.teachers, (1.0, 0.9), strict=True):
        found = InstanceData(bboxes=boxes, scores=scores * least, labels=labels)
        monkeypatch.setattr(
            teacher.bbox_head, 'predict_by_feat', lambda *_, found=found, **__: [found, found]
        )
    inputs, samples = batch()
    pseudo, statistics = model.pseudo_instances(inputs['unsup_teacher'], samples['unsup_teacher'])
    for teacher in pseudo:
        weights = torch.stack([found.weights for found in teacher])
        assert weights[:, :2].mean() == pytest.approx(1) and (weights[:, 2:] == 0).all()
        assert weights[:, :2].std() > 1e-6
    assert statistics['pseudo/teacher1'] == 2


def test_an_object_gets_one_class():
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 11], [20, 0, 30, 10], [25, 0, 35, 10.0]])
    found = InstanceData(
        bboxes=boxes, labels=torch.tensor([1, 2, 1, 0]), scores=torch.tensor([0.6, 0.9, 0.8, 0.7])
    )
    kept = {}
    for iou in (None, 0.6, 0.3):
        model = build(cycle(fcos(), semi_train_cfg=dict(score_thr=0.5, agnostic_nms_iou=iou)))
        kept[iou] = sorted(
            model._keep(model._sound(found), model._limits(0)).scores.tolist(), reverse=True
        )
    assert kept[None] == pytest.approx([0.9, 0.8, 0.7, 0.6])
    assert kept[0.6] == pytest.approx([0.9, 0.8, 0.7])
    assert kept[0.3] == pytest.approx([0.9, 0.8])


def test_disagreement_is_ignored_relabelled_or_sampled():
    p1 = torch.tensor([[0.7, 0.2, 0.0, 0.1], [0.4, 0.3, 0.2, 0.1], [0.6, 0.1, 0.1, 0.2]])
    p2 = torch.tensor([[0.8, 0.1, 0.0, 0.1], [0.1, 0.8, 0.0, 0.1], [0.1, 0.0, 0.0, 0.9]])
    labels = torch.tensor([0, 0, 0])
    settled = {}
    for name in ('weigh', 'ignore', 'relabel'):
        found = DistributionConsistency(disagreement=name).settle(labels, p1, p2)
        settled[name] = [part.int().tolist() for part in found]
    assert settled == {
        'weigh': [[0, 0, 0], [0, 0, 0]],
        'ignore': [[0, 0, 0], [0, 1, 1]],
        'relabel': [[0, 1, 0], [0, 0, 0]],
    }
    torch.manual_seed(0)
    drawn = DistributionConsistency(disagreement='sample')
    share = torch.stack([drawn.settle(labels, p1, p2)[0] for _ in range(2000)])
    mean = ((p1 + p2) / 2)[:, :3]
    for label in range(3):
        expected = mean[:, label] / mean.sum(dim=1)
        torch.testing.assert_close(
            (share == label).float().mean(dim=0), expected, atol=0.04, rtol=0
        )


def test_ignored_disagreement_reaches_the_pseudo_labels():
    consistency = dict(type='mmext.DistributionConsistency', disagreement='ignore')
    model = build(cycle(fcos(), consistency=consistency, semi_train_cfg=dict(score_thr=0.2)))
    model.train()
    boxes, labels = torch.tensor([[2, 3, 30, 40], [34, 20, 60, 60.0]]), torch.tensor([0, 1])
    for teacher, classes in zip(model.teachers, (labels, labels.flip(0) * 0), strict=True):
        found = InstanceData(bboxes=boxes, scores=torch.tensor([0.9, 0.8]), labels=classes)
        teacher.bbox_head.predict_by_feat = lambda *_, found=found, **__: [found, found]
    inputs, samples = batch()
    pseudo, _ = model.pseudo_instances(inputs['unsup_teacher'], samples['unsup_teacher'])
    assert [(found.weights > 0).tolist() for found in pseudo[0]] == [[True, False]] * 2


@pytest.mark.parametrize('kind', ['js', 'none'])
def test_split_batch_gives_each_student_its_own_half(kind):
    consistency = dict(type='mmext.DistributionConsistency', kind=kind)
    model = build(cycle(fcos(), consistency=consistency))
    model.train()
    whole, samples = batch(images=4)
    model.semi_train_cfg['split_batch'] = True
    torch.manual_seed(0)
    split = model.loss(whole, samples)
    model.semi_train_cfg['split_batch'] = False
    for index, half in ((1, slice(0, 2)), (2, slice(2, 4))):
        inputs = {name: part[half] for name, part in whole.items()}
        alone = model.loss(inputs, {name: part[half] for name, part in samples.items()})
        for name, value in alone.items():
            if name.startswith(f'student{index}'):
                torch.testing.assert_close(split[name], value, rtol=1e-4, atol=1e-6)


def test_pseudo_boxes_are_as_exact_in_bfloat16_as_in_float32():
    """Of the same outputs: priors and boxes of a large image have no place in 8 bits."""
    model = build(cycle(retinanet()))
    head = model.teacher1.bbox_head
    maps = [torch.randn(1, c, 1312 // s, 1312 // s) for s in (16, 32) for c in (9, 12)]
    scores, deltas = [m.bfloat16() for m in maps[::2]], [m.bfloat16() for m in maps[1::2]]
    metas = [sample(size=1312).metainfo]
    with torch.autocast('cpu', torch.bfloat16):
        found, exact = (
            head.predict_by_feat(s, d, batch_img_metas=metas, rescale=False, with_nms=False)[0]
            for s, d in ((scores, deltas), [[m.float() for m in part] for part in (scores, deltas)])
        )  # fmt: skip
    assert found.bboxes.dtype == torch.float32 and found.bboxes.max() > 1000
    assert (found.bboxes - exact.bboxes).abs().max() < 0.05


def test_own_branches_go_to_their_student():
    model = build(cycle(fcos()))
    model.train()
    inputs, samples = batch()
    shared = unsupervised(model, inputs, samples, 2)[0]
    inputs['unsup_student1'], samples['unsup_student1'] = (
        torch.randn_like(inputs['unsup_student']),
        copy.deepcopy(samples['unsup_student']),
    )
    inputs['unsup_student2'], samples['unsup_student2'] = (
        inputs.pop('unsup_student'),
        samples.pop('unsup_student'),
    )
    assert torch.equal(shared, unsupervised(model, inputs, samples, 2)[0])
    del inputs['unsup_student2']
    with pytest.raises(KeyError, match="no branch 'unsup_student2'"):
        model.loss(inputs, samples)


def test_boxes_move_with_the_views():
    model = build(cycle(fcos()))
    weak, strong = sample(), sample()
    weak.set_metainfo(dict(homography_matrix=np.diag([2.0, 2.0, 1.0])))
    shift = np.eye(3)
    shift[0, 2] = 5.0
    strong.set_metainfo(dict(homography_matrix=shift))
    found = InstanceData(
        bboxes=torch.tensor([[4.0, 4, 20, 20], [0, 0, 60, 60]]),
        labels=torch.tensor([0, 1]),
        weights=torch.tensor([0.5, 1.0]),
    )
    (target,) = model.project([found], [strong])
    torch.testing.assert_close(
        target.gt_instances.bboxes, torch.tensor([[9.0, 4, 25, 20], [5, 0, 64, 60]])
    )
    assert target.gt_instances.weights.tolist() == [0.5, 1.0]
    strong.set_metainfo(dict(homography_matrix=np.array([[1, 0, 100.0], [0, 1, 0], [0, 0, 1]])))
    assert len(model.project([found], [strong])[0].gt_instances) == 0


def test_pseudo_boxes_come_back_to_the_original_image():
    model = build(cycle(fcos()))
    inputs, samples = batch()
    plain, _ = model.pseudo_instances(inputs['unsup_teacher'], samples['unsup_teacher'])
    for weak in samples['unsup_teacher']:
        weak.set_metainfo(dict(homography_matrix=np.diag([2.0, 2.0, 1.0]), ori_shape=(32, 32)))
    halved, _ = model.pseudo_instances(inputs['unsup_teacher'], samples['unsup_teacher'])
    torch.testing.assert_close(halved[0][0].bboxes, plain[0][0].bboxes / 2)


def test_teachers_never_leave_eval_mode_and_never_train():
    model = build(cycle(fcos()))
    model.train()
    assert all(not module.training for t in model.teachers for module in t.modules())
    assert all(s.training for s in model.students)
    assert not any(p.requires_grad for t in model.teachers for p in t.parameters())


def test_the_students_start_apart():
    model = build(cycle(fcos()))
    heads = [student.bbox_head.cls_convs[0].conv.weight for student in model.students]
    assert not torch.equal(*heads)


@pytest.mark.parametrize('network', [*NETWORKS, 'ensemble'])
def test_predictions_come_from_the_named_network(network):
    model = build(cycle(fcos(), semi_test_cfg=dict(predict_on=network))).eval()
    images = torch.randn(1, 3, 64, 64)
    (got,) = model.predict(images, [sample()])
    if network == 'ensemble':
        assert 0 < len(got.pred_instances) <= 20
        model.teacher2.load_state_dict(model.teacher1.state_dict())
        (got,) = model.predict(images, [sample()])
        network = 'teacher1'
    (expected,) = getattr(model, network).predict(images, [sample()])
    torch.testing.assert_close(got.pred_instances.scores, expected.pred_instances.scores)
    torch.testing.assert_close(got.pred_instances.bboxes, expected.pred_instances.bboxes)


def test_tensor_mode_and_features():
    model = build(cycle(fcos())).eval()
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model(images), model.teacher1(images))
    torch.testing.assert_close(model.extract_feat(images), model.teacher1.extract_feat(images))


# --- checkpoints -------------------------------------------------------------------------------


def test_plain_detector_checkpoint_fills_all_four():
    model, plain = build(cycle(fcos())), build(fcos(), seed=7)
    model.load_state_dict(plain.state_dict(), strict=False)
    for name in NETWORKS:
        for key, value in plain.state_dict().items():
            assert torch.equal(getattr(model, name).state_dict()[key], value)
    assert not model.teachers_loaded


def test_mean_teacher_checkpoint_fills_both_pairs():
    semi = dict(
        type='SemiBaseDetector',
        detector=fcos(),
        semi_train_cfg=dict(),
        semi_test_cfg=dict(),
        data_preprocessor=dict(
            type='MultiBranchDataPreprocessor', data_preprocessor=fcos()['data_preprocessor']
        ),
    )
    other = build(semi, seed=7)
    with torch.no_grad():
        other.teacher.bbox_head.conv_cls.bias.add_(1)
    model = build(cycle(fcos()))
    model.load_state_dict(other.state_dict(), strict=False)
    for name in NETWORKS:
        source = getattr(other, name[:-1]).state_dict()
        for key, value in source.items():
            assert torch.equal(getattr(model, name).state_dict()[key], value)
    assert model.teachers_loaded


def test_own_checkpoint():
    model, other = build(cycle(fcos())), build(cycle(fcos()), seed=7)
    model.load_state_dict(other.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )
    assert model.teachers_loaded


def test_checkpoint_of_another_architecture_is_refused():
    from mmengine.runner import load_state_dict

    model = build(cycle(fcos()))
    with pytest.raises(ValueError, match='another architecture'):
        load_state_dict(model, torch.nn.Linear(3, 3).state_dict())


def test_part_of_an_own_checkpoint_is_refused():
    model = build(cycle(fcos()))
    state = {k: v for k, v in model.state_dict().items() if not k.startswith('teacher2.')}
    with pytest.raises(ValueError, match="lacks .'teacher2'.*export_detector"):
        model.load_state_dict(state)


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(semi_test_cfg=dict(predict_on='student')), "predict_on='student'.*teacher1"),
        (dict(semi_test_cfg=dict(predict='teacher1')), "no key \\['predict'\\]"),
        (dict(semi_train_cfg=dict(cls_pseudo_thr=0.5)), 'cls_pseudo_thr.*score_thr'),
        (dict(semi_train_cfg=dict(score_thr=50)), 'score_thr=50'),
        (dict(semi_train_cfg=dict(score_thr=0.3, ignore_score_thr=0.5)), 'ignore_score_thr=0.5'),
        (dict(semi_train_cfg=dict(unsup_weight=-1)), 'unsup_weight=-1'),
        (dict(semi_train_cfg=dict(agnostic_nms_iou=1)), 'agnostic_nms_iou=1'),
        (dict(consistency=dict(type='mmext.DistributionConsistency', kind='cos')), "kind='cos'"),
        (dict(consistency=dict(type='mmext.DistributionConsistency', floor=2)), 'floor=2'),
        (
            dict(consistency=dict(type='mmext.DistributionConsistency', temperature=0)),
            'temperature',
        ),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        build(cycle(fcos(), **changes))


def test_predict_on_is_checked_when_set_later():
    model = build(cycle(fcos()))
    with pytest.raises(ValueError, match="predict_on='student'"):
        model.predict_on = 'student'


def test_missing_homography_is_named():
    model = build(cycle(fcos()))
    inputs, samples = batch()
    for weak in samples['unsup_teacher']:
        weak.pop('homography_matrix')
    with pytest.raises(KeyError, match='homography_matrix.*PackDetInputs'):
        model.loss(inputs, samples)

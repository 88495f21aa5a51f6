"""The losses and the classifier that uses them."""

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample
from torch import nn

from mmext.plugins.conv_m import functional
from mmext.plugins.conv_m.domain_loss import Domain, training_progress

LOSSES = {
    'adversarial': dict(type='mmext.DomainAdversarialLoss', in_channels=6, hidden_channels=5),
    'mmd': dict(type='mmext.MKMMDLoss'),
    'label': dict(type='mmext.LabelAdaptation', num_classes=4),
    'coral': dict(type='mmext.CORALLoss'),
    'jmmd': dict(type='mmext.JMMDLoss'),
}


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def domains(seed=0, dtype=torch.float32):
    draws = torch.Generator().manual_seed(seed)
    return [
        Domain(
            torch.randn(count, 6, generator=draws).to(dtype),
            torch.randn(count, 4, generator=draws).to(dtype),
        )
        for count in (5, 7)
    ]


def build(name, **settings):
    torch.manual_seed(0)
    return MODELS.build({**LOSSES[name], **settings})


EXPECTED = {
    'mmd': lambda s, t: functional.mk_mmd(s.features, t.features),
    'label': lambda s, t: functional.entropy(t.logits).mean(),
    'coral': lambda s, t: functional.coral(s.features, t.features),
    'jmmd': lambda s, t: functional.jmmd(
        (s.features, s.logits.softmax(1)), (t.features, t.logits.softmax(1))
    ),
}


@pytest.mark.parametrize('name', EXPECTED)
def test_a_loss_is_its_function_times_weight_and_schedule(name):
    source, target = domains()
    module = build(name, weight=0.3, schedule='linear', warmup=0.25, begin=0.25)
    expected = EXPECTED[name](source, target)
    for progress, factor in ((0.1, 0.0), (0.375, 0.5), (0.5, 1.0), (1.0, 1.0)):
        found = module(source, target, progress)
        torch.testing.assert_close(found['loss'], 0.3 * factor * expected)
        other = {key: value for key, value in found.items() if key != 'loss'}
        assert len(other) == 1 and not any(value.requires_grad for value in other.values())


def test_layers_and_estimators_of_mmd():
    source, target = domains()
    parts = [
        functional.mk_mmd(getattr(source, k), getattr(target, k), (0.5, 1), 'linear')
        for k in ('features', 'logits')
    ]
    module = build('mmd', layers=['features', 'logits'], alphas=[0.5, 1], estimator='linear')
    torch.testing.assert_close(module(source, target, 1.0)['loss'], sum(parts))


def test_reversal_has_the_schedule_and_the_classifier_has_not():
    source, target = domains()
    features = [domain.features.requires_grad_() for domain in (source, target)]
    module = build('adversarial', weight=2.0)
    nn.init.normal_(module.classifier[-1].weight)

    def gradients(progress):
        loss = module(source, target, progress)['loss']
        return torch.autograd.grad(loss, [*features, *module.parameters()])

    logits = [module.classifier(f).squeeze(1) for f in features]
    plain = 2 * functional.domain_cross_entropy(*logits)
    direct = torch.autograd.grad(plain, [*features, *module.parameters()])
    for progress in (0.0, 0.1, 1.0):
        scale = functional.ramp(progress, 'sigmoid')
        found = gradients(progress)
        for own, of_plain in zip(found[:2], direct[:2], strict=True):
            torch.testing.assert_close(own, -scale * of_plain)
        for own, of_plain in zip(found[2:], direct[2:], strict=True):
            torch.testing.assert_close(own, of_plain)
    assert float(module(source, target, 0.1)['reversal']) == pytest.approx(
        functional.ramp(0.1, 'sigmoid')
    )


def test_descending_makes_domains_harder_to_tell_apart():
    draws = torch.Generator().manual_seed(1)
    source = torch.randn(64, 6, generator=draws) + 1
    target = torch.randn(64, 6, generator=draws) - 1
    module = build('adversarial', schedule='constant')
    logits = torch.zeros(64, 4)
    optimizer = torch.optim.SGD(module.parameters(), 0.5)
    for _ in range(30):
        optimizer.zero_grad()
        module(Domain(source, logits), Domain(target, logits), 1.0)['loss'].backward()
        optimizer.step()
    features = [source.requires_grad_(), target.requires_grad_()]
    before = module(Domain(source, logits), Domain(target, logits), 1.0)
    assert float(before['domain_accuracy']) > 95
    steps = torch.autograd.grad(before['loss'], features)
    moved = [f.detach() - 20 * g for f, g in zip(features, steps, strict=True)]
    after = module(Domain(moved[0], logits), Domain(moved[1], logits), 1.0)
    assert float(after['loss'].detach()) > float(before['loss'].detach())


def test_an_undecided_classifier_at_first():
    source, target = domains()
    found = build('adversarial')(source, target, 1.0)
    assert float(found['loss'].detach()) == pytest.approx(torch.tensor(2.0).log().item())


@pytest.mark.parametrize('name', LOSSES)
def test_full_precision_under_autocast(name):
    source, target = domains()
    module = build(name)
    expected = module(source, target, 1.0)['loss']
    half = [Domain(*(t.bfloat16() for t in domain)) for domain in (source, target)]
    rounded = [Domain(*(t.float() for t in domain)) for domain in half]
    with torch.autocast('cpu', torch.bfloat16):
        found = module(*half, 1.0)['loss']
        whole = module(source, target, 1.0)['loss']
    assert found.dtype == torch.float32
    torch.testing.assert_close(whole, expected)
    torch.testing.assert_close(found, module(*rounded, 1.0)['loss'])


def test_residual_of_the_source():
    source, _ = domains()
    module = build('label')
    first, _, last = module.residual
    hidden = (source.logits @ first.weight.T + first.bias).relu()
    expected = source.logits + hidden @ last.weight.T + last.bias
    torch.testing.assert_close(module.source_logits(source.logits, 0.0), expected)
    assert (expected - source.logits).abs().max() < 0.01
    late = build('label', begin=0.5)
    before, after = (late.source_logits(source.logits, progress) for progress in (0.49, 0.5))
    assert torch.equal(before, source.logits) and not torch.equal(after, source.logits)
    before.sum().backward()
    assert all(parameter.grad is not None for parameter in late.parameters())


@pytest.mark.parametrize(
    'name, settings, message',
    [
        ('mmd', dict(weight=-1), 'weight=-1'),
        ('mmd', dict(schedule='cosine'), "schedule='cosine'"),
        ('coral', dict(alpha=0), 'alpha=0'),
        ('label', dict(warmup=0), r'warmup=0 must be in \(0, 1\]'),
        ('adversarial', dict(begin=1), r'begin=1 must be in \[0, 1\)'),
        ('mmd', dict(layers=['fc7']), 'layers'),
        ('mmd', dict(layers='features'), 'layers'),
        ('mmd', dict(alphas=[]), 'alphas'),
        ('jmmd', dict(estimator='cubic'), "estimator='cubic'"),
        ('jmmd', dict(sigma=0), 'sigma=0'),
    ],
)
def test_bad_settings(name, settings, message):
    with pytest.raises(ValueError, match=message):
        build(name, **settings)


def test_a_width_that_does_not_fit():
    source, target = domains()
    with pytest.raises(ValueError, match='in_channels=3, the features of the model have 6'):
        build('adversarial', in_channels=3)(source, target, 1.0)
    with pytest.raises(ValueError, match='num_classes=9, the head gives 4'):
        build('label', num_classes=9).source_logits(source.logits, 1.0)


def test_progress_is_that_of_the_running_training():
    hub = MessageHub.get_instance('conv_m_progress')
    assert training_progress() == 1
    hub.update_info('max_iters', 200)
    hub.update_info('iter', 50)
    assert training_progress() == 0.25


# --- the classifier ---------------------------------------------------------------------------


def model(da_losses=None, seed=0, kind='mmext.DomainAdaptationClassifier', **settings):
    torch.manual_seed(seed)
    if kind != 'ImageClassifier':
        settings['da_losses'] = da_losses
    return MODELS.build(
        dict(
            type=kind,
            backbone=dict(type='mmext.ConvMNet', arch='small', in_channels=1),
            neck=dict(type='LinearNeck', in_channels=128, out_channels=6, gap_dim=2),
            head=dict(type='LinearClsHead', num_classes=4, in_channels=6),
            **settings,
        )
    )


def batch(count=8, labels=(0, 1, 2, 3, -1, -1, -1, -1)):
    draws = torch.Generator().manual_seed(5)
    samples = []
    for label in labels[:count]:
        samples.append(DataSample() if label is None else DataSample().set_gt_label(label))
    images = torch.randint(0, 255, (count, 1, 28, 28), generator=draws, dtype=torch.uint8)
    return dict(inputs=images, data_samples=samples)


def losses(network, data):
    return network(**network.data_preprocessor(data, True), mode='loss')


def test_the_source_alone_has_labels_and_losses_see_no_sample(monkeypatch):
    network = model(LOSSES).train()
    seen = []
    for module in network.da_losses.values():
        monkeypatch.setattr(
            module, 'compute',
            lambda *args, compute=module.compute: seen.append(args) or compute(*args),
        )  # fmt: skip
    found = losses(network, batch())
    feats = network.extract_feat(network.data_preprocessor(batch(), True)['inputs'])
    logits = network.head(feats)
    learnt = network.da_losses['label'].source_logits(logits[:4], 1.0)
    expected = nn.functional.cross_entropy(learnt, torch.arange(4))
    torch.testing.assert_close(found['loss'], expected)
    assert {f'{name}.loss' for name in LOSSES} <= set(found)
    assert len(seen) == 5
    for source, target, progress in seen:
        torch.testing.assert_close(source.features, feats[-1][:4])
        torch.testing.assert_close(target.logits, logits[4:])
        assert progress in (0.25, 1.0) and source._fields == ('features', 'logits')
    total, logged = network.parse_losses(found)
    torch.testing.assert_close(total, found['loss'] + sum(found[f'{name}.loss'] for name in LOSSES))
    total.backward()
    assert all(p.grad is not None for p in network.parameters())


def test_the_order_of_a_batch_does_not_matter():
    network = model(dict(mmd=LOSSES['mmd'], label=LOSSES['label'])).eval()
    data = batch()
    order = [4, 0, 5, 1, 2, 6, 7, 3]
    mixed = dict(
        inputs=data['inputs'][order], data_samples=[data['data_samples'][i] for i in order]
    )
    first, second = losses(network, data), losses(network, mixed)
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=1e-4, atol=1e-5)


def test_without_adaptation_it_is_the_plain_classifier_on_the_source():
    plain = model(kind='ImageClassifier').train()
    network = model({}).train()
    with_target = losses(network, batch())
    alone = losses(plain, batch(4))
    assert with_target.keys() == alone.keys()
    assert torch.equal(with_target['loss'], alone['loss'])
    for (name, own), (_, other) in zip(network.named_buffers(), plain.named_buffers(), strict=True):
        assert torch.equal(own, other), name


def test_prediction_and_tensors_are_the_parents():
    plain, network = model(kind='ImageClassifier').eval(), model(LOSSES, seed=3).eval()
    missing, unexpected = network.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all(name.startswith('da_losses.') for name in missing)
    data = plain.data_preprocessor(batch(4), False)
    other = network.data_preprocessor(batch(4), False)
    assert torch.equal(plain(data['inputs']), network(other['inputs']))
    for a, b in zip(plain(**data, mode='predict'), network(**other, mode='predict'), strict=True):
        assert torch.equal(a.pred_score, b.pred_score) and torch.equal(a.gt_label, b.gt_label)


def test_samples_without_any_label_are_of_the_target():
    network = model(dict(mmd=LOSSES['mmd'])).eval()
    bare = batch(labels=(0, 1, 2, 3, None, None, None, None))
    found = losses(network, bare)
    expected = losses(network, batch())
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    # Prediction needs no label and gives none.
    data = network.data_preprocessor(batch(2, (None, None)), False)
    assert 'gt_label' not in network(**data, mode='predict')[0]


def test_losses_by_list_and_switched_off():
    listed = model([LOSSES['mmd'], LOSSES['coral']])
    assert list(listed.da_losses) == ['mmd', 'coral']
    switched = model(dict(mmd=None, mine=LOSSES['coral']))
    assert list(switched.da_losses) == ['mine']
    with pytest.raises(ValueError, match='mmd more than once'):
        model([LOSSES['mmd'], LOSSES['mmd']])


@pytest.mark.parametrize(
    'labels, message',
    [
        ((-1,) * 8, "no source sample.*target's pipeline alone"),
        ((1,) * 8, 'no target sample.*DropLabel first'),
        (([0, 1], 1, 2, 3, -1, -1, -1, -1), '8 images have 9 labels'),
    ],
)
def test_a_missing_domain(labels, message):
    with pytest.raises(ValueError, match=message):
        losses(model(dict(mmd=LOSSES['mmd'])), batch(labels=labels))


@pytest.mark.parametrize(
    'settings, error, message',
    [
        (dict(da_losses=dict(mmd_loss=LOSSES['mmd'])), ValueError, 'contains "loss"'),
        (dict(da_losses=dict(ce=dict(type='CrossEntropyLoss'))), TypeError, 'CrossEntropyLoss'),
        (dict(da_losses=dict(a=LOSSES['label'], b=LOSSES['label'])), ValueError, 'a and b both'),
        (dict(train_cfg=dict(augments=dict(type='Mixup', alpha=0.8))), ValueError,
         'batch_augments'),
        (dict(data_preprocessor=dict(to_onehot=True, num_classes=4)), ValueError, 'to_onehot'),
        (dict(data_preprocessor=dict(type='ClsDataPreprocessor', to_onehot=True)), ValueError,
         'to_onehot'),
    ],
)  # fmt: skip
def test_bad_models(settings, error, message):
    with pytest.raises(error, match=message):
        model(**settings)


def test_a_head_without_logits():
    with pytest.raises(TypeError, match='VisionTransformerHead|gives no logits'):
        MODELS.build(
            dict(
                type='mmext.DomainAdaptationClassifier',
                backbone=dict(type='mmext.ConvMNet', arch='small'),
                head=dict(type='MultiTaskHead', in_channels=6, task_heads={}),
            )
        )

"""MATClassifier, MATAugment, metric and test loop on small models."""

import pytest
import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from mmext.attacks.adversarial import PixelSpace
from mmext.plugins.mat import MATAugment, RobustAccuracy
from mmext.plugins.mat import classifier as module


def resnet(**preprocessor):
    """With batch norm and a frozen stage."""
    preprocessor = dict(mean=[100.0] * 3, std=[60.0] * 3, num_classes=4) | preprocessor
    return dict(
        type='mmpretrain.ImageClassifier',
        data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor', **preprocessor),
        backbone=dict(type='mmpretrain.ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4,
                      frozen_stages=1),
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=4, in_channels=32),
    )  # fmt: skip


def build(seed=0, classifier=None, **settings):
    torch.manual_seed(seed)
    settings = dict(strengths=[4, 16], attack=dict(type='FGSM')) | settings
    return MODELS.build(
        dict(type='mmext.MATClassifier', classifier=classifier or resnet(), **settings)
    )


def batch(model, sizes=((16, 16),) * 6):
    draws = torch.Generator().manual_seed(1)
    images = [torch.randint(0, 256, (3, *s), generator=draws, dtype=torch.uint8) for s in sizes]
    samples = [
        DataSample(metainfo=dict(img_shape=size)).set_gt_label(i % 4)
        for i, size in enumerate(sizes)
    ]
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), True)
    return data['inputs'], data['data_samples']


@pytest.fixture
def seen(monkeypatch):
    """What reached the losses of the networks: (network, inputs)."""
    calls = []
    original = module.HOST_MODELS.get('mmpretrain.ImageClassifier').loss

    def loss(self, inputs, data_samples):
        calls.append((self, inputs.detach().clone()))
        return original(self, inputs, data_samples)

    monkeypatch.setattr(module.HOST_MODELS.get('mmpretrain.ImageClassifier'), 'loss', loss)
    return calls


def test_expand_gives_every_strength_its_weight(seen):
    model = build(weights=[1, 2, 5]).eval()
    inputs, samples = batch(model)
    found = model.loss(inputs, samples)
    space = PixelSpace.of(model)
    moves = [(space.to_pixels(x) - space.to_pixels(inputs)).abs().amax() for _, x in seen]
    torch.testing.assert_close(torch.stack(moves) * 255, torch.tensor([0.0, 4.0, 16.0]), atol=1e-3,
                               rtol=0)  # fmt: skip
    parts = [model.networks[0].head.loss(model.extract_feat(x), samples)['loss'] for _, x in seen]
    expected = (parts[0] + 2 * parts[1] + 5 * parts[2]) / 8
    torch.testing.assert_close(found['loss'], expected)
    assert {'mat/risk_0', 'mat/risk_4', 'mat/risk_16'} <= set(found)
    torch.testing.assert_close(found['mat/risk_16'], parts[2].detach())
    total, _ = model.parse_losses(found)
    torch.testing.assert_close(total, expected)  # nothing is summed twice


def test_sample_draws_a_strength_per_image_and_passes_the_network_once(seen):
    model = build(mix='sample').eval()
    inputs, samples = batch(model, ((16, 16),) * 24)
    model.loss(inputs, samples)
    assert len(seen) == 1
    space = PixelSpace.of(model)
    moves = (space.to_pixels(seen[0][1]) - space.to_pixels(inputs)).flatten(1).abs().amax(1) * 255
    assert {round(float(move)) for move in moves} == {0, 4, 16}


def test_parallel_networks_see_their_own_strength(seen):
    model = build(structure='parallel').eval()
    inputs, samples = batch(model)
    found = model.loss(inputs, samples)
    space = PixelSpace.of(model)
    moved = [
        (list(model.networks).index(net), round(float((space.to_pixels(x) - space.to_pixels(inputs))
                                                      .abs().amax() * 255)))
        for net, x in seen
    ]  # fmt: skip
    assert moved == [(0, 0), (0, 4), (1, 0), (1, 16)]
    assert {'net0.loss', 'net1.loss'} <= set(found)
    assert not torch.equal(model.networks[0].head.fc.weight, model.networks[1].head.fc.weight)
    (gradient,) = torch.autograd.grad(
        found['net0.loss'], model.networks[1].head.fc.weight, allow_unused=True
    )[:1]
    assert gradient is None


def test_the_attack_uses_eval_statistics_and_leaves_no_trace():
    model = build(attack=dict(type='PGD', steps=3)).train()
    inputs, samples = batch(model)
    flags = [child.training for child in model.modules()]
    grads = [parameter.requires_grad for parameter in model.parameters()]
    assert False in flags and False in grads  # the frozen stage
    norm = model.networks[0].backbone.layer3[0].bn1
    states = []
    norm.register_forward_pre_hook(lambda layer, _: states.append(layer.training))
    model.loss(inputs, samples)
    # clean, then three attack steps and a forward for each of two strengths
    assert states == [False] * 3 + [False] * 3 + [True] * 3
    assert int(norm.num_batches_tracked) == 3
    assert [child.training for child in model.modules()] == flags
    assert [parameter.requires_grad for parameter in model.parameters()] == grads
    assert all(parameter.grad is None for parameter in model.parameters())


def test_padding_is_never_perturbed(seen):
    model = build(classifier=resnet(pad_size_divisor=8)).eval()
    inputs, samples = batch(model, ((16, 14), (9, 16)))
    model.loss(inputs, samples)
    for _, x in seen:
        assert torch.equal(x[0, :, :, 14:], inputs[0, :, :, 14:])
        assert torch.equal(x[1, :, 9:], inputs[1, :, 9:])
    assert not torch.equal(seen[1][1], inputs)


@pytest.mark.parametrize('combine', ['mean_prob', 'vote', 'fusion'])
def test_parallel_networks_are_combined(combine):
    model = build(structure='parallel', combine=combine, strengths=[4, 8, 16]).eval()
    inputs, samples = batch(model)
    with torch.no_grad():
        each = torch.stack([network(inputs, mode='tensor') for network in model.networks])
    predicted = torch.stack([s.pred_score for s in model.predict(inputs, samples)])
    if combine == 'mean_prob':
        torch.testing.assert_close(predicted, each.softmax(2).mean(0))
        torch.testing.assert_close(model(inputs).detach().exp(), each.softmax(2).mean(0))
    elif combine == 'fusion':
        torch.testing.assert_close(predicted, each.mean(0).softmax(1))  # before training
        losses = model.loss(inputs, samples)
        trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
        gradients = torch.autograd.grad(
            losses['loss_fusion'], list(trained.values()), allow_unused=True
        )
        named = dict(zip(trained, gradients, strict=True))
        assert named['fusion.weight'].abs().sum() > 0
        assert all(g is None for name, g in named.items() if not name.startswith('fusion'))
    else:
        votes = each.argmax(2).T
        for row, score in enumerate(predicted):
            counts = votes[row].bincount(minlength=4)
            assert counts[score.argmax()] == counts.max()


def test_losses_of_one_iteration_draw_apart(seen):
    model = build(mix='sample').eval()
    inputs, samples = batch(model, ((16, 16),) * 24)
    for _ in range(2):
        model.loss(inputs, samples)
    moves = [(images - inputs).flatten(1).abs().amax(1) for _, images in seen]
    assert not torch.equal(*moves)


def beit():
    return dict(
        type='mmpretrain.ImageClassifier',
        data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor', num_classes=3),
        backbone=dict(
            type='mmpretrain.BEiTViT', img_size=16, patch_size=8,
            arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16),
        ),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=3, in_channels=8),
    )  # fmt: skip


def test_layer_decay_sees_the_layers_of_every_network(layer_rates):
    bare = layer_rates(MODELS.build(beit()))
    model = layer_rates(build(classifier=beit(), structure='parallel', combine='fusion'))
    assert len(set(bare.values())) == 4
    assert model.pop('fusion.weight') == model.pop('fusion.bias') == bare['head.fc.weight']
    assert model == {
        f'networks.{index}.{name}': rate for index in (0, 1) for name, rate in bare.items()
    }


def test_weights_of_a_bare_classifier_load_into_every_network():
    model = build(structure='parallel')
    bare = MODELS.build(resnet())
    model.load_state_dict(bare.state_dict(), strict=True)
    for network in model.networks:
        assert torch.equal(network.head.fc.weight, bare.head.fc.weight)
    model.load_state_dict(build(seed=3, structure='parallel').state_dict(), strict=True)
    assert not torch.equal(model.networks[0].head.fc.weight, bare.head.fc.weight)


def test_every_network_is_initialised():
    classifier = resnet()
    classifier['head']['init_cfg'] = dict(type='Constant', val=0.25, layer='Linear')
    model = build(structure='parallel', classifier=classifier)
    model.init_weights()
    assert all((network.head.fc.weight == 0.25).all() for network in model.networks)


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(structure='serial'), "structure='serial'"),
        (dict(mix='all'), "mix='all'"),
        (dict(combine='max'), "combine='max'"),
        (dict(strengths=[]), 'strengths'),
        (dict(strengths=[8, 4]), 'must rise'),
        (dict(strengths=[0.1, 2], bounds=(0, 1)), r'\(0, 1\]'),
        (dict(weights=[1, 1]), 'must be 3 numbers'),
        (dict(structure='parallel', weights=[1, 1, 1]), 'must be 2 numbers'),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_fusion_needs_to_know_the_classes():
    classifier = resnet(num_classes=None)
    del classifier['head']
    with pytest.raises(ValueError, match='num_classes'):
        build(structure='parallel', combine='fusion', classifier=classifier)


def test_augment_perturbs_a_drawn_share_by_drawn_strengths():
    classifier = resnet()
    classifier['data_preprocessor']['batch_augments'] = dict(
        augments=dict(type='mmext.MATAugment', strengths=[4, 16], weights=[2, 1, 1])
    )
    torch.manual_seed(0)
    model = MODELS.build(classifier)
    plain = MODELS.build(resnet())
    augment = model.data_preprocessor.batch_augments.augments[0]
    assert isinstance(augment, MATAugment)
    with pytest.raises(ValueError, match='mmext.AttackModelHook'):
        batch(model)
    augment.bind_model(model, seed=5, rank=0)
    sizes = ((16, 16),) * 40
    clean, _ = batch(plain, sizes)
    moved, samples = batch(model, sizes)
    moves = (moved - clean).flatten(1).abs().amax(1) * 60
    shares = torch.stack([(moves.round() == value).float().mean() for value in (0, 4, 16)])
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.25, 0.25]), atol=0.2, rtol=0)
    assert float(shares.sum()) == pytest.approx(1)
    assert torch.equal(samples[1].gt_score, torch.tensor([0.0, 1.0, 0.0, 0.0]))
    again, _ = batch(model, sizes)
    assert not torch.equal(moved, again)  # the next micro-batch draws anew
    augment.bind_model(model, seed=5, rank=0)
    augment.iteration, augment._calls = 0, (0, 0)
    first = augment.generator().initial_seed()
    augment.iteration = 7
    assert augment.generator().initial_seed() != first
    with pytest.raises(ValueError, match='no place in a pipeline'):
        augment(dict(img=None))


def test_metric_by_hand():
    metric = RobustAccuracy()
    rows = [
        dict(gt_label=torch.tensor([1]), predicted_under={'clean': 1, 'FGSM@4': 1, 'FGSM@8': 0}),
        dict(gt_label=torch.tensor([0]), predicted_under={'clean': 0, 'FGSM@4': 1, 'FGSM@8': 1}),
    ]
    metric.process({}, rows)
    assert metric.evaluate(2) == {
        'robust/clean': 100.0, 'robust/FGSM@4': 50.0, 'robust/FGSM@8': 0.0,
        'robust/FGSM/mean': 50.0, 'robust/FGSM/worst': 0.0,
    }  # fmt: skip
    metric.process({}, [dict(gt_label=torch.tensor([1]), pred_label=torch.tensor([1]))])
    assert metric.evaluate(1) == {'robust/clean': 100.0}

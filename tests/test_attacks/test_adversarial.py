"""Pixel space, modes and records of attacks."""

import pytest
import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn

from mmext.attacks.adversarial import (
    PixelSpace,
    attack_labels,
    attack_mode,
    check_logits,
    content_mask,
    logits_fn,
)
from mmext.launch.records import Records


def classifier(**preprocessor):
    torch.manual_seed(0)
    return MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor', **preprocessor),
            backbone=dict(type='mmpretrain.ResNet_CIFAR', depth=18, base_channels=4,
                          stem_channels=4, frozen_stages=1),
            neck=dict(type='mmpretrain.GlobalAveragePooling'),
            head=dict(type='mmpretrain.LinearClsHead', num_classes=5, in_channels=32),
        )
    )  # fmt: skip


@pytest.fixture(scope='module')
def model():
    return classifier(
        mean=[100.0, 110.0, 120.0], std=[50.0, 60.0, 70.0], to_rgb=True, pad_size_divisor=8
    )


def batch(model, sizes):
    generator = torch.Generator().manual_seed(1)
    images = [torch.randint(0, 256, (3, *s), generator=generator, dtype=torch.uint8) for s in sizes]
    samples = [DataSample(metainfo=dict(img_shape=s)).set_gt_label(2) for s in sizes]
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples))
    return images, data['inputs'], samples


def test_pixels_are_the_raw_images_over_255_in_the_models_channel_order(model):
    images, inputs, _ = batch(model, [(16, 16), (16, 16)])
    pixels = PixelSpace.of(model).to_pixels(inputs)
    expected = torch.stack(images).flip(1).float() / 255
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(PixelSpace.of(model).to_inputs(pixels), inputs)


def test_one_255th_is_one_raw_unit_over_std(model):
    space = PixelSpace.of(model)
    step = space.to_inputs(torch.full((1, 3, 1, 1), 1 / 255)) - space.to_inputs(
        torch.zeros(1, 3, 1, 1)
    )
    torch.testing.assert_close(step.flatten(), 1 / torch.tensor([50.0, 60.0, 70.0]))
    assert space.width == 255
    assert PixelSpace.of(model, (0, 1)).width == 1


def test_without_normalisation_only_the_range_counts():
    space = PixelSpace.of(classifier())
    assert torch.equal(space.to_inputs(torch.tensor([0.0, 1.0])), torch.tensor([0.0, 255.0]))


def test_a_range_must_rise(model):
    with pytest.raises(ValueError, match=r'bounds=\(1, 0\)'):
        PixelSpace.of(model, (1, 0))


def test_padding_is_told_from_the_image(model):
    _, inputs, samples = batch(model, [(16, 14), (9, 16)])
    mask = content_mask(inputs, samples)
    assert mask.shape == (2, 1, 16, 16)
    assert mask.flatten(1).sum(1).tolist() == [16 * 14, 9 * 16]
    assert mask[0, 0, :16, :14].all() and mask[1, 0, :9].all()
    assert (inputs.masked_select(~mask) == 0).all()  # the pad value
    _, inputs, samples = batch(model, [(16, 16)])
    assert content_mask(inputs, samples) is None
    assert content_mask(inputs, None) is None


def test_logits_are_those_of_the_classifier(model):
    _, inputs, _ = batch(model, [(16, 16), (16, 16)])
    with attack_mode(model):
        found = logits_fn(model)(PixelSpace.of(model).to_pixels(inputs))
        torch.testing.assert_close(found, model(inputs, mode='tensor'), rtol=1e-4, atol=1e-5)


def test_lenet5_squeezes_a_batch_of_one():
    lenet = MODELS.build(
        dict(type='mmpretrain.ImageClassifier', head=dict(type='mmpretrain.ClsHead'),
             backbone=dict(type='mmpretrain.LeNet5', num_classes=10))
    )  # fmt: skip
    with attack_mode(lenet):
        assert logits_fn(lenet)(torch.rand(1, 1, 32, 32)).shape == (1, 10)


def test_everything_is_as_before_an_attack(model):
    model.train()
    next(model.head.parameters()).requires_grad_(False)
    flags = [module.training for module in model.modules()]
    grads = [parameter.requires_grad for parameter in model.parameters()]
    assert {True, False} <= set(flags) and {True, False} <= set(grads)
    statistics = [b.clone() for b in model.buffers()]
    with pytest.raises(RuntimeError, match='inside'), torch.no_grad(), attack_mode(model):
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        pixels = torch.rand(2, 3, 16, 16, requires_grad=True)
        (gradient,) = torch.autograd.grad(logits_fn(model)(pixels).sum(), pixels)
        assert gradient.abs().sum() > 0
        raise RuntimeError('inside')
    assert [module.training for module in model.modules()] == flags
    assert [parameter.requires_grad for parameter in model.parameters()] == grads
    assert all(torch.equal(a, b) for a, b in zip(statistics, model.buffers(), strict=True))
    next(model.head.parameters()).requires_grad_(True)


def test_an_attack_runs_in_full_precision(model):
    with torch.autocast('cpu', torch.bfloat16), attack_mode(model):
        seen = []
        handle = model.head.register_forward_hook(lambda *a: seen.append(a[2].dtype))
        logits_fn(model)(torch.rand(1, 3, 16, 16))
        handle.remove()
    assert seen == [torch.float32]


@pytest.mark.parametrize(
    'logits, message',
    [
        (torch.tensor([[0.1, 0.9], [0.5, 0.5]]), 'probabilities.*remove the softmax'),
        (torch.tensor([[0.1, torch.nan]]), 'not finite'),
        (torch.zeros(2, 3, 4), r'\(2, 3, 4\)'),
        ((torch.zeros(2, 3),), 'tuple'),
    ],
)
def test_outputs_that_are_no_logits_are_refused(logits, message):
    with pytest.raises(ValueError, match=message):
        check_logits(logits)


def test_a_model_with_softmax_is_refused_at_its_first_call(model):
    class Softmax(nn.Module):
        def forward(self, inputs, mode):
            return inputs.flatten(1).softmax(1)

    with pytest.raises(ValueError, match='probabilities'):
        logits_fn(Softmax())(torch.rand(2, 1, 2, 2))
    logits_fn(Softmax(), check=False)(torch.rand(2, 1, 2, 2))


def test_labels_of_an_attack():
    samples = [
        DataSample().set_gt_label(3),
        DataSample().set_gt_label(3).set_gt_score(torch.tensor([0.2, 0.7, 0.1, 0.0])),
    ]
    assert attack_labels(samples, 'cpu').tolist() == [3, 1]
    with pytest.raises(ValueError, match='multi-label'):
        attack_labels([DataSample().set_gt_label([1, 2])], 'cpu')


def test_records_survive_a_cut_and_refuse_other_settings(tmp_path):
    path = tmp_path / 'deep' / 'records.jsonl'
    Records(path, {'eps': (1, 2)}).append([{'idx': 0}, {'idx': 1}])
    with open(path, 'ab') as file:
        file.write(b'{"idx": 2')
    again = Records(path, {'eps': (1, 2)})
    assert again.rows == [{'idx': 0}, {'idx': 1}]
    again.append([{'idx': 2}])
    assert Records(path, {'eps': (1, 2)}).rows[-1] == {'idx': 2}
    with pytest.raises(ValueError, match=r'eps: \[1, 2\] there, \[1\] here'):
        Records(path, {'eps': [1]})

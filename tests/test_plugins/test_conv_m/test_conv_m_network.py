"""The module, the network, and what hosts do with it."""

import warnings

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from torch import nn

from mmext.plugins.conv_m import ConvM, ConvMNet


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def window(branch, channels, size, row, column):
    """Pixels of the input that an output pixel of a branch depends on, as offsets from it."""
    for parameter in branch.parameters():
        nn.init.ones_(parameter)
    inputs = torch.ones(1, channels, size, size, requires_grad=True)
    out = branch(inputs)[0, :, row, column].sum()
    (gradient,) = torch.autograd.grad(out, inputs)
    found = gradient[0].sum(0).nonzero() - torch.tensor([row, column])
    return {tuple(offset) for offset in found.tolist()}


def square(low, high, step=1):
    return {(y, x) for y in range(low, high + 1, step) for x in range(low, high + 1, step)}


def test_receptive_field_of_each_branch():
    module = ConvM(4, 2, 6, norm_cfg=None)
    assert window(module.reduce, 4, 12, 6, 6) == {(0, 0)}
    assert window(module.conv, 2, 12, 6, 6) == square(-1, 1)
    # Nine taps over a window of 5x5.
    assert window(module.dilated, 2, 12, 6, 6) == square(-2, 2, 2)
    # Even places see one pixel of the half resolution, odd ones two in each direction.
    assert window(module.deconv, 2, 12, 6, 6) == square(-1, 1)
    assert window(module.deconv, 2, 12, 5, 5) == square(-2, 2)
    assert window(module.deconv, 2, 12, 6, 5) == {
        (y, x) for y in range(-1, 2) for x in range(-2, 3)
    }
    stride1 = ConvM(4, 2, 6, deconv='stride1', norm_cfg=None)
    assert window(stride1.deconv, 2, 12, 5, 6) == square(-1, 1)


def test_a_deconvolution_of_stride_1_is_a_convolution():
    branch = ConvM(4, 2, 6, deconv='stride1', norm_cfg=None, act_cfg=None).deconv
    weight = branch.conv.weight.flip(2, 3).transpose(0, 1)
    inputs = torch.randn(2, 2, 9, 9)
    expected = nn.functional.conv2d(inputs, weight, branch.conv.bias, padding=1)
    torch.testing.assert_close(branch(inputs), expected)


@pytest.mark.parametrize('size', [(7, 7), (8, 5), (1, 2)])
def test_the_module_keeps_any_size_and_concatenates(size):
    module = ConvM(5, 3, 8).eval()
    inputs = torch.randn(2, 5, *size)
    out = module(inputs)
    assert out.shape == (2, 8, *size)
    reduced = module.reduce(inputs)
    torch.testing.assert_close(out[:, :3], module.conv(reduced))
    torch.testing.assert_close(out[:, 3:6], module.dilated(reduced))
    torch.testing.assert_close(out[:, 6:], module.deconv(reduced)[..., : size[0], : size[1]])


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(deconv='unpool'), "deconv='unpool'"),
        (dict(out_channels=2), 'out_channels=2'),
        (dict(reduce_channels=0), 'reduce_channels=0'),
    ],
)
def test_bad_modules(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConvM(**{**dict(in_channels=4, reduce_channels=2, out_channels=6), **arguments})


def classifier(**backbone):
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='mmext.ConvMNet', **backbone),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=1000, in_channels=1024),
        )
    )


def test_the_network_has_4_1_million_parameters():
    model = classifier()
    count = sum(parameter.numel() for parameter in model.parameters())
    assert 4.1e6 * 0.98 <= count <= 4.1e6 * 1.02
    # The paper: 6.7 % of AlexNet's, 59 % of GoogLeNet's parameters.
    from torchvision.models import alexnet

    assert count / sum(p.numel() for p in alexnet().parameters()) == pytest.approx(0.067, abs=0.002)


def test_macs_are_counted():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        found = get_model_complexity_info(classifier().eval(), (3, 224, 224), show_arch=False,
                                          show_table=False)  # fmt: skip
        small = ConvMNet('small', in_channels=1).eval()
        module = get_model_complexity_info(small.stages[1][1], (16, 14, 14), show_arch=False,
                                           show_table=False)  # fmt: skip
    assert 0.9e9 < found['flops'] < 1.2e9
    # By hand: reduce, convolution, dilated, down, deconvolution; two per element of a batch norm
    # are counted by MMEngine as well.
    by_hand = 196 * (16 * 12 + 2 * 9 * 12 * 16) + 49 * (9 * 12 + 9 * 12 * 16)
    normed = 196 * (12 + 48) + 49 * 12
    assert by_hand <= module['flops'] <= by_hand + 2 * normed


def test_outputs_and_strides():
    model = ConvMNet(out_indices=(0, 1, 2, 3)).eval()
    outputs = model(torch.rand(1, 3, 64, 96))
    shapes = [tuple(out.shape[1:]) for out in outputs]
    assert shapes == [(192, 16, 24), (384, 8, 12), (512, 4, 6), (1024, 2, 3)]
    (last,) = ConvMNet().eval()(torch.rand(1, 3, 32, 32))
    assert last.shape == (1, 1024, 1, 1)
    small = ConvMNet('small', in_channels=1, out_indices=(0, 1, 2)).eval()
    for size in (28, 32):
        shapes = [tuple(out.shape[1:]) for out in small(torch.rand(2, 1, size, size))]
        half, quarter = size // 2, size // 4
        assert shapes == [(16, size, size), (48, half, half), (128, quarter, quarter)]
    table = dict(stem=(8,), stem_kernel=3, stem_stride=2, stem_pool=True, stages=(((4, 9),),))
    assert ConvMNet(table)(torch.rand(2, 3, 32, 32))[0].shape == (2, 9, 4, 4)


def test_frozen_stages_and_frozen_statistics():
    model = ConvMNet('small', frozen_stages=1)
    model.train()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen and all(name.startswith(('stages.0.', 'stages.1.')) for name in frozen)
    assert {n for n, _ in model.named_parameters() if n.startswith('stages.1.')} <= frozen
    before = {k: v.clone() for k, v in model.named_buffers()}
    model(torch.rand(4, 3, 28, 28))
    moved = {k for k, v in model.named_buffers() if not torch.equal(v, before[k])}
    assert moved and all(name.startswith('stages.2.') for name in moved)
    held = ConvMNet('small', norm_eval=True).train()
    assert held.training and not held.stages[0][0].bn.training


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(arch='5m'), "arch='5m'"),
        (dict(arch=dict(stem=(8,))), 'stages'),
        (dict(out_indices=(4,)), r'out_indices=\(4,\)'),
        (dict(frozen_stages=4), 'frozen_stages=4'),
    ],
)
def test_bad_networks(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConvMNet(**arguments)


def test_weights_are_initialised_and_load(tmp_path):
    torch.manual_seed(0)
    model = ConvMNet('small')
    model.init_weights()
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in model.state_dict().items()}},
               tmp_path / 'w.pth')  # fmt: skip
    other = ConvMNet('small', init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'w.pth'),
                                            prefix='backbone.'))  # fmt: skip
    other.init_weights()
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
    out = model.eval()(torch.randn(8, 3, 32, 32))[0]
    assert 0.05 < float(out.detach().std()) < 20


def test_onnx_gives_the_same(tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    model = MODELS.build(
        dict(
            type='mmext.DomainAdaptationClassifier',
            backbone=dict(type='mmext.ConvMNet', arch='small', in_channels=1),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=128),
            da_losses=[dict(type='mmext.LabelAdaptation', num_classes=10)],
        )
    ).eval()
    # 28 -> 14 -> 7: the odd size is cut.
    inputs = torch.rand(2, 1, 28, 28)
    path = tmp_path / 'model.onnx'
    torch.onnx.export(model, (inputs,), str(path), input_names=['x'], dynamo=False,
                      dynamic_axes={'x': {0: 'n', 2: 'h', 3: 'w'}})  # fmt: skip
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    for size in (28, 36):
        images = torch.rand(3, 1, size, size)
        (found,) = session.run(None, {'x': images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(images).detach(), rtol=1e-4,
                                   atol=1e-4)  # fmt: skip


@pytest.mark.parametrize('kind', ['RetinaNet', 'FCOS'])
def test_a_detector_trains_on_it(kind):
    pytest.importorskip('mmdet')
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    DefaultScope.get_instance(f'conv_m_{kind}', scope_name='mmdet')
    strides = [8, 16, 32]
    heads = dict(
        RetinaNet=dict(
            type='RetinaHead',
            anchor_generator=dict(type='AnchorGenerator', octave_base_scale=4, ratios=[1.0],
                                  scales_per_octave=1, strides=strides),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
            loss_bbox=dict(type='L1Loss'),
        ),
        FCOS=dict(type='FCOSHead', strides=strides,
                  regress_ranges=((-1, 32), (32, 64), (64, 1e8)),
                  norm_cfg=dict(type='GN', num_groups=4)),
    )  # fmt: skip
    assigner = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0)
    model = MODELS.build(
        dict(
            type=kind,
            data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
            backbone=dict(type='mmext.ConvMNet', out_indices=(1, 2, 3), frozen_stages=0,
                          norm_eval=True),
            neck=dict(type='FPN', in_channels=[384, 512, 1024], out_channels=16, num_outs=3),
            bbox_head=dict(num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1,
                           **heads[kind]),
            train_cfg=dict(assigner=assigner, allowed_border=-1, pos_weight=-1, debug=False),
            test_cfg=dict(nms_pre=100, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5),
                          max_per_img=10),
        )
    )  # fmt: skip
    sample = DetDataSample(metainfo=dict(img_shape=(96, 96), batch_input_shape=(96, 96)))
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[10.0, 10.0, 50.0, 60.0]]), labels=torch.tensor([1])
    )
    data = dict(inputs=[torch.randint(0, 256, (3, 96, 96))], data_samples=[sample])
    model.train()
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    stages = model.backbone.stages
    assert all(p.grad is None for p in stages[0].parameters())
    assert all(p.grad.abs().sum() > 0 for p in stages[3][1].deconv.parameters() if p.ndim == 4)


@pytest.mark.parametrize(
    'network, channels, thousands', [('SmallGoogLeNet', 192, 87), ('SmallSqueezeNet', 96, 17)]
)
def test_networks_to_compare_with(network, channels, thousands):
    model = MODELS.build(dict(type=f'mmext.{network}', in_channels=1, out_indices=(0, 2)))
    model.init_weights()
    first, last = model(torch.rand(2, 1, 28, 28))
    assert first.shape == (2, 16, 28, 28) and last.shape == (2, channels, 7, 7)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count / 1000 == pytest.approx(thousands, abs=0.8)


def test_sizes_stand_to_each_other_as_in_the_paper():
    counts = {
        name: sum(p.numel() for p in MODELS.build(dict(type=f'mmext.{name}', **extra)).parameters())
        for name, extra in (('ConvMNet', dict(arch='small')), ('SmallGoogLeNet', {}))
    }
    assert counts['ConvMNet'] / counts['SmallGoogLeNet'] == pytest.approx(0.59, abs=0.02)

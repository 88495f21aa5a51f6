"""``--with conv_m``: an ordinary classifier on two domains becomes domain adaptation."""

import math

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.registry import MODELS as PRETRAIN_MODELS

from mmext import launch
from mmext.commands.main import main
from mmext.launch import overlay
from mmext.plugins.conv_m import TwoDomainPreprocessor
from mmext.testing import PluginSettings, Trial, hosts
from mmext.testing.trial import plain_text, shorten

LOSSES = ('adversarial', 'mmd', 'label')


def two_domains(data=None):
    """The small LeNet of the kit, on rendered digits (labelled) and handwritten ones."""
    cfg = hosts.classifier(data)
    pack = dict(type='PackInputs')
    digits = dict(type='mmext.DigitsDataset', split='train', size=28)
    cfg.train_dataloader.sampler = dict(type='mmext.TwoDomainSampler', batch_size=8)
    cfg.train_dataloader.dataset = dict(
        type='mmext.TwoDomainDataset',
        source=dict(source='fontdigits', num_samples=20, pipeline=[pack], **digits),
        target=dict(indices=20, pipeline=[dict(type='mmext.DropLabel'), pack], **digits),
    )
    return cfg


def build(cfg):
    init_default_scope('mmpretrain')
    return MODELS.build(cfg.model)


@pytest.mark.parametrize('others', [[], ['terngrad', 'smoothout', 'force_regularization']])
def test_a_plain_host_learns_from_all_three_losses(tmp_path, others):
    def host(data):
        return overlay.apply(two_domains(data), ['conv_m', *others])

    trial = Trial(PluginSettings('conv_m', {}, host), tmp_path)
    run = trial.train(trial.config(iterations=2))
    network = run.runner.model
    assert network.da_losses['adversarial'].in_channels == 16
    assert network.da_losses['label'].num_classes == 10
    logged = run.runner.message_hub.log_scalars
    assert len(run.losses) == 2 and all(math.isfinite(value) for value in run.losses)
    for name in LOSSES:
        value = float(logged[f'train/{name}.loss'].current())
        assert math.isfinite(value) and value != 0, name
    for name, start in run.start.items():
        if name in ('head.fc.weight', 'da_losses.adversarial.classifier.4.weight'):
            assert not torch.equal(network.state_dict()[name], start), name
    if others:
        assert type(run.runner.optim_wrapper).__name__.endswith('TernGradOptimWrapper')
    assert run.left == []


def test_the_parts_of_the_host_survive():
    cfg = two_domains()
    cfg.data_preprocessor = dict(num_classes=7, mean=[80.0], std=[91.0])
    cfg.model = dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=8, in_channels=1),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=7, in_channels=512, topk=(1,)),
        train_cfg=dict(),
        init_cfg=dict(type='Constant', layer='Linear', val=0.25),
    )
    plain = build(cfg)
    adapted = overlay.apply(cfg, ['conv_m'])
    assert cfg.model.type == 'ImageClassifier'
    # MMEngine's Runner would hand it to the outermost model.
    assert 'data_preprocessor' not in adapted
    network = build(adapted)
    assert [type(m) for m in (network.backbone, network.neck, network.head)] == [
        type(m) for m in (plain.backbone, plain.neck, plain.head)
    ]
    assert type(network.data_preprocessor) is TwoDomainPreprocessor
    assert network.data_preprocessor.num_classes == 7
    assert float(network.data_preprocessor.std) == 91
    assert network.init_cfg == plain.init_cfg
    assert [network.da_losses[name].title for name in LOSSES] == list(LOSSES)
    assert network.da_losses['adversarial'].in_channels == 512
    assert network.da_losses['label'].num_classes == 7
    missing, unexpected = network.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all(name.startswith('da_losses.') for name in missing)


@pytest.mark.parametrize('scoped', ['mmpretrain.ImageClassifier', ImageClassifier])
def test_the_type_may_be_scoped_a_class_or_inherited(scoped):
    cfg = two_domains()
    cfg.model.update(type=scoped, _scope_='mmpretrain')
    assert build(overlay.apply(cfg, ['conv_m'])).da_losses['adversarial'].in_channels == 16


def sized(head, **da_losses):
    """A model of the kit's LeNet with a head and losses of the test."""
    model = two_domains().model
    model.update(type='mmext.DomainAdaptationClassifier', da_losses=da_losses)
    model.head = head
    return build(Config(dict(model=model)))


ADVERSARIAL = dict(type='mmext.DomainAdversarialLoss')
LABEL = dict(type='mmext.LabelAdaptation')


def test_sizes_that_are_given_stay():
    head = dict(type='LinearClsHead', num_classes=10, in_channels=16)
    network = sized(head, a=dict(ADVERSARIAL, in_channels=5), b=dict(LABEL, num_classes=4))
    assert network.da_losses['a'].in_channels == 5 and network.da_losses['b'].num_classes == 4


@pytest.mark.parametrize(
    'losses, message',
    [
        (dict(a=ADVERSARIAL), r'da_losses\.a has no in_channels, and ClsHead .* set da_losses\.a'),
        (dict(b=LABEL), r'da_losses\.b has no num_classes, and ClsHead .* set da_losses\.b\.num_'),
    ],
)
def test_a_head_without_sizes(losses, message):
    with pytest.raises(ValueError, match=message):
        sized(dict(type='ClsHead'), **losses)
    with pytest.raises(ValueError, match='there is no head to take'):
        sized(None, **losses)


def test_losses_by_list_have_their_place_in_the_error():
    model = dict(two_domains().model, type='mmext.DomainAdaptationClassifier')
    model.update(head=dict(type='ClsHead'), da_losses=[dict(type='mmext.CORALLoss'), ADVERSARIAL])
    with pytest.raises(ValueError, match=r'set da_losses\.1\.in_channels'):
        build(Config(dict(model=model)))


def test_data_of_one_domain_are_refused():
    message = r'conv_m needs DropLabel in train_dataloader.*TwoDomainDataset.*or leave conv_m out'
    with pytest.raises(ValueError, match=message):
        overlay.apply(hosts.classifier(None), ['conv_m'])


@pytest.mark.parametrize('other', ['mat', 'randomized_smoothing', 'guided_cw', 'cst'])
@pytest.mark.parametrize('turned', [False, True])
def test_overlays_that_want_the_model_or_mix_images_name_both(other, turned):
    names = [other, 'conv_m'][:: -1 if turned else 1]
    with pytest.raises(ValueError, match='cannot be combined.*leave one') as error:
        overlay.apply(two_domains(), names)
    assert 'conv_m' in str(error.value) and other in str(error.value)


@PRETRAIN_MODELS.register_module()
class OtherForward(ImageClassifier):
    """A host whose own methods would be lost."""


@pytest.mark.parametrize('kind', ['TimmClassifier', 'OtherForward', OtherForward, 'NoSuch'])
def test_a_host_that_is_no_image_classifier(kind):
    cfg = two_domains()
    cfg.model.type = kind
    with pytest.raises(ValueError, match='ImageClassifier.*leave conv_m out|NoSuch'):
        build(overlay.apply(cfg, ['conv_m']))
    with pytest.raises(ValueError, match=r'classifier\.type=.*ImageClassifier'):
        MODELS.build(dict(type='mmext.DomainAdaptationClassifier', classifier=dict(type=kind)))


def test_batch_augments_of_the_host():
    cfg = two_domains()
    cfg.model.train_cfg = dict(augments=dict(type='Mixup', alpha=0.8))
    with pytest.raises(ValueError, match=r'conv_m must have model\.train_cfg\.augments.*leave'):
        overlay.apply(cfg, ['conv_m'])
    # As model, without the overlay.
    with pytest.raises(ValueError, match='batch_augments .* cannot be used for domain adaptation'):
        MODELS.build(dict(type='mmext.DomainAdaptationClassifier', classifier=cfg.model))
    cfg.model.train_cfg = None
    build(overlay.apply(cfg, ['conv_m']))


def test_parts_are_given_once():
    head = dict(type='LinearClsHead', num_classes=10, in_channels=16)
    host = two_domains().model
    for settings, message in (
        (dict(classifier=host, head=head), 'classifier and head are given'),
        (dict(classifier=host, backbone=host.backbone), 'classifier and backbone are given'),
        (dict(head=head), 'give backbone, neck and head, or classifier'),
    ):
        with pytest.raises(ValueError, match=message):
            build(Config(dict(model=dict(type='mmext.DomainAdaptationClassifier', **settings))))


def test_a_loop_by_epochs_is_refused_before_it_begins(tmp_path):
    cfg = overlay.apply(two_domains(), ['conv_m'])
    shorten(cfg, tmp_path, 'conv_m-epochs', 2)
    cfg.train_cfg = dict(by_epoch=True, max_epochs=3)
    # 40 images of both domains, 8 in a batch.
    with pytest.raises(ValueError, match=r'3 epochs.*no end.*IterTrainLoop.*max_iters=15\)'):
        launch.build_runner(cfg).train()
    assert not list(tmp_path.glob('*.pth'))


def test_epochs_are_welcome_with_a_sampler_that_ends(tmp_path):
    cfg = overlay.apply(two_domains(), ['conv_m'])
    shorten(cfg, tmp_path, 'conv_m-finite', 2)
    cfg.train_cfg = dict(by_epoch=True, max_epochs=1)
    cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True, seed=0)
    cfg.train_dataloader.batch_size = 20
    runner = launch.build_runner(cfg)
    runner.train()
    assert runner.iter == 2


def test_print_shows_what_changes(tmp_path, capsys):
    (tmp_path / 'host.py').write_text(plain_text(two_domains()))
    main(['train', str(tmp_path / 'host.py'), '--with', 'conv_m', '--print'])
    added = [line for line in capsys.readouterr().out.splitlines() if line.startswith('+')]
    for word in ('DomainAdaptationClassifier', 'classifier', 'MKMMDLoss', 'TwoDomainLoopHook'):
        assert any(word in line for line in added), word
    (tmp_path / 'plain.py').write_text(plain_text(hosts.classifier(None)))
    with pytest.raises(SystemExit):
        main(['train', str(tmp_path / 'plain.py'), '--with', 'conv_m', '--print'])
    said = capsys.readouterr().err
    assert (
        said.startswith('mmext train: error: --with conv_m needs DropLabel')
        and '\n' not in said[:-1]
    )

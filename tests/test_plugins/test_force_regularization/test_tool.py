"""tools/decompose.py on host configs, and what the written config is good for."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmext import launch
from mmext.commands.main import main
from mmext.plugins.force_regularization import LowRankConv, deploy

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope='module', autouse=True)
def unformatted_configs():
    """Spare the configs their formatting, which takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, 'pretty_text', property(_text))
        yield


def _text(cfg):
    return '\n'.join(f'{key} = {value!r}' for key, value in cfg._cfg_dict.to_dict().items())


def tool(name, *argv):
    main([name, *map(str, argv)])


def checkpoint(config, path, low_rank=True):
    """Random weights, of low rank in every convolution but for some noise."""
    cfg = launch.load_config(str(config))
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(deploy.without_pretrained(cfg.model))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d) and low_rank:
                matrix = module.weight.flatten(1)
                thin = matrix[:, :2] @ torch.randn(2, matrix.shape[1])
                matrix.copy_(0.1 * matrix + 0.05 * thin)
    torch.save({'state_dict': model.state_dict()}, path)
    return path


HOSTS = {
    'mmpretrain::resnet/resnet18_8xb32_in1k.py': (3, 32, 32),
    'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py': (3, 32, 32),
    'mmpretrain::inception_v3/inception-v3_8xb32_in1k.py': (3, 80, 80),
    'mmpretrain::vgg/vgg11bn_8xb32_in1k.py': (3, 224, 224),
    'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py': (3, 64, 64),
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py': (3, 64, 64),
}
FAST = ('mobilenet',)


@pytest.mark.parametrize(
    'config',
    [
        pytest.param(name, marks=() if any(f in name for f in FAST) else pytest.mark.slow)
        for name in HOSTS
    ],
)
def test_host_models_are_decomposed_exported_and_rebuilt(config, tmp_path, capsys):
    path = checkpoint(config, tmp_path / 'w.pth')
    out = tmp_path / 'low'
    tool('decompose', config, path, '--energy', 0.8, '--shape', *HOSTS[config], '--rounds', 1,
         '--round-to', 1, '--out', out, *([] if 'faster' in config else ['--onnx']))  # fmt: skip
    text = capsys.readouterr().out
    assert 'Loads checkpoint' not in text and text.split()[0] == 'layer'
    report = json.loads((out / 'report.json').read_text())
    assert report['macs'] < 0.9 * report['macs_before']
    assert f'mmext train {out}/low.py' in text
    kept = {layer['kept'] for layer in report['layers']}
    if 'mobilenet' in config:
        assert 'depthwise' in kept
    if 'faster_rcnn' not in config:
        lines = [line for line in text.splitlines() if 'outputs within' in line]
        assert len(lines) == 2
        for line in lines:
            assert float(line.split('outputs within ')[1].split()[0]) < 1e-3
    cfg = Config.fromfile(out / 'low.py')
    rebuilt = deploy.load_model(cfg, str(out / 'low.pth'))
    pairs = [name for name, m in rebuilt.named_modules() if isinstance(m, LowRankConv)]
    assert sorted(pairs) == sorted(cfg.model.ranks)
    assert len(pairs) == sum(layer['rank'] is not None for layer in report['layers'])


LENET = ROOT / 'configs/force_regularization/force-l1_lenet_digits.py'


def test_without_test_data_the_shape_has_to_be_named(tmp_path, capsys):
    path = checkpoint(LENET, tmp_path / 'w.pth')
    gone = 'test_dataloader.dataset.type=NoSuchSet'
    with pytest.raises(SystemExit):
        tool('decompose', LENET, path, '--out', tmp_path / 'low', '--cfg-options', gone)
    assert 'by --shape C H W: the test data of the config cannot be read' in capsys.readouterr().err


def test_prune_finetune_deploy(tmp_path, capsys):
    """The written config trains with tools/train.py and is evaluated with tools/test.py."""
    path = checkpoint(LENET, tmp_path / 'w.pth')
    low = tmp_path / 'low'
    shape = ('--rounds', 1)  # That of the test data.
    tool('decompose', LENET, path, '--ranks', _json(tmp_path, {'backbone.conv2': 12}), *shape,
         '--out', low, '--lr-scale', '0.5', '--cfg-options', f'work_dir={tmp_path}')  # fmt: skip
    cfg = Config.fromfile(low / 'low.py')
    assert cfg.model.ranks == {'backbone.conv2': 12} and cfg.load_from == str(low / 'low.pth')
    assert 'work_dir' not in cfg  # fine-tuning would write over the training
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.005)
    types = [hook.type for hook in cfg.custom_hooks]
    assert 'mmext.ForceRegularizationHook' not in types and 'mmext.IterSeedHook' in types

    small = ['train_dataloader.dataset.indices=64', 'test_dataloader.dataset.indices=32',
             'val_dataloader.dataset.indices=32', 'train_cfg.max_epochs=1',
             'train_cfg.val_interval=1', 'default_hooks.checkpoint.interval=1',
             'log_level=WARNING']  # fmt: skip
    lasso = low / 'lasso.py'
    hook = "dict(type='mmext.ComponentLassoHook', strength=400.0)"
    lasso.write_text(f"_base_ = './low.py'\ncustom_hooks = [{hook}]\n")
    options = ['--cfg-options', *small]
    tool('train', lasso, '--work-dir', tmp_path / 'run', *options)
    trained = tmp_path / 'run/epoch_1.pth'
    state = torch.load(trained, weights_only=False)['state_dict']
    basis = state['backbone.conv2.basis.weight']
    assert basis.shape == (12, 20, 5, 5)
    tool('test', low / 'low.py', trained, '--work-dir', tmp_path / 'test', *options)

    alive = int((basis.flatten(1) != 0).any(1).sum())
    assert alive < 12
    tool('decompose', low / 'low.py', trained, '--cut', *shape, '--out', tmp_path / 'cut')
    cut = Config.fromfile(tmp_path / 'cut/cut.py')
    assert cut.model.ranks == {'backbone.conv2': max(alive, 1)}
    tool('test', tmp_path / 'cut/cut.py', tmp_path / 'cut/cut.pth', '--work-dir',
         tmp_path / 'test2', *options)  # fmt: skip
    # And once more on what is decomposed already: the config nests.
    again = tmp_path / 'again'
    tool('decompose', low / 'low.py', trained, '--ranks',
         _json(tmp_path, {'backbone.conv1': 4}), *shape, '--out', again)  # fmt: skip
    model = deploy.load_model(Config.fromfile(again / 'again.py'), str(again / 'again.pth'))
    pairs = [name for name, m in model.named_modules() if isinstance(m, LowRankConv)]
    assert pairs == ['backbone.conv1', 'backbone.conv2']


def _json(folder, value):
    path = folder / 'ranks.json'
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize(
    ('argv', 'named'),
    [
        (['lost.pth'], 'lost.pth'),
        (['{w}', '--energy', '2'], 'energy=2'),
        (['{w}', '--method', 'cp'], "method='cp'"),
        (['{w}', '--skip', 'nothing'], "'nothing' matches no layer"),
        (['{w}', '--lr-scale', '0'], 'lr_scale=0'),
        (['{w}', '--cut'], 'no low-rank pair'),
        (['{w}', '--target-latency', '1e-9', '--rounds', '1'], 'out of reach'),
    ],
)
def test_mistakes_exit_with_2(argv, named, tmp_path, capsys):
    path = checkpoint(LENET, tmp_path / 'w.pth')
    argv = [part.format(w=path) for part in argv]
    with pytest.raises(SystemExit) as stopped:
        tool('decompose', LENET, *argv, '--shape', 1, 28, 28, '--out', tmp_path / 'low')
    assert stopped.value.code == 2
    assert named in capsys.readouterr().err

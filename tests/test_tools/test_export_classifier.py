"""Checkpoints of MAT and ADRE go back to the config of the classifier."""

import re

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample

from mmext import launch

HOST = 'mmpretrain::lenet/lenet5_mnist.py'
PARALLEL = dict(structure='parallel', mix='expand')


@pytest.fixture
def trained(tmp_path):
    """Function that writes config and checkpoint of a run with an overlay; returns the model."""

    def write(plugin, **settings):
        cfg = launch.load_config(HOST, overlays=[plugin])
        cfg.model.update(settings)
        cfg.dump(tmp_path / 'config.py')
        init_default_scope('mmpretrain')
        torch.manual_seed(1)
        model = MODELS.build(cfg.model).eval()
        meta = dict(dataset_meta=dict(classes=tuple('0123456789')))
        torch.save(dict(state_dict=model.state_dict(), meta=meta), tmp_path / 'trained.pth')
        return model

    return write


@pytest.fixture
def export(tool, tmp_path):
    def run(*options):
        paths = [tmp_path / name for name in ('config.py', 'trained.pth')]
        out = tmp_path / 'new/plain.pth'
        tool('model_converters/export_classifier').main(
            [*map(str, paths), '--out', str(out), *options]
        )
        return torch.load(out, weights_only=True)

    return run


@pytest.mark.parametrize(
    'plugin, settings, options, network',
    [
        ('randomized_smoothing', {}, [], 'classifier'),
        ('mat', {}, [], 'networks.0'),
        ('mat', PARALLEL, ['--network', '2'], 'networks.2'),
        ('mat', PARALLEL | dict(combine='fusion'), ['--network', '0'], 'networks.0'),
    ],
)
def test_the_config_of_the_classifier_predicts_the_same(
    trained, export, plugin, settings, options, network
):
    wrapped = trained(plugin, **settings)
    saved = export(*options)
    torch.manual_seed(2)
    host = MODELS.build(launch.load_config(HOST).model).eval()
    host.load_state_dict(saved['state_dict'], strict=True)
    assert saved['meta'] == dict(network=network, dataset_meta=dict(classes=tuple('0123456789')))
    images = torch.randint(256, (4, 1, 32, 32), dtype=torch.uint8)

    def predict(model):
        data = dict(inputs=images, data_samples=[DataSample() for _ in images])
        found = model(**host.data_preprocessor(data, False), mode='predict')
        return torch.stack([sample.pred_score for sample in found])

    assert torch.equal(predict(host), predict(wrapped.get_submodule(network)))
    if (plugin, settings) == ('mat', {}):
        assert torch.equal(predict(host), predict(wrapped))


@pytest.mark.parametrize(
    'plugin, settings, options, message',
    [
        ('mat', PARALLEL, [], r'choose one by --network 0 to 2, in the order of .*\[2, 4, 8\]'),
        ('mat', PARALLEL, ['--network', '3'], '--network 3: the model has 3'),
        ('randomized_smoothing', {}, ['--network', '1'], '--network 1: the model has 1'),
        ('terngrad', {}, [], "model.type='ImageClassifier' has no classifier"),
    ],
)
def test_what_cannot_be_exported_is_named(
    trained, export, plugin, settings, options, message, capsys
):
    trained(plugin, **settings)
    with pytest.raises(SystemExit, match='2'):
        export(*options)
    assert re.search(message, capsys.readouterr().err)

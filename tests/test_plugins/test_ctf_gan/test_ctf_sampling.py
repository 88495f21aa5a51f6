"""Samples: structure, determinism, generators; grids, interpolation and the tool."""

import cv2
import numpy as np
import pytest
import torch
from gans import batch, build, model_cfg, wrappers

from mmext.commands.main import main
from mmext.plugins.ctf_gan.pictures import chosen_rows, class_grid, grid_of


@pytest.fixture(scope='module')
def model():
    """Two training steps, so that the average and the last generator differ."""
    model = build(ema=dict(momentum=0.2))
    optim = wrappers(model)
    for _ in range(2):
        model.train_step(batch(), optim)
    return model.eval()


def test_the_structure_of_samples_is_that_of_mmagic(model):
    samples = model(dict(num_batches=3, sample_model='ema/orig'), mode='predict')
    assert len(samples) == 3
    for sample in samples:
        assert sample.ema.fake_img.dtype == torch.uint8
        assert sample.orig.fake_img.shape == (1, 16, 16) and sample.gt_label.shape == (1,)
    alone = model(dict(num_batches=3, sample_model='orig'), mode='predict')
    assert torch.equal(alone[1].fake_img, samples[1].orig.fake_img)
    assert not torch.equal(samples[1].ema.fake_img, samples[1].orig.fake_img)


def test_samples_are_a_function_of_the_seed(model):
    def images(**request):
        return model(dict(num_batches=4, **request))

    assert torch.equal(images(seed=3), images(seed=3))
    assert not torch.equal(images(seed=3), images(seed=4))
    noise = torch.randn(2, 6)
    assert torch.equal(
        model(noise), model.sample(noise, model.draw(2, 0, 'ctf_gan/sample', 0, 0)[1])
    )


def test_sampling_changes_nothing(model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    model(dict(num_batches=4))
    assert model.generator.training and model.generator_ema.training
    model.eval()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_fakes_of_a_real_image_depend_on_its_number_alone(model):
    whole = model.val_step(batch(8))
    data = batch(8)
    part = model.val_step(
        {
            'inputs': {'img': data['inputs']['img'][5:]},
            'data_samples': data['data_samples'][5:],
        }
    )
    for first, second in zip(whole[5:], part, strict=True):
        # Batches of other sizes may round differently.
        gap = first.ema.fake_img.int() - second.ema.fake_img.int()
        assert gap.abs().max() <= 1
        assert torch.equal(first.gt_img, second.gt_img)
    assert torch.equal(whole[2].gt_img, batch(8)['inputs']['img'][2])


def test_several_fakes_for_a_real_image(model):
    model.test_cfg['num_fakes'] = 3
    try:
        found = model.val_step(batch(4))
    finally:
        model.test_cfg['num_fakes'] = 1
    assert found[0].ema.fake_img.shape == (3, 1, 16, 16)
    assert len({image.float().sum().item() for image in found[0].ema.fake_img}) == 3


def test_without_an_average_the_last_generator_is_taken():
    model = build()
    sample = model.val_step(batch(2))[0]
    assert 'orig' in sample and 'ema' not in sample
    assert 'fake_img' in model(dict(num_batches=1), mode='predict')[0]


@pytest.mark.parametrize(
    'inputs, mode, message',
    [
        (dict(num_batches=1), 'loss', 'mode='),
        (dict(labels=torch.tensor([3])), 'tensor', 'labels 3..3 do not fit'),
        (dict(labels=torch.tensor([0]), num_batches=2, noise=torch.randn(2, 6)), 'tensor',
         '1 labels for 2 noise'),
        (dict(num_batches=1, sample_model='best'), 'predict', 'sample_model='),
        (torch.randn(2, 5), 'tensor', r'noise must be \(N, 6\)'),
    ],
)  # fmt: skip
def test_requests_that_do_not_fit(model, inputs, mode, message):
    with pytest.raises(ValueError, match=message):
        model(inputs, mode=mode)


def test_samples_without_numbers_are_refused(model):
    data = batch(2)
    del data['data_samples'][0].sample_idx
    with pytest.raises(ValueError, match='sample_idx'):
        model.val_step(data)


def test_real_images_of_another_size_are_refused(model):
    with pytest.raises(ValueError, match='are 1 x 20 x 20, but the generator makes 1 x 16 x 16'):
        model.val_step(batch(2, size=20))


def test_rows_of_a_grid():
    assert chosen_rows(3, None, 10) == [0, 1, 2]
    assert chosen_rows(1000, None, 4) == [0, 333, 666, 999]
    assert chosen_rows(0, None, 2) == [0, 0]
    assert chosen_rows(5, [4, 1], 10) == [4, 1]
    with pytest.raises(ValueError, match=r'classes \[5\]'):
        chosen_rows(5, [5], 10)


def test_a_grid_is_in_order():
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 1, 4, 4)
    grid = grid_of(images, columns=3)
    assert grid.shape == (14, 20, 1)
    assert grid[2::6, 2::6, 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (grid[:2] == 128).all()


def test_rows_share_their_noise(model):
    grid = class_grid(model, [0, 0, 1], columns=2, seed=0, sample_model='orig')
    first, second, third = (grid[2 + 18 * row : 18 + 18 * row] for row in range(3))
    assert np.array_equal(first, second) and not np.array_equal(first, third)


@pytest.fixture(scope='module')
def saved(model, tmp_path_factory):
    """A config file and a checkpoint of the model."""
    folder = tmp_path_factory.mktemp('gan')
    loader = dict(dataset=dict(type='mmext.DigitsDataset', split='val'))
    (folder / 'gan.py').write_text(
        f'model = {model_cfg(ema=dict(momentum=0.2))!r}\nval_dataloader = {loader!r}\n'
    )
    torch.save({'state_dict': model.state_dict()}, folder / 'gan.pth')
    return folder


@pytest.fixture
def tool(saved):
    """``mmext sample`` on that model."""
    return lambda *options: main(
        ['sample', str(saved / 'gan.py'), str(saved / 'gan.pth'), *map(str, options)]
    )


def test_the_tool_writes_grids(tool, saved, tmp_path, capsys):
    tool('--per-class', 4, '--classes', 2, 0)
    grid = cv2.imread(str(saved / 'samples.png'), cv2.IMREAD_UNCHANGED)
    assert grid.shape == (2 * 18 + 2, 4 * 18 + 2)
    assert '8 samples of 2 rows' in capsys.readouterr().out
    tool('--per-class', 4, '--classes', '2', '0', '--seed', 1, '--out', tmp_path / 'b.png')
    assert not np.array_equal(grid, cv2.imread(str(tmp_path / 'b.png'), cv2.IMREAD_UNCHANGED))
    tool('--per-class', 2, '--save', tmp_path / 'files', '--out', tmp_path / 'c.png')
    assert sorted(p.relative_to(tmp_path / 'files').as_posix()
                  for p in (tmp_path / 'files').rglob('*.png'))[-1] == '2/000001.png'  # fmt: skip


def test_the_tool_keeps_the_order_of_classes_and_interpolates(tool, tmp_path):
    for name, classes in (('a', ('2', '0')), ('b', ('2', '0')), ('c', ('0', '2'))):
        tool('--classes', *classes, '--per-class', 2, '--out', tmp_path / f'{name}.png')
    first, same, other = (cv2.imread(str(tmp_path / f'{name}.png')) for name in 'abc')
    assert np.array_equal(first, same) and not np.array_equal(first, other)
    tool('--interpolate', 5, '--out', tmp_path / 'i.png')
    grid = cv2.imread(str(tmp_path / 'i.png'), cv2.IMREAD_UNCHANGED)
    assert grid.shape == (3 * 18 + 2, 5 * 18 + 2)


def test_the_tool_knows_names_of_classes(tool, monkeypatch):
    from mmext.commands import sample

    monkeypatch.setattr(sample, '_class_names', lambda cfg: ['a', 'b', 'c'])
    assert sample._labels(['c', 'a'], None, 3) == [2, 0]


@pytest.mark.parametrize(
    'options, message',
    [
        (('--classes', '3'), 'there are 0..2'),
        (('--classes', 'three'), 'neither numbers nor names'),
        (('--per-class', '0'), 'at least 1'),
        (('--interpolate', '1'), 'both ends'),
        (('--cfg-options', 'model.generator.base_channels=4'), 'does not fit'),
        (('--cfg-options', 'model.ema=None'), 'no moving average'),
        (('--cfg-options', 'model.generator.num_classes=0', 'model.discriminator.num_classes=0',
          '--classes', '0'), 'no classes'),
    ],
)  # fmt: skip
def test_the_tool_tells_mistakes(tool, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        tool(*options)
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith('mmext sample: error: ') and message in told

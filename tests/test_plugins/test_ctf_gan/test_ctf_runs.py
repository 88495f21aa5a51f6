"""CTF-GAN as a run: resume, ranks, other plugins on its optimizers, hooks, validation."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from gans import CONFIGS, build, config
from mmengine.config import Config
from mmengine.dataset import BaseDataset, Compose
from mmengine.hooks import Hook
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner

from mmext.engine import phases
from mmext.plugins.ctf_gan import LabelHistogramHook, SampleGridHook
from mmext.plugins.ctf_gan.label_histogram_hook import check_histogram


def train(cfg):
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    return train(config(tmp_path_factory.mktemp('ctf')))


def checkpoint(path):
    return torch.load(path, weights_only=False)


def test_resumed_equals_uninterrupted_bit_for_bit(finished, tmp_path):
    cfg = config(tmp_path)
    cfg.load_from, cfg.resume = str(Path(finished.work_dir) / 'iter_2.pth'), True
    train(cfg)
    first, second = (checkpoint(Path(p) / 'iter_4.pth') for p in (finished.work_dir, tmp_path))
    assert equal(first['state_dict'], second['state_dict'])
    names = {name.partition('.')[0] for name in first['state_dict']}
    assert names == {'generator', 'discriminator', 'transfer', 'generator_ema'}
    for name, state in first['optimizer'].items():
        for slot, values in state['state'].items():
            others = second['optimizer'][name]['state'][slot]
            assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(others[k]))
                       for k, v in values.items())  # fmt: skip
    early = checkpoint(cfg.load_from)['state_dict']
    assert not equal(early, first['state_dict'])


def test_another_seed_is_another_run(finished, tmp_path):
    train(config(tmp_path, iters=2, seed=1))
    first, second = (checkpoint(Path(p) / 'iter_2.pth') for p in (finished.work_dir, tmp_path))
    assert not equal(first['state_dict'], second['state_dict'])


def test_two_generator_steps_in_four_iterations(finished):
    assert finished.model.generator_ema.steps == 2
    steps = {
        name: int(next(iter(wrapper.optimizer.state.values()))['step'])
        for name, wrapper in phases.members(finished.optim_wrapper).items()
    }
    assert steps == {'generator': 2, 'discriminator': 4, 'transfer': 2}


def test_grids_are_written(finished):
    folder = Path(finished.work_dir) / 'samples'
    assert sorted(p.name for p in folder.iterdir()) == ['iter_2.png', 'iter_4.png']
    grid = cv2.imread(str(folder / 'iter_4.png'), cv2.IMREAD_UNCHANGED)
    assert grid.shape == (10 * 30 + 2, 3 * 30 + 2) and grid.std() > 5


def test_the_real_images_of_the_run_are_of_high_quality(finished):
    data = next(iter(finished.train_dataloader))
    assert [s.is_hq for s in data['data_samples']] == [True] * 7 + [False]
    img, lq = data['inputs']['img'], data['inputs']['lq']
    assert torch.equal(img[7], lq[7]) and not torch.equal(img[:7], lq[:7])


def test_two_ranks_stay_identical(two_ranks, tmp_path):
    """With float and with ternary gradients; the worker loads its checkpoint again."""
    two_ranks(Path(__file__).with_name('ctf_rank_worker.py'), tmp_path)
    for folder in (tmp_path / 'plain', tmp_path / 'terngrad'):
        first, second = (torch.load(folder / f'rank{rank}.pth') for rank in (0, 1))
        assert equal(first['state'], second['state']), 'weights, statistics and average'
        assert not torch.equal(first['noise'], second['noise'])
        saved = checkpoint(folder / 'iter_2.pth')['state_dict']
        assert equal(saved, first['state'])
        assert 'generator.linear.weight' in saved, 'a checkpoint knows nothing of the wrappers'
    ternary = checkpoint(tmp_path / 'terngrad/iter_2.pth')['state_dict']
    plain = checkpoint(tmp_path / 'plain/iter_2.pth')['state_dict']
    assert not equal(ternary, plain)


def test_terngrad_and_smoothout_on_all_three_optimizers(tmp_path):
    cfg = config(tmp_path, iters=2)
    for name in ('generator', 'discriminator', 'transfer'):
        # The networks are tiny: no tensor stays float for its size.
        cfg.optim_wrapper[name].update(type='mmext.TernGradOptimWrapper', min_numel=1)
    cfg.custom_hooks.append(dict(type='mmext.SmoothOutHook', strength=0.01))
    runner = Runner.from_cfg(cfg)
    levels, noisy = {}, {}

    class Look(Hook):
        """Attaches after SmoothOut, before the first step."""

        priority = 'VERY_LOW'

        def before_train(self, runner):
            for name, wrapper in phases.members(runner.optim_wrapper).items():
                attached = phases.attach(wrapper)
                network = getattr(runner.model, name)
                clean = {}
                attached.register(
                    'before_forward',
                    lambda _, n=network, c=clean: c.update(w=next(n.parameters()).clone()),
                    'before', order=-2000,
                )  # fmt: skip
                attached.register(
                    'before_forward',
                    lambda _, n=network, c=clean, k=name: noisy.update(
                        {k: (next(n.parameters()) - c['w']).abs().max().item()}
                    ),
                    'after', order=2000,
                )  # fmt: skip
                attached.register(
                    'before_update', lambda optimizer, k=name: levels.update(
                        {k: [p.grad.abs().unique().numel() for g in optimizer.param_groups
                             for p in g['params']]}
                    ), 'levels',
                )  # fmt: skip

    runner.register_hook(Look())
    runner.train()
    assert set(levels) == set(noisy) == {'generator', 'discriminator', 'transfer'}
    for name, counts in levels.items():
        assert max(counts) <= 2, f'{name}: zero and one scaler per layer'
    assert all(value > 0 for value in noisy.values())


def test_validation_measures_both_generators(finished, tmp_path):
    cfg = config(tmp_path, iters=1)
    cfg.train_cfg.val_interval = 1
    cfg.model.discriminator_steps = 1
    classifier = tmp_path / 'net.py'
    classifier.write_text(
        'default_scope = "mmpretrain"\n'
        'model = dict(type="ImageClassifier",\n'
        '    data_preprocessor=dict(num_classes=10, mean=[80.0], std=[91.0], to_rgb=False),\n'
        '    backbone=dict(type="mmext.StridedLeNet", features=8),\n'
        '    head=dict(type="LinearClsHead", num_classes=10, in_channels=8))\n'
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        network = MODELS.build(Config.fromfile(classifier).model)
    torch.save({'state_dict': network.state_dict()}, tmp_path / 'net.pth')
    pack = [dict(type='mmext.PackGANInputs')]
    cfg.val_cfg = dict()
    cfg.val_dataloader = dict(
        batch_size=16, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
        dataset=dict(type='mmext.DigitsDataset', split='val', indices=40, pipeline=pack),
    )  # fmt: skip
    cfg.val_evaluator = dict(
        type='mmext.GenerativeMetrics',
        extractor=dict(type='classifier', config=str(classifier),
                       checkpoint=str(tmp_path / 'net.pth')),
    )  # fmt: skip
    runner = train(cfg)
    hub = runner.message_hub
    for name in ('ema', 'orig'):
        assert hub.get_scalar(f'val/gan/{name}/FID-C').current() > 0
    assert 'n_real=40 (val), n_fake=40' in hub.get_info('val/gan/protocol')
    again = runner.val_loop.run()
    assert again['gan/ema/IS-C'] == pytest.approx(hub.get_scalar('val/gan/ema/IS-C').current())


@pytest.mark.parametrize('name', ['cifar10', 'stl10', 'imagenet128'])
def test_pipelines_of_the_benchmarks_end_at_the_size_of_the_generator(name, tmp_path):
    cfg = Config.fromfile(CONFIGS / f'ctf-gan-ssl_{name}.py')
    size = cfg.model.generator.output_scale
    shape = {'cifar10': (32, 32, 3), 'stl10': (96, 96, 3), 'imagenet128': (150, 210, 3)}[name]
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    cv2.imwrite(str(tmp_path / 'image.png'), image)
    start = {'img': image, 'img_path': str(tmp_path / 'image.png'), 'gt_label': 3, 'sample_idx': 0}
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        for source in cfg.train_dataloader.dataset.datasets:
            made = Compose(source.dataset.pipeline)({**start, 'is_hq': source.part == 'hq'})
            for key in ('img', 'lq'):
                assert made['inputs'][key].shape == (3, size, size)
            assert made['data_samples'].is_hq == (source.part == 'hq')
        made = Compose(cfg.val_dataloader.dataset.pipeline)(dict(start))
        assert made['inputs']['img'].shape == (3, size, size)


def test_labels_are_counted_before_the_training(tmp_path):
    cfg = config(tmp_path, iters=1)
    cfg.model.generator.num_classes = cfg.model.discriminator.num_classes = 11
    with pytest.raises(ValueError, match='1 of 11 classes have no training image'):
        train(cfg)


def test_label_histograms(caplog):
    check_histogram(np.array([0, 1, 1, 2]), 3)
    with pytest.raises(ValueError, match=r'2 of 5 classes have no training image \(b, 4\)'):
        check_histogram(np.array([0, 2, 3]), 5, ('a', 'b', 'c', 'd'))
    with pytest.raises(ValueError, match=r'1 training labels are outside of 0..1, such as 7'):
        check_histogram(np.array([0, 1, 7]), 2)


def test_a_data_set_without_labels_is_refused():
    class Bare(BaseDataset):
        def load_data_list(self):
            return [{'img': 0}]

    class Loop:
        class dataloader:  # noqa: N801
            dataset = Bare(metainfo=dict(classes=('a',)))

    class Run:
        model, train_loop = torch.nn.Linear(1, 1), Loop

    with pytest.raises(ValueError, match='without gt_label'):
        LabelHistogramHook().before_train(Run)


def test_the_grid_hook_refuses_other_models():
    class Run:
        model = torch.nn.Linear(1, 1)

    with pytest.raises(ValueError, match='not Linear'):
        SampleGridHook().before_train(Run)
    with pytest.raises(ValueError, match='interval=0'):
        SampleGridHook(interval=0)
    with pytest.raises(ValueError, match="sample_model='emaa'"):
        SampleGridHook(sample_model='emaa')
    Run.model = build()
    with pytest.raises(ValueError, match=r'classes \[99\] are outside'):
        SampleGridHook(classes=[99]).before_train(Run)

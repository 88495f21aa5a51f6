"""One training of the study of CTF-GAN, and the classifier that measures all of them."""

import json
import time
from pathlib import Path

import mmpretrain.models  # noqa: F401
import torch
from harness.folders import write_json
from harness.grid import Run
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

import mmext  # noqa: F401
from mmext.plugins.ctf_gan.pictures import chosen_rows, class_grid, write_png

ROOT = Path(__file__).resolve().parents[2]
#: Set -> GAN, classifier, and fakes for each real test image.
SETS: dict[str, dict] = {
    'digits': dict(gan='ctf-gan-ssl_digits.py', extractor='extractor_digits.py', fakes=10),
    'glyphs': dict(gan='ctf-gan-ssl_glyphs1000.py', extractor='extractor_glyphs1000.py', fakes=5),
}


def path(name: str) -> Path:
    """File of a config of this plugin."""
    return ROOT / 'configs/ctf_gan' / name


def load(name: str, quick: bool):
    """A config of this plugin; the quick form is smaller and needs no Chinese fonts."""
    cfg = Config.fromfile(path(name))
    cfg.custom_hooks = [dict(type='mmext.IterSeedHook')]
    cfg.log_level = 'WARNING'
    return shrink(cfg) if quick else cfg


def shrink(cfg):
    """A minute's worth: few images and iterations, symbols in the place of characters."""
    symbols = dict(alphabet='symbols', classes=24, fonts=None, num_samples=240)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        datasets = loader.dataset.get('datasets', [loader.dataset])
        for dataset in datasets:
            source = dataset.get('dataset', dataset)
            source.update(symbols if 'Glyph' in source.type else dict(indices=240))
    classes = 24 if 'glyphs' in cfg.filename else 10
    if 'generator' in cfg.model:
        cfg.train_cfg.max_iters = 6
        cfg.train_dataloader.batch_size = cfg.train_dataloader.sampler.batch_size = 16
        for network in (cfg.model.generator, cfg.model.discriminator):
            network.update(base_channels=4, num_classes=classes)
        cfg.model.transfer.base_channels = 4
    else:
        cfg.train_cfg.max_epochs = cfg.param_scheduler[0].total_steps = 2
        cfg.model.data_preprocessor.num_classes = cfg.model.head.num_classes = classes
    return cfg


def configure(cfg, has: dict, seed: int) -> None:
    """Turn the config of CTF+SSL into that of a method, see ``METHODS`` of the study."""
    hq, lq = cfg.train_dataloader.dataset.datasets
    for part in (hq, lq):
        part.update(seed=seed, index_file=None)
    hq.hq_ratio = has.get('hq_ratio', 0.7)
    if not has.get('lq'):
        # Nothing reads low-quality versions.
        hq.dataset.pipeline = [step for step in hq.dataset.pipeline if 'Degrade' not in step.type]
        cfg.train_dataloader.dataset.datasets = [hq]
        cfg.train_dataloader.sampler.source_ratio = [1]
    elif has.get('transfer'):
        # As many real images as the others; the low-quality ones come on top.
        loader = cfg.train_dataloader
        loader.batch_size = loader.sampler.batch_size = loader.batch_size * 9 // 8
        loader.sampler.source_ratio = [8, 1]
    if not has.get('transfer'):
        cfg.model.transfer = None
        cfg.optim_wrapper.pop('transfer')
    if not has.get('ssl'):
        cfg.model.self_supervision = None
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint.update(interval=250, max_keep_ckpts=1)
    cfg.randomness = dict(seed=seed)
    cfg.resume = True


def train_extractor(name: str, work: Path, quick: bool) -> None:
    """Train the classifier of a set once."""
    folder = work / 'extractor'
    cfg = load(SETS[name]['extractor'], quick)
    cfg.work_dir = str(folder)
    cfg.randomness = dict(seed=0)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1, max_keep_ckpts=1)
    cfg.resume = True
    runner = Runner.from_cfg(cfg)
    runner.train()
    cfg.dump(folder / 'extractor.py')
    checkpoint = folder / f'epoch_{cfg.train_cfg.max_epochs}.pth'
    write_json(folder / 'done.json', {'checkpoint': str(checkpoint), **runner.test()})


def train(run: Run) -> dict:
    """Train one GAN, from its last checkpoint if there is one, and measure it."""
    name, folder = run.setting.name, run.folder
    cfg = load(SETS[name]['gan'], run.quick)
    configure(cfg, run.arm.options, run.seed)
    for part in cfg.optim_wrapper.values():
        if isinstance(part, dict):
            part.optimizer.lr *= run.values.get('lr_scale', 1)
    cfg.custom_hooks += run.speed_hooks()
    cfg.work_dir = str(folder)
    cfg.model.test_cfg = dict(num_fakes=SETS[name]['fakes'])
    if run.split == 'val':
        cfg.test_dataloader = load(SETS[name]['gan'], run.quick).val_dataloader
    measure = run.work / 'extractor'
    done = json.loads((measure / 'done.json').read_text())
    cfg.test_evaluator = dict(
        type='mmext.GenerativeMetrics',
        split=run.split,
        extractor=dict(type='classifier', config=str(measure / 'extractor.py'),
                       checkpoint=done['checkpoint']),
        measures=('FID', 'IS', 'PRC', 'accuracy'),
    )  # fmt: skip
    runner = Runner.from_cfg(cfg)
    watch = stopwatch(folder / 'trained.json', cfg.default_hooks.checkpoint.interval)
    runner.register_hook(watch, 'LOWEST')
    runner.train()
    record = {'minutes': watch.minutes, 'found': runner.test(), 'grid': str(folder / 'grid.png')}
    rows = chosen_rows(runner.model.num_classes, None, 10)
    write_png(folder / 'grid.png', class_grid(runner.model, rows, 10, 0, 'ema'))
    gates = [part.gate for part in runner.model.modules() if hasattr(part, 'gate')]
    if gates:
        record['gates'] = sum(float(gate.detach().abs().mean()) for gate in gates) / len(gates)
        for gate in gates:
            torch.nn.init.zeros_(gate)
        record['shut'] = runner.test()
    return record


def stopwatch(path: Path, interval: int):
    """A hook that keeps the CPU minutes of a training in ``path`` with every checkpoint.

    A killed training begins again at its last checkpoint, with the minutes it had there.
    """

    class Stopwatch(Hook):
        minutes = json.loads(path.read_text())['minutes'] if path.exists() else 0.0

        def before_train(self, runner):
            self.began = time.process_time() - 60 * self.minutes

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if self.every_n_train_iters(runner, interval) or self.is_last_train_iter(runner):
                self.minutes = (time.process_time() - self.began) / 60
                path.write_text(json.dumps({'minutes': self.minutes}))

    return Stopwatch()

"""One training of the study: task, network and method to accuracies, scores and cost."""

import copy
import logging
import sys
import time
import warnings
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import Runner

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'projects')]

from benchmark import clocked, in_turns  # noqa: E402
from harness.grid import Run  # noqa: E402

import mmext  # noqa: E402, F401
from mmext import launch  # noqa: E402

#: Task -> config and title.
TASKS = {
    'font2hand': ('conv-m-da_fontdigits2digits', 'font digits to handwritten'),
    'hand2font': ('conv-m-da_digits2fontdigits', 'handwritten to font digits'),
    'glyphs': ('conv-m-da_glyphs', 'glyphs, DejaVu to STIX'),
}
#: Network -> backbone and its output channels.
NETWORKS: dict[str, tuple[dict, int]] = {
    'ConvMNet': (dict(type='mmext.ConvMNet', arch='small'), 128),
    'SmallSqueezeNet': (dict(type='mmext.SmallSqueezeNet'), 96),
    'SmallGoogLeNet': (dict(type='mmext.SmallGoogLeNet'), 192),
}
#: The networks of the paper's size, for parameters, MACs and time only.
LARGE: dict[str, dict] = {
    'ConvMNet 4p1m, 224 px': dict(
        backbone=dict(type='mmext.ConvMNet'),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=1000, in_channels=1024),
    ),
    'GoogLeNet (torchvision), 224 px': dict(backbone=dict(type='mmext.GoogLeNet')),
}
#: A target loss of weight 0: the target takes part in batch norm alone.
BATCH_NORM = 'target in batch norm alone'
#: Method -> adaptation losses.
METHODS: dict[str, tuple[str, ...]] = {
    'source only': (),
    BATCH_NORM: ('mmd',),
    'adversarial (as DANN)': ('adversarial',),
    'MMD (as DAN)': ('mmd',),
    'label adaptation alone': ('label',),
    'RTN-like (without adversarial)': ('mmd', 'label'),
    'without MMD': ('adversarial', 'label'),
    'without label adaptation': ('adversarial', 'mmd'),
    'all three': ('adversarial', 'mmd', 'label'),
}


class Packed(list):
    """Samples of a dataset, packed once; nothing in the study's pipelines is random."""

    metainfo: dict = {}

    @classmethod
    def of(cls, settings: dict, most: int | None = None) -> 'Packed':
        """Build a dataset and pack it, at most its first ``most`` samples."""
        dataset = DATASETS.build(settings)
        packed = cls(dataset[index] for index in range(len(dataset))[:most])
        packed.metainfo = dataset.metainfo
        return packed


class Pair(torch.utils.data.ConcatDataset):
    """Source and target for the sampler."""


@cache
def data(task: str, quick: bool) -> dict[str, Any]:
    """Source and target for training, validation and test split of the target."""
    cfg = config(task)
    init_default_scope('mmpretrain')
    most = 256 if quick else None
    train = cfg.train_dataloader.dataset
    source_test = {**train.source, 'split': 'test'}
    if 'num_samples' in source_test:
        source_test['num_samples'] = 1000
    return {
        'train': Pair([Packed.of(train.source, most), Packed.of(train.target, most)]),
        'source_test': Packed.of(source_test, most),
        'val': Packed.of(cfg.val_dataloader.dataset, most),
        'test': Packed.of(cfg.test_dataloader.dataset, most),
    }


def path(task: str) -> Path:
    """File of the shipped config of a task."""
    return ROOT / f'configs/conv_m/{TASKS[task][0]}.py'


def config(task: str) -> Config:
    """The shipped config of a task."""
    return launch.load_config(str(path(task)))


def model_settings(cfg: Config, network: str, method: str) -> dict:
    """The config's model with another backbone and some of its adaptation losses."""
    model = cfg.model.to_dict()
    backbone, channels = NETWORKS[network]
    model['backbone'] = dict(in_channels=1, **backbone)
    model['neck']['in_channels'] = channels
    kept = METHODS[method]
    model['da_losses'] = {k: v for k, v in model['da_losses'].items() if k in kept}
    if method == BATCH_NORM:
        model['da_losses']['mmd']['weight'] = 0.0
    return model


class Validations(Hook):
    """Test accuracy beside each validation, so that choices can be compared afterwards."""

    def __init__(self, test: Packed) -> None:
        self.test = test
        self.rows: list[dict] = []

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Keep a row."""
        found = {key.rpartition('/')[2]: value for key, value in (metrics or {}).items()}
        scores = {key: found[key] for key in ('entropy', 'information', 'snd')}
        test = accuracy(runner.model, self.test)
        self.rows.append({'iteration': runner.iter, 'val': found['top1'], **scores, 'test': test})


@torch.no_grad()
def outputs(model: torch.nn.Module, samples: Packed) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and logits of samples, in eval mode."""
    training = model.training
    model.eval()
    features, logits = [], []
    for start in range(0, len(samples), 250):
        batch = samples[start : start + 250]
        inputs = torch.stack([item['inputs'] for item in batch])
        inputs = model.data_preprocessor({'inputs': inputs})['inputs']
        feats = model.extract_feat(inputs)
        features.append(feats[-1])
        logits.append(model.head(feats))
    model.train(training)
    return torch.cat(features), torch.cat(logits)


def labels(samples: Packed) -> torch.Tensor:
    """Labels of samples."""
    return torch.tensor([int(item['data_samples'].gt_label) for item in samples])


def accuracy(model: torch.nn.Module, samples: Packed) -> float:
    """Accuracy in percent."""
    right = outputs(model, samples)[1].argmax(1) == labels(samples)
    return 100 * float(right.double().mean())


def train(run: Run) -> tuple[dict, torch.nn.Module]:
    """Train once, with ``network`` and ``method`` of the arm's options; the setting is the task.

    Returns:
        Record and model. Accuracies are of the target; ``test`` is that of the last iteration.
    """
    logging.disable(logging.WARNING)
    cfg, sets = config(run.setting.name), data(run.setting.name, run.quick)
    iterations = 20 if run.quick else cfg.train_cfg.max_iters
    interval = iterations // 2 if run.quick else cfg.train_cfg.val_interval
    cfg.param_scheduler.gamma *= cfg.train_cfg.max_iters / iterations

    def loader(samples: Any, like: dict) -> dict:
        return {**{k: v for k, v in like.items() if k != 'persistent_workers'},
                'dataset': samples, 'num_workers': 0}  # fmt: skip

    torch.manual_seed(run.seed)
    watch = Validations(sets['test'])
    runner = Runner(
        model=model_settings(cfg, run.arm.options['network'], run.arm.options['method']),
        work_dir=str(run.folder),
        train_dataloader=loader(sets['train'], cfg.train_dataloader.to_dict()),
        val_dataloader=loader(sets['val'], cfg.val_dataloader.to_dict()),
        train_cfg=dict(type='mmext.ResumableIterTrainLoop', max_iters=iterations,
                       val_interval=interval),
        val_cfg=dict(),
        val_evaluator=cfg.val_evaluator,
        optim_wrapper=cfg.optim_wrapper,
        param_scheduler=cfg.param_scheduler,
        default_hooks=dict(logger=None, checkpoint=None),
        custom_hooks=[dict(type='mmext.IterSeedHook'), watch, *run.speed_hooks()],
        default_scope='mmpretrain',
        randomness=dict(seed=run.seed),
        log_level='ERROR',
    )  # fmt: skip
    began = time.process_time()
    runner.train()
    seconds = time.process_time() - began
    record = {
        'test': watch.rows[-1]['test'],
        'source_test': accuracy(runner.model, sets['source_test']),
        'validations': watch.rows,
        'minutes': seconds / 60,
    }
    return record, runner.model


def chosen(record: dict, by: str) -> float:
    """Test accuracy of the validation that a score chooses; 'val' is the oracle."""
    sign = -1 if by == 'entropy' else 1
    return max(record['validations'], key=lambda row: sign * row[by])['test']


def embedding(task: str, model: torch.nn.Module, quick: bool) -> dict:
    """t-SNE of the features of both test splits, at most 250 of each, with labels."""
    from sklearn.manifold import TSNE

    sets = data(task, quick)
    parts = {'source': sets['source_test'], 'target': sets['test']}
    features = [outputs(model, samples)[0][:250] for samples in parts.values()]
    sizes = [len(part) for part in features]
    points = TSNE(init='pca', random_state=0).fit_transform(torch.cat(features).numpy())
    found: dict[str, Any] = {}
    for (domain, samples), part in zip(
        parts.items(), torch.from_numpy(points).split(sizes), strict=True
    ):
        found[domain] = [[round(float(v), 2) for v in point] for point in part]
        found[f'{domain}_labels'] = labels(samples)[: len(part)].tolist()
    return found


def sizes(task: str, quick: bool) -> dict[str, int]:
    """Number of images of each part."""
    train, *others = data(task, quick).items()
    found = dict(zip(('source', 'target'), map(len, train[1].datasets), strict=True))
    return found | {name: len(samples) for name, samples in others}


def costs(rounds: int) -> dict[str, dict[str, float]]:
    """Parameters, MACs and latency (one thread, median of rounds in turn) of each network."""
    init_default_scope('mmpretrain')
    cfg = config('font2hand')
    models = {
        name: (MODELS.build(model_settings(cfg, name, 'source only')), (1, 28, 28))
        for name in NETWORKS
    }
    for name, settings in LARGE.items():
        model = MODELS.build(dict(type='ImageClassifier', **copy.deepcopy(settings)))
        models[name] = model, (3, 224, 224)
    found: dict[str, dict[str, float]] = {}
    logging.disable(logging.WARNING)
    for name, (model, shape) in models.items():
        model.train(False)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            flops = get_model_complexity_info(model, shape, show_table=False, show_arch=False)
        found[name] = {
            'parameters': sum(parameter.numel() for parameter in model.parameters()),
            'MMACs': flops['flops'] / 1e6,
        }
    calls = {
        name: clocked(partial(model, torch.rand(1, *shape)))
        for name, (model, shape) in models.items()
    }
    with torch.no_grad():
        for name, taken in in_turns(calls, rounds).items():
            found[name]['ms for one image'] = 1000 * sorted(taken)[len(taken) // 2]
    return found

"""Trained networks of this repository: what the metafiles name, whether it still holds, new ones.

A network is an entry with ``Weights`` in a metafile. Beside its weights ``zoo/`` has a record of
the same name (``.json``: command, curves, metric, outputs on a photo) and its curves (``.png``).
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch import nn

import mmext
from mmext import launch, shipped
from mmext.engine.curves import plot_curves, read_scalars, training_minutes
from mmext.launch.checkpoint import check_checkpoint, read_checkpoint

#: Largest file of weights, in bytes.
MAX_BYTES = 5_000_000
#: Metric of a test loop -> its name in OpenMMLab's metafiles and the factor to that unit.
METRICS = {'accuracy/top1': ('Top 1 Accuracy', 1.0), 'coco/bbox_mAP': ('box AP', 100.0)}
#: Largest difference, in units of the metafile, that is a rounding of the same result.
TOLERANCE = 0.02
_PHOTO = 'chelsea.png'


@dataclass(frozen=True)
class Entry:
    """A trained network.

    Attributes:
        name: Stem of its config.
        config: Path of the config.
        weights: Path of the weights, which may be absent in an installed wheel.
        sha256: Of the weights.
        dataset: What it was evaluated on.
        metrics: Name -> value, e.g. ``{'Top 1 Accuracy': 99.1}``; empty where none is stated.
    """

    name: str
    config: Path
    weights: Path
    sha256: str
    dataset: str
    metrics: dict[str, float]

    @property
    def record(self) -> Path:
        """File of the command, the curves and the outputs on a photo."""
        return self.weights.with_suffix('.json')


def root() -> Path:
    """Folder that holds configs and model index: the checkout, or ``.mim`` in a wheel."""
    return shipped.own_configs().resolve().parent


def metafiles() -> list[Path]:
    """Return the metafiles that the model index names."""
    index = yaml.safe_load((root() / 'model-index.yml').read_text())
    return [root() / name for name in index['Import']]


def untrained() -> list[str]:
    """Return the configs of the metafiles that state no metric: nobody has trained them here."""
    models = [m for file in metafiles() for m in yaml.safe_load(file.read_text())['Models']]
    return [m['Name'] for m in models if not any(r.get('Metrics') for r in m.get('Results', []))]


def entries() -> list[Entry]:
    """Return all networks that have weights, in the order of the metafiles."""
    found = []
    for metafile in metafiles():
        for model in yaml.safe_load(metafile.read_text())['Models']:
            if 'Weights' not in model:
                continue
            result = model['Results'][0]
            # Weights that a plugin needs at run time lie inside the package.
            inside = model['Weights'].startswith('mmext/')
            base = Path(mmext.__file__).resolve().parents[1] if inside else root()
            found.append(
                Entry(
                    model['Name'],
                    root() / model['Config'],
                    base / model['Weights'],
                    model['Weights SHA256'],
                    result['Dataset'],
                    result['Metrics'] or {},
                )
            )
    return found


def find(name: str) -> Entry:
    """Return the network of a config, given its path or stem.

    Raises:
        ValueError: It has no weights.
        FileNotFoundError: Its weights are not here; wheels come without them.
    """
    stem = Path(name.rpartition('::')[2]).stem
    known = {entry.name: entry for entry in entries()}
    if stem not in known:
        raise ValueError(f'{stem} has no weights in the zoo; there are: {", ".join(known)}')
    entry = known[stem]
    if not entry.weights.exists():
        raise FileNotFoundError(
            f'{entry.weights} does not exist: the zoo is in the repository, not in the wheel'
        )
    return entry


def build(entry: Entry) -> nn.Module:
    """Build a network with its weights, in evaluation mode.

    Raises:
        FileNotFoundError: The weights are not here.
        ValueError: The file was changed, or does not fit the config.
    """
    entry = find(entry.name)
    digest = hashlib.sha256(entry.weights.read_bytes()).hexdigest()
    if digest != entry.sha256:
        raise ValueError(f'{entry.weights} is not the file that its metafile names: {digest}')
    cfg = launch.load_config(str(entry.config))
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    # MVStylizer's networks load their own weights, kept in a form of their own.
    saved = read_checkpoint(str(entry.weights), logger='silent')
    if 'state_dict' in saved:
        check_checkpoint(model, str(entry.weights))
        model.load_state_dict(saved['state_dict'], strict=False)
    return model.eval()


@torch.no_grad()
def outputs(model: nn.Module, scope: str, shape: tuple[int, int, int]) -> list[float] | None:
    """Return what a network says of scikit-image's photo of a cat, a check of its preprocessing.

    Args:
        model: In evaluation mode.
        scope: ``default_scope`` of its config.
        shape: Channels, height and width of the image to make of the photo.

    Returns:
        Class probabilities of a classifier, the 20 best scores of a detector; None for others.
    """
    import cv2

    from mmext.datasets.rendering import package_dir

    channels, height, width = shape
    flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
    photo = cv2.imread(str(package_dir('skimage') / 'data' / _PHOTO), flag)
    photo = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)
    image = torch.from_numpy(np.ascontiguousarray(photo.reshape(height, width, channels)))
    batch: dict[str, Any] = {'inputs': [image.permute(2, 0, 1)]}
    if scope == 'mmpretrain':
        from mmpretrain.structures import DataSample

        scores = model.test_step({**batch, 'data_samples': [DataSample()]})[0].pred_score
    elif scope == 'mmdet':
        from mmdet.structures import DetDataSample

        meta = {'img_shape': (height, width), 'ori_shape': (height, width), 'scale_factor': (1, 1)}
        sample = DetDataSample(metainfo=meta)
        found = model.test_step({**batch, 'data_samples': [sample]})[0]
        scores = found.pred_instances.scores.sort(descending=True).values[:20]
    else:
        return None
    return [round(float(score), 5) for score in scores]


def evaluate(entry: Entry, work_dir: str) -> dict[str, float]:
    """Test a network on its test set.

    Returns:
        Metric in the words and units of the metafile.

    Raises:
        FileNotFoundError: The data is not there; the message names the command that prepares it.
    """
    return translate(_test_runner(entry.config, entry.weights, work_dir).test())


def _test_runner(config: Path, weights: Path, work_dir: str) -> Runner:
    """Return a quiet Runner that tests these weights, which fit the config."""
    cfg = launch.load_config(str(config))
    launch.prepare_test(cfg, str(weights), work_dir=work_dir)
    cfg.log_level = 'WARNING'
    runner = launch.build_runner(cfg)
    check_checkpoint(runner.model, str(weights))
    return runner


def translate(found: dict[str, float]) -> dict[str, float]:
    """Return the metrics that a metafile states, in its words and units, two decimals."""
    return {
        name: round(found[key] * factor, 2)
        for key, (name, factor) in METRICS.items()
        if key in found
    }


def publish(config: str, work_dir: str, command: str) -> Entry:
    """Put a trained network into the zoo: weights, record, curves, and its entry in the metafile.

    Weights of two and more dimensions are rounded to float16; the metric is that of the rounded
    network. The entry must be in a metafile already, without or with older weights.

    Args:
        config: Path of the config.
        work_dir: Where the training has put its checkpoints and scalars.
        command: What trained it, as a user would type it.

    Raises:
        FileNotFoundError: No checkpoint in ``work_dir``, or the test set is missing.
        ValueError: No metafile has the config, or the weights exceed :data:`MAX_BYTES`.
    """
    from mmengine.runner import find_latest_checkpoint

    path = Path(shipped.resolve_config(config)).resolve()
    name, relative = path.stem, path.relative_to(root()).as_posix()
    metafile = next((m for m in metafiles() if f'Config: {relative}\n' in m.read_text()), None)
    if metafile is None:
        raise ValueError(f'{relative} is in no metafile: add its entry first')
    checkpoint = find_latest_checkpoint(work_dir)
    if checkpoint is None:
        raise FileNotFoundError(f'{work_dir} has no checkpoint of a training')
    weights = root() / 'zoo' / f'{name}.pth'
    weights.parent.mkdir(exist_ok=True)
    draft = weights.with_suffix('.tmp')
    torch.save(_rounded(read_checkpoint(checkpoint, logger='silent'), relative), draft)
    if draft.stat().st_size > MAX_BYTES:
        size = draft.stat().st_size
        draft.unlink()
        raise ValueError(f'{name} has {size:,} bytes of weights, more than {MAX_BYTES:,}')

    runner = _test_runner(path, draft, os.path.join(work_dir, 'zoo_test'))
    metrics = translate(runner.test())
    first = runner.test_dataloader.dataset[0]['inputs']
    scalars = read_scalars(work_dir)
    record = {
        'config': relative,
        'command': command,
        'metrics': metrics,
        'minutes': round(training_minutes(scalars), 1),
        'versions': dict(_versions()),
        'shape': list(first.shape),
        'outputs': outputs(runner.model.eval(), runner.cfg.default_scope, tuple(first.shape)),
        'curves': {
            key: [steps.tolist(), [round(float(v), 5) for v in values]]
            for key, (steps, values) in scalars.items()
            if key == 'train/loss' or key.removeprefix('val/') in METRICS
        },
    }
    # Only now: without the test set, say, what was published stays as it is.
    os.replace(draft, weights)
    weights.with_suffix('.json').write_text(json.dumps(record) + '\n')
    plot_curves(scalars, weights.with_suffix('.png'))
    _write_entry(metafile, name, weights, metrics)
    return find(name)


def _rounded(saved: dict[str, Any], config: str) -> dict[str, Any]:
    state = {
        key: value.half() if value.is_floating_point() and value.dim() > 1 else value
        for key, value in saved['state_dict'].items()
    }
    meta = {'config': config}
    classes = saved.get('meta', {}).get('dataset_meta')
    return {
        'state_dict': state,
        'meta': meta | ({'dataset_meta': dict(classes)} if classes else {}),
    }


def _versions() -> Iterator[tuple[str, str]]:
    for name in ('mmext', 'torch', 'torchvision', 'mmengine', 'mmdet', 'mmpretrain'):
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


class _Indented(yaml.SafeDumper):
    """Indents the items of a list below their key, as the metafiles do."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _write_entry(metafile: Path, name: str, weights: Path, metrics: dict[str, float]) -> None:
    """Rewrite one entry of a metafile and leave the text of all others as it is."""
    model = next(m for m in yaml.safe_load(metafile.read_text())['Models'] if m['Name'] == name)
    relative = weights.relative_to(root()).as_posix()
    results = [{**model['Results'][0], 'Metrics': metrics}]
    for key in ('Weights', 'Weights SHA256', 'Training Log', 'Results'):
        model.pop(key, None)
    model |= {
        'Weights': relative,
        'Weights SHA256': hashlib.sha256(weights.read_bytes()).hexdigest(),
        'Training Log': str(Path(relative).with_suffix('.json')),
        'Results': results,
    }
    text = yaml.dump(
        {'Models': [model]}, Dumper=_Indented, sort_keys=False, allow_unicode=True, width=1000
    )
    block = text.partition('\n')[2]
    lines = metafile.read_text().splitlines(keepends=True)
    starts = [i for i, line in enumerate(lines) if line.startswith('  - Name: ')] + [len(lines)]
    at = next(i for i in starts if lines[i].strip() == f'- Name: {name}')
    end = next(i for i in starts if i > at)
    metafile.write_text(''.join([*lines[:at], block, *lines[end:]]))

"""From a trained host model to a config, a checkpoint and an ONNX file of its low-rank form."""

import copy
import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from mmext.launch.checkpoint import check_checkpoint

from .lowrank import decompose
from .measure import Forward, evaluating
from .pair import cut_components
from .report import Report

_TRAINING_ONLY = ('mmext.ForceRegularizationHook', 'mmext.TrainedRankPruningHook')


def load_model(cfg: Config, checkpoint: str) -> nn.Module:
    """Build the model of a config in evaluation mode, with all weights of a checkpoint.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It does not belong to the model.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    settings = without_pretrained(copy.deepcopy(cfg.model))
    if cfg.get('data_preprocessor') is not None:
        settings.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = revert_sync_batchnorm(MODELS.build(settings))
    check_checkpoint(model, checkpoint)
    load_checkpoint(model, checkpoint, map_location='cpu', logger='silent')
    return model.eval()


def without_pretrained(node: Any) -> Any:
    """The config without weights to be fetched from elsewhere, in place."""
    if isinstance(node, dict):
        init = node.get('init_cfg')
        if isinstance(init, dict) and init.get('type') == 'Pretrained':
            node['init_cfg'] = None
        for value in node.values():
            without_pretrained(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            without_pretrained(value)
    return node


def image_forward(model: nn.Module, images: Tensor) -> Forward:
    """One forward of a host model without post-processing.

    Args:
        model: Any model with ``forward(inputs)``; detectors of MMDetection get data samples, too,
            since two-stage ones ask them for the image size.
        images: Shape (B, C, H, W), as after the data preprocessor.
    """
    if not hasattr(model, 'add_pred_to_datasample'):
        return lambda model: model(images)
    from mmdet.structures import DetDataSample

    size = tuple(images.shape[-2:])
    meta = {'img_shape': size, 'ori_shape': size, 'pad_shape': size, 'batch_input_shape': size,
            'scale_factor': (1.0, 1.0)}  # fmt: skip
    samples = [DetDataSample(metainfo=meta) for _ in images]
    return lambda model: model(images, samples)


def low_rank_config(cfg: Config, report: Report, checkpoint: str, lr_scale: float) -> Config:
    """Config that rebuilds a decomposed model and fine-tunes it from ``checkpoint``.

    Args:
        cfg: Config of the model that was decomposed. Not changed.
        report: What was done to it.
        checkpoint: Path of the low-rank weights.
        lr_scale: Factor on the learning rates of the training, > 0.

    Returns:
        ``cfg`` around ``mmext.LowRank``, with ``load_from``, without pretrained weights from
        elsewhere, without the hooks of force regularization and TRP and without ``work_dir``.
    """
    result = Config(copy.deepcopy(cfg._cfg_dict))
    inner = without_pretrained(result.model)
    result.model = {
        'type': 'mmext.LowRank',
        'model': inner,
        'ranks': report.ranks,
        'method': report.method,
    }
    return _for_finetuning(result, checkpoint, lr_scale)


def cut_config(cfg: Config, ranks: Mapping[str, int], checkpoint: str, lr_scale: float) -> Config:
    """As :func:`low_rank_config` for a low-rank model whose components were cut to ``ranks``."""
    result = Config(copy.deepcopy(cfg._cfg_dict))
    level = result.model
    while level.get('type') == 'mmext.LowRank':
        level.ranks = {name: ranks.get(name, rank) for name, rank in level.ranks.items()}
        level = level.model
    return _for_finetuning(result, checkpoint, lr_scale)


def _for_finetuning(cfg: Config, checkpoint: str, lr_scale: float) -> Config:
    cfg.load_from, cfg.resume = checkpoint, False
    cfg.pop('work_dir', None)  # that of the training, whose checkpoints would be overwritten
    hooks = cfg.get('custom_hooks') or []
    cfg.custom_hooks = [hook for hook in hooks if hook['type'] not in _TRAINING_ONLY]
    wrapper = cfg.get('optim_wrapper') or {}
    for part in (wrapper, *(p for p in wrapper.values() if isinstance(p, dict))):
        optimizer = part.get('optimizer')
        if isinstance(optimizer, dict) and 'lr' in optimizer:
            optimizer['lr'] *= lr_scale
    return cfg


def save(model: nn.Module, cfg: Config, folder: Path) -> tuple[Path, Path]:
    """Write ``<folder>/<folder name>.py`` and the checkpoint that ``cfg.load_from`` names."""
    config = folder / f'{folder.name}.py'
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({'meta': {}, 'state_dict': model.state_dict()}, cfg.load_from)
    cfg.dump(config)
    return config, Path(cfg.load_from)


def run(
    cfg: Config,
    checkpoint: str,
    images: Tensor,
    folder: Path,
    *,
    cut: bool = False,
    onnx: bool = False,
    lr_scale: float = 0.1,
    **goal: Any,
) -> str:
    """What ``mmext decompose`` does between its command line and its output.

    Args:
        cfg: Config of the model.
        checkpoint: Its weights.
        images: Batch that is traced, timed and exported; channels-last if the model is to be.
        folder: Where config, checkpoint, ``report.json`` and ONNX files go.
        cut: Only cut zero components of a low-rank model.
        onnx: Export the model before and after, compare with onnxruntime and time it there.
        lr_scale: Factor on the learning rates for fine-tuning, > 0.
        **goal: Arguments of :func:`~mmext.plugins.force_regularization.lowrank.decompose`.

    Returns:
        Table and recipe for people.

    Raises:
        FileNotFoundError: No such checkpoint.
        ValueError: It does not fit, an argument is out of its range, or there is nothing to cut.
        RuntimeError: The written config does not compute what the decomposed model does.
    """
    if not lr_scale > 0:
        raise ValueError(f'lr_scale={lr_scale} must be above 0')
    model = load_model(cfg, checkpoint)
    if not images.is_contiguous():
        model = model.to(memory_format=torch.channels_last)
    exported = {'before': export_onnx(model, images, folder / 'before.onnx')} if onnx else {}
    weights = str(folder / f'{folder.name}.pth')
    if cut:
        ranks = cut_components(model)
        if not ranks:
            raise ValueError('--cut: the model has no low-rank pair; decompose it first')
        new, lines = cut_config(cfg, ranks, weights, lr_scale), [f'ranks: {ranks}']
    else:
        report = decompose(model, inputs=image_forward(model, images), **goal)
        new, lines = low_rank_config(cfg, report, weights, lr_scale), [table(report)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / 'report.json').write_text(json.dumps(report.as_dict(), indent=2) + '\n')
    config, _ = save(model, new, folder)
    _check_rebuilt(model, config, weights, images)
    if onnx:
        exported['after'] = export_onnx(model, images, folder / 'after.onnx')
        for name, ms in onnx_ms(exported, images, goal.get('rounds', 10)).items():
            lines.append(
                f'{exported[name].path}: {ms:.3g} ms with onnxruntime, outputs within '
                f'{exported[name].difference:.1e} of torch'
            )
    lines.append(f'fine-tune: mmext train {config}\nevaluate:  mmext test {config} {weights}')
    return '\n'.join(lines) + '\n'


@torch.no_grad()
def _check_rebuilt(model: nn.Module, config: Path, weights: str, images: Tensor) -> None:
    """A host that keeps a second reference to a layer would still use the old one."""
    rebuilt = load_model(Config.fromfile(config), weights).to(images)
    pairs = zip(
        *(_tensors(image_forward(part, images)(part)) for part in (model, rebuilt)), strict=True
    )
    if not all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs):
        raise RuntimeError(f'{config} builds a model that computes something else; do not use it')


class Exported(NamedTuple):
    """An ONNX file, how far onnxruntime's outputs are from torch's, and its latency."""

    path: Path
    difference: float
    session: Any


class _Flat(nn.Module):
    """A model whose outputs are a plain tuple of tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(_tensors(image_forward(self.model, images)(self.model)))


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        return [tensor for part in output for tensor in _tensors(part)]
    return []


def export_onnx(model: nn.Module, images: Tensor, path: Path) -> Exported:
    """Export the forward of a model and run it with onnxruntime on the same images.

    Args:
        model: As :func:`image_forward` takes it; the batch and image size are fixed.
        images: Shape (B, C, H, W).
        path: ONNX file to write.

    Returns:
        The file, the largest difference of an output in units of its largest value, and the
        onnxruntime session (one thread).

    Raises:
        ImportError: onnx or onnxruntime is missing.
        RuntimeError: torch cannot export this model.
    """
    import onnxruntime

    flat = _Flat(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad(), evaluating(model), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        expected = flat(images)
        torch.onnx.export(flat, (images,), str(path), dynamo=False, input_names=['images'])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    found = session.run(None, {'images': images.contiguous().numpy()})
    difference = max(
        float((torch.from_numpy(b) - a).abs().max() / a.abs().max().clamp_min(1e-12))
        for a, b in zip(expected, found, strict=True)
    )
    return Exported(path, difference, session)


def onnx_ms(exported: Mapping[str, Exported], images: Tensor, rounds: int) -> dict[str, float]:
    """Shortest time of each exported model in milliseconds; they take turns."""
    feed = {'images': images.contiguous().numpy()}
    best = dict.fromkeys(exported, float('inf'))
    for turn in range(rounds + 1):
        for name, model in exported.items():
            began = time.perf_counter()
            model.session.run(None, feed)
            if turn:
                best[name] = min(best[name], 1000 * (time.perf_counter() - began))
    return best


def table(report: Report) -> str:
    """The report as a table for a terminal or a file."""
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=None, header_style='bold')
    columns = ('layer', 'shape', 'rank', 'lost %', 'MMACs', 'params', 'ms before', 'ms', 'kept')
    for column in columns:
        grid.add_column(column, no_wrap=column != 'kept', overflow='fold')
    for layer in report.layers:
        full = f'{layer.rank or "-"}/{layer.full_rank}'
        eps = f'{100 * layer.eps:.1f}' if layer.rank else ''
        macs = f'{layer.macs_before / 1e6:.3g} > {layer.macs / 1e6:.3g}'
        params = f'{layer.params_before} > {layer.params}'
        grid.add_row(layer.name, 'x'.join(map(str, layer.shape)), full, eps, macs, params,
                     _ms(layer.ms_before), _ms(layer.ms), layer.kept)  # fmt: skip
    console = Console(width=150)
    with console.capture() as capture:
        console.print(grid)
    lines = [capture.get().rstrip()]
    for name, unit, scale in (('macs', 'MMACs', 1e6), ('params', 'M parameters', 1e6)):
        before, after = getattr(report, f'{name}_before') / scale, getattr(report, name) / scale
        lines.append(f'{unit}: {before:.4g} before, {after:.4g} after ({before / after:.2f}x less)')
    if report.ms is not None and report.ms_before is not None:
        lines.append(
            f'latency of one forward: {report.ms_before:.3g} ms before, {report.ms:.3g} ms after '
            f'({report.ms_before / report.ms:.2f}x)'
        )
    return '\n'.join(lines)


def _ms(value: float | None) -> str:
    return '' if value is None else f'{value:.3g}'

"""Attack a data set, sample by sample on record, and report; ``mmext attack`` is its command."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import default_collate, pseudo_collate
from torch import Tensor, nn

from mmext.attacks.adversarial import (
    PixelSpace,
    attack_labels,
    attack_mode,
    content_mask,
    logits_fn,
)
from mmext.attacks.gradient_attacks import AttackResult, fgsm, pgd
from mmext.launch.records import Records

from .functional import cw_l2
from .load_adversarial_image import image_name
from .minimum_norm import ddn, fmn

#: Attacks with a budget: they need ``eps``.
BUDGETED: dict[str, Callable[..., AttackResult]] = {'fgsm': fgsm, 'pgd': pgd}
#: Attacks of least L2 norm.
MINIMUM_NORM: dict[str, Callable[..., AttackResult]] = {
    'cw': partial(cw_l2, guide='none'),
    'guided_cw': partial(cw_l2, guide='gradient'),
    'ddn': ddn,
    'fmn': fmn,
}
ATTACKS = (*MINIMUM_NORM, *BUDGETED)
SHOWN = 8


def attack_dataset(
    model: nn.Module,
    dataset: Any,
    indices: Sequence[int],
    out: Path,
    *,
    attack: str,
    options: dict[str, Any],
    eps: Sequence[float] = (),
    batch_size: int = 64,
    bounds: tuple[float, float] = (0, 255),
    save: Path | None = None,
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> list[dict]:
    """Attack what has no record in ``out`` yet.

    Args:
        model: Classifier of MMPretrain, in eval mode.
        dataset: Items as MMPretrain's ``PackInputs`` makes them.
        indices: Items to attack.
        out: Folder; its ``records.jsonl`` is continued.
        attack: One of :data:`ATTACKS`.
        options: Arguments of the attack.
        eps: Budgets in [0, 1] of the range of pixels, for the attacks of :data:`BUDGETED`.
        batch_size: Images at a time, >= 1.
        bounds: Range of the raw images.
        save: Folder for the adversarial images, see ``mmext.LoadAdversarialImage``; with budgets,
            those of the largest.
        settings: What else the records depend on, such as the hash of the checkpoint.
        seed: Of random starts, which depend on it and the batch's first index.
        on_batch: Called with the number of samples done, those on record first.

    Returns:
        Records in the order of ``indices``: ``idx``, ``label``, ``predict`` (clean), ``success``
        and ``l2`` (one value, or one per budget; null where the attack failed), ``first_success``,
        ``n_forward`` and ``n_backward`` (the batch's, divided by its size) and ``seconds``.

    Raises:
        ValueError: Unknown attack, wrong budgets, other classes or records of other settings.
    """
    budgets = _check_attack(attack, eps)
    header = {
        'attack': attack, 'options': options, 'eps': list(eps), 'batch_size': batch_size,
        'bounds': list(bounds), 'seed': seed, 'save': save is not None, **(settings or {}),
    }  # fmt: skip
    records = Records(out / 'records.jsonl', header)
    done = {row['idx'] for row in records.rows}
    if on_batch is not None:
        on_batch(sum(index in done for index in indices))
    space = PixelSpace.of(model, bounds)
    for part in _parts([index for index in indices if index not in done], batch_size):
        began = time.perf_counter()
        inputs, samples = _load(model, dataset, part)
        labels = attack_labels(samples, inputs.device)
        mask = content_mask(inputs, samples)
        pixels = space.to_pixels(inputs)
        # Undoing the normalisation may overshoot by a rounding.
        inside = pixels.clamp(0, 1)
        pixels = inside if mask is None else torch.where(mask, inside, pixels)
        generator = torch.Generator(device=inputs.device).manual_seed(seed + part[0])
        with attack_mode(model, inputs.device.type):
            logits = logits_fn(model, bounds)
            clean = logits(pixels).detach()
            _check_classes(dataset, clean, labels)
            found = [
                _run(attack, logits, pixels, labels, mask, options, budget, generator)
                for budget in budgets
            ]
        seconds = (time.perf_counter() - began) / len(part)
        last = found[-1]
        flip = bool(getattr(model.data_preprocessor, 'to_rgb', False))
        _save_images(save, part, space, last.x_adv, mask, flip)
        _keep_shown(out, indices[:SHOWN], part, pixels, labels, last, flip)
        records.append(_rows(part, labels, clean, found, seconds))
        if on_batch is not None:
            on_batch(len(part))
    by_index = {row['idx']: row for row in records.rows}
    return [by_index[index] for index in indices]


def summarise(records: Sequence[dict], attack: str, eps: Sequence[float]) -> dict[str, Any]:
    """Success, distances, robust accuracy and cost of the records of one attack.

    Args:
        records: Of :func:`attack_dataset`.
        attack: As there.
        eps: Budgets at which to give the robust accuracy: those that were attacked with, or L2
            distances for the attacks of :data:`MINIMUM_NORM`.

    Returns:
        ``images``, ``clean_accuracy`` and ``robust_accuracy`` (percent, one per eps); over the
        images that were classified rightly ``success`` (percent), and over successes ``l2_mean``,
        ``l2_median`` and ``steps_to_first_success`` (median), all at the largest budget; passes
        per image ``n_forward`` and ``n_backward``, and ``seconds`` per image.
    """
    right = np.array([row['label'] == row['predict'] for row in records])
    l2 = np.array([[np.inf if v is None else v for v in row['l2']] for row in records])
    first = np.array([row['first_success'][-1] for row in records])
    hit = right & np.isfinite(l2[:, -1])
    if attack in BUDGETED:
        robust = [float(100 * (right & ~np.isfinite(column)).mean()) for column in l2.T]
    else:
        robust = [float(100 * (right & (l2[:, 0] > value)).mean()) for value in eps]

    def over_hits(function: Callable, values: np.ndarray) -> float | None:
        return float(function(values[hit])) if hit.any() else None

    return {
        'images': len(records),
        'clean_accuracy': float(100 * right.mean()),
        'success': float(100 * hit.sum() / right.sum()) if right.any() else None,
        'l2_mean': over_hits(np.mean, l2[:, -1]),
        'l2_median': over_hits(np.median, l2[:, -1]),
        'steps_to_first_success': over_hits(np.median, first),
        'robust_accuracy': dict(zip([f'{value:g}' for value in eps], robust, strict=True)),
        **{
            name: float(np.mean([row[name] for row in records]))
            for name in ('n_forward', 'n_backward', 'seconds')
        },
    }


def report(records: Sequence[dict], out: Path, attack: str, eps: Sequence[float]) -> dict[str, Any]:
    """Write ``attack.json``, ``attack.tsv`` and ``attack.png`` into ``out``; return the summary."""
    found = summarise(records, attack, eps)
    (out / 'attack.json').write_text(json.dumps(found, indent=2) + '\n')
    columns = ('idx', 'label', 'predict', 'success', 'l2', 'first_success', 'seconds')
    lines = ['\t'.join(columns)]
    for row in records:
        flat = {k: v[-1] if isinstance(v, list) else v for k, v in row.items()}
        lines.append('\t'.join(str(flat[column]) for column in columns))
    (out / 'attack.tsv').write_text('\n'.join(lines) + '\n')
    plot_grid(sorted((out / 'shown').glob('*.npz')), out / 'attack.png')
    return found


def plot_grid(shown: Sequence[Path], path: Path) -> None:
    """Draw clean images, adversarial ones and their difference (times 5, grey is 0)."""
    from matplotlib.figure import Figure

    if not shown:
        return
    figure = Figure(figsize=(1.2 * len(shown) + 0.6, 3.9), layout='constrained')
    rows = figure.subplots(3, len(shown), squeeze=False)
    for column, file in zip(rows.T, shown, strict=True):
        kept = np.load(file)
        clean, attacked = kept['clean'], kept['attacked']
        images = clean, attacked, np.clip(0.5 + 5 * (attacked - clean), 0, 1)
        for axes, image in zip(column, images, strict=True):
            axes.imshow(image.squeeze(), cmap='gray', vmin=0, vmax=1, interpolation='nearest')
            axes.set(xticks=[], yticks=[])
        l2 = float(kept['l2'])
        column[0].set_title(f'label {int(kept["label"])}', fontsize=8)
        column[1].set_title(f'L2 {l2:.2f}' if np.isfinite(l2) else 'failed', fontsize=8)
    for axes, name in zip(rows[:, 0], ('clean', 'adversarial', 'difference x5'), strict=True):
        axes.set_ylabel(name, fontsize=8)
    figure.savefig(path, dpi=120)


def _check_attack(attack: str, eps: Sequence[float]) -> Sequence[float | None]:
    if attack not in ATTACKS:
        raise ValueError(f'attack={attack!r} must be one of {", ".join(ATTACKS)}')
    if attack not in BUDGETED:
        return [None]
    if not eps:
        raise ValueError(f'attack {attack!r} needs eps, in [0, 1] of the range of pixels')
    outside = [value for value in eps if not 0 <= value <= 1]
    if outside or list(eps) != sorted(eps):
        raise ValueError(
            f'eps={list(eps)} must be in [0, 1] of the range of pixels and rise; for 8 of 255 '
            'write 0.0314'
        )
    return eps


def _check_classes(dataset: Any, logits: Tensor, labels: Tensor) -> None:
    outputs = logits.shape[1]
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    expected = max(len(classes) if classes is not None else 0, int(labels.max()) + 1)
    if (classes is not None and expected != outputs) or expected > outputs:
        raise ValueError(
            f'the classifier has {outputs} classes, the data set {expected}: use the data set '
            'that the checkpoint was trained on'
        )


def _parts(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    if size < 1:
        raise ValueError(f'batch_size={size} must be at least 1')
    return (indices[start : start + size] for start in range(0, len(indices), size))


def _load(model: nn.Module, dataset: Any, part: Sequence[int]) -> tuple[Tensor, list]:
    items = [dataset[index] for index in part]
    same = len({tuple(item['inputs'].shape) for item in items}) == 1
    collate = default_collate if same else pseudo_collate
    batch = model.data_preprocessor(collate(items), False)
    return batch['inputs'], batch['data_samples']


def _run(
    attack: str,
    logits: Callable[[Tensor], Tensor],
    pixels: Tensor,
    labels: Tensor,
    mask: Tensor | None,
    options: dict[str, Any],
    budget: float | None,
    generator: torch.Generator,
) -> AttackResult:
    if budget is None:
        return MINIMUM_NORM[attack](logits, pixels, labels, mask=mask, **options)
    extra = {'generator': generator} if attack == 'pgd' else {}
    return BUDGETED[attack](logits, pixels, labels, eps=budget, mask=mask, **options, **extra)


def _rows(
    part: Sequence[int],
    labels: Tensor,
    clean: Tensor,
    found: Sequence[AttackResult],
    seconds: float,
) -> list[dict]:
    predicted, success, l2, first = (
        value.cpu().numpy()
        for value in (
            clean.argmax(1),
            torch.stack([result.success for result in found], 1),
            torch.stack([result.l2 for result in found], 1),
            torch.stack([result.first_success for result in found], 1),
        )
    )
    return [
        {
            'idx': int(index),
            'label': int(labels[row]),
            'predict': int(predicted[row]),
            'success': success[row].tolist(),
            'l2': [float(value) if np.isfinite(value) else None for value in l2[row]],
            'first_success': first[row].tolist(),
            'n_forward': sum(result.n_forward for result in found) / len(part),
            'n_backward': sum(result.n_backward for result in found) / len(part),
            'seconds': seconds,
        }
        for row, index in enumerate(part)
    ]


def _save_images(
    save: Path | None,
    part: Sequence[int],
    space: PixelSpace,
    x_adv: Tensor,
    mask: Tensor | None,
    flip: bool,
) -> None:
    if save is None:
        return
    raw = PixelSpace(bounds=space.bounds).to_inputs(x_adv).cpu()
    for row, index in enumerate(part):
        image = raw[row].flip(0) if flip and raw.shape[1] == 3 else raw[row]
        if mask is not None:
            height, width = mask[row, 0].any(1).sum(), mask[row, 0].any(0).sum()
            image = image[:, :height, :width]
        np.save(save / image_name(index), image.permute(1, 2, 0).numpy())


def _keep_shown(
    out: Path,
    shown: Sequence[int],
    part: Sequence[int],
    pixels: Tensor,
    labels: Tensor,
    result: AttackResult,
    flip: bool,
) -> None:
    """Keep the first images for the figure, which a resumed run could not draw otherwise."""
    folder = out / 'shown'
    folder.mkdir(exist_ok=True)
    for row, index in enumerate(part):
        if index not in shown:
            continue
        clean, attacked = (
            # The model's channel order; BGR models have to_rgb off.
            (value[row] if flip else value[row].flip(0)).clamp(0, 1).permute(1, 2, 0).cpu().numpy()
            for value in (pixels, result.x_adv)
        )
        np.savez(
            folder / f'{index:07d}.npz', clean=clean, attacked=attacked,
            l2=float(result.l2[row]), label=int(labels[row]),
        )  # fmt: skip

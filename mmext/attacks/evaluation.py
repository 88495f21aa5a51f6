"""Attack a data set, sample by sample on record, and report; ``mmext attack`` is its command."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import default_collate, pseudo_collate
from mmengine.dist import barrier
from torch import Tensor, nn

from mmext.attacks.adversarial import (
    PixelSpace,
    attack_labels,
    attack_mode,
    content_mask,
    logits_fn,
)
from mmext.attacks.gradient_attacks import AttackResult
from mmext.attacks.leaderboard import write_leaderboard
from mmext.attacks.load_adversarial_image import image_name
from mmext.attacks.robust_accuracy import accuracies, warnings_of
from mmext.attacks.standard import PARTS, GradientCheck, check_gradients
from mmext.attacks.suite import (
    IN_BALL,
    LEAST_NORM,
    attack_batch,
    attack_function,
    sample_generators,
)
from mmext.launch.records import Records

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
    rank: int = 0,
    ranks: int = 1,
) -> list[dict]:
    """Attack what has no record in ``out`` yet; several ranks share the batches.

    What is found depends on the seed and the batches alone, not on the ranks.

    Args:
        model: Classifier of MMPretrain, in eval mode.
        dataset: Items as MMPretrain's ``PackInputs`` makes them.
        indices: Items to attack.
        out: Folder; its ``records*.jsonl``, one for each rank, are continued.
        attack: One of :data:`.suite.ATTACKS`.
        options: Arguments of the attack.
        eps: Budgets, rising, for the attacks of :data:`.suite.IN_BALL`: in [0, 1] of the range of
            pixels, or L2 distances.
        batch_size: Images at a time, >= 1.
        bounds: Range of the raw images.
        save: Folder for the adversarial images, see ``mmext.LoadAdversarialImage``; with budgets,
            those of the largest.
        settings: What else the records depend on, such as the hash of the checkpoint.
        seed: Of random draws, which depend on it and the sample.
        on_batch: Called with the number of samples that this rank has done.
        rank, ranks: This process and how many share the work. They wait for each other twice.

    Returns:
        Records in the order of ``indices``: ``idx``, ``label``, ``predict`` (clean), ``success``
        and ``l2`` (one value, or one per budget; null where the attack failed), ``first_success``,
        ``n_forward`` and ``n_backward`` (the batch's, divided by its size), ``seconds``, and the
        signs of :func:`.robust_accuracy.warnings_of`.

    Raises:
        ValueError: Unknown attack, wrong budgets, other classes or records of other settings.
    """
    _check_attack(attack, eps, options)
    if batch_size < 1:
        raise ValueError(f'batch_size={batch_size} must be at least 1')
    header = {
        'attack': attack, 'options': options, 'eps': list(eps), 'batch_size': batch_size,
        'bounds': list(bounds), 'seed': seed, 'save': save is not None, **(settings or {}),
    }  # fmt: skip
    records = Records(out / (f'records.{rank}.jsonl' if rank else 'records.jsonl'), header)
    barrier()
    done = {row['idx'] for row in _all_rows(out, header, records)}
    barrier()  # before anybody writes
    batches = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    space = PixelSpace.of(model, bounds)
    for batch in batches[rank::ranks]:
        part = [index for index in batch if index not in done]
        if on_batch is not None:
            on_batch(len(batch) - len(part))
        if not part:
            continue
        began = time.perf_counter()
        inputs, samples = _load(model, dataset, part)
        labels = attack_labels(samples, inputs.device)
        mask = content_mask(inputs, samples)
        pixels = space.to_pixels(inputs)
        # Undoing the normalisation may overshoot by a rounding.
        inside = pixels.clamp(0, 1)
        pixels = inside if mask is None else torch.where(mask, inside, pixels)
        with attack_mode(model, inputs.device.type):
            logits = logits_fn(model, bounds)
            clean = logits(pixels).detach()
            _check_classes(dataset, clean, labels)
            check = check_gradients(logits, pixels, labels)
            found = attack_batch(
                attack, logits, pixels, labels, eps=eps, mask=mask,
                generator=sample_generators(seed, part), **options,
            )  # fmt: skip
        seconds = (time.perf_counter() - began) / len(part)
        last = found[-1]
        flip = bool(getattr(model.data_preprocessor, 'to_rgb', False))
        _save_images(save, part, space, last.x_adv, mask, flip)
        _keep_shown(out, indices[:SHOWN], part, pixels, labels, last, flip)
        records.append(_rows(part, labels, clean, found, check, seconds))
        if on_batch is not None:
            on_batch(len(part))
    barrier()
    by_index = {row['idx']: row for row in _all_rows(out, header, records)}
    return [by_index[index] for index in indices]


def _all_rows(out: Path, header: dict, own: Records) -> list[dict]:
    """Records of all ranks, also of an earlier run with another number of them."""
    others = [path for path in sorted(out.glob('records*.jsonl')) if path != own.path]
    return own.rows + [row for path in others for row in Records(path, header).rows]


def summarise(records: Sequence[dict], attack: str, eps: Sequence[float]) -> dict[str, Any]:
    """Success, distances, robust accuracy and cost of the records of one attack.

    Args:
        records: Of :func:`attack_dataset`.
        attack: As there.
        eps: Budgets at which to give the robust accuracy: those that were attacked with, or L2
            distances for the attacks of :data:`MINIMUM_NORM`.

    Returns:
        ``attack``, ``images``, ``clean_accuracy`` and ``robust_accuracy`` (percent, one per eps);
        over the images that were classified rightly ``success`` (percent), and over successes
        ``l2_mean``, ``l2_median`` and ``steps_to_first_success`` (median), all at the largest
        budget; passes per image ``n_forward`` and ``n_backward``, and ``seconds`` per image;
        ``warnings``, why the numbers cannot be believed, and for standard attacks ``broken_by``.
    """
    right = np.array([row['label'] == row['predict'] for row in records])
    l2 = np.array([[np.inf if v is None else v for v in row['l2']] for row in records])
    first = np.array([row['first_success'][-1] for row in records])
    hit = right & np.isfinite(l2[:, -1])
    names = [f'{value:g}' for value in eps]
    stands = ~np.isfinite(l2) if attack in IN_BALL else l2 > np.array(eps)
    rows = [
        {'clean': bool(right[row]),
         **{f'{attack}@{name}': bool(right[row] and value)
            for name, value in zip(names, stands[row], strict=True)}}
        for row in range(len(records))
    ]  # fmt: skip
    found = accuracies(rows)

    def over_hits(function: Callable, values: np.ndarray) -> float | None:
        return float(function(values[hit])) if hit.any() else None

    told = {
        'attack': attack,
        'images': len(records),
        'clean_accuracy': found['clean'],
        'success': float(100 * hit.sum() / right.sum()) if right.any() else None,
        'l2_mean': over_hits(np.mean, l2[:, -1]),
        'l2_median': over_hits(np.median, l2[:, -1]),
        'steps_to_first_success': over_hits(np.median, first),
        'robust_accuracy': {name: found[f'{attack}@{name}'] for name in names},
        **{
            name: float(np.mean([row[name] for row in records]))
            for name in ('n_forward', 'n_backward', 'seconds')
        },
        'warnings': warnings_of(records) if attack != 'square' else [],
    }
    if attack == 'standard':
        by = [row['by'] for row in records]
        told['broken_by'] = {part: by.count(part) for part in PARTS}
    return told


def report(
    records: Sequence[dict],
    out: Path,
    attack: str,
    eps: Sequence[float],
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the results of an attack into ``out``.

    These are ``attack.json``, ``attack.tsv`` and ``attack.png``, and beside ``out`` the
    ``leaderboard.html`` of all results in that folder.

    Args:
        records, attack, eps: As for :func:`summarise`.
        out: Folder of the records.
        settings: Added to the summary, such as the norm and the config.

    Returns:
        The summary.
    """
    found = {**summarise(records, attack, eps), **(settings or {})}
    (out / 'attack.json').write_text(json.dumps(found, indent=2) + '\n')
    write_leaderboard(out.parent)
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


def _check_attack(attack: str, eps: Sequence[float], options: dict[str, Any]) -> None:
    attack_function(attack)  # raises where there is none
    if attack in LEAST_NORM:
        return
    if not eps:
        raise ValueError(f'attack {attack!r} needs eps, in [0, 1] of the range of pixels')
    limit = np.inf if options.get('norm') == 'l2' else 1
    outside = [value for value in eps if not 0 <= value <= limit]
    if outside or list(eps) != sorted(eps):
        raise ValueError(
            f'eps={list(eps)} must be in [0, 1] of the range of pixels and rise; for 8 of 255 '
            'write 0.0314'
        )


def _check_classes(dataset: Any, logits: Tensor, labels: Tensor) -> None:
    outputs = logits.shape[1]
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    expected = max(len(classes) if classes is not None else 0, int(labels.max()) + 1)
    if (classes is not None and expected != outputs) or expected > outputs:
        raise ValueError(
            f'the classifier has {outputs} classes, the data set {expected}: use the data set '
            'that the checkpoint was trained on'
        )


def _load(model: nn.Module, dataset: Any, part: Sequence[int]) -> tuple[Tensor, list]:
    items = [dataset[index] for index in part]
    same = len({tuple(item['inputs'].shape) for item in items}) == 1
    collate = default_collate if same else pseudo_collate
    batch = model.data_preprocessor(collate(items), False)
    return batch['inputs'], batch['data_samples']


def _rows(
    part: Sequence[int],
    labels: Tensor,
    clean: Tensor,
    found: Sequence[AttackResult],
    check: GradientCheck,
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
    by = found[-1].by
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
            'random': check.random,
            'zero_gradient': bool(check.zero[row]),
            **(
                {}
                if by is None
                else {
                    'by': PARTS[by[row]] if by[row] >= 0 else None,
                    'stands': not bool(success[row, -1]),
                }
            ),
        }  # fmt: skip
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

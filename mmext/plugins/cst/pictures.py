"""Pictures of pseudo-labels: what each teacher says, with the weights, beside the truth."""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmcv.image import imread
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from pycocotools.coco import COCO
from torch import nn


@dataclass
class LabelledPicture:
    """An unlabelled image with the pseudo-labels of both teachers.

    Args:
        path: Image file.
        teachers: Pseudo-labels of T1 and T2 in its pixels: ``bboxes``, ``labels``, ``scores`` and
            ``weights``.
        truth: (x1, y1, x2, y2) and class name of the true boxes.
    """

    path: str
    teachers: tuple[InstanceData, InstanceData]
    truth: list[tuple[tuple[float, float, float, float], str]] = field(default_factory=list)


def pseudo_labels(
    model: nn.Module, cfg: Config, truth: str | os.PathLike | None = None
) -> Iterator[LabelledPicture]:
    """Pseudo-labels on the unlabelled images of a training, in the order it would see them.

    Args:
        model: ``CycleSelfTraining`` in eval mode.
        cfg: Its config; the ``unsup_teacher`` view of ``train_dataloader`` is used.
        truth: COCO annotations of the same images, found by file name.

    Raises:
        KeyError: The training has no branch ``unsup_teacher``.
    """
    loader_cfg = dict(cfg.train_dataloader, num_workers=0, persistent_workers=False)
    known = _truth(truth) if truth else {}
    seed = (cfg.get('randomness') or {}).get('seed') or 0
    for batch in Runner.build_dataloader(loader_cfg, seed=seed):
        # Only in training does it take several branches.
        data = model.data_preprocessor(batch, True)
        samples = data['data_samples']['unsup_teacher']
        pseudo, _ = model.pseudo_instances(data['inputs']['unsup_teacher'], samples)
        for index, sample in enumerate(samples):
            first, second = (teacher[index].cpu() for teacher in pseudo)
            name = Path(sample.img_path).name
            yield LabelledPicture(sample.img_path, (first, second), known.get(name, []))


def _truth(path: str | os.PathLike) -> dict[str, list]:
    coco = COCO(str(path))
    found = {}
    for image in coco.imgs.values():
        boxes = []
        for item in coco.imgToAnns[image['id']]:
            x, y, w, h = item['bbox']
            boxes.append(((x, y, x + w, y + h), coco.cats[item['category_id']]['name']))
        found[Path(image['file_name']).name] = boxes
    return found


def draw(pictures: list[LabelledPicture], classes: tuple[str, ...], out: Path) -> None:
    """One column a picture, T1 above T2; truth dashed in white, ignore regions dotted in grey.

    A pseudo-box has its class, score and weight; a heavier one is brighter and thicker.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.4 * len(pictures), 5.2), layout='compressed')
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(pictures), squeeze=False)
    colours = colormaps['viridis']
    heaviest = max(
        [1.0, *(float(w) for p in pictures for found in p.teachers for w in found.weights)]
    )
    for column, picture in enumerate(pictures):
        image = imread(picture.path, channel_order='rgb')
        for row, found in enumerate(picture.teachers):
            ax = axes[row][column]
            ax.imshow(image)
            ax.set(xticks=[], yticks=[])
            if column == 0:
                ax.set_ylabel(f'teacher {row + 1}', fontsize=8)
            for box, name in picture.truth:
                _box(ax, box, '', ec='white', ls='--', lw=0.8)
                ax.text(box[2], box[3], name, color='white', fontsize=6, ha='right', va='bottom')
            for box, label, score, weight in sorted(
                zip(found.bboxes.tolist(), found.labels, found.scores, found.weights, strict=True),
                key=lambda item: float(item[3]),
            ):
                if weight == 0:
                    _box(ax, box, '', ec='silver', ls=':', lw=0.8)
                    continue
                share = float(weight) / heaviest
                text = f'{classes[int(label)]} {score:.2f} x{weight:.2f}'
                _box(ax, box, text, ec=colours(0.3 + 0.7 * share), ls='-', lw=0.6 + 1.6 * share)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)


def _box(ax, box, text: str, **style) -> None:
    from matplotlib.patches import Rectangle

    x1, y1, x2, y2 = box
    ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **style))
    if text:
        ax.text(
            x1, y1, text, fontsize=5, va='bottom', color='black',
            bbox={'facecolor': style['ec'], 'pad': 0.4, 'lw': 0},
        )  # fmt: skip


@torch.no_grad()
def browse(
    model: nn.Module,
    cfg: Config,
    classes: tuple[str, ...],
    out: Path,
    images: int = 8,
    truth: str | os.PathLike | None = None,
) -> list[LabelledPicture]:
    """Draw the pseudo-labels of the first unlabelled images; see :func:`pseudo_labels`."""
    model.eval()
    pictures = list(itertools.islice(pseudo_labels(model, cfg, truth), images))
    draw(pictures, classes, out)
    return pictures

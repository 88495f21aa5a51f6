"""Draw samples of a GAN: a PNG with a row for each class, or interpolations between two samples.

Examples:
  mmext sample configs/ctf_gan/ctf-gan-ssl_digits.py iter_1000.pth
  mmext sample CONFIG CKPT --classes 3 8 --per-class 16 --seed 1 --out three.png
  mmext sample CONFIG CKPT --interpolate 9 --sample-model orig
  mmext sample CONFIG CKPT --per-class 100 --save samples/     # files by class
"""

import argparse
import sys
from pathlib import Path

from mmext.commands import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    options.add_config(parser)
    parser.add_argument('checkpoint', help='weights of the GAN')
    parser.add_argument(
        '--classes', nargs='+', metavar='CLASS',
        help='numbers or names of classes (default: all, at most 20 spread evenly)',
    )  # fmt: skip
    parser.add_argument('--per-class', type=int, default=10, metavar='N', help='default: 10')
    parser.add_argument(
        '--interpolate', type=int, metavar='STEPS',
        help='in each row STEPS images on the way between two noise vectors',
    )  # fmt: skip
    parser.add_argument('--seed', type=int, default=0, help='seed of the noise (default: 0)')
    parser.add_argument(
        '--sample-model', choices=('ema', 'orig'), default='ema',
        help='the averaged generator, or the last one',
    )  # fmt: skip
    parser.add_argument('--out', help='PNG (default: samples.png beside the checkpoint)')
    parser.add_argument('--save', metavar='DIR', help='write each image to DIR/<class>/<n>.png')
    parser.add_argument('--device', help='default: a GPU where there is one')
    options.add_cfg_options(parser)


def run(args: argparse.Namespace) -> None:
    """Sample as the command line says; exit with code 2 on mistakes in it."""
    with options.user_errors('mmext sample'):
        _sample(args)


def _sample(args: argparse.Namespace) -> None:
    import torch
    from mmengine.device import get_device
    from mmengine.runner import load_checkpoint

    from mmext import launch
    from mmext.launch.checkpoint import check_checkpoint
    from mmext.plugins.ctf_gan.functional import slerp
    from mmext.plugins.ctf_gan.pictures import chosen_rows, grid_of, sample_all, write_png

    columns = args.per_class if args.interpolate is None else args.interpolate
    if args.per_class < 1:
        raise ValueError(f'--per-class must be at least 1, got {args.per_class}')
    if args.interpolate is not None and args.interpolate < 2:
        raise ValueError(f'--interpolate must be at least 2, both ends, got {args.interpolate}')
    cfg = launch.load_config(args.config, args.cfg_options, checkpoint=args.checkpoint)
    model = _build(cfg)
    if args.sample_model == 'ema' and model.generator_ema is None:
        raise ValueError('this GAN has no moving average (ema=None): use --sample-model orig')
    labels = None if args.classes is None else _labels(args.classes, cfg, model.num_classes)
    rows = chosen_rows(model.num_classes, labels, max_rows=20)
    check_checkpoint(model, args.checkpoint)
    load_checkpoint(model, args.checkpoint, map_location='cpu', logger='silent')
    model.to(args.device or get_device()).eval()
    noise, _ = model.draw(len(rows) * columns, args.seed, 'ctf_gan/tool', 0, 0)
    if args.interpolate is not None:
        ends, _ = model.draw(2 * len(rows), args.seed, 'ctf_gan/tool', 0, 0)
        ends = ends.cpu()
        noise = torch.cat([slerp(ends[2 * i], ends[2 * i + 1], columns) for i in range(len(rows))])
    label = torch.tensor(rows).repeat_interleave(columns)
    device = next(model.parameters()).device
    images = sample_all(model, noise.to(device), label.to(device), args.sample_model)
    out = Path(args.out) if args.out else Path(args.checkpoint).with_name('samples.png')
    write_png(out, grid_of(images, columns))
    sys.stdout.write(f'{len(images)} samples of {len(rows)} rows: {out}\n')
    if args.save:
        _save(Path(args.save), images, label.tolist())


def _build(cfg):
    from mmengine.registry import MODELS, init_default_scope

    from mmext.plugins.ctf_gan.sampling import SamplingGAN

    if cfg.get('model') is None:
        raise ValueError(f'config {cfg.filename} has no model')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = MODELS.build(cfg.model)
    if not isinstance(model, SamplingGAN):
        raise ValueError(f'config {cfg.filename} is of {type(model).__name__}, not of a GAN')
    return model


def _labels(classes: list[str], cfg, num_classes: int) -> list[int]:
    """Numbers of classes that are given as numbers or names."""
    if not num_classes:
        raise ValueError('--classes: this GAN has no classes; leave it out')
    if all(name.isdigit() for name in classes):
        found = [int(name) for name in classes]
        wrong = [label for label in found if label >= num_classes]
        if wrong:
            raise ValueError(f'--classes {wrong}: there are 0..{num_classes - 1}')
        return found
    names = _class_names(cfg)
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise ValueError(
            f'--classes {unknown}: neither numbers nor names of the {len(names)} classes of the '
            f'data ({", ".join(names[:5])} ...)'
        )
    return [names.index(name) for name in classes]


def _class_names(cfg) -> list[str]:
    from mmengine.registry import DATASETS

    loader = cfg.get('val_dataloader') or cfg.get('test_dataloader')
    if loader is None:
        raise ValueError(
            '--classes: the config has no val_dataloader that knows names: use numbers'
        )
    dataset = DATASETS.build({**loader.dataset, 'lazy_init': True})
    return [str(name) for name in dataset.metainfo.get('classes') or ()]


def _save(folder: Path, images, labels: list[int]) -> None:
    from mmext.plugins.ctf_gan.pictures import write_png

    counts: dict[int, int] = {}
    for image, label in zip(images, labels, strict=True):
        number = counts[label] = counts.get(label, -1) + 1
        write_png(folder / f'{label}' / f'{number:06d}.png', image.permute(1, 2, 0).numpy())
    sys.stdout.write(f'{len(labels)} files: {folder}\n')

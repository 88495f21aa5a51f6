"""Draw the pseudo-labels that a checkpoint writes on unlabelled images, with their weights.

Example:
    python tools/analysis_tools/browse_pseudo_labels.py configs/cst/cst_fcos_r18_digits.py \
        work_dirs/demo/cst/iter_1400.pth --out pseudo_labels.png \
        --truth data/digit_scenes/annotations/instances_train.json
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmext') is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmext import launch
from mmext.commands.options import CfgOptions, user_errors


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config of a CST training; path, or package::path')
    parser.add_argument('checkpoint')
    parser.add_argument('--out', type=Path, default=Path('pseudo_labels.png'))
    parser.add_argument('--images', type=int, default=8)
    parser.add_argument('--truth', help='COCO annotations of the unlabelled images, if known')
    parser.add_argument(
        '--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE',
        help='override keys of the config',
    )  # fmt: skip
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw as the command line says; exit with code 2 on mistakes in it."""
    args = parse_args(argv)
    import mmdet.models  # noqa: F401
    from mmengine.registry import MODELS, init_default_scope
    from mmengine.runner import load_checkpoint

    from mmext.plugins.cst.pictures import browse

    with user_errors('browse_pseudo_labels.py'):
        cfg = launch.load_config(args.config, args.cfg_options, checkpoint=args.checkpoint)
        if not str(cfg.model.type).endswith('CycleSelfTraining'):
            raise ValueError(f'{args.config} trains {cfg.model.type}, not mmext.CycleSelfTraining')
        init_default_scope(cfg.get('default_scope', 'mmdet'))
        model = MODELS.build(cfg.model)
        launch.check_checkpoint(model, args.checkpoint)
        meta = load_checkpoint(model, args.checkpoint, map_location='cpu').get('meta', {})
        classes = tuple((meta.get('dataset_meta') or {}).get('classes', ()))
        if not classes:
            raise ValueError(f'{args.checkpoint} does not name the classes (meta.dataset_meta)')
        pictures = browse(model, cfg, classes, args.out, args.images, args.truth)
    boxes = [sum(len(picture.teachers[i].bboxes) for picture in pictures) for i in (0, 1)]
    sys.stdout.write(
        f'{args.out}: {len(pictures)} images, {boxes[0]} boxes of T1, {boxes[1]} of T2\n'
    )


if __name__ == '__main__':
    main()

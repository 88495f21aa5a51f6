"""Take one network of a CST or mean-teacher checkpoint as a plain MMDetection detector.

Example:
    python tools/model_converters/export_detector.py configs/cst/cst_fcos_r18_digits.py \
        work_dirs/demo/cst/iter_1400.pth --network teacher1 --out work_dirs/teacher1
    python PATH_OF_MMDET/.mim/tools/test.py work_dirs/teacher1.py work_dirs/teacher1.pth
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmext') is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmext import launch
from mmext.commands.options import user_errors


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config of the training; path, or package::path')
    parser.add_argument('checkpoint')
    parser.add_argument(
        '--network', help='teacher1, student2, teacher ...; default: what predicts in the config'
    )
    parser.add_argument('--out', type=Path, required=True, help='writes OUT.py and OUT.pth')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Export as the command line says; exit with code 2 on mistakes in it."""
    args = parse_args(argv)
    import torch
    from mmengine.registry import MODELS, init_default_scope

    from mmext.plugins.cst.export import export_detector

    with user_errors('export_detector.py'):
        cfg = launch.load_config(args.config, checkpoint=args.checkpoint)
        test_cfg = cfg.model.get('semi_test_cfg') or {}
        network = args.network or test_cfg.get('predict_on', 'teacher')
        if network == 'ensemble':
            raise ValueError('an ensemble is no single detector: choose --network teacher1')
        plain, checkpoint = export_detector(cfg, args.checkpoint, network)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, args.out.with_suffix('.pth'))
        plain.dump(args.out.with_suffix('.py'))
        init_default_scope(plain.get('default_scope', 'mmdet'))
        launch.check_checkpoint(MODELS.build(plain.model), str(args.out.with_suffix('.pth')))
    sys.stdout.write(f'{args.out.with_suffix(".py")} {args.out.with_suffix(".pth")}\n')


if __name__ == '__main__':
    main()

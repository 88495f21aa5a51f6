"""Take the classifier out of a checkpoint of MAT or ADRE, for the classifier's own config.

Example:
    python tools/model_converters/export_classifier.py configs/mat/mat-mixed_lenet_digits.py \
        work_dirs/mat/epoch_20.pth --out work_dirs/mat_lenet.pth
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
    parser.add_argument(
        'config', help='config of the training, for example the one in its work dir'
    )
    parser.add_argument('checkpoint')
    parser.add_argument(
        '--network', type=int, help='of parallel MAT: 0 for the first of the strengths, 1 ...'
    )
    parser.add_argument('--out', type=Path, required=True, help='file to write')
    return parser.parse_args(argv)


def network_of(model: dict, number: int | None) -> str:
    """Name of the submodule of a model, given by its config, that shall be exported.

    Raises:
        ValueError: The model wraps no classifier, or ``number`` does not choose one.
    """
    if 'classifier' not in model:
        raise ValueError(
            f'model.type={model.get("type")!r} has no classifier; export_classifier serves '
            'configs of mmext.MATClassifier and mmext.ADREClassifier'
        )
    networks = ['classifier']
    if 'strengths' in model:
        count = len(model['strengths']) if model.get('structure') == 'parallel' else 1
        networks = [f'networks.{index}' for index in range(count)]
    if number is None and len(networks) > 1:
        raise ValueError(
            'the networks of parallel MAT together are no single classifier: choose one by '
            f'--network 0 to {len(networks) - 1}, in the order of strengths={model["strengths"]}'
        )
    number = number or 0
    if not 0 <= number < len(networks):
        raise ValueError(f'--network {number}: the model has {len(networks)}, counted from 0')
    return networks[number]


def main(argv: Sequence[str] | None = None) -> None:
    """Export as the command line says; exit with code 2 on mistakes in it."""
    args = parse_args(argv)
    import torch
    from mmengine.registry import MODELS, init_default_scope

    from mmext.launch.checkpoint import check_checkpoint, extract_network

    with user_errors('export_classifier.py'):
        cfg = launch.load_config(args.config, checkpoint=args.checkpoint)
        plain = extract_network(args.checkpoint, network_of(cfg.model, args.network))
        args.out.parent.mkdir(parents=True, exist_ok=True)
        torch.save(plain, args.out)
        init_default_scope(cfg.get('default_scope', 'mmpretrain'))
        check_checkpoint(MODELS.build(cfg.model.classifier), str(args.out))
    sys.stdout.write(f'{args.out}\n')


if __name__ == '__main__':
    main()

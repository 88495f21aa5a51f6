"""Make the weights that ship with mmext from a checkpoint of training.

Half precision, the state dict alone; the metafile of configs/mvstylizer has the sha256.

    mmext train configs/mvstylizer/wavelet_photos.py
    python projects/mvstylizer/publish.py WaveletStylizer work_dirs/wavelet_photos/iter_400.pth
"""

import argparse
import hashlib
import io
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def publish(name: str, checkpoint: Path, folder: Path | None = None) -> tuple[Path, str]:
    """Write the weights of a class; return the file and its sha256."""
    from mmext.plugins.mvstylizer.trainable import WEIGHTS
    from mmext.registry import MODELS

    # Built from the checkpoint first: what does not fit does not ship.
    model = MODELS.build(dict(type=f'mmext.{name}', weights=str(checkpoint)))
    state = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    buffer = io.BytesIO()
    torch.save({'state_dict': state}, buffer)
    path = (folder or WEIGHTS) / f'{model.shipped}.pth'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
    return path, hashlib.sha256(buffer.getvalue()).hexdigest()


def main() -> None:
    """Publish what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('name', help='class: NeuralColorMapping, WaveletStylizer, MetaSmoothing')
    parser.add_argument('checkpoint', type=Path)
    args = parser.parse_args()
    path, digest = publish(args.name, args.checkpoint)
    sys.stdout.write(f'{path.relative_to(ROOT)}: {path.stat().st_size} bytes, sha256 {digest}\n')


if __name__ == '__main__':
    main()

"""The studies of mvstylizer run in their short form, and their measures are what they say."""

import hashlib
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch


@pytest.fixture
def measures(import_script):
    return import_script('mvstylizer', 'measures')


def test_the_studies_run(root, tmp_path):
    kept = {p: p.read_bytes() for p in (root / 'projects/mvstylizer/results').glob('*')}
    studies = {'speed': 'speed.png', 'quality': 'contact_sheet.jpg', 'upscaling': 'upscaling.jpg'}
    for study, picture in studies.items():
        command = [sys.executable, root / f'projects/mvstylizer/{study}.py', '--quick', '--work',
                   tmp_path]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        result = json.loads((tmp_path / f'results/{study}.json').read_text())
        assert result['rows'] and result['why']
        values = [m['mean'] for row in result['rows'] for m in row['metrics'].values()]
        assert np.isfinite(values).all()
        assert cv2.imread(str(tmp_path / 'results' / picture)) is not None
    assert {p: p.read_bytes() for p in (root / 'projects/mvstylizer/results').glob('*')} == kept


def test_warping_error_sees_flicker_and_not_motion(measures):
    from mmext.datasets.known_flow import KnownFlowClip
    from mmext.datasets.photos import photo

    smooth = cv2.GaussianBlur(photo('china'), (0, 0), 1.5)
    frames = KnownFlowClip(smooth, (90, 120), 6, pan=(3, 1), start=(100, 60)).frames
    error = measures.WarpingError(frames)
    steady = error(frames)
    flicker = [np.clip(f.astype(int) + 6 * (t % 2), 0, 255).astype(np.uint8)
               for t, f in enumerate(frames)]  # fmt: skip
    assert steady < 3 and error(flicker) ** 2 == pytest.approx(steady**2 + 36, rel=0.25)
    jump = [
        *frames[:3],
        *(np.clip(f.astype(int) + 20, 0, 255).astype(np.uint8) for f in frames[3:]),
    ]
    assert error(jump, {3}) > 15 > error(jump, {1, 2, 4})


def test_edge_ssim_sees_structure_and_not_contrast(measures):
    from mmext.datasets.photos import photo

    image = np.ascontiguousarray(photo('coffee')[::3, ::3])
    pale = (image * 0.5 + 60).astype(np.uint8)
    blurred = cv2.GaussianBlur(image, (0, 0), 2)
    assert measures.edge_ssim(image, image) == pytest.approx(1)
    assert measures.edge_ssim(pale, image) > 0.9 > measures.edge_ssim(blurred, image)


def test_published_weights_are_those_of_the_checkpoint(import_script, tmp_path):
    from mmext.registry import MODELS

    publish = import_script('mvstylizer', 'publish').publish
    model = MODELS.build(dict(type='mmext.MetaSmoothing', weights=None))
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, tmp_path / 'iter_1.pth')
    path, digest = publish('MetaSmoothing', tmp_path / 'iter_1.pth', tmp_path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    again, same = publish('MetaSmoothing', tmp_path / 'iter_1.pth', tmp_path)
    assert same == digest
    loaded = MODELS.build(dict(type='mmext.MetaSmoothing', weights=str(path))).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded[name], value.half().float())

"""Keep detections of a finished demo for the figure of the documentation.

After ``make demo`` this writes ``results/demo/scenes.jpg``, the first test images beside each other
(drawn digits on CC0 photos of scikit-image), and ``results/demo/scenes.json`` with their objects,
the detections of each method on them, and the average precisions on all test images.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT / 'projects'), str(HERE)]

import demo  # noqa: E402
from harness.folders import write_json  # noqa: E402

WORK_DIR = ROOT / 'work_dirs/demo_digits'
OUT = HERE / 'results/demo'
PICTURES = 6


def objects(instances: Any, factor: Any = 1) -> list[dict[str, Any]]:
    """Boxes (x1, y1, x2, y2) in pixels of the image with class and, where there is one, score."""
    boxes = instances.bboxes.tensor if hasattr(instances.bboxes, 'tensor') else instances.bboxes
    found = [
        {'box': (box.numpy() / factor).round(1).tolist(), 'class': int(label)}
        for box, label in zip(boxes, instances.labels, strict=True)
    ]
    if 'scores' in instances:
        for one, score in zip(found, instances.scores.tolist(), strict=True):
            one['score'] = round(score, 3)
    return found


def main() -> None:
    """Detect on the first test images; write them, their objects and the detections."""
    os.chdir(ROOT)
    summary = json.loads((WORK_DIR / 'summary.json').read_text())
    told: dict[str, Any] = {key: summary[key] for key in ('data', 'hardware', 'versions')}
    seen: list = []
    for method in demo.METHODS:
        found = demo.evaluate(demo.DEMOS['digits'], method, WORK_DIR / method, PICTURES)
        for name, row, seen in found:
            shown = [
                sample.pred_instances[sample.pred_instances.scores > demo.SCORE_THR]
                for sample in seen
            ]
            told[name] = row | {'detections': [objects(instances) for instances in shown]}
    told['objects'] = [
        objects(sample.gt_instances, np.tile(sample.scale_factor, 2)) for sample in seen
    ]
    OUT.mkdir(parents=True, exist_ok=True)
    images = [cv2.imread(sample.img_path) for sample in seen]
    cv2.imwrite(str(OUT / 'scenes.jpg'), np.concatenate(images, axis=1))
    write_json(OUT / 'scenes.json', told)


if __name__ == '__main__':
    main()

"""Which detectors of MMDetection take a weight per box, and what ignore regions do to their loss.

Builds every distinct combination of detector and heads in MMDetection's configs, with random
weights, and measures on images of noise how far the predictions of a sure box are moved (sum of
their absolute gradients) beside 3 ignore regions far from it, and beside one that
overlaps it (IoU .54), against the box alone; and with a weight of a half. Wanted: 1, 1 and .5.
"""

import copy
import logging
import multiprocessing
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT / 'projects')]

from benchmark import options  # noqa: E402
from evidence import row, write_result  # noqa: E402

import mmext  # noqa: E402, F401
from mmext.plugins.cst.weighting import box_gradients, trial_sample, weigh_boxes  # noqa: E402

SIZE = 320
SURE = [40.0, 32, 160, 172]
FAR = [[200.0, 200, 300, 310], [10, 220, 100, 310], [220, 10, 310, 100]]
OVER = [[70.0, 42, 200, 192]]


def combinations():
    """(name of the config, detector) of each distinct combination."""
    import mmdet

    configs = Path(mmdet.__file__).parent / '.mim/configs'
    seen = set()
    for path in sorted(configs.glob('*/*.py')):
        try:
            model = Config.fromfile(path).get('model') or {}
        except Exception:  # Needs a file or package that is not there.
            continue
        detector = model.get('detector') if isinstance(model.get('detector'), dict) else model
        if 'backbone' not in detector or 'type' not in detector:
            continue
        key = _types(detector)
        if key not in seen:
            seen.add(key)
            yield path.relative_to(configs).with_suffix('').as_posix(), key, detector


def _types(detector) -> tuple:
    roi = detector.get('roi_head') or {}
    parts = (detector.get('bbox_head'), detector.get('rpn_head'), roi, roi.get('bbox_head'),
             roi.get('mask_head'))  # fmt: skip
    return (detector['type'], *(_type(part) for part in parts if part))


def _type(part) -> str:
    return part['type'] if isinstance(part, dict) else part[0]['type']


def moved(detector, boxes, weights) -> float:
    """How far the predictions of the sure box are moved in all heads."""
    sample = trial_sample(torch.tensor(boxes), torch.tensor(weights), SIZE)
    total = 0.0
    for traces in box_gradients(detector, [sample]).values():
        total += sum(float(grad[box].abs().sum()) for grad, box in traces)
    return total


def judge(detector) -> dict:
    """Ratios of a detector that takes weights."""
    alone = moved(detector, [SURE], [1.0])
    return {
        'far': moved(detector, [SURE, *FAR], [1.0, 0, 0, 0]) / alone,
        'overlapping': moved(detector, [SURE, *OVER], [1.0, 0]) / alone,
        'half': moved(detector, [SURE], [0.5]) / alone,
    }


def main() -> None:
    """Try all and write the table."""
    args = options(__doc__, only='')
    torch.set_num_threads(1)
    found = []
    for name, parts, cfg in combinations():
        if args.only not in name:
            continue
        begin = time.monotonic()
        try:
            with ProcessPoolExecutor(1, multiprocessing.get_context('fork')) as pool:
                told = pool.submit(tried, cfg).result()
        except BrokenProcessPool:
            told = {'reason': 'an operator crashes with random weights'}
        found.append({'config': name, 'parts': parts, 'seconds': time.monotonic() - begin, **told})
        print(found[-1], flush=True)
    report(found)


def tried(cfg) -> dict:
    """Ratios of a detector, or why it takes no weights."""
    warnings.filterwarnings('ignore')
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    cfg = copy.deepcopy(cfg)
    cfg['backbone']['init_cfg'] = None
    cfg.pop('init_cfg', None)
    try:
        detector = MODELS.build(cfg)
        detector.init_weights()
    except Exception as error:
        return {'reason': f'does not build: {type(error).__name__}: {error}'[:160]}
    try:
        weigh_boxes(detector)
        return judge(detector)
    except TypeError as error:
        return {'reason': str(error)[:160]}


def report(found: list[dict]) -> None:
    """Write the result."""
    taken = [one for one in found if 'far' in one]
    built = [one for one in found if not one.get('reason', '').startswith('does not build')]
    kept = [
        one for one in taken
        if abs(one['far'] - 1) < 0.05 and abs(one['overlapping'] - 1) < 0.05
        and abs(one['half'] - 0.5) < 0.01
    ]  # fmt: skip
    rows = [
        row(', '.join(one['parts']), one['config'],
            {name: [one[name]] for name in ('far', 'overlapping', 'half')},
            cost={'seconds': one['seconds']})
        for one in taken
    ]  # fmt: skip
    write_result(
        HERE / 'results/coverage.json',
        claim='a weight per box and ignore regions work in at least 50 of the detectors of '
        'MMDetection',
        command='python projects/cst/coverage.py',
        data={'set': 'images of noise, random weights', 'combinations': len(found)},
        rows=rows,
        verdict='met' if len(kept) >= 50 else 'not met',
        why=f'{len(found)} distinct combinations of detector and heads, of which {len(built)} '
        f'build; {len(taken)} take weights, and in {len(kept)} of them far and overlapping ignore '
        'regions leave the predictions of a sure box alone (ratio 0.95 to 1.05) and a weight of a '
        'half halves it.',
        refused={one['config']: one['reason'] for one in found if 'reason' in one},
    )


if __name__ == '__main__':
    main()

"""Does CTF with self-supervision on 70 % of the images beat SN-GAN on all of them?

Six GANs, the paper's ablation as far as it is known, on handwritten digits and on 1,000 Chinese
characters: same networks, real images a step, optimizers and iterations (characters with an
auxiliary classifier in all six, without which none of them learns the classes). Measured on test
images with the features of a classifier that was trained on all real training images: FID-C
decides; IS-C, precision, recall and the accuracy of class-conditional samples are told beside it
(samples of given classes have a high IS-C even where all of a class are one picture). A GAN with
transferred features is measured with its gates shut, too: what the features do at the end of the
training. ``--tune`` shows whether a method is at its best learning rate.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT / 'projects'), str(ROOT), str(HERE)]

import cv2  # noqa: E402
import torch  # noqa: E402
from evidence import summary  # noqa: E402
from harness.folders import forget_other, hash_of_sources  # noqa: E402
from harness.grid import apart  # noqa: E402
from harness.report import Found  # noqa: E402
from harness.session import main  # noqa: E402
from harness.study import Arm, Rule, Search, Setting, Study  # noqa: E402
from mmengine.registry import DATASETS  # noqa: E402
from training import SETS, load, path, train, train_extractor  # noqa: E402

from mmext.plugins.ctf_gan.pictures import chosen_rows, grid_of  # noqa: E402

#: Method -> what it has. LQ images are a tenth of the whole set, made of the removed 30 %.
METHODS: dict[str, dict] = {
    'SN-GAN 100 %': dict(hq_ratio=1.0),
    'SN-GAN 70 %': dict(),
    'SN-GAN 70 % + LQ as real': dict(lq=True),
    'SS-GAN 70 %': dict(ssl=True),
    'CTF 70 %': dict(lq=True, transfer=True),
    'CTF+SSL 70 %': dict(lq=True, transfer=True, ssl=True),
}
BASELINE, OURS, WITHOUT = 'SN-GAN 100 %', 'CTF+SSL 70 %', 'SS-GAN 70 %'
DATA = {
    'digits': '1,078 handwritten digits of 10 classes, 28 px; 359 for the test',
    'glyphs': '20,000 drawings of 1,000 characters of GB2312 in 4 fonts, 32 px; 2,000 for the test',
}
SEEDS = {'digits': (0, 1, 2), 'glyphs': (0,)}
#: Factors of the learning rates that ``--tune`` tries.
SCALES = (0.5, 1, 2, 4)
MEASURES = ('FID-C', 'IS-C', 'precision-C', 'recall-C', 'accuracy')


def prepare(name: str, work: Path, quick: bool) -> dict:
    """Train the classifier that measures, once; tells the data."""
    done = work / 'extractor/done.json'
    forget_other(done.parent, hash_of_sources([path(SETS[name]['extractor'])]))
    try:
        if not done.exists():
            apart(work / 'extractor', train_extractor, name, work, quick)
        cfg = load(SETS[name]['gan'], quick)
    except FileNotFoundError as error:
        # Chinese fonts; the message names the packages.
        sys.exit(f'{name}: {error}')
    told = json.loads(done.read_text())['accuracy/top1']
    return {'set': DATA[name], 'iterations': cfg.train_cfg.max_iters,
            'accuracy of the classifier on real test images': told}  # fmt: skip


def metrics(record: dict) -> dict[str, float]:
    """Measures of the averaged and of the last generator, and of one with its gates shut."""
    told = {
        f'{measure}{" raw" if which == "orig" else ""}': record['found'][f'gan/{which}/{measure}']
        for which in ('ema', 'orig')
        for measure in MEASURES
    }
    if 'shut' in record:
        told['FID-C, gates shut'] = record['shut']['gan/ema/FID-C']
        told['mean gate'] = record['gates']
    return told


def judge(found: Found) -> tuple[str, str]:
    """Is CTF+SSL at 70 % better than SN-GAN at 100 %, by more than the seeds scatter?

    Better means a lower FID-C of the averaged generator. 'met': by more than two standard errors of
    the difference, with three seeds or more, and not behind the same GAN without transferred
    features, which would owe the lead to self-supervision alone, and with learning rates that are
    the best for SN-GAN among those that were tried; 'partly': by more than one standard error;
    'not met': else.
    """
    error, lead = scatter(found), found.mean(BASELINE) - found.mean(OURS)
    seeds = len(found.values(OURS))
    tuned = {part['arms'][0]: part['scores'] for part in found.tuning}
    tried = tuned.get(BASELINE, {})
    at_best = bool(tried) and min(tried, key=tried.__getitem__) == '1'
    helps = found.mean(OURS) <= found.mean(WITHOUT)
    verdict = 'partly' if lead > error else 'not met'
    if seeds >= 3 and lead > 2 * error and helps and at_best:
        verdict = 'met'
    others = ', '.join(
        f'{name} {found.mean(name):.3g}' for name in METHODS if name not in (OURS, BASELINE)
    )
    if lead > 0 and not helps:
        others += f'; {WITHOUT} is ahead, so the lead is that of self-supervision'
    beside = ', '.join(
        f'{measure} {found.mean(OURS, measure):.3g} and {found.mean(BASELINE, measure):.3g}'
        for measure in MEASURES[1:]
    )
    spread = f'{seeds} seeds, standard error {error:.2g}'
    if seeds == 1:
        spread = '1 seed: how far seeds scatter is not known'
    why = (
        f'FID-C of {OURS} {found.mean(OURS):.3g}, of {BASELINE} {found.mean(BASELINE):.3g} '
        f'(averaged generators, {spread}); the others: {others}. Of the two, {beside}.'
    )
    if tuned:
        listed = '; '.join(
            f'{method} ' + ', '.join(f'{value:.3g} (x {scale})' for scale, value in own.items())
            for method, own in tuned.items()
        )
        why += f' With other learning rates, FID-C of seed 0 on validation images: {listed}.'
    return verdict, why


def scatter(found: Found) -> float:
    """Standard error of the difference of two means whose seeds are not paired."""
    own, base = (summary(found.values(name)) for name in (OURS, BASELINE))
    return ((own['std'] ** 2 + base['std'] ** 2) / len(own['values'])) ** 0.5


def draw(name: str, folder: Path, found: Found) -> None:
    """The grids of all methods side by side, after one of real images of the same classes."""
    from matplotlib.figure import Figure

    quick = 'quick' in folder.parts
    grids = {'real (training images)': real_grid(name, quick)}
    for (_, method), records in found.records.items():
        grids[method] = cv2.imread(records[0]['grid'])
    drawing = Figure(figsize=(14, 7.4), layout='constrained')
    panels = list(drawing.subplots(2, 4).flat)
    for axes in panels:
        axes.set_axis_off()
    for axes, (title, grid) in zip(panels, grids.items(), strict=False):
        axes.imshow(grid, cmap='gray', interpolation='nearest')
        axes.set_title(title, fontsize=10)
    drawing.suptitle(f'{name}: samples of the averaged generators, one class per row', fontsize=10)
    drawing.savefig(folder / f'{name}_samples.png', dpi=110)


def real_grid(name: str, quick: bool):
    """Ten training images of each class that the grids of samples show, uint8 (H, W, 1)."""
    cfg = load(SETS[name]['gan'], quick)
    dataset = DATASETS.build(cfg.train_dataloader.dataset.datasets[0].dataset)
    places: dict[int, list[int]] = {}
    for index in range(len(dataset)):
        places.setdefault(dataset.get_cat_ids(index)[0], []).append(index)
    rows = chosen_rows(cfg.model.generator.num_classes, None, 10)
    chosen = [index for label in rows for index in (10 * places[label])[:10]]
    return grid_of(torch.stack([dataset[index]['inputs']['img'] for index in chosen]), 10)


def study(name: str) -> Study:
    """The study of one set."""
    return Study(
        name=name,
        script=__file__,
        claim='with 30 % of the high-quality images removed and a small number of low-quality ones '
        f'CTF-GAN is better than SN-GAN on all images ({name})',
        paper=None,
        data=lambda work, quick: prepare(name, work, quick),
        arms=tuple(Arm(method, method, has) for method, has in METHODS.items()),
        settings=(Setting(name, 'test split'),),
        seeds=SEEDS[name],
        searches=tuple(
            Search('lr_scale', (method,), SCALES, default=1, fixed=True)
            for method in (BASELINE, OURS)
        ),
        search_seeds=(0,),
        train=train,
        metrics=metrics,
        metric='FID-C',
        higher=False,
        costs={'minutes': 'minutes'},
        more=lambda records: {'protocol': records[0]['found']['gan/protocol']},
        sources=(HERE / 'training.py', *(path(SETS[name][kind]) for kind in ('gan', 'extractor'))),
        rule=Rule(
            'met: the FID-C of CTF+SSL is lower by more than two standard errors of the difference '
            'with three seeds or more, not behind SS-GAN, and SN-GAN is at its best learning rate; '
            'partly: by more than one standard error',
            judge,
            compare=((OURS, BASELINE), (OURS, WITHOUT), ('CTF 70 %', 'SN-GAN 70 %')),
            smallest_effect=10.0,
        ),
        draw=lambda result, folder, found: draw(name, folder, found),
    )  # fmt: skip


STUDIES = tuple(map(study, SETS))
CHOOSE = 'set'

if __name__ == '__main__':
    main(*STUDIES, choose=CHOOSE)

"""Adaptation with three networks: source only, each loss, each pair of losses, all three.

Digits from fonts to handwriting and back, 200 glyphs from one family of fonts to another. Every run
of a task has the same data, batches, iterations and schedule; the label-free settings are those of
the shipped configs. Accuracy is that on the target's test split after the last iteration; the
oracle, chosen with target labels, and label-free choices stand beside it.
"""

import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(ROOT / 'projects'), str(HERE)]

import figures  # noqa: E402
import judge  # noqa: E402
import runs  # noqa: E402
from harness.grid import Run  # noqa: E402
from harness.report import Found  # noqa: E402
from harness.session import main  # noqa: E402
from harness.study import Arm, Rule, Setting, Study  # noqa: E402

#: Methods of the networks to compare with; ConvMNet has all.
COMPARED = ('source only', 'MMD (as DAN)', 'all three')
#: Claim -> sentence, number of the paper, rule.
CLAIMS = {
    'losses': (
        'invariance, low divergence and adapted labels together beat each alone',
        'best on 16 of 18 tasks of Office-31 and Office-Caltech',
        'met: with ConvMNet all three are ahead of the best alone by more than one standard error '
        'of the paired differences on every task; partly: on some',
    ),
    'accuracy': (
        'Conv-M has the accuracy of GoogLeNet, in classification and adaptation, with 59 % '
        'of its parameters',
        '4.1 million parameters, 59 % of GoogLeNet',
        f'met: the mean over the tasks is at most {judge.MARGIN:g} point below the GoogLeNet-style '
        'network in both; partly: in one',
    ),
    'ability': (
        'small networks lose the ability to adapt, Conv-M does not',
        None,
        f'partly: the SqueezeNet-style network loses more than {judge.MARGIN:g} point and as much '
        'more than ConvMNet; met: and ConvMNet loses at most that',
    ),
}


def name(network: str, method: str) -> str:
    """Of an arm."""
    return f'{method}, {network}'


def train(run: Run) -> dict:
    """Train once; of two runs the features are kept for their figure."""
    network, method = run.arm.options['network'], run.arm.options['method']
    task = run.setting.name
    record, model = runs.train(run)
    shown = network == 'ConvMNet' and method in ('source only', 'all three')
    if shown and task == 'font2hand' and run.seed == 0:
        record['embedding'] = runs.embedding(task, model, run.quick)
    return record | {'task': task, 'network': network, 'method': method}


@cache
def costs(quick: bool) -> dict[str, dict[str, float]]:
    """Parameters, MACs and latency of the networks."""
    return runs.costs(rounds=3 if quick else 30)


def results(found: Found, claim: str) -> tuple[list[dict], str, str]:
    """Table, verdict and reason of a claim."""
    records = [record for part in found.records.values() for record in part]
    return judge.results(records, costs(len(found.study.settings) == 1))[claim]


def study(claim: str) -> Study:
    """The study of one claim; all have the same runs."""
    text, paper, rule = CLAIMS[claim]
    return Study(
        name=claim,
        runs='study',
        script=__file__,
        claim=text,
        paper=paper,
        data=lambda work, quick: {
            task: runs.sizes(task, quick) for task in (('font2hand',) if quick else runs.TASKS)
        },
        settings=tuple(Setting(task, title) for task, (_, title) in runs.TASKS.items()),
        arms=tuple(
            Arm(name(network, method), name(network, method), dict(network=network, method=method))
            for network in runs.NETWORKS
            for method in (runs.METHODS if network == 'ConvMNet' else COMPARED)
        ),
        seeds=(0, 1, 2, 3, 4),
        train=train,
        metrics=lambda record: {'last iteration %': record['test']},
        metric='last iteration %',
        rows=lambda found: results(found, claim)[0],
        sources=(HERE / 'runs.py', *map(runs.path, runs.TASKS)),
        rule=Rule(
            rule,
            lambda found: results(found, claim)[1:],
            compare=tuple((name('ConvMNet', judge.ALL), name(network, method)) for network, method
                          in (*(('ConvMNet', single) for single in judge.SINGLE),
                              ('SmallGoogLeNet', judge.ALL))),
            smallest_effect=judge.MARGIN,
        ),
        # Both figures are of all three results, of which this one is the last.
        draw=(lambda result, folder, found: figures.draw(folder)) if claim == 'ability' else None,
        command='python projects/conv_m/study.py',
        quick_arms=tuple(
            name(network, method)
            for network in runs.NETWORKS
            for method in COMPARED
            if network == 'ConvMNet' or method != 'MMD (as DAN)'
        ),
        quick_settings=('font2hand',),
    )  # fmt: skip


# The figures need the other two results: it comes last.
STUDIES = tuple(map(study, ('losses', 'accuracy', 'ability')))

if __name__ == '__main__':
    main(*STUDIES)

"""Table, verdict and figure of the study of CST's margin."""

import argparse
from pathlib import Path

EQUAL_ITERATIONS = ('supervised', 'mean_teacher', 'soft_teacher')
MARGIN = 2.1

#: (method, labelled percent) -> records of its finished runs.
Done = dict[tuple[str, float], list[dict]]


def write(
    results: Path,
    titles: dict[str, str],
    settings: argparse.Namespace,
    manifest: dict,
    thresholds: dict[str, float],
    done: Done,
) -> None:
    """Write ``study.json`` and ``study.png`` and print the table.

    Args:
        results: Folder for both.
        titles: Method -> its name in the table.
        settings: ``methods``, ``percent`` and ``seeds`` that were asked for.
        manifest: Of the scenes.
        thresholds: Family of methods -> score threshold.
        done: Finished runs.
    """
    from evidence import command, summary, write_result

    labelled = {p: manifest['counts']['labelled'][f'{p:g}'] for p in settings.percent}
    rows = []
    for method in settings.methods:
        found = {labelled[p]: done[method, p] for p in settings.percent if (method, p) in done}
        records = sum(found.values(), [])
        if not records:
            continue
        networks = {
            f'{network}, {count} labelled': summary([r['mAP'][network] for r in part])
            for count, part in found.items()
            for network in part[0]['mAP']
        }
        rows.append({
            'method': titles[method],
            'key': method,
            'setting': f'{records[0]["iterations"]} iterations, predicts with '
            f'{records[0]["network"]}',
            'metrics': {
                f'{name}, {count} labelled': summary([r['mAP'][network] for r in part])
                for count, part in found.items()
                for name, network in (
                    ('mAP', part[0]['network']), ('both teachers fused', 'ensemble')
                )
                if network in part[0]['mAP']
            },
            'networks': networks,
            'curves': {f'{count} labelled': [r['curve'] for r in part]
                       for count, part in found.items()},
            'cost': {'minutes': sum(r['minutes'] for r in records) / len(records)},
        })  # fmt: skip
    wanted = len(settings.methods) * len(settings.percent) * len(settings.seeds)
    shares = manifest['settings']['percent']
    verdict, why = judge(means(done, settings.percent[0]), titles)
    for percent in settings.percent[1:]:
        why += beside(means(done, percent), labelled[percent], titles)
    why += f' Means over {len(settings.seeds)} seeds.'
    if sum(map(len, done.values())) < wanted:
        why += ' Stopped early.'
    write_result(
        results / 'study.json',
        claim='CST exceeds the best baseline with scarce labels',
        paper='+2.1 AP over the state of the art (abstract)',
        command=command(
            'projects/cst/study.py',
            percent=None if settings.percent == shares else [f'{p:g}' for p in settings.percent],
            methods=None if settings.methods == list(titles) else settings.methods,
        ),
        data={
            'set': 'digit scenes',
            'labelled': {f'{percent:g} %': count for percent, count in labelled.items()},
            'images_sha256': manifest['images_sha256'],
            'backbone': 'pretrained as a classifier of rendered letters',
            'score_thr': thresholds,
        },
        seeds=settings.seeds,
        rows=rows,
        verdict=verdict,
        why=why,
    )
    draw(rows, results / 'study.png')
    show(rows)
    print(f'study: {verdict}: {why}')


def means(done: Done, percent: float) -> dict[str, float]:
    """Mean mAP of each method that has run at a labelled fraction.

    Of CST also that of both teachers' boxes fused, under the name of the method and `` fused``.
    """
    found = {}
    for (method, share), records in done.items():
        if share == percent:
            found[method] = sum(r['mAP'][r['network']] for r in records) / len(records)
            if 'ensemble' in records[0]['mAP']:
                fused = sum(r['mAP']['ensemble'] for r in records) / len(records)
                found[f'{method} fused'] = fused
    return found


def best_baseline(mean: dict[str, float]) -> str | None:
    """Best of the baselines of equal iterations that have run, None where none has."""
    ran = [name for name in EQUAL_ITERATIONS if name in mean]
    return max(ran, key=mean.__getitem__, default=None)


def judge(mean: dict[str, float], titles: dict[str, str]) -> tuple[str, str]:
    """Verdict by rule: CST with js reweighting, the shipped kind, against the best baseline.

    ``met`` if its margin over every baseline, the one with twice the iterations included, is at
    least the paper's; ``partly`` if it is so over those of equal iterations only. One teacher is
    judged; both fused are told beside it, against two mean teachers fused as well.
    """
    missing = {'cst_js', 'cst_none', *EQUAL_ITERATIONS, 'mean_teacher_2x'} - mean.keys()
    if missing:
        return 'not met', f'stopped early: {", ".join(sorted(missing))} have not run.'
    best = best_baseline(mean)
    margin, twice, plain = (
        mean['cst_js'] - mean[other] for other in (best, 'mean_teacher_2x', 'cst_none')
    )
    verdict = 'not met'
    if margin >= MARGIN:
        verdict = 'met' if twice >= MARGIN else 'partly'
    fused = mean.get('cst_js fused')
    both = '' if fused is None else f' ({fused - mean[best]:+.1f} with both teachers fused)'
    pair = mean.get('two_teachers fused')
    cycle = ''
    if fused is not None and pair is not None:
        cycle = (
            f' Fused, both teachers are {fused - pair:+.1f} from two mean teachers fused, and '
            f'{fused - mean["mean_teacher_2x"]:+.1f} from the mean teacher of equal compute.'
        )
    return verdict, (
        f'with the fewest labels CST with reweighting is {margin:+.1f} AP from the best baseline '
        f'of equal iterations, {titles[best]}{both}, {twice:+.1f} from a mean teacher of equal '
        f'compute and {plain:+.1f} from CST without reweighting.{cycle}'
    )


def beside(mean: dict[str, float], count: int, titles: dict[str, str]) -> str:
    """What the judged method does at a larger fraction: told, not judged."""
    best = best_baseline(mean)
    if 'cst_js' not in mean or best is None:
        return ''
    fused = mean['cst_js fused'] - mean[best]
    return (
        f' With {count} labelled it is {mean["cst_js"] - mean[best]:+.1f} from the best baseline '
        f'of equal iterations, {titles[best]} ({fused:+.1f} with both teachers fused).'
    )


def draw(rows: list[dict], path: Path) -> None:
    """Validation curves at each labelled fraction, mean over the seeds."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(label for row in rows for label in row['curves']))
    figure = Figure(figsize=(4.6 * len(labels), 3.8), layout='constrained')
    FigureCanvasAgg(figure)
    for ax, label in zip(figure.subplots(1, len(labels), squeeze=False)[0], labels, strict=True):
        for row in rows:
            curves = row['curves'].get(label)
            if not curves:
                continue
            mean = np.mean([[value for _, value in curve] for curve in curves], axis=0)
            style = '-' if row['key'].startswith('cst') else '--'
            steps = [step for step, _ in curves[0]]
            ax.plot(steps, mean, style, label=row['method'], lw=1.6, marker='.')
        ax.set(title=label, xlabel='iteration', ylabel='validation mAP (%)')
        ax.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def show(rows: list[dict]) -> None:
    """The table in the terminal."""
    from rich.console import Console
    from rich.table import Table

    names = list(dict.fromkeys(name for row in rows for name in row['metrics']))
    table = Table(title='test mAP, mean +- std over seeds')
    for column in ('method', *names, 'minutes'):
        table.add_column(column, justify='left' if column == 'method' else 'right')
    for row in rows:
        values = [row['metrics'].get(name) for name in names]
        shown = [f'{v["mean"]:.1f} +- {v["std"]:.1f}' if v else '' for v in values]
        table.add_row(row['method'], *shown, f'{row["cost"]["minutes"]:.1f}')
    Console(width=110).print(table)

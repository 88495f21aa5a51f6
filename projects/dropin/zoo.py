"""Do the hosts' shipped configs take the optimizer-type plugins? A stratified sample trains.

Families of MMPretrain and MMDetection (folders of their zoos) are drawn with a seed, and a config
of each; terngrad, smoothout and force_regularization are merged into it, and it trains for two
iterations on invented images, while a probe checks that each plugin acts (zoo_run.py). Where that
fails, the same config is tried without overlays, so that what the host itself cannot do on this
machine is told apart from what the plugins break. Records lie in the work folder; a killed run goes
on.
"""

import argparse
import collections
import itertools
import json
import random
import re
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT / 'projects'), str(HERE)]

import zoo_run  # noqa: E402
from evidence import refresh, summary, versions, write_result  # noqa: E402
from mmengine.config import Config  # noqa: E402

from mmext.launch.records import Records  # noqa: E402

HOSTS = ('mmpretrain', 'mmdet')
SEED = 0
#: Larger variants of a family repeat its classes at a cost that says nothing about the plugins.
LARGE = re.compile(
    r'large|huge|giant|base|htc|[-_](l|xl|x|xxl|h|g|m|b)[-_]|101|152|200|269|264|201|161|x4d|32x8d|'
    r'[-_]b[3-9]|swin-b|hourglass|w(40|44|48|64)|21k|(384|448|512)px|3200|4000|6400|8\.0gf|12gf',
    re.IGNORECASE,
)
#: Sizes of the images that are tried, as parts of the config's: first what is cheapest.
FACTORS = {'mmpretrain': (0.43, 1.0), 'mmdet': (0.15, 0.4, 1.0)}
#: Families in the sample.
COUNT = 64
SMALL = re.compile(
    r'tiny|nano|small|pico|r18|resnet18|cifar|mnist|400mf|x0\.5|0\.5x|[-_](xs|xxs|s|s0|b0|p0|ti|n)[-_]',
    re.IGNORECASE,
)
QUICK = ('mmpretrain/lenet', 'mmpretrain/mobilenet_v3', 'mmdet/fcos')
#: What the record of a config says, in the order of the report.
OUTCOMES = {
    'trained': 'two iterations with the plugins; where they need more than the limits of time and '
    'memory and the host alone does not, with twice as much (room 2)',
    'resolved': 'the host alone does not train it here, for a reason of its own or because of the '
    'limits; model, plugins and hooks build',
    'unavailable': 'the host alone does not build it here',
    'broken': 'trains without the plugins and not with them',
}


def zoo(host: str) -> Path:
    """Folder of a host's shipped configs."""
    return Path(find_spec(host).submodule_search_locations[0]) / '.mim/configs'


def families(host: str) -> dict[str, list[str]]:
    """Family -> its configs, relative to the zoo."""
    found = collections.defaultdict(list)
    for path in sorted(zoo(host).rglob('*.py')):
        parts = path.relative_to(zoo(host)).parts
        if '_base_' not in parts and len(parts) > 1:
            found[parts[0]].append('/'.join(parts))
    return dict(found)


def sampling_order(seed: int) -> list[tuple[str, str, list[str]]]:
    """Host, family and configs of all families, shuffled; the hosts take turns."""
    lines = []
    for host in HOSTS:
        found = sorted(families(host).items())
        random.Random(f'{seed}/{host}').shuffle(found)
        lines.append([(host, *item) for item in found])
    pairs = itertools.zip_longest(*lines)
    return [item for pair in pairs for item in pair if item is not None]


def trainable(path: Path) -> bool:
    """Whether a config describes a training at all; one that does not load is kept, to be told."""
    try:
        cfg = Config.fromfile(path)
    except Exception:
        return True
    needed = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
    return all(cfg.get(key) is not None for key in needed)


def size(name: str) -> int:
    """0 for a small variant, 1 for an ordinary one, 2 for a large one."""
    stem = Path(name).stem
    if LARGE.search(stem):
        return 2
    return 0 if SMALL.search(stem) else 1


def draw(host: str, family: str, configs: list[str], seed: int) -> str | None:
    """A trainable config of a family, small variants first; None where there is none."""
    order = sorted(configs)
    random.Random(f'{seed}/{host}/{family}').shuffle(order)
    order.sort(key=size)
    return next((name for name in order if trainable(zoo(host) / name)), None)


def judge(host: str, family: str, config: str, log: Path) -> dict:
    """Record of one config."""
    path = str(zoo(host) / config)
    factors = FACTORS[host]
    row = {'host': host, 'family': family, 'config': config}
    try:
        model = repr(Config.fromfile(path).model)
    # A config is a program.
    except Exception as error:
        return {**row, 'outcome': 'unavailable', 'reason': zoo_run.error_text(error)}
    if host == 'mmpretrain' and 'img_size' in model:
        # Built for one size.
        factors = factors[-1:]

    def attempt(task, overlays=(), factor: float = 1.0, suffix: str = '.log', room: int = 1):
        return zoo_run.attempt(task, path, overlays, factor, log.with_suffix(suffix), room=room)

    overlays, tries = zoo_run.OVERLAYS, []
    for factor in factors:
        found = attempt(zoo_run.train, overlays, factor)
        tries.append(found)
        if found['ok']:
            return {**row, 'outcome': 'trained', 'factor': factor, **found}
        if found['limit']:
            # Larger images would only need more.
            factors = factors[: len(tries)]
            break
    row['with_plugins'] = [found['error'] for found in tries]
    for factor in factors:
        alone = attempt(zoo_run.train, (), factor, '.host.log')
        if not alone['ok']:
            continue
        if found['limit']:
            # The plugins keep copies of weights and gradients.
            found = attempt(zoo_run.train, overlays, factor, room=2)
            if found['ok']:
                return {**row, 'outcome': 'trained', 'factor': factor, 'room': 2, **found}
        return {**row, 'outcome': 'broken', 'factor': factor, 'reason': found['error']}
    row.update(reason=alone['error'], where=alone['where'])
    built = attempt(zoo_run.resolve, overlays, suffix='.build.log')
    if built['ok']:
        return {**row, 'outcome': 'resolved', **{k: built[k] for k in ('wrapper', 'hooks')}}
    plain = attempt(zoo_run.resolve, suffix='.plain.log')
    if plain['ok']:
        return {**row, 'outcome': 'broken', 'reason': built['error']}
    return {**row, 'outcome': 'unavailable', 'reason': plain['error'], 'where': plain['where']}


def report(rows: list[dict], skipped: list[str], out: Path, command: str) -> dict:
    """Write the result; returns the numbers of each outcome."""
    table = []
    for host in HOSTS:
        mine = [row for row in rows if row['host'] == host]
        if not mine:
            continue
        trained = [row for row in mine if row['outcome'] == 'trained']
        counts = collections.Counter(row['outcome'] for row in mine)
        metrics = {'sampled': len(mine), **{name: counts[name] for name in OUTCOMES}}
        table.append({
            'method': host,
            'setting': 'one config of each family, ' + ' + '.join(zoo_run.OVERLAYS),
            'metrics': {name: summary([float(value)]) for name, value in metrics.items()},
            'cost': {'CPU minutes': sum(row.get('cpu_s', 0) for row in mine) / 60,
                     'largest MiB': max((row['peak_mib'] for row in trained), default=0)},
        })  # fmt: skip
    counts = collections.Counter(row['outcome'] for row in rows)
    fine = counts['trained'] + counts['resolved']
    share = 100 * fine / max(fine + counts['broken'], 1)
    trains = 100 * counts['trained'] / max(counts['trained'] + counts['broken'], 1)
    cannot = [
        {key: row[key] for key in ('host', 'config', 'outcome', 'reason', 'where') if key in row}
        for row in rows
        if row['outcome'] != 'trained'
    ]
    shown = ('host', 'family', 'config', 'outcome', 'factor', 'room', 'amp', 'losses')
    listed = [{key: row[key] for key in shown if key in row} for row in rows]
    verdict = 'not met' if share < 90 else 'partly'
    if share >= 98 and len(rows) >= 60:
        verdict = 'met'
    write_result(
        out / 'zoo.json',
        claim='at least 98 % of the trainable configs of the hosts take the optimizer-type plugins',
        paper=None,
        command=command,
        data={
            'set': 'invented images', 'outcomes': OUTCOMES, 'sample': listed, 'cannot': cannot,
            'families without a trainable config': skipped,
        },
        seeds=[SEED],
        rows=table,
        verdict=verdict,
        why=f'{len(rows)} families drawn, {counts["trained"]} trained 2 iterations with all three '
        f'plugins ({trains:.1f} % of those that the host trains here), {counts["resolved"]} only '
        f'built because the host alone does not train them on this machine, {counts["broken"]} '
        f'broken by the plugins; {counts["unavailable"]} do not count, the host cannot build them '
        'here (reasons in the JSON). Taken by the plugins: '
        f'{share:.1f} %.',
    )  # fmt: skip
    return dict(counts)


def load_hosts() -> None:
    """Import everything that a config may name, once: the children are forked."""
    import mmdet.utils
    import mmpretrain.utils

    import mmext.registry  # noqa: F401

    mmdet.utils.register_all_modules(init_default_scope=False)
    mmpretrain.utils.register_all_modules(init_default_scope=False)


def main(argv: list[str] | None = None) -> None:
    """Draw, train what is not on record, write results/zoo.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='three families, into --work')
    parser.add_argument('--work', type=Path, default=ROOT / 'work_dirs/study/zoo')
    parser.add_argument('--only', nargs='+', metavar='HOST/FAMILY', help='these families')
    args = parser.parse_args(argv)
    load_hosts()
    wanted = args.only or (QUICK if args.quick else None)
    pools = {f'{host}/{family}': (host, family, configs)
             for host, family, configs in sampling_order(SEED)}  # fmt: skip
    if unknown := sorted(set(wanted or ()) - set(pools)):
        parser.error(f'--only: no family {", ".join(unknown)}')
    settings = {'seed': SEED, 'overlays': list(zoo_run.OVERLAYS), 'versions': versions()}
    records = Records(args.work / 'records.jsonl', settings)
    done = {(f'{row["host"]}/{row["family"]}', row['config']): row for row in records.rows}
    rows: list[dict] = []
    skipped = []
    for name in wanted or pools:
        host, family, configs = pools[name]
        config = draw(host, family, configs, SEED)
        row = done.get((name, config))
        if row is None:
            row = {'host': host, 'family': family, 'config': None}
            if config is not None:
                row = judge(host, family, config, args.work / 'logs' / f'{host}-{family}.log')
            records.append([row])
            print(name, config, row.get('outcome', 'no trainable config'), row.get('reason', ''),
                  f'{row.get("cpu_s", 0):.0f} s', flush=True)  # fmt: skip
        if config is None:
            skipped.append(name)
        else:
            rows.append(row)
        if not wanted and len(rows) == COUNT:
            break
    out = args.work / 'results' if wanted else HERE / 'results'
    print(json.dumps(report(rows, skipped, out, 'python projects/dropin/zoo.py')))
    if not wanted:
        refresh(check=False)


if __name__ == '__main__':
    main()

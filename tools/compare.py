#!/usr/bin/env python
"""Train with and without plugins over several seeds and compare: metrics, curves, time, memory.

The second setting is another config, or the first one with overlays. Each run is a process of its
own; the two settings take turns, so that a busy machine slows down both. Runs that are finished are
not run again and a run that was cut off is resumed, so a killed comparison goes on where it stopped
when the same command is given again; more seeds can be added later.

Examples:
    python tools/compare.py lenet.py lenet_terngrad.py --seeds 3
    python tools/compare.py mmpretrain::lenet/lenet5_mnist.py --with terngrad smoothout --seeds 5
    python tools/compare.py lenet.py --with smoothout --cfg-options train_cfg.max_epochs=2
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmext') is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmext import launch
from mmext.engine.curves import read_scalars
from mmext.launch import comparison, overlay
from mmext.launch.records import Records

TRAIN = Path(__file__).resolve().parent / 'train.py'


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='compare.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('base', help='config without plugins; path, or package::path')
    parser.add_argument('plugin', nargs='?', help='config with plugins; or use --with')
    launch.add_overlay_argument(parser)
    parser.add_argument('--seeds', type=int, default=3, help='seeds 0, 1, ... (default: 3)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=launch.CfgOptions, metavar='KEY=VALUE',
        help='override keys of both configs',
    )  # fmt: skip
    parser.add_argument('--work-dir', help='default: work_dirs/compare/<base>-<plugin>')
    args = parser.parse_args(argv)
    if (args.plugin is None) == (not args.overlays):
        parser.error('give a second config or --with PLUGIN ..., one of them')
    if args.seeds < 1:
        parser.error(f'--seeds must be at least 1, got {args.seeds}')
    return args


def settings(args: argparse.Namespace) -> dict:
    """Name -> config of both sides."""
    name = '+'.join(Path(one).stem for one in args.overlays) or Path(args.plugin).stem
    if name == Path(args.base).stem:
        name += ' (2)'
    return {
        Path(args.base).stem: launch.load_config(args.base, args.cfg_options),
        name: launch.load_config(args.plugin or args.base, args.cfg_options, args.overlays),
    }


def train(config: Path, work_dir: Path, seed: int) -> dict[str, float]:
    """Train in a process of its own; returns what :func:`comparison.costs` cannot read.

    Where a run was resumed, minutes and memory are those of its last process.

    Raises:
        RuntimeError: The training failed; the message names its log.
    """
    command = [sys.executable, str(TRAIN), str(config), '--work-dir', str(work_dir), '--resume',
               '--cfg-options', f'randomness.seed={seed}']  # fmt: skip
    work_dir.mkdir(parents=True, exist_ok=True)
    log = work_dir / 'output.log'
    began = time.monotonic()
    with open(log, 'ab') as file:
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            raise
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        tail = ''.join(f'\n  {line}' for line in log.read_text().splitlines()[-5:])
        raise RuntimeError(f'{config.stem} with seed {seed} failed, see {log}:{tail}')
    minutes = (time.monotonic() - began) / 60
    # Kibibytes, as Linux counts.
    return {'minutes': minutes, 'peak MiB': usage.ru_maxrss / 1024}


def main(argv: list[str] | None = None) -> None:
    """Compare as the command line says; exit with code 2 on mistakes in it, 1 if a run failed."""
    args = parse_args(argv)
    with launch.user_errors('compare.py'):
        configs = settings(args)
        if not overlay.difference(*configs.values()):
            raise ValueError('both settings are the same config: there is nothing to compare')
        folder = Path(args.work_dir or 'work_dirs/compare/' + '-'.join(configs).replace(' ', ''))
        # Of the texts: a config that was changed must not go on with the runs of its old self.
        texts = {name: cfg.pretty_text for name, cfg in configs.items()}
        digests = {n: hashlib.sha256(t.encode()).hexdigest()[:16] for n, t in texts.items()}
        records = Records(folder / 'records.jsonl', {'configs': digests})
    for name, text in texts.items():
        (folder / f'{name}.py').write_text(text)
    try:
        _run(configs, folder, args.seeds, records)
    except RuntimeError as error:
        sys.stderr.write(f'compare.py: error: {error}\n')
        raise SystemExit(1) from error
    _report(list(configs), folder, records, args)


def _run(configs: dict, folder: Path, seeds: int, records: Records) -> None:
    done = {(row['setting'], row['seed']) for row in records.rows}
    wanted = [(name, seed) for seed in range(seeds) for name in configs]
    for index, (name, seed) in enumerate(wanted, 1):
        work_dir = folder / f'{name}_seed{seed}'
        if (name, seed) in done:
            continue
        sys.stdout.write(f'[{index}/{len(wanted)}] {name}, seed {seed}: {work_dir}\n')
        sys.stdout.flush()
        cost = train(folder / f'{name}.py', work_dir, seed)
        scalars = read_scalars(work_dir)
        cost |= comparison.costs(scalars)
        row = {'setting': name, 'seed': seed, 'end': comparison.end_values(scalars), 'cost': cost}
        records.append([row])


def _report(names: list[str], folder: Path, records: Records, args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    rows = [row for row in records.rows if row['seed'] < args.seeds]
    tables = {
        part: comparison.compare(
            *({r['seed']: r[part] for r in rows if r['setting'] == name} for name in names)
        )
        for part in ('end', 'cost')
    }
    result = {'base': names[0], 'other': names[1], 'seeds': list(range(args.seeds)),
              'metrics': tables['end'], 'cost': tables['cost']}  # fmt: skip
    (folder / 'compare.json').write_text(json.dumps(result, indent=2) + '\n')
    groups = {
        name: [read_scalars(folder / f'{name}_seed{seed}') for seed in range(args.seeds)]
        for name in names
    }
    keys = comparison.find_keys([run for group in groups.values() for run in group])
    comparison.plot_runs(groups, keys, folder / 'compare.png')
    told = 'one seed' if args.seeds == 1 else f'{args.seeds} seeds, mean +- standard deviation'
    shown = Table(title=f'{told}: {folder}')
    shown.add_column('measure')
    for title in (*names, 'difference by seed'):
        shown.add_column(title, justify='right')
    for table in tables.values():
        for measure, sides in table.items():
            cells = [_cell(side) for side in sides.values()]
            shown.add_row(measure, *cells)
        shown.add_section()
    Console(width=120).print(shown)


def _cell(side: dict) -> str:
    spread = '' if side['std'] is None else f' +- {side["std"]:.2g}'
    return f'{side["mean"]:.4g}{spread}'


if __name__ == '__main__':
    main()

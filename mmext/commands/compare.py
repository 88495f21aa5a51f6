"""Train with and without plugins over several seeds and compare: metrics, curves, time, memory.

The second setting is another config, or the first one with overlays. Each run is a process of its
own; the two settings take turns, so that a busy machine slows down both. Runs that are finished are
not run again and a run that was cut off is resumed, so a killed comparison goes on where it stopped
when the same command is given again; more seeds can be added later.

Examples:
  mmext compare lenet.py lenet_terngrad.py --seeds 3
  mmext compare mmpretrain::lenet/lenet5_mnist.py --with terngrad smoothout --seeds 5
  mmext compare lenet.py --with smoothout --cfg-options train_cfg.max_epochs=2
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from mmext.commands import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    options.add_config(parser, 'base', help='config without plugins; path, or package::path')
    options.add_config(parser, 'plugin', nargs='?', help='config with plugins; or use --with')
    options.add_overlays(parser)
    parser.add_argument('--seeds', type=int, default=3, help='seeds 0, 1, ... (default: 3)')
    options.add_cfg_options(parser)
    parser.add_argument('--work-dir', help='default: work_dirs/compare/<base>-<plugin>')
    parser.add_argument(
        '--json', action='store_true', help='print what compare.json has, in place of the table'
    )


def settings(args: argparse.Namespace) -> dict:
    """Name -> config of both sides."""
    from mmext import launch

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
    command = [sys.executable, '-m', 'mmext', 'train', str(config), '--resume',
               '--work-dir', str(work_dir), '--cfg-options', f'randomness.seed={seed}']  # fmt: skip
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


def run(args: argparse.Namespace) -> None:
    """Compare as the command line says; exit with code 2 on mistakes in it, 1 if a run failed."""
    from mmext.launch import overlay
    from mmext.launch.records import Records

    with options.user_errors('mmext compare'):
        if (args.plugin is None) == (not args.overlays):
            raise ValueError('give a second config or --with PLUGIN ..., one of them')
        if args.seeds < 1:
            raise ValueError(f'--seeds must be at least 1, got {args.seeds}')
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
        sys.stderr.write(f'mmext compare: error: {error}\n')
        raise SystemExit(1) from error
    _report(list(configs), folder, records, args)


def _run(configs: dict, folder: Path, seeds: int, records) -> None:
    from mmext.engine.curves import read_scalars
    from mmext.launch import comparison

    done = {(row['setting'], row['seed']) for row in records.rows}
    wanted = [(name, seed) for seed in range(seeds) for name in configs]
    for index, (name, seed) in enumerate(wanted, 1):
        work_dir = folder / f'{name}_seed{seed}'
        if (name, seed) in done:
            continue
        sys.stderr.write(f'[{index}/{len(wanted)}] {name}, seed {seed}: {work_dir}\n')
        cost = train(folder / f'{name}.py', work_dir, seed)
        scalars = read_scalars(work_dir)
        cost |= comparison.costs(scalars)
        row = {'setting': name, 'seed': seed, 'end': comparison.end_values(scalars), 'cost': cost}
        records.append([row])


def _report(names: list[str], folder: Path, records, args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from mmext.engine.curves import read_scalars
    from mmext.launch import comparison

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
    if args.json:
        sys.stdout.write(json.dumps(result, indent=2) + '\n')
        return
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

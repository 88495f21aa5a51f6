"""Results of claim studies: one JSON format, and the tables that are made of it.

A study calls :func:`write_result`. ``python projects/evidence.py`` rewrites every claims table (a
block between ``<!-- claims:NAME -->`` and ``<!-- /claims -->`` in a Markdown file) from the JSON
files, the short table of all verdicts (``<!-- claims:all -->``), the tables of all values
(``<!-- measured:NAME -->``) and the list of plugins (``<!-- plugins:all -->``, with the metafiles);
``--check`` only says which are stale.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness.folders import write_json

ROOT = Path(__file__).resolve().parents[1]
VERDICTS = ('met', 'partly', 'not met', 'not testable here')
PACKAGES = ('torch', 'torchvision', 'mmengine', 'mmdet', 'mmpretrain', 'numpy')
BLOCK = re.compile(r'(<!-- (claims|measured|plugins):(\w+) -->\n).*?(<!-- /\2 -->)', re.DOTALL)
RAW = re.compile(r'[,;]? *[\[{].*[\]}]', re.DOTALL)
# Values, settings and methods of a result that its page does not show.
LEFT_OUT = {
    **dict.fromkeys(
        ('conv_m/ability', 'conv_m/losses'),
        ('chosen by entropy %', 'chosen by information %', 'chosen by snd %', 'minutes'),
    ),
    'mvstylizer/quality': ('SSIM', 'at keys', 'keys %'),
    'mvstylizer/speed': (
        'flow ms', 'policy ms', 'factor of key interval', 'factor of network resolution',
        'original',
    ),
    'mvstylizer/system': (
        'setting', 'latency p50 ms', 'round trip p50 ms', 'round trip p95 ms', 'KB up', 'KB down',
        'stylised', 'not stylised', 'restart to end of round s',
        *(f'{rate}mbit by tc tbf between namespaces' for rate in (1, 5, 20, 50)),
    ),
    'mvstylizer/upscaling': (
        'mending SSIM', 'edge SSIM', 'none: stylised large', 'MetaSmoothing, no original',
    ),
}  # fmt: skip


def write_result(
    path: Path,
    *,
    claim: str,
    command: str,
    data: dict,
    rows: list[dict],
    verdict: str,
    why: str,
    paper: str | None = None,
    seeds: Sequence[int] = (0,),
    **more: object,
) -> None:
    """Write the result of a study, complete or not at all.

    Args:
        path: ``projects/<plugin>/results/<study>.json``.
        claim: The paper's sentence, short.
        command: What runs this study again.
        data: Set, sizes, manifest hash.
        rows: As :func:`row` makes them.
        verdict: One of :data:`VERDICTS`.
        why: What was compared; what was tried where it fell short.
        paper: Its number and where it stands; None where there is none.
        seeds: All of them, three or more. One is enough where a seed changes nothing, as for times
            and counts, which are repeated in its place (``tests/test_evidence.py`` lists those
            studies); any other result of fewer than three says so in ``why`` ("1 seed").
        more: What a study of the harness adds: ``rule``, ``intervals``, ``tuning``, ``pilot`` and
            ``speed``. What is None is left out.

    Raises:
        ValueError: Unknown verdict.
    """
    if verdict not in VERDICTS:
        raise ValueError(f'verdict={verdict!r} must be one of {VERDICTS}')
    result = {
        'claim': claim,
        'paper': paper,
        'command': command,
        'commit': commit(),
        'date': datetime.date.today().isoformat(),
        'hardware': hardware(),
        'versions': versions(),
        'data': data,
        'seeds': list(seeds),
        'rows': rows,
        'verdict': verdict,
        'why': why,
        **{name: value for name, value in more.items() if value is not None},
    }
    write_json(path, result, indent=2)


def row(method: str, setting: str, metrics: Mapping[str, Sequence[float]], **more: object) -> dict:
    """A row of a result, with the summaries of all values of its metrics; ``cost`` is in more."""
    told = {name: summary(list(values)) for name, values in metrics.items()}
    return {'method': method, 'setting': setting, 'metrics': told, **more}


def summary(values: list[float]) -> dict:
    """Mean, standard deviation (n - 1) and all values."""
    mean = sum(values) / len(values)
    spread = sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)
    return {'mean': mean, 'std': spread**0.5, 'values': values}


def paired(differences: Sequence[float]) -> tuple[float, float]:
    """Mean of differences seed by seed and its standard error, 0 for one seed."""
    found = summary(list(differences))
    return found['mean'], found['std'] / len(differences) ** 0.5


def command(script: str, **options: Sequence | None) -> str:
    """Command that makes a result; options that are None are the script's defaults."""
    given = [[f'--{name}', *map(str, v)] for name, v in options.items() if v is not None]
    return ' '.join(['python', script, *sum(given, [])])


def hardware() -> dict:
    """CPU model, cores and GPU of this machine."""
    import torch

    model = platform.processor()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        model = next(line.split(':')[1].strip() for line in lines if line.startswith('model name'))
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {'cpu': model, 'cores': os.cpu_count(), 'gpu': gpu}


def versions() -> dict:
    """Versions of Python and of the packages that matter."""
    found = {'python': platform.python_version()}
    for name in PACKAGES:
        for distribution in (f'onedl-{name}', name):
            with contextlib.suppress(PackageNotFoundError):
                found[name] = version(distribution)
    return found


def commit() -> str | None:
    """Commit of the checkout, with '+' where it has changes."""
    try:
        done = subprocess.run(
            ['git', 'describe', '--always', '--dirty=+', '--abbrev=12'],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _results(plugin: str) -> Iterator[tuple[str, str, dict]]:
    """Plugin, name and content of each result; of all plugins for ``*``."""
    for path in sorted(ROOT.glob(f'projects/{plugin}/results/*.json')):
        yield path.parents[1].name, path.stem, json.loads(path.read_text())


def table(plugin: str) -> str:
    """Claims of a plugin in Markdown: a table of short cells, and the reasons below it."""
    lines = _head('', 'claim', 'verdict', 'measured', 'command')
    reasons = []
    for number, (_, study, result) in enumerate(_results(plugin), 1):
        device = result['hardware']['gpu'] or f'{result["hardware"]["cores"]} CPU cores'
        values = f'[values](../../projects/{plugin}/README.md#{study})'
        paper = f' The paper has {result["paper"]}.' if result['paper'] else ''
        cells = [str(number), result['claim'], f'**{result["verdict"]}**']
        cells += [headline(result) or values, f'`{result["command"]}`']
        lines.append(_line(cells))
        reasons.append(f'{number}. {_sentence(result["why"])}{paper} On {device}; {values}.')
    return '\n'.join([*lines, '', *reasons]) + '\n'


def headline(result: Mapping) -> str:
    """The first difference of a result that has a 95 % interval; '' where there is none."""
    for found in result.get('intervals') or []:
        if found['low'] is not None:
            names = f'{found["ours"]} - {found["rival"]}'
            reach = f'[{found["low"]:+.3g}, {found["high"]:+.3g}]'
            return f'{names}: {found["mean"]:+.3g} {reach} {found["metric"]}'
    return ''


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ('' if text.endswith('.') else '.')


def measured(plugin: str) -> str:
    """The values of each study of a plugin that are read, as tables in Markdown."""
    parts = []
    for _, study, result in _results(plugin):
        left_out = LEFT_OUT.get(f'{plugin}/{study}', ())
        rows = [_shown(row, left_out) for row in result['rows'] if row['method'] not in left_out]
        rows = [row for row in rows if row['values']]
        names = list(dict.fromkeys(
            name for key in ('metrics', 'cost') for row in result['rows']
            for name in row.get(key) or {}
        ))  # fmt: skip
        lines = [f'### {study}']
        for alike in _alike(rows):
            lines += ['', *_values(alike, names)]
        if compared := result.get('intervals'):
            heads = ['difference', 'setting', 'metric', 'mean', '95 % interval', 'seeds']
            lines += ['', *_table(heads, [_difference(found) for found in compared])]
        parts.append('\n'.join(lines) + '\n')
    return '\n'.join(parts)


def _shown(row: dict, left_out: Sequence[str]) -> dict:
    """Method, setting in words, and the values by name of a row of a result."""
    setting = '' if 'setting' in left_out else row.get('setting')
    # Settings may be, or end in, structures that are for programs.
    words = RAW.sub('', setting) if isinstance(setting, str) else ''
    values = {**row['metrics'], **(row.get('cost') or {})}
    values = {name: value for name, value in values.items() if name not in left_out}
    return {'method': row['method'], 'setting': words, 'values': values}


def _alike(rows: Sequence[dict]) -> list[list[dict]]:
    """Rows in groups that share no kind of value, each in a table of its own."""
    groups: list[list[dict]] = []
    for row in rows:
        joined = [g for g in groups if any(row['values'].keys() & r['values'] for r in g)]
        groups = [group for group in groups if group not in joined]
        groups.append([*(other for group in joined for other in group), row])
    return sorted(groups, key=lambda group: rows.index(group[0]))


def _values(rows: Sequence[dict], order: Sequence[str]) -> list[str]:
    """Lines of the tables of rows; what all rows share stands above them."""
    methods = list(dict.fromkeys(row['method'] for row in rows))
    settings = list(dict.fromkeys(row['setting'] for row in rows))
    names = [name for name in order if any(name in row['values'] for row in rows)]
    if '' in settings and len(settings) > 1:
        parts = ([row for row in rows if bool(row['setting']) is told] for told in (True, False))
        told, untold = (_values(part, order) for part in parts)
        return [*told, '', *untold]
    grid = len(rows) >= 1.5 * max(len(methods), len(settings), 4)
    if grid and 2 * len(rows) >= len(methods) * len(settings):
        return _crossed(rows, methods, settings, names)
    if len(methods) == 1 and len(settings) == len(rows) > 1:
        keys, above = ['setting'], methods[0]
    elif len(settings) == 1:
        keys, above = ['method'], settings[0]
    else:
        keys, above = ['method', 'setting'], ''
    cells = [
        [*(row[key] for key in keys), *(_value(row['values'].get(name)) for name in names)]
        for row in rows
    ]
    lines = _table([*keys, *names], cells)
    if len(keys) == 1 and len(names) > max(len(rows), 6):
        heads, *cells = map(list, zip(*([*keys, *names], *cells), strict=True))
        lines = _table(['', *heads[1:]], cells)
    return [f'{above[:1].upper()}{above[1:]}.', '', *lines] if above else lines


def _crossed(
    rows: Sequence[dict], methods: Sequence[str], settings: Sequence[str], names: Sequence[str]
) -> list[str]:
    """A table for each kind of value, methods against settings; fewer columns than rows."""
    found = {(row['method'], row['setting']): row['values'] for row in rows}
    turned = len(settings) > len(methods)
    down, across = (settings, methods) if turned else (methods, settings)
    lines: list[str] = []
    for name in names:
        cells = [
            [one, *(_value(found.get((other, one) if turned else (one, other), {}).get(name))
                    for other in across)]
            for one in down
        ]  # fmt: skip
        lines += ['', *_table([name, *across], cells)]
    return lines[1:]


def _table(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    return [*_head(*heads), *map(_line, cells)]


def verdicts() -> str:
    """One line for each claim of every plugin, in Markdown, for a page of ``docs``."""
    lines = _head('plugin', 'claim', 'verdict', 'command')
    for plugin, _, result in _results('*'):
        page = f'[{plugin}](../projects/{plugin}/README.md)'
        cells = [result['claim'], f'**{result["verdict"]}**', f'`{result["command"]}`']
        lines.append(_line([page, *cells]))
    return '\n'.join(lines) + '\n'


def plugins() -> str:
    """One line for each plugin, from its metafile and its verdicts, for a page of ``docs``."""
    from mmext import shipped

    lines = _head('plugin', 'main type', 'paper', 'for', 'verdicts on its claims')
    for plugin, collection in shipped.plugins(ROOT / 'configs').items():
        about, paper = collection['Plugin'], collection['Paper']
        found = Counter(result['verdict'] for _, _, result in _results(plugin))
        verdicts = ', '.join(f'{found[name]} {name}' for name in VERDICTS if found[name])
        lines.append(
            _line([
                f'[{plugin}](../configs/{plugin}/README.md)', f'`{about["Type"]}`',
                f'[{paper["Title"]}]({paper["URL"]})', about['Takes'], verdicts or 'none yet',
            ])
        )  # fmt: skip
    return '\n'.join(lines) + '\n'


def _head(*names: str) -> list[str]:
    return [_line(names), f'|{"---|" * len(names)}']


def _line(cells: Sequence[str]) -> str:
    return f'| {" | ".join(cells)} |'


def _value(value: dict | float | None) -> str:
    if value is None:
        return ''
    if not isinstance(value, dict):
        return _number(value, 3)
    # What rounding leaves of equal values is no spread.
    spread = value['std'] if value['std'] > 1e-9 * abs(value['mean']) else 0
    return _number(value['mean'], 3) + (f'±{_number(spread, 2)}' if spread else '')


def _number(value: float, digits: int) -> str:
    """Some digits, but never an exponent for a large number."""
    return f'{value:,.0f}' if abs(value) >= 10**digits - 0.5 else f'{value:.{digits}g}'


def _difference(found: dict) -> list[str]:
    low, high = found['low'], found['high']
    reach = '' if low is None else f'{low:+.3g} to {high:+.3g}'
    names = f'{found["ours"]} - {found["rival"]}', str(found['setting']), found['metric']
    return [*names, f'{found["mean"]:+.3g}', reach, str(len(found['values']))]


def _filled(block: re.Match[str]) -> str:
    opening, kind, name, closing = block.groups()
    if kind == 'claims':
        return opening + (verdicts() if name == 'all' else table(name)) + closing
    return opening + (plugins() if kind == 'plugins' else measured(name)) + closing


def refresh(check: bool) -> list[Path]:
    """Rewrite the tables; return the files whose tables were stale."""
    stale = []
    pages = [page for kind in ('configs', 'projects') for page in ROOT.glob(f'{kind}/*/README.md')]
    for path in (*ROOT.glob('docs/*.md'), *pages):
        old = path.read_text()
        new = BLOCK.sub(_filled, old)
        if new != old:
            stale.append(path)
            if not check:
                path.write_text(new)
    return stale


def main() -> None:
    """Refresh or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--check', action='store_true', help='change nothing, fail if stale')
    args = parser.parse_args()
    stale = refresh(args.check)
    for path in stale:
        sys.stderr.write(f'{"stale" if args.check else "rewritten"}: {path.relative_to(ROOT)}\n')
    sys.exit(bool(stale and args.check))


if __name__ == '__main__':
    main()

"""Which plugins work together: ``docs/compatibility.md`` and a line in every method card.

``python projects/compatibility.py`` writes both from ``configs/*/metafile.yml`` and from
``docs/compatibility.json``, the outcome of the last ``--test``: every check of the conformance kit
on every plugin, every pair that should work and every pair that should not. ``--check`` only says
what is stale.
"""

import argparse
import datetime
import itertools
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'projects'), str(ROOT / 'tests')]

PAGE = ROOT / 'docs/compatibility.md'
RECORD = ROOT / 'docs/compatibility.json'
SECTION = '## Composes with\n'
BLOCK = re.compile(r'<!-- composes:\w+ -->\n.*?<!-- /composes -->\n', re.DOTALL)
KEYS = ('Type', 'Summary', 'Takes', 'Needs', 'Slots', 'Extra Passes', 'Extra Memory', 'Wire Bits',
        'Composes With', 'Refuses')  # fmt: skip


def metadata() -> dict[str, dict[str, Any]]:
    """Plugin -> the ``Plugin`` block of its metafile."""
    from mmext import shipped

    return {name: found['Plugin'] for name, found in shipped.plugins(ROOT / 'configs').items()}


def verdicts() -> dict[tuple[str, str], str | None]:
    """Pair -> ``'composes'``, ``'refuses'`` or None where neither plugin says.

    Two plugins that each come as configs of their own have no place for each other.

    Raises:
        ValueError: One says that they compose, the other that they do not.
    """
    from mmext import shipped

    plugins = metadata()
    movable = set(shipped.overlays())
    found: dict[tuple[str, str], str | None] = {}
    for pair in itertools.combinations(plugins, 2):
        said = {
            verdict
            for one, other in (pair, pair[::-1])
            for key, verdict in (('Composes With', 'composes'), ('Refuses', 'refuses'))
            if other in plugins[one][key]
        }
        if len(said) > 1:
            raise ValueError(f'metafiles of {pair[0]} and {pair[1]} contradict each other')
        if not said and not movable & set(pair):
            said.add('refuses')
        found[pair] = said.pop() if said else None
    return found


def page() -> str:
    """The whole page."""
    record = json.loads(RECORD.read_text())
    parts = [
        '# Which plugins work together',
        'Made by `python projects/compatibility.py` from the metafiles and the record of the last '
        '`--test`; do not edit.',
        '## Pairs',
        '`yes`: the two train together, a resumed run ends with the bits of the uninterrupted '
        'one, and nothing stays behind (three iterations of small networks with the shipped '
        'overlays). `no`: one error that names both, before anything is built. In brackets: said '
        'by the plugins, not tested. `-`: neither plugin says anything.',
        _matrix(record['pairs']),
        'Four at once: `projects/dropin/compose_run.py`.',
        '## What a plugin takes and costs',
        _plugins(),
        '## Errors of the pairs that do not work',
        _refusals(record['pairs']),
        '## Checks of the conformance kit',
        'What each check means is in `mmext.testing.checks`; every plugin, also one of yours, can '
        'be put to them by `mmext.testing.check_plugin`.',
        _checks(record['checks']),
        f'Tested at {record["commit"]} on {record["date"]}, torch {record["versions"]["torch"]}, '
        f'mmengine {record["versions"]["mmengine"]}, {record["hardware"]["cores"]} CPU cores'
        + (f', {record["hardware"]["gpu"]}.' if record['hardware']['gpu'] else '.'),
    ]
    return '\n\n'.join(part.rstrip('\n') for part in parts) + '\n'


def card(plugin: str, text: str) -> str:
    """The text of a method card with its line about other plugins, new or renewed."""
    tested = json.loads(RECORD.read_text())['pairs']
    sorts: dict[str, list[str]] = {'Tested together': [], 'Not tested yet': [], 'Refused': []}
    for pair, verdict in verdicts().items():
        if plugin not in pair or verdict is None:
            continue
        (other,) = set(pair) - {plugin}
        passed = tested.get(' + '.join(pair), '').startswith('passed')
        sort = 'Tested together' if passed else 'Not tested yet'
        sorts['Refused' if verdict == 'refuses' else sort].append(f'`{other}`')
    told = [f'{sort}: {", ".join(others)}.' for sort, others in sorts.items() if others]
    told.append('What was tested: [compatibility](../../docs/compatibility.md).')
    block = f'<!-- composes:{plugin} -->\n{" ".join(told)}\n<!-- /composes -->\n'
    if BLOCK.search(text):
        return BLOCK.sub(lambda match: block, text)
    return text.replace(SECTION, f'{SECTION}\n{block}')


def refresh(check: bool) -> list[Path]:
    """Write the page and the lines of the cards; return the files that were stale."""
    texts = {PAGE: page()}
    for plugin in metadata():
        path = ROOT / 'configs' / plugin / 'README.md'
        if path.exists():
            texts[path] = card(plugin, path.read_text())
    stale = [path for path, text in texts.items() if not path.exists() or path.read_text() != text]
    if not check:
        for path in stale:
            path.write_text(texts[path])
    return stale


def _matrix(tested: dict[str, str]) -> str:
    names = list(metadata())
    said = verdicts()
    rows = []
    for one in names:
        cells = []
        for other in names:
            pair = tuple(sorted((one, other)))
            verdict = said.get(pair)  # type: ignore[arg-type]
            word = {'composes': 'yes', 'refuses': 'no'}.get(verdict or '')
            if one == other:
                cells.append('')
            elif word is None:
                cells.append('-')
            else:
                outcome = tested.get(' + '.join(pair), '')
                right = outcome.startswith('passed' if word == 'yes' else 'refused')
                cells.append(word if right else 'failed' if outcome else f'({word})')
        rows.append([f'**{one}**', *cells])
    return _table(['', *names], rows)


def _plugins() -> str:
    rows = []
    keys = ('Needs', 'Slots', 'Extra Passes', 'Extra Memory', 'Wire Bits')
    for name, block in metadata().items():
        cells = [_cell(block.get(key)) for key in keys]
        rows.append([f'[{name}](../configs/{name}/README.md)', _host(name), *cells])
    titles = ['plugin', 'host', 'needs', 'slots', 'extra passes', 'extra memory', 'on the wire']
    return _table(titles, rows)


def _host(plugin: str) -> str:
    from mmext import shipped
    from mmext.launch import overlay

    if plugin not in shipped.overlays():
        return 'configs of its own'
    kind = overlay.serves(plugin)
    return 'any' if kind is None else f'any {kind}'


def _refusals(tested: dict[str, str]) -> str:
    refused = [
        [p, o.removeprefix('refused: ')] for p, o in tested.items() if o.startswith('refused')
    ]
    return _table(['pair', 'error'], refused)


def _checks(tested: dict[str, dict[str, str]]) -> str:
    from mmext.testing import CHECKS

    rows = []
    reasons: dict[tuple[str, str], list[str]] = {}
    for plugin, outcomes in tested.items():
        told = [outcomes.get(check, 'not run') for check in CHECKS]
        words = [outcome.partition(':')[0].replace('passed', 'yes') for outcome in told]
        rows.append([f'**{plugin}**', *words])
        for check, outcome in zip(CHECKS, told, strict=True):
            if outcome.startswith(('skipped', 'failed')):
                reasons.setdefault((check, outcome), []).append(plugin)
    notes = [f'- {check}, {o} ({", ".join(plugins)})' for (check, o), plugins in reasons.items()]
    return _table(['', *CHECKS], rows) + '\n' + '\n'.join(notes)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ', '.join(f'`{item}`' for item in value) or 'none'
    return 'none' if value in (None, 0, '0') else str(value)


def _table(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ['---'] * len(titles), *rows]
    return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in lines) + '\n'


def test(only: list[str]) -> bool:
    """Run the kit and all pairs and write the record; True where all is well.

    Args:
        only: Plugins to test, alone and with every other; the rest of the record stays. Empty: all.
    """
    import evidence
    from plugin_settings import PLUGINS

    from mmext.testing import CHECKS, RankRuns, SkippedError, Trial, check_pair, check_refusal

    settings = {row.name: row for row in PLUGINS}
    chosen = only or list(settings)
    old = json.loads(RECORD.read_text()) if only and RECORD.exists() else {}
    checks = dict(old.get('checks', {}))
    pairs = dict(old.get('pairs', {}))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        ranks = RankRuns(folder)
        trials = {name: Trial(settings[name], folder / name, folder / 'data') for name in chosen}
        for trial in trials.values():
            ranks.add(trial)
        for name, trial in trials.items():
            checks[name] = {}
            for check, run in CHECKS.items():
                try:
                    run(trial, *([ranks] if check.startswith('ranks') else []))
                    checks[name][check] = 'passed'
                except SkippedError as reason:
                    checks[name][check] = f'skipped: {reason}'
                except Exception as error:
                    checks[name][check] = f'failed: {_one_line(error)}'
            _say(name, checks[name])
        for (one, other), verdict in verdicts().items():
            new = {one, other} & set(chosen)
            if verdict is None or not new or not {one, other} <= set(settings):
                continue
            pair = f'{one} + {other}'
            both = settings[one], settings[other]
            try:
                if verdict == 'composes':
                    check_pair(*both, folder / pair.replace(' ', ''), folder / 'data')
                    pairs[pair] = 'passed'
                else:
                    text = check_refusal(*both, folder / 'data')
                    pairs[pair] = f'refused: {_one_line(text)}'
            except Exception as error:
                pairs[pair] = f'failed: {_one_line(error)}'
            _say(pair, pairs[pair])
    known = set(metadata())
    record = {
        'command': 'python projects/compatibility.py --test',
        'commit': evidence.commit(),
        'date': datetime.date.today().isoformat(),
        'hardware': evidence.hardware(),
        'versions': evidence.versions(),
        'checks': {name: checks[name] for name in sorted(known & set(checks))},
        'pairs': {p: pairs[p] for p in sorted(pairs) if set(p.split(' + ')) <= known},
    }
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(record, indent=2) + '\n')
    outcomes = [*record['pairs'].values(), *(o for c in checks.values() for o in c.values())]
    return not any(outcome.startswith('failed') for outcome in outcomes)


def _one_line(error: Any) -> str:
    return ' '.join(str(error).split())[:400]


def _say(subject: str, outcome: Any) -> None:
    sys.stderr.write(f'{subject}: {outcome}\n')


def main() -> None:
    """Test, write or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--check', action='store_true', help='change nothing, fail if stale')
    parser.add_argument(
        '--test', nargs='*', metavar='PLUGIN', help='run the kit first (on these plugins, or all)'
    )
    args = parser.parse_args()
    good = True if args.test is None else test(args.test)
    stale = refresh(args.check)
    for path in stale:
        _say('stale' if args.check else 'rewritten', path.relative_to(ROOT))
    sys.exit(not good or bool(stale and args.check))


if __name__ == '__main__':
    main()

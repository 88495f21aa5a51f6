"""A study under the options of one command line: searches, pilot, runs, result."""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evidence import command, write_result

from .folders import ROOT, hash_of_sources, write_json
from .grid import SPEED, UNFINISHED, Run, carry_out
from .paired import seeds_needed
from .report import Found, show
from .study import Arm, Search, Setting, Study

QUICK = 'a quick run: a few iterations, only to see that it works.'


class Session:
    """A study under the options of one command line."""

    def __init__(self, study: Study, args: argparse.Namespace) -> None:
        self.whole, self.args = study, args
        self.quick = args.quick
        arms, settings, seeds = args.arms, args.settings, args.seeds
        changes: dict[str, Any] = {}
        if self.quick:
            arms, settings = arms or study.quick_arms, settings or study.quick_settings
            seeds = seeds or study.seeds[:1]
            changes['search_seeds'] = study.search_seeds[:1]
            changes['searches'] = tuple(
                dataclasses.replace(search, trials=search.trials[:1]) for search in study.searches
            )
        if arms is not None:
            needed = {first for arm in study.arms if arm.name in arms for first in arm.after}
            changes['arms'] = tuple(a for a in study.arms if a.name in needed.union(arms))
        if settings is not None:
            changes['settings'] = tuple(s for s in study.settings if s.name in settings)
        self.seeds = tuple(study.seeds if seeds is None else seeds)
        # Searches name arms that may not be asked for: checked when the whole was declared.
        self.study = study if not changes else _replaced(study, changes)
        base = args.work_dir or ROOT / 'work_dirs' / study.plugin
        self.work = base.resolve() / study.place / ('quick' if self.quick else '')
        self.speed = tuple(name for name in SPEED if getattr(args, name))
        self.work.mkdir(parents=True, exist_ok=True)
        place = self.work if self.quick else ROOT / 'projects' / study.plugin
        self.path = place / 'results' / f'{study.name}.json'
        self.data = study.data(self.work, self.quick)
        plugin = ROOT / 'mmext/plugins' / study.plugin
        own = [plugin] if plugin.exists() else []
        sources = hash_of_sources([*own, study.train, *study.sources])
        self.common = json.dumps([sources, self.data, self.quick, self.speed], sort_keys=True)

    def run(self, arm: Arm, setting: Setting, seed: int, split: str = 'test',
            values: Mapping[str, Any] | None = None, room: str = '') -> Run:  # fmt: skip
        """A run with its folder and stamp."""
        values = dict(values or {})
        name = '-'.join(part for part in (setting.name, arm.name, str(seed)) if part)
        name = ''.join(c if c.isalnum() or c in '.+-_' else '-' for c in name)
        before = {}
        for first in arm.after:
            chosen = self.values(first, setting)
            before[first] = self.run(self.arm(first), setting, seed, split, chosen, room)
        told = [dict(arm.options), dict(setting.options), arm.name, setting.name, seed, split]
        needed = [run.stamp for run in before.values()]
        stamp = json.dumps([self.common, told, values, needed], sort_keys=True, default=repr)
        return Run(arm, setting, seed, split, self.quick, values, self.speed, self.work,
                   self.work / room / name, before, stamp)  # fmt: skip

    def arm(self, name: str) -> Arm:
        """An arm of the whole study by its name."""
        return next(arm for arm in self.whole.arms if arm.name == name)

    def trials(self, search: Search, setting: Setting) -> dict[Any, list[Run]]:
        """Runs of a search, by value."""
        place = next((s for s in self.whole.settings if s.name == search.at), setting)
        first = search.arms[0]
        before = self.values(first, place, until=search)
        return {
            value: [
                self.run(self.arm(first), place, seed, 'val', {**before, search.name: value},
                         f'search/{search.name}={value}')
                for seed in self.study.search_seeds
            ]
            for value in search.trials
        }  # fmt: skip

    def scores(self, search: Search, setting: Setting) -> dict[Any, dict[str, float]]:
        """Mean validation metrics of each trial that has run."""
        found = {}
        for value, runs in self.trials(search, setting).items():
            records = [run.read() for run in runs]
            told = [self.study.metrics(record) for record in records if record is not None]
            if len(told) == len(runs):
                means = {name: statistics.mean(part[name] for part in told) for name in told[0]}
                found[value] = means
        return found

    def values(self, arm: str, setting: Setting, until: Search | None = None) -> dict[str, Any]:
        """The chosen values of an arm, of the searches before one or of all."""
        found = {}
        for search in self.study.searches:
            if search is until:
                break
            if arm in search.arms:
                scores = self.scores(search, setting)
                best = max if self.study.higher else min
                decided = len(scores) == len(search.trials) and not search.fixed
                found[search.name] = (
                    best(scores, key=lambda value: scores[value][self.study.metric])
                    if decided
                    else search.default
                )
        return found

    def grid(self, seeds: Sequence[int], split: str = 'test', room: str = '') -> list[Run]:
        """All runs, seed by seed, so that an early stop leaves whole comparisons."""
        values = {
            (setting.name, arm.name): self.values(arm.name, setting)
            for setting in self.study.settings
            for arm in self.study.arms
        }
        return [
            self.run(arm, setting, seed, split, values[setting.name, arm.name], room)
            for seed in seeds
            for setting in self.study.settings
            for arm in self.study.arms
        ]

    def carry_out(self, runs: Sequence[Run]) -> None:
        """Make what is missing, or leave off with :data:`UNFINISHED`."""
        study = self.study

        def told(record: dict) -> str:
            metrics = study.metrics(record)
            shown = [study.metric, *(name for name in metrics if name != study.metric)][:4]
            return ', '.join(f'{name} {metrics[name]:.4g}' for name in shown)

        if not carry_out(runs, study.train, self.args.jobs, self.args.deadline, _say, told):
            left = sum(run.read() is None for run in runs)
            _say(f'{self.study.name}: {left} of {len(runs)} runs are left or with another '
                 'process; the same command goes on')  # fmt: skip
            sys.exit(UNFINISHED)

    def search(self, every: bool) -> None:
        """Make the searches, those without a default or all of them."""
        wanted = {arm.name for arm in self.study.arms}
        for search in self.study.searches:
            if not (every or search.default is None) or not wanted & set(search.arms):
                continue
            for setting in self.study.settings:
                self.carry_out(sum(self.trials(search, setting).values(), []))
                if search.at is not None:
                    break

    def tuning(self) -> list[dict]:
        """What was tried on the validation split, for the result."""
        return [
            {'value': search.name, 'setting': setting.title, 'arms': list(search.arms),
             'scores': {str(value): score[self.study.metric] for value, score in scores.items()}}
            for search in self.study.searches
            for setting in self.study.settings
            if (scores := self.scores(search, setting))
        ]  # fmt: skip

    def pilot(self) -> None:
        """Spread of paired differences on the validation split, and the seeds that it asks for."""
        effect = self.study.rule.smallest_effect
        if effect is None or not self.study.rule.compare:
            sys.exit(f'{self.study.name}: its rule declares no smallest effect to be seen')
        runs = self.grid(self.study.pilot_seeds, 'val', 'pilot')
        self.carry_out(runs)
        told = []
        for row in self.found(runs).intervals():
            std = statistics.stdev(row['values'])
            told.append({**row, 'std': std, 'seeds': seeds_needed(std, effect)})
            _say(f'{row["setting"]} {row["ours"]} - {row["rival"]}: {row["mean"]:+.3g}, spread '
                 f'{std:.3g}: {told[-1]["seeds"]} seeds to see {effect:g}')  # fmt: skip
        write_json(self.work / 'pilot.json', told, indent=1)

    def found(self, runs: Sequence[Run]) -> Found:
        """Records of the runs that are finished."""
        records: dict[tuple[str, str], list[dict]] = {}
        for run in runs:
            if (record := run.read()) is not None:
                records.setdefault((run.setting.name, run.arm.name), []).append(record)
        chosen = {(run.setting.name, run.arm.name): dict(run.values) for run in runs}
        return Found(self.study, records, chosen, self.tuning())

    def report(self, runs: Sequence[Run]) -> None:
        """Write the result and its figures, print the table."""
        study, found = self.study, self.found(runs)
        rows = study.rows(found)
        if not rows:
            sys.exit(f'{study.name}: no run is finished, there is nothing to report')
        lacking = [
            arm.title
            for arm in self.whole.arms
            if not all(found.has(arm.name, setting=setting.name) for setting in study.settings)
        ]
        if lacking:
            verdict, why = 'not met', f'not judged: {", ".join(lacking)} have not run everywhere.'
        else:
            verdict, why = study.rule.judge(found)
        done = sum(map(len, found.records.values()))
        if done < len(runs):
            verdict = 'partly' if verdict == 'met' else verdict
            why += f' Stopped early, after {done} of {len(runs)} runs.'
        if len(self.seeds) < 3 and f'{len(self.seeds)} seed' not in why:
            why += f' {len(self.seeds)} seed(s) alone.'
        if self.quick:
            verdict, why = 'not testable here', QUICK
        pilot = self.work / 'pilot.json'
        rule = study.rule
        write_result(
            self.path,
            claim=study.claim,
            paper=study.paper,
            command=study.command or self.command(),
            data=self.data,
            seeds=list(self.seeds),
            rows=rows,
            verdict=verdict,
            why=why,
            rule={'text': rule.text, 'smallest_effect': rule.smallest_effect},
            intervals=found.intervals(),
            tuning=found.tuning,
            pilot=json.loads(pilot.read_text()) if pilot.exists() else None,
            speed=list(self.speed),
        )
        if study.draw:
            study.draw(json.loads(self.path.read_text()), self.path.parent, found)
        show(rows, f'{study.plugin}, {study.name}')
        _say(f'{study.name}: {verdict}: {why}')

    def command(self) -> str:
        """What makes this result again."""
        script = Path(self.whole.script).resolve().relative_to(ROOT)
        given = {name: getattr(self.args, name) for name in ('settings', 'arms', 'seeds')}
        told = command(str(script), **given)
        several = self.args.several and f' --{self.args.several} {self.study.name}'
        return told + (several or '') + ''.join(f' --{n.replace("_", "-")}' for n in self.speed)

    def go(self) -> None:
        """What the command line asks for."""
        os.chdir(ROOT)
        if self.args.tune:
            self.search(every=True)
        elif self.args.pilot:
            self.search(every=False)
            self.pilot()
        elif self.args.report_only:
            self.report(self.grid(self.seeds))
        else:
            self.search(every=False)
            runs = self.grid(self.seeds)
            self.carry_out(runs)
            self.report(runs)


def _replaced(study: Study, changes: Mapping[str, Any]) -> Study:
    """A copy with other fields, unchecked."""
    made = object.__new__(type(study))
    made.__dict__.update({**study.__dict__, **changes})
    return made


def _say(text: str) -> None:
    sys.stdout.write(f'{text}\n')
    sys.stdout.flush()


def sessions(
    studies: Sequence[Study], choose: str = 'study', arguments: Sequence[str] | None = None
) -> Iterator[Session]:
    """The studies that a command line asks for, one after another; see :func:`main`."""
    doc = sys.modules[studies[0].train.__module__].__doc__ or studies[0].claim
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    add = parser.add_argument
    several = choose if len(studies) > 1 else ''
    if several:
        add(f'--{choose}', dest='only', choices=[study.name for study in studies])
    arms, settings = (
        list(dict.fromkeys(part.name for study in studies for part in getattr(study, kind)))
        for kind in ('arms', 'settings')
    )
    add('--arms', nargs='+', choices=arms, metavar='ARM', help='; '.join(arms).replace('%', '%%'))
    if len(settings) > 1:
        add('--settings', nargs='+', choices=settings)
    add('--seeds', type=int, nargs='+')
    add('--jobs', type=int, default=1, help='runs at a time, one thread each')
    add('--stop-after', type=float, metavar='MINUTES', default=float('inf'),
        help='start no run after this time; the same command goes on')  # fmt: skip
    add('--work-dir', type=Path, help='of all runs, which are kept')
    add('--quick', action='store_true', help='a few iterations, no result file')
    what = parser.add_mutually_exclusive_group()
    what.add_argument('--tune', action='store_true', help='only search values on validation')
    what.add_argument('--pilot', action='store_true', help='how many seeds the rule needs')
    what.add_argument('--report-only', action='store_true', help='of the finished runs')
    add('--amp', action='store_true', help='bf16 autocast for all arms')
    add('--channels-last', action='store_true', help='memory format of all arms')
    parser.set_defaults(settings=None, only=None, several=several)
    args = parser.parse_args(arguments)
    args.deadline = time.monotonic() + 60 * args.stop_after
    if args.quick and not args.only:
        # Those of other runs are done by their name.
        studies = [study for study in studies if study.place == studies[0].place]
    for study in studies:
        if args.only in (None, study.name):
            yield Session(study, args)


def main(*studies: Study, choose: str = 'study', arguments: Sequence[str] | None = None) -> None:
    """Command line of the studies of a file.

    Args:
        studies: One or more; of several, the option ``--<choose> NAME`` picks one.
        choose: Name of that option.
        arguments: In the place of those of the command line.
    """
    for session in sessions(studies, choose, arguments):
        session.go()

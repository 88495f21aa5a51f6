"""What the runs of a study have given: rows, paired differences, verdicts, table and figures."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evidence import summary

from .paired import Difference, difference


class Found:
    """Records of the finished runs of a study.

    Args:
        study: The study.
        records: (setting, arm) -> records in the order of the seeds.
        chosen: (setting, arm) -> the values that searches chose for it.
        tuning: What was tried: ``value``, ``setting``, ``arms`` and the ``scores`` by value.
    """

    def __init__(
        self,
        study: Any,
        records: Mapping[tuple[str, str], list[dict]],
        chosen: Mapping[tuple[str, str], dict],
        tuning: Sequence[dict] = (),
    ) -> None:
        self.study, self.records, self.chosen = study, records, chosen
        self.tuning = list(tuning)

    def values(self, arm: str, metric: str | None = None, setting: str | None = None) -> list:
        """A metric of all records of an arm; default: the metric that decides, first setting."""
        setting = self.study.settings[0].name if setting is None else setting
        found = [self.study.metrics(record) for record in self.records.get((setting, arm), [])]
        return [told[metric or self.study.metric] for told in found]

    def mean(self, arm: str, metric: str | None = None, setting: str | None = None) -> float:
        """Mean over the seeds."""
        return summary(self.values(arm, metric, setting))['mean']

    def has(self, *arms: str, setting: str | None = None) -> bool:
        """Whether all these arms have records."""
        return all(self.values(arm, setting=setting) for arm in arms)

    def difference(
        self, ours: str, rival: str, metric: str | None = None, setting: str | None = None
    ) -> Difference:
        """Ours minus rival, over the seeds that both have."""
        setting = self.study.settings[0].name if setting is None else setting
        first, second = (
            dict(zip(
                (record['seed'] for record in self.records.get((setting, arm), [])),
                self.values(arm, metric, setting), strict=True,
            ))
            for arm in (ours, rival)
        )  # fmt: skip
        both = [seed for seed in first if seed in second]
        return difference([first[seed] for seed in both], [second[seed] for seed in both])

    def rows(self) -> list[dict]:
        """A row for each setting and arm that has records."""
        made = []
        for setting in self.study.settings:
            for arm in self.study.arms:
                records = self.records.get((setting.name, arm.name))
                if not records:
                    continue
                told = [self.study.metrics(record) for record in records]
                names = list(dict.fromkeys(name for part in told for name in part))
                made.append({
                    'method': arm.title,
                    'setting': setting.title,
                    'metrics': {
                        name: summary([part[name] for part in told if name in part])
                        for name in names
                    },
                    'cost': self.cost(records),
                    **self.chosen.get((setting.name, arm.name), {}),
                    **(self.study.more(records) if self.study.more else {}),
                })  # fmt: skip
        return made

    def cost(self, records: Sequence[dict]) -> dict[str, float]:
        """Means of what a run costs."""
        return {
            name: sum(record[key] for record in records) / len(records)
            for name, key in self.study.costs.items()
        }

    def intervals(self) -> list[dict]:
        """The declared comparisons in every setting, with all values."""
        found = []
        for setting in self.study.settings:
            for ours, rival in self.study.rule.compare:
                if self.has(ours, rival, setting=setting.name):
                    told = self.difference(ours, rival, setting=setting.name)._asdict()
                    found.append({'setting': setting.title, 'ours': ours, 'rival': rival,
                                  'metric': self.study.metric, **told})  # fmt: skip
        return found


def by_interval(claim: float = 0.0, higher: bool = True) -> Callable[[Found], tuple[str, str]]:
    """Judge of a rule: does the interval of every declared comparison lie beyond the claim?

    ``met``: in every comparison and setting; ``partly``: in some, or all differences have the
    sign of the claim; ``not met`` otherwise.

    Args:
        claim: By how much ours is better; below 0 it is the loss that is allowed.
        higher: Whether more of the metric is better.
    """

    def judge(found: Found) -> tuple[str, str]:
        told = found.intervals()
        if not told:
            return 'not met', 'no comparison has run.'
        held, right, parts = [], [], []
        for row in told:
            worst = row['low'] if higher else row['high']
            sign = 1 if higher else -1
            held.append(worst is not None and sign * worst > claim)
            right.append(sign * row['mean'] > min(claim, 0.0))
            interval = 'one pair' if worst is None else f'{row["low"]:+.3g} to {row["high"]:+.3g}'
            place = f'{row["setting"]}, ' if row['setting'] else ''
            parts.append(f'{place}{row["ours"]} - {row["rival"]} {row["mean"]:+.3g} ({interval})')
        verdict = 'met' if all(held) else 'partly' if any(held) or all(right) else 'not met'
        return verdict, (
            f'paired differences of {told[0]["metric"]} with their 95 % intervals: '
            + '; '.join(parts)
            + '.'
        )

    return judge


def show(rows: Sequence[dict], title: str) -> None:
    """The table in the terminal; of many metrics the first six."""
    from rich.console import Console
    from rich.table import Table

    metrics = list(dict.fromkeys(name for row in rows for name in row['metrics']))[:6]
    costs = list(dict.fromkeys(name for row in rows for name in row['cost']))
    table = Table(title=title)
    for column in ('method', 'setting', *metrics, *costs):
        table.add_column(column, justify='left' if column in ('method', 'setting') else 'right')
    for row in rows:
        values = [row['metrics'].get(name) for name in metrics]
        shown = [f'{value["mean"]:.4g} +- {value["std"]:.2g}' if value else '' for value in values]
        cost = [f'{row["cost"][name]:.3g}' if name in row['cost'] else '' for name in costs]
        table.add_row(row['method'], row['setting'], *shown, *cost)
    Console(width=140).print(table)


@contextlib.contextmanager
def figure(path: Path, columns: int, size: tuple[float, float] = (4.6, 3.7)) -> Iterator[list]:
    """Panels side by side, saved at the end as a PNG.

    Args:
        path: File.
        columns: Number of panels.
        size: Width and height of each, in inches.

    Yields:
        The axes, from left to right.
    """
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(size[0] * columns, size[1]), layout='constrained')
    axes = list(drawing.subplots(1, columns, squeeze=False)[0])
    yield axes
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=120)

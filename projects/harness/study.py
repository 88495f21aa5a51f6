"""A study as a declaration: what is compared, where, and how it is judged."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .grid import Run
from .report import Found


@dataclass(frozen=True)
class Setting:
    """Where arms are compared: data set, share of labels, batch size.

    Args:
        name: For folders and the command line.
        title: For tables.
        options: What the training reads.
    """

    name: str
    title: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm(Setting):
    """What is compared.

    Args:
        after: Arms whose run of the same setting and seed is needed, as ``Run.before``.
    """

    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Search:
    """A value that is chosen on the validation split before the runs that count.

    Args:
        name: Of the value in ``Run.values`` and, as what it is, in the result.
        arms: Arms that take the value; the first of them is trained for the search.
        trials: Values that are tried; all searches of a study try the same number.
        at: The setting in which it is searched for all of them; None: in each for itself.
        default: Value without a search; None: the search is made before the study.
        fixed: The default stands; the search only shows what other values do.
    """

    name: str
    arms: tuple[str, ...]
    trials: tuple[Any, ...]
    at: str | None = None
    default: Any = None
    fixed: bool = False


@dataclass(frozen=True)
class Rule:
    """How the claim is judged, declared before the runs that count and stored in the result.

    Args:
        text: The rule in words.
        judge: Verdict and reason from what the runs gave.
        compare: Pairs (ours, rival) of arms whose paired differences the result has.
        smallest_effect: Smallest difference that the study has to see; a pilot finds the seeds.
    """

    text: str
    judge: Callable[[Found], tuple[str, str]]
    compare: tuple[tuple[str, str], ...] = ()
    smallest_effect: float | None = None


@dataclass(frozen=True)
class Study:
    """Arms x settings x seeds, and how they are judged.

    Args:
        name: Of the result file.
        script: The file that declares it, as ``__file__``.
        claim: The paper's sentence, short.
        paper: Its number and where it stands; None where there is none.
        arms: What is compared.
        seeds: Of the runs that count.
        data: Prepares what is missing and tells the data (set, sizes, manifest), from the work
            folder and whether the run is quick.
        train: Gives the record of a run, with what :attr:`metrics` reads.
        metrics: Metric -> value, from a record.
        metric: The metric that decides.
        rule: How the claim is judged.
        settings: Where the arms are compared.
        searches: Values to be chosen on the validation split, in this order.
        search_seeds: Seeds of the searches.
        pilot_seeds: Seeds of the pilot, which runs on the validation split.
        higher: Whether more of the metric is better.
        sources: What records depend on beside ``train`` and the plugin: files (configs count with
            their bases), folders and functions.
        costs: Name in the table -> key of a record.
        more: Further keys of a row, from its records.
        runs: Folder of the runs below the work folder, which studies may share; default: the name.
        rows: Rows of the result; default: one for each setting and arm.
        draw: Draws figures from the result into a folder; it gets the records as well.
        command: What makes the result again; default: the script with its options.
        quick_arms: Arms of ``--quick``; None: all.
        quick_settings: Settings of ``--quick``; None: all.
    """

    name: str
    script: str
    claim: str
    paper: str | None
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    data: Callable[[Path, bool], dict]
    train: Callable[[Run], dict]
    metrics: Callable[[dict], dict[str, float]]
    metric: str
    rule: Rule
    settings: tuple[Setting, ...] = (Setting('', ''),)
    searches: tuple[Search, ...] = ()
    search_seeds: tuple[int, ...] = (100,)
    pilot_seeds: tuple[int, ...] = (900, 901, 902, 903)
    higher: bool = True
    sources: tuple[Path | Callable, ...] = ()
    costs: Mapping[str, str] = field(
        default_factory=lambda: {'core minutes': 'core_minutes', 'memory MiB': 'memory_mib'}
    )
    more: Callable[[list[dict]], dict] | None = None
    rows: Callable[[Found], list[dict]] = Found.rows
    runs: str | None = None
    draw: Callable[[dict, Path, Found], None] | None = None
    command: str | None = None
    quick_arms: tuple[str, ...] | None = None
    quick_settings: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        counts = {len(search.trials) for search in self.searches}
        if len(counts) > 1:
            raise ValueError(
                f'searches of {self.name} have {sorted(counts)} trials: give all arms as many'
            )
        names = {arm.name for arm in self.arms}
        known = {name for search in self.searches for name in search.arms}
        known |= {name for pair in self.rule.compare for name in pair}
        if unknown := known - names:
            raise ValueError(f'{self.name} has no arms {sorted(unknown)}, only {sorted(names)}')

    @property
    def plugin(self) -> str:
        """Folder of the study."""
        return Path(self.script).resolve().parent.name

    @property
    def place(self) -> str:
        """Folder of the runs below the work folder."""
        return self.runs or self.name

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """Run what is missing and report."""
        from .session import main

        main(self, arguments=arguments)

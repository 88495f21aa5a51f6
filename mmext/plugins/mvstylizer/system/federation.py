"""What the cloud does with the updates of a round: checks, average, gate, publication.

Knows neither Flower nor a network; :mod:`.flower_strategy` hands it the updates.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from . import logs
from .aggregation import Bounds, State, Update, federated_average, select
from .models import ModelStore

#: Held-out loss of a state; lower is better.
Evaluate = Callable[[State], float]


@dataclass(frozen=True)
class Round:
    """What came of a round.

    Args:
        number (int): From 1 on, through the life of the cloud.
        outcome (str): 'published', 'gate' (the candidate was worse), 'no updates'.
        version (int): Current after it.
        before (float): Held-out loss of the model that the round began with.
        after (float or None): Of the candidate.
        taken (dict): Edges that were averaged -> their examples.
        refused (dict): Edges -> why their update was not taken.
        seconds (float): Of checks, average and gate.
    """

    number: int
    outcome: str
    version: int
    before: float
    after: float | None
    taken: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


class Federation:
    """The cloud's models and rounds; all that it knows is on the disk.

    A round leaves its mark only when it is over: first the model, then its line in
    ``rounds.jsonl``. A cloud that is killed begins the interrupted round again, with the model
    that it began with.

    Args:
        models (ModelStore): Published versions.
        folder (Path): Gets ``rounds.jsonl``.
        initial (Callable): State of version 0.
        evaluate (Callable): Held-out loss of a state.
        bounds (Bounds): What an update may be.
        tolerance (float): A candidate is published if its loss is at most the current model's times
            ``1 + tolerance``; at least 0. Default 0: no worse.
        min_edges (int): Updates that a round needs, at least 1. Default 1.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        models: ModelStore,
        folder: Path,
        initial: Callable[[], State],
        evaluate: Evaluate,
        bounds: Bounds | None = None,
        tolerance: float = 0.0,
        min_edges: int = 1,
    ) -> None:
        if tolerance < 0 or min_edges < 1:
            raise ValueError(
                f'tolerance={tolerance} must not be negative, min_edges={min_edges} at least 1'
            )
        self.models = models
        self._path = folder / 'rounds.jsonl'
        self._initial = initial
        self._evaluate = evaluate
        self._bounds = bounds or Bounds()
        self._tolerance = tolerance
        self._min_edges = min_edges
        self._scores: dict[int, float] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def rounds(self) -> list[Round]:
        """Rounds that are over."""
        return read_rounds(self._path)

    def state(self, version: int | None = None) -> State:
        """Weights of a version; None: of the current one."""
        version = self.models.current if version is None else version
        return self.models.load(version) if version else self._initial()

    def score(self, version: int) -> float:
        """Held-out loss of a version, computed once."""
        if version not in self._scores:
            self._scores[version] = self._evaluate(self.state(version))
        return self._scores[version]

    def close_round(self, version: int, updates: Sequence[Update]) -> Round:
        """Judge updates and publish what is no worse.

        Args:
            version (int): That the updates are made from.
            updates (Sequence[Update]): Of the edges.

        Returns:
            Round: What came of it.

        Raises:
            ValueError: ``version`` is not the current one, or was not any more when the candidate
                was judged: the updates are stale, nothing is published.
        """
        began = time.monotonic()
        if version != self.models.current:
            raise ValueError(
                f'the updates are made from version {version}, current is {self.models.current}'
            )
        number = len(self.rounds()) + 1
        base, before = self.state(version), self.score(version)
        taken, refused = select(updates, base, self._bounds)
        after = None
        if len(taken) < self._min_edges:
            outcome = 'no updates'
        else:
            candidate = federated_average(base, taken, self._bounds)
            after = self._evaluate(candidate)
            # Written so that NaN is not published.
            if after <= before * (1 + self._tolerance):
                outcome = 'published'
                # An operator may have gone back meanwhile: the store looks again.
                note = {'round': number, 'held_out': after}
                version = self.models.publish(candidate, note, base=version)
                self._scores[version] = after
            else:
                outcome = 'gate'
        done = Round(
            number, outcome, version, before, after,
            {update.edge: update.examples for update in taken}, refused,
            time.monotonic() - began,
        )  # fmt: skip
        self._append(done)
        for edge, reason in refused.items():
            logs.event('update refused', logging.WARNING, edge=edge, reason=reason, round=number)
        logs.event(
            'round over', round=number, state=outcome, version=version, score=before,
            candidate=after, count=len(taken),
        )  # fmt: skip
        return done

    def rollback(self) -> int:
        """Go back to the version that the current one was made from; return it."""
        version = self.models.rollback()
        logs.event('rolled back', version=version)
        return version

    def _append(self, done: Round) -> None:
        with open(self._path, 'a') as file:
            file.write(json.dumps(asdict(done)) + '\n')
            file.flush()
            os.fsync(file.fileno())


def read_rounds(path: Path) -> list[Round]:
    """Rounds of a ``rounds.jsonl``; a line that a crash cut off counts for nothing."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(Round(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found

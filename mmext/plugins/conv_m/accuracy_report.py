"""Which accuracy is reported."""

import json
import os
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log

from mmext.registry import HOOKS

RULES = {'select/entropy': 'less', 'select/information': 'greater', 'select/snd': 'greater'}


@HOOKS.register_module()
class AccuracyReportHook(Hook):
    """Say what target accuracy each way of choosing an iteration gives.

    From the validations of a training: ``last_iteration``; ``oracle``, the best one, which needs
    target labels and is no result of unsupervised adaptation; and by each label-free score of
    ``mmext.LabelFreeSelection``. Written after every validation, kept over a resume.

    Args:
        accuracy: Key of the accuracy among the metrics.
        rules: Scores to choose by, with 'less' or 'greater' for what is better.
        filename: JSON file in the work folder.

    Raises:
        ValueError: A rule is unknown; in validation: a key is missing.

    Example:
        >>> custom_hooks = [dict(type='mmext.AccuracyReportHook')]
    """

    def __init__(
        self,
        accuracy: str = 'accuracy/top1',
        rules: Mapping[str, str] = RULES,
        filename: str = 'target_accuracy.json',
    ) -> None:
        for key, rule in rules.items():
            if rule not in ('less', 'greater'):
                raise ValueError(f"rules: {key}={rule!r} must be 'less' or 'greater'")
        self.accuracy = accuracy
        self.rules = dict(rules)
        self.filename = filename
        self.validations: list[dict] = []

    def before_train(self, runner) -> None:
        """Read the validations of the run that is resumed."""
        path = Path(runner.work_dir) / self.filename
        self.validations = []
        if runner.iter and path.exists():
            kept = json.loads(path.read_text())['validations']
            self.validations = [row for row in kept if row['iteration'] <= runner.iter]

    def after_val_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        """Keep the metrics and write the report."""
        found = metrics or {}
        keys = self.accuracy, *self.rules
        missing = [key for key in keys if key not in found]
        if missing:
            raise ValueError(
                f'AccuracyReportHook: val_evaluator gives no {", ".join(missing)}, only '
                f'{", ".join(found)}; add mmext.LabelFreeSelection or change accuracy and rules'
            )
        row: dict[str, Any] = {'iteration': runner.iter, **{key: found[key] for key in keys}}
        self.validations.append(row)
        if runner.rank == 0:
            path = Path(runner.work_dir) / self.filename
            draft = path.with_suffix('.tmp')
            draft.write_text(json.dumps(self.report(), indent=2) + '\n')
            os.replace(draft, path)

    def after_train(self, runner) -> None:
        """Log the report."""
        if self.validations:
            choices = {k: v for k, v in self.report().items() if k != 'validations'}
            told = ', '.join(
                f'{name} {choice["accuracy"]:.2f} (iteration {choice["iteration"]})'
                for name, choice in choices.items()
            )
            print_log(f'Target accuracy: {told}', logger='current')

    def report(self) -> dict[str, Any]:
        """Accuracy and iteration of each choice, and all validations.

        The first of equals is chosen.
        """
        choices = {
            'last_iteration': self.validations[-1],
            'oracle (chosen with target labels)': max(
                self.validations, key=lambda row: row[self.accuracy]
            ),
        }
        for key, rule in self.rules.items():
            choose = min if rule == 'less' else max
            choices[f'chosen by {key}'] = choose(self.validations, key=itemgetter(key))
        told: dict[str, Any] = {
            name: {'accuracy': row[self.accuracy], 'iteration': row['iteration']}
            for name, row in choices.items()
        }
        return {**told, 'validations': self.validations}

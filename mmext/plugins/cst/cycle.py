"""The cycle of two students and two teachers in a loop of one's own, without MMEngine."""

import copy

import torch
from torch import Tensor, nn

from mmext.engine.unwrap import unwrapped

from .functional import distribution_consistency, ema_update


def check_momentum(momentum: float | str, owner: str) -> None:
    """Raise ValueError unless ``momentum`` is the weight of a student."""
    if isinstance(momentum, str) or not 0 < momentum < 0.5:
        raise ValueError(
            f'{owner} momentum={momentum} must be in (0, 0.5): it is the weight of the student, '
            '0.004 where papers write an EMA decay of 0.996'
        )


class Cycle:
    """Two students and their teachers, S1 -> T1 -> S2 -> T2 -> S1.

    Args: see :func:`mmext.functional.mean_teacher_cycle`.

    Attributes:
        students: S1 and S2 as they were given.
        teachers: T1 and T2, in eval mode and without gradients.
    """

    def __init__(self, student1: nn.Module, student2: nn.Module, momentum: float) -> None:
        check_momentum(momentum, 'mean_teacher_cycle')
        if student1 is student2:
            raise ValueError('the students must be two networks, with different weights')
        self.momentum = momentum
        self.students = student1, student2
        self.teachers = tuple(
            copy.deepcopy(unwrapped(student)).requires_grad_(False).eval()
            for student in self.students
        )

    @torch.no_grad()
    def teach(
        self, inputs: Tensor, score_thr: float = 0.5, kind: str = 'js'
    ) -> list[tuple[Tensor, Tensor]]:
        """Pseudo-labels of classifiers for S1 (by T2) and for S2 (by T1).

        Args:
            inputs: Weak view of N unlabelled samples, as the students take them.
            score_thr: Least probability of a pseudo-label, in [0, 1].
            kind: Measure of :func:`~mmext.plugins.cst.functional.distribution_consistency`.

        Returns:
            For each student classes, int64 (N,), and weights in [0, 1], (N,): how far both teachers
            agree, 0 where the probability is below ``score_thr``.
        """
        scores = [teacher(inputs).softmax(1) for teacher in self.teachers]
        # The measures take a last class of background, which a classifier does not have.
        padded = [nn.functional.pad(score, (0, 1)) for score in scores]
        taught = []
        for writer, other in ((1, 0), (0, 1)):
            weights = distribution_consistency(padded[writer], padded[other], kind)
            best, labels = scores[writer].max(1)
            taught.append((labels, weights * (best >= score_thr)))
        return taught

    def update(self) -> None:
        """Move each teacher towards its student; call it after every optimizer step."""
        self._average(self.momentum)

    def restart(self) -> None:
        """Make the teachers copies of their students; call it when the burn-in ends."""
        self._average(1.0)

    def _average(self, momentum: float) -> None:
        for teacher, student in zip(self.teachers, self.students, strict=True):
            ema_update(teacher, unwrapped(student), momentum)

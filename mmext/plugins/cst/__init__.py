"""Cycle Self-Training (CST) for semi-supervised object detection (arXiv 2207.05334).

Two teacher-student pairs teach each other crosswise, S1 -> T1 -> S2 -> T2 -> S1: a teacher is the
exponential moving average of its own student and writes the pseudo-labels of the *other* one, and
every pseudo-box is weighted by how far the two teachers agree on its class distribution. Written
from the paper's abstract; the consistency measure, thresholds, schedule, box term and inference
network are ours.
"""

from mmext.lazy import exports

__getattr__, __all__ = exports(
    __name__,
    {
        'CycleSelfTraining': 'detector',
        'CycleTeacherHook': 'teacher_hook',
        'CycleValLoop': 'loops',
        'DistributionConsistency': 'consistency',
        'DistributionConsistencyHook': 'consistency_hook',
    },
)

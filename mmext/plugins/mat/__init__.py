"""Multi-strength adversarial training, MAT (arXiv 1705.09764).

A network trained on adversarial examples of one strength is robust in a working zone around it. MAT
trains on several strengths: mixed MAT in one network, parallel MAT in one network per strength.
Written from the paper's abstract; the attack, the strengths, their ratio, drawing one strength per
sample, and the rule that combines the networks are ours.
"""

from mmext.lazy import exports

__getattr__, __all__ = exports(
    __name__,
    {
        'MATAugment': 'augment',
        'MATClassifier': 'classifier',
        'RobustAccuracy': 'mmext.attacks.robust_accuracy',
        'RobustnessTestLoop': 'mmext.attacks.robustness_loop',
    },
)

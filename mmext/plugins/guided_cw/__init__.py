"""CW-L2 attack guided by gradients (arXiv 1812.02524).

CW-L2 finds an adversarial image of least L2 distance by Adam in the space of atanh. Guided CW moves
each pixel in proportion to the gradient of the margin at the clean image, which narrows the search
while few steps are to be had. Written from the paper's abstract: what exactly is incorporated, its
normalisation by RMS and its refresh are ours. Beside it stand FGSM and PGD
(:mod:`mmext.attacks.gradient_attacks`), DDN and FMN (:mod:`.minimum_norm`), to compare with.
"""

from mmext.lazy import exports

__getattr__, __all__ = exports(
    __name__,
    {
        'CWAttack': 'cw_attack',
        'LoadAdversarialImage': 'load_adversarial_image',
        'cw_l2': 'functional',
        'ddn': 'minimum_norm',
        'fmn': 'minimum_norm',
    },
)
